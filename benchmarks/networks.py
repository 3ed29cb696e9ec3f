"""Run the program from several seeds and print the test accuracy of its networks.

python benchmarks/networks.py default       # the default run, which writes models/ and assets/
python benchmarks/networks.py resnet        # 3 seeds; the first is saved in models/ (an hour)
python benchmarks/networks.py optimizers    # each optimizer, 5 seeds (4 minutes)
python benchmarks/networks.py one-epoch     # TinyVGG, 8 seeds
python benchmarks/networks.py processes     # one process and two
python benchmarks/networks.py clothing --images DIR    # 3 seeds; the first is saved in models/
python benchmarks/networks.py held-out      # the ResNet, on training images held out (an hour)
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from speed import print_environment
from textbook import DATA

import fashion_mnist_cnn as program
from fashion_mnist_extras import analysis
from fashion_mnist_extras.augmentation import Augmentation

REPOSITORY = Path(program.__file__).parent
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
KINDS = ("default", "resnet", "optimizers", "one-epoch", "processes", "clothing", "held-out")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="for held-out")
    parser.add_argument("--shift", type=int, default=4, help="for held-out, in pixels")
    parser.add_argument("--until", type=float, default=0.9, help="for held-out, of the training")
    parser.add_argument("--images", type=Path, help="folder of photographs, for clothing")
    arguments = parser.parse_args()
    print_environment(torch.device("cpu"))
    if arguments.kind == "default":
        run_program(assets_dir="assets")
    elif arguments.kind == "resnet":
        options = ("--networks", "resnet", "--epochs", "20", "--augment", "--runs", "3")
        print_runs(run_program(*options))
    elif arguments.kind == "held-out":
        augment = Augmentation(shift=arguments.shift / 28, until=arguments.until)
        print_held_out(arguments.seeds, augment)
    elif arguments.kind == "optimizers":
        options = ("--optimizer", *program.OPTIMIZERS, "--runs", "5", "--seed", "0")
        print_runs(run_program(*options, models_dir=None))
    elif arguments.kind == "one-epoch":
        options = ("--networks", "tinyvgg", "--epochs", "1", "--runs", "8", "--seed", "0")
        print_runs(run_program(*options, models_dir=None))
    elif arguments.kind == "processes":
        options = ("--runs", "3", "--seed", "0")
        print("one process")
        print_runs(run_program(*options, models_dir=None))
        print("two processes")
        print_runs(run_program(*options, models_dir=None, launcher=TORCHRUN))
    else:
        print_runs(run_program("--images", str(arguments.images.resolve()), "--runs", "3"))


def print_held_out(seeds: Iterable[int], augment: Augmentation) -> None:
    """Train the ResNet on 50,000 training images; print what it gets right of the others."""
    print(augment)
    train_set, _ = program.load_fashion_mnist(DATA)
    order = torch.randperm(len(train_set), generator=torch.Generator().manual_seed(0))
    held_out, kept = train_set.subset(order[:10_000]), train_set.subset(order[10_000:])
    print("\n| seed | held out | shifted by 6 | without averaging | training accuracy |")
    print("|---|---|---|---|---|")
    for seed in seeds:
        torch.manual_seed(seed)
        network = program.ResNet(mirror_averaging=True)
        history = program.train(
            network,
            kept,
            held_out,
            epochs=20,
            batch_size=128,
            learning_rate=program.peak_learning_rate(program.ResNet, 16, "muon"),
            seed=seed,
            augment=augment,
        )
        last = history[-1]
        shifted = analysis.measure_shift(network, held_out.images, held_out.labels, 6)
        network.mirror_averaging = None
        alone = program.evaluate(network, held_out).accuracy
        print(
            f"| {seed} | {last.test_accuracy:.2%} | {shifted:.2%} | {alone:.2%} "
            f"| {last.train_accuracy:.2%} |",
            flush=True,
        )


def run_program(
    *options: str,
    models_dir: str | None = "models",
    assets_dir: str | None = None,
    launcher: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Run the program; return what its results.json says. A folder that is None is temporary."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = ["--models-dir", models_dir or temporary, "--assets-dir", assets_dir or temporary]
        plots = [] if assets_dir else ["--no-plots"]
        command = [sys.executable, *launcher, "fashion_mnist_cnn.py", *options, *folders, *plots]
        subprocess.run(command, cwd=REPOSITORY, check=True, stdout=sys.stderr)
        if assets_dir:
            path = REPOSITORY / assets_dir / "results.json"
        else:
            (path,) = Path(temporary).rglob("results.json")  # beneath the name of its images
        return json.loads(path.read_text())


def print_runs(report: dict[str, Any]) -> None:
    """Print one line for each network and optimizer."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for model in report["models"]:
        groups.setdefault((model["name"], model["optimizer"]), []).append(model)
    print(
        "\n| network | parameters | MACs per image | optimizer | seeds | test accuracy | sd "
        "| of each seed | training |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for (name, optimizer), models in groups.items():
        accuracies = [model["test_accuracy"] for model in models]
        seeds = f"{models[0]['seed']} to {models[-1]['seed']}"
        seconds = mean(model["training_seconds"] for model in models)
        size = f"{models[0]['parameters']:,} | {models[0]['multiply_adds']:,}"
        print(
            f"| {name} | {size} | {optimizer} | {seeds} | {mean(accuracies):.2%} "
            f"| {stdev(accuracies):.2%} | {join(accuracies)} | {seconds:.1f} s |"
        )


def join(accuracies: Iterable[float]) -> str:
    return ", ".join(f"{accuracy:.2%}" for accuracy in accuracies)


if __name__ == "__main__":
    main()
