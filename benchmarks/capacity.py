"""Train TinyVGG in two widths, with and without augmentation; then shift the test images.

python benchmarks/capacity.py    # 10 epochs each (about 10 minutes on 2 cores)
python benchmarks/capacity.py --hidden-units 64 --epochs 30

It shows what more capacity and more varied images bring.
"""

import argparse
from itertools import pairwise

import torch
from speed import print_environment
from textbook import DATA

import fashion_mnist_cnn as program
from fashion_mnist_extras.analysis import measure_shifts
from fashion_mnist_extras.augmentation import Augmentation


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--hidden-units", type=int, nargs="+", default=[10, 32], help="widths (10 32)"
    )
    parser.add_argument("--epochs", type=int, default=10, help="epochs of each (10)")
    parser.add_argument("--seed", type=int, default=0, help="of each (0)")
    arguments = parser.parse_args()
    print_environment(torch.device("cpu"))
    train_set, test_set = program.load_fashion_mnist(DATA)
    print(f"{arguments.epochs} epochs, seed {arguments.seed}; seconds: the fastest epoch\n")
    print(
        "| hidden units | parameters | augmented | training accuracy | test accuracy "
        "| shifted by 2 pixels | by 4 | seconds per epoch |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for hidden_units in arguments.hidden_units:
        for augmented in (False, True):
            torch.manual_seed(arguments.seed)
            network = program.TinyVGG(hidden_units=hidden_units)
            history = program.train(
                network,
                train_set,
                test_set,
                epochs=arguments.epochs,
                batch_size=program.Recipe().batch_size,
                learning_rate=program.peak_learning_rate(program.TinyVGG, hidden_units, "muon"),
                seed=arguments.seed,
                augment=Augmentation() if augmented else None,
            )
            shifted = measure_shifts(network, test_set.images, test_set.labels, max_shift=4)
            print(
                f"| {hidden_units} | {program.count_parameters(network):,} "
                f"| {'yes' if augmented else 'no'} | {history[-1].train_accuracy:.2%} "
                f"| {history[-1].test_accuracy:.2%} | {shifted[2]:.1%} | {shifted[4]:.1%} "
                f"| {fastest_epoch(history):.1f} |",
                flush=True,
            )


def fastest_epoch(history: list[program.Record]) -> float:
    """Return the training seconds of the fastest epoch."""
    ends = [0.0] + [record.training_seconds for record in history if record.ends_epoch]
    return min(end - start for start, end in pairwise(ends))


if __name__ == "__main__":
    main()
