"""Shift the test images of the default run: how the saved ResNet does beside the other networks.

python benchmarks/shifts.py --figure assets/shift_robustness_resnet.png
"""

import argparse
import json
from pathlib import Path

import torch
from speed import print_environment
from textbook import DATA

import fashion_mnist_cnn as program
from fashion_mnist_extras import analysis


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--figure", type=Path, help="write a PNG file")
    arguments = parser.parse_args()
    print_environment(torch.device("cpu"))
    evidence = json.loads((DATA.parent / "assets/results.json").read_text())["evidence"]
    subset = program.load_fashion_mnist(DATA)[1].subset(slice(evidence["images"]))
    network = program.load_model(DATA.parent / "models/ResNet_model.pth")
    accuracies = evidence["shift_accuracy"]
    accuracies["ResNet"] = analysis.measure_shifts(network, subset.images, subset.labels)
    print("| shift (pixels) |" + "".join(f" {pixels} |" for pixels in range(7)))
    print("|---|" + "---|" * 7)
    for name, of_shifts in accuracies.items():
        print(f"| {name} |" + "".join(f" {accuracy:.1%} |" for accuracy in of_shifts))
    if arguments.figure:
        how = "shifted in four directions; the ResNet was trained with --augment"
        figure = analysis.plot_shifts(accuracies, f"{len(subset):,} test images, {how}")
        figure.savefig(arguments.figure, dpi=120)


if __name__ == "__main__":
    main()
