"""Train TinyVGG in several widths, with and without augmentation.

python benchmarks/capacity.py    # 10 epochs each (about 40 minutes on 2 cores); the README's table
python benchmarks/capacity.py --hidden-units 64 --epochs 30 --held-out 10000

It shows what more capacity and more varied images bring.
"""

import argparse
from itertools import pairwise

import torch
from speed import print_environment
from textbook import DATA

import fashion_mnist_cnn as program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--hidden-units", type=int, nargs="+", default=[10, 20, 32, 64], help="widths (10 20 32 64)"
    )
    parser.add_argument("--epochs", type=int, default=10, help="epochs of each (10)")
    parser.add_argument("--seed", type=int, default=0, help="of each (0)")
    parser.add_argument(
        "--held-out", type=int, default=0, help="training images to keep for choosing by (0)"
    )
    parser.add_argument("--augment", choices=["no", "yes", "both"], default="both", help="(both)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print_environment(device)
    train_set, test_set = (image_set.to(device) for image_set in program.load_fashion_mnist(DATA))
    # Of a shuffled training set, so that the held-out images do not depend on the order of the
    # archive.
    order = torch.randperm(len(train_set), generator=torch.Generator().manual_seed(0))
    kept, held_out = (
        train_set.subset(part.to(device))
        for part in (order[arguments.held_out :], order[: arguments.held_out])
    )
    print(
        f"{arguments.epochs} epochs, seed {arguments.seed}, {len(kept):,} training images; "
        "seconds: the fastest epoch\n"
    )
    print(
        "| hidden units | parameters | augmented | training accuracy | held-out | test "
        "| seconds per epoch |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    for hidden_units in arguments.hidden_units:
        for augmented in {"no": [False], "yes": [True], "both": [False, True]}[arguments.augment]:
            torch.manual_seed(arguments.seed)
            network = program.TinyVGG(hidden_units=hidden_units).to(device)
            history = program.train(
                network,
                kept,
                test_set,
                epochs=arguments.epochs,
                batch_size=program.Settings().batch_size,
                learning_rate=program.peak_learning_rate(program.TinyVGG, hidden_units, "adam"),
                seed=arguments.seed,
                augmented=augmented,
            )
            parameters = sum(parameter.numel() for parameter in network.parameters())
            chosen_by = (
                f"{program.evaluate(network, held_out).accuracy:.2%}" if arguments.held_out else ""
            )
            print(
                f"| {hidden_units} | {parameters:,} | {'yes' if augmented else 'no'} "
                f"| {history[-1].train_accuracy:.2%} | {chosen_by} "
                f"| {history[-1].test_accuracy:.2%} | {fastest_epoch(history):.1f} |",
                flush=True,
            )


def fastest_epoch(history: list[program.Record]) -> float:
    """Return the training seconds of the fastest epoch."""
    ends = [0.0] + [
        record.training_seconds for record in history if record.epoch == int(record.epoch)
    ]
    return min(end - start for start, end in pairwise(ends))


if __name__ == "__main__":
    main()
