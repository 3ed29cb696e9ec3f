"""Train from many seeds, with the textbook's recipe and with ours: what a single figure is worth.

    python benchmarks/stability.py    # seeds 0 to 9
    python benchmarks/stability.py --seeds 20 --first-seed 1001 --epochs 1 --skip-textbook

The textbook's recipe (SGD at learning rate 0.1, batches of 32, PyTorch's initialization, float32)
runs in a loop like ours here, on images held in memory: what it ends at is the same, and the wait
is shorter.
"""

import argparse
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from speed import print_environment, train_ours
from textbook import BATCH_SIZE, DATA, LEARNING_RATE, build_textbook_model
from torch import nn
from tqdm import tqdm

import fashion_mnist_cnn as program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="how many (10)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of either recipe (3)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--skip-textbook", action="store_true", help="ours alone")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print_environment(device)
    sets = tuple(image_set.to(device) for image_set in program.load_fashion_mnist(DATA))
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    print(
        f"test accuracy after {arguments.epochs} epochs, seeds {seeds[0]} to {seeds[-1]}; "
        "failed: 11 % or less\n"
    )
    print(
        "| network | recipe | mean | sd | min | max | failed |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    for kind in (program.MLP, program.TinyVGG):
        for recipe, accuracy_of in (("textbook", textbook_accuracy), ("ours", our_accuracy)):
            if recipe == "textbook" and arguments.skip_textbook:
                continue
            bar = tqdm(seeds, desc=f"{kind.__name__}, {recipe}", leave=False, disable=None)
            accuracies = [accuracy_of(kind, seed, arguments.epochs, *sets) for seed in bar]
            failed = sum(accuracy <= 0.11 for accuracy in accuracies)
            spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
            figures = [mean(accuracies), spread, min(accuracies), max(accuracies)]
            cells = " | ".join(f"{figure:.2%}" for figure in figures)
            print(
                f"| {kind.__name__} | {recipe} | {cells} | {failed} of {len(seeds)} |", flush=True
            )


def our_accuracy(kind: type[nn.Module], seed: int, epochs: int, *sets: program.ImageSet) -> float:
    """Return the test accuracy that our default recipe ends at."""
    return train_ours(kind, seed, epochs, *sets)[-1].test_accuracy


def textbook_accuracy(
    kind: type[nn.Module],
    seed: int,
    epochs: int,
    train_set: program.ImageSet,
    test_set: program.ImageSet,
) -> float:
    """Return the test accuracy the textbook's recipe ends at."""
    network = build_textbook_model(kind, seed).to(
        train_set.images.device, memory_format=torch.channels_last
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
    for _ in range(epochs):
        for batch in torch.randperm(len(train_set)).to(train_set.labels.device).split(BATCH_SIZE):
            logits = network(program.to_float(train_set.images[batch]))
            loss = F.cross_entropy(logits, train_set.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return program.evaluate(network, test_set).accuracy


if __name__ == "__main__":
    main()
