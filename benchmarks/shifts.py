"""Shift the test images: how much augmentation helps a CNN that has only seen centred garments.

python benchmarks/shifts.py    # the numbers of the README (about 4 minutes on 2 cores)
python benchmarks/shifts.py --figure assets/shift_robustness_resnet.png    # draw the saved ResNet
"""

import argparse
import json
from pathlib import Path

import torch
from speed import print_environment
from textbook import DATA

import fashion_mnist_cnn as program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10, help="epochs of each (10)")
    parser.add_argument("--seed", type=int, default=0, help="of each (0)")
    parser.add_argument(
        "--figure", type=Path, help="draw the saved ResNet into the figure of the last run, here"
    )
    arguments = parser.parse_args()
    if arguments.figure:
        return draw_resnet(arguments.figure)
    print_environment(torch.device("cpu"))
    train_set, test_set = program.load_fashion_mnist(DATA)
    print(
        f"{arguments.epochs} epochs, seed {arguments.seed}; "
        "accuracy on 10,000 test images, by the shift in pixels\n"
    )
    print("| network | augmented |" + "".join(f" {pixels} |" for pixels in range(7)))
    print("|---|---|" + "---|" * 7, flush=True)
    for kind in (program.MLP, program.TinyVGG):
        for augmented in (False, True):
            torch.manual_seed(arguments.seed)
            network = kind()
            program.train(
                network,
                train_set,
                test_set,
                epochs=arguments.epochs,
                batch_size=program.Settings().batch_size,
                learning_rate=program.OPTIMIZERS["adam"].learning_rate,
                seed=arguments.seed,
                augmented=augmented,
            )
            cells = "".join(
                f" {accuracy:.1%} |" for accuracy in program.measure_shifts(network, test_set)
            )
            print(f"| {kind.__name__} | {'yes' if augmented else 'no'} |{cells}", flush=True)


def draw_resnet(path: Path) -> None:
    """Draw the shifts of the committed run and, on the same images, those of the saved ResNet."""
    evidence = json.loads((DATA.parent / "assets/results.json").read_text())["evidence"]
    subset = program.load_fashion_mnist(DATA)[1].subset(slice(evidence["images"]))
    network = program.load_model(DATA.parent / "models/ResNet_model.pth")
    accuracies = evidence["shift_accuracy"] | {"ResNet": program.measure_shifts(network, subset)}
    print("ResNet:", ", ".join(f"{accuracy:.1%}" for accuracy in accuracies["ResNet"]))
    title = (
        f"{len(subset):,} test images, shifted in four directions; "
        "the ResNet was trained with --augment"
    )
    program.plot_shifts(accuracies, title).savefig(path, dpi=120)


if __name__ == "__main__":
    main()
