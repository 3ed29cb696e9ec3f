"""Do the README's exercises: make each edit, run the program, print the accuracies.

python benchmarks/exercises.py    # two minutes
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from speed import print_environment
from textbook import DATA

import fashion_mnist_cnn as program

SCRIPT = Path(program.__file__)
# What each exercise replaces in the program, and by what.
EDITS = {
    "as it is": ("", ""),
    "a layer": ("nn.MaxPool2d(kernel_size=2)", "nn.AvgPool2d(kernel_size=2)"),
    "the optimizer": (
        'OptimizerConfig("Muon", 0.04, Muon)',
        'OptimizerConfig("SGD", 0.04, torch.optim.SGD)',
    ),
    "a shifted test set": (
        "test_set = ImageSet(test_images.view(-1, 1, 28, 28),",
        "test_set = ImageSet(test_images.view(-1, 1, 28, 28).roll(3, dims=3),",
    ),
}


def main() -> None:
    print_environment(torch.device("cpu"))
    print("\n| exercise | MLP | TinyVGG |\n|---|---|---|", flush=True)
    for name, (before, after) in EDITS.items():
        with tempfile.TemporaryDirectory() as folder:
            edited = Path(folder, SCRIPT.name)
            text = SCRIPT.read_text()
            if before not in text:
                raise ValueError(f"the program has no {before}")
            edited.write_text(text.replace(before, after, 1))
            options = ["--no-plots", "--data-dir", str(DATA)]
            command = [sys.executable, str(edited), *options]
            subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
            report = json.loads(Path(folder, "assets/results.json").read_text())
        accuracies = " | ".join(f"{model['test_accuracy']:.2%}" for model in report["models"])
        print(f"| {name} | {accuracies} |", flush=True)


if __name__ == "__main__":
    main()
