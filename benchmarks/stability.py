"""Train from several seeds, with the textbook's recipe and with ours: what one figure is worth.

    python benchmarks/stability.py    # seeds 0 to 9

The textbook's recipe (SGD at learning rate 0.1, batches of 32, PyTorch's initialization, float32)
runs in a loop like ours here, on images held in memory: what it ends at is the same, and the wait
is shorter.
"""

import argparse
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from speed import print_environment, train_ours
from textbook import BATCH_SIZE, DATA, EPOCHS, LEARNING_RATE, build_textbook_model
from torch import nn
from tqdm import tqdm

import fashion_mnist_cnn as program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="how many (10)")
    arguments = parser.parse_args()
    print_environment(torch.device("cpu"))
    sets = program.load_fashion_mnist(DATA)
    seeds = range(arguments.seeds)
    print(f"test accuracy after {EPOCHS} epochs, seeds 0 to {seeds[-1]}; failed: 11 % or less\n")
    print(
        "| network | recipe | mean | sd | min | max | failed |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    for kind in (program.MLP, program.TinyVGG):
        for recipe, accuracy_of in (("textbook", textbook_accuracy), ("ours", our_accuracy)):
            bar = tqdm(seeds, desc=f"{kind.__name__}, {recipe}", leave=False, disable=None)
            accuracies = [accuracy_of(kind, seed, *sets) for seed in bar]
            failed = sum(accuracy <= 0.11 for accuracy in accuracies)
            spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
            figures = [mean(accuracies), spread, min(accuracies), max(accuracies)]
            cells = " | ".join(f"{figure:.2%}" for figure in figures)
            print(
                f"| {kind.__name__} | {recipe} | {cells} | {failed} of {len(seeds)} |", flush=True
            )


def our_accuracy(kind: type[program.Network], seed: int, *sets: program.ImageSet) -> float:
    """Return the test accuracy that our default recipe ends at."""
    return train_ours(kind, seed, EPOCHS, *sets)[-1].test_accuracy


def textbook_accuracy(
    kind: type[nn.Module], seed: int, train_set: program.ImageSet, test_set: program.ImageSet
) -> float:
    """Return the test accuracy the textbook's recipe ends at."""
    network = build_textbook_model(kind, seed).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(train_set)).split(BATCH_SIZE):
            logits = network(program.to_float(train_set.images[batch]))
            loss = F.cross_entropy(logits, train_set.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return program.evaluate(network, test_set).accuracy


if __name__ == "__main__":
    main()
