"""Measure transfer learning on photographs of clothes; the test folder has no part in it.

python benchmarks/transfer.py --clothing DIR    # DIR/train: 5 of a class to all (17 minutes)

One photograph in five of DIR/train is held out. Three draws: of what is held out and trained on.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from networks import join
from speed import print_environment

import fashion_mnist_cnn as program
from fashion_mnist_extras import image_folders, transfer

SIZES = (5, 20, 50, None)  # of a class; None: all
DRAWS = (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clothing", type=Path, required=True, help="folder of photographs")
    folder = parser.parse_args().clothing / "train"
    print_environment(torch.device("cpu"))
    accuracies: dict[int | None, list[float]] = {size: [] for size in SIZES}
    for draw in DRAWS:
        files = image_folders.list_files(folder, seed=draw)
        dataset, _ = transfer.load_features(files, transfer.IMAGE_SIZE, mirror=True, device="cpu")
        for size in SIZES:
            part = reduce(dataset, size)
            recipe = transfer.recommend_recipe(len(part.train_set), None, mirror=True)
            accuracies[size].append(train(part, replace(recipe, seeds=(draw,))))
    whole = image_folders.read_dataset(image_folders.list_files(folder, seed=0), None)
    scratch = {}
    for size in (20, None):
        part = reduce(whole, size)
        shape = part.train_set.images.shape
        recipe = image_folders.recommend_recipe(shape, batch_size=None, mirror=None)
        scratch[size] = train(part, replace(recipe, networks=("resnet",), seeds=(0,)))
    print("\n| of a class | EfficientNet | of each draw | ResNet from scratch, one draw |")
    print("|---|---|---|---|")
    for size, values in accuracies.items():
        name = size or f"all, {len(dataset.train_set) / len(dataset.train_set.class_names):.0f}"
        beside = f"{scratch[size]:.2%}" if size in scratch else ""
        print(f"| {name} | {mean(values):.2%} | {join(values)} | {beside} |")


def reduce(dataset: program.Dataset, size: int | None) -> program.Dataset:
    """Return the dataset with the first size training images of each class."""
    labels = dataset.train_set.labels
    rows = [(labels == label).nonzero().flatten()[:size] for label in labels.unique()]
    return replace(dataset, train_set=dataset.train_set.subset(torch.cat(rows)))


def train(dataset: program.Dataset, recipe: program.Recipe) -> float:
    """Return the accuracy on the images held out."""
    (result,) = program.compare_networks(recipe, dataset, program.Callback())
    return result.metrics.accuracy


if __name__ == "__main__":
    main()
