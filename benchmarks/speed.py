"""Time the textbook's training loop and ours, alternating in one process, then both programs whole.

python benchmarks/speed.py             # ours with 1 and with 3 epochs, the textbook with 3
python benchmarks/speed.py --beside    # beside other programs that keep a processor busy
python benchmarks/speed.py --optimizers    # a training step with Muon against one with Adam
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from textbook import DATA, build_textbook_model, train_textbook
from torch import nn

import fashion_mnist_cnn as program

REPOSITORY = Path(program.__file__).parent
IMAGES = 60_000
BATCH_SIZE = program.Recipe().batch_size
# How OpenMP's threads wait: as the program has it, as OpenMP does of itself, and not at all.
WAITING = {
    "the program": {"GOMP_SPINCOUNT": "10000", "OMP_PROC_BIND": "true"},
    "OpenMP's own": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
# Prints seconds per 60,000 images in training steps, and per 10,000 images evaluated.
MEASURE = """
import sys, time
sys.path[:0] = [{folder!r}, {folder!r} + "/benchmarks"]
import fashion_mnist_cnn as program
from speed import train_ours
from textbook import DATA
train_set, test_set = program.load_fashion_mnist(DATA)
sets = train_set.subset(slice(12800)), test_set.subset(slice(100))
history = train_ours(program.TinyVGG, 0, 2, *sets)
seconds = history[-1].training_seconds - history[-2].training_seconds
start = time.perf_counter()
program.predict_logits(program.TinyVGG(), test_set.images[:2000])
print(seconds * 60000 / 12800, (time.perf_counter() - start) * 5)
"""
# Another program, in a session of its own as another terminal's or a browser's would be.
NEIGHBOURS = {
    "alone": "",
    "beside a Python loop": "while True: sum(range(10_000))",
    "beside a training of one thread": """
import torch
torch.set_num_threads(1)
layers = torch.nn.Sequential(
    torch.nn.Conv2d(1, 10, 3), torch.nn.ReLU(), torch.nn.Conv2d(10, 10, 3), torch.nn.MaxPool2d(2)
)
images = torch.rand(128, 1, 28, 28)
while True:
    layers.zero_grad()
    layers(images).square().mean().backward()
""",
}


def print_environment(device: torch.device) -> None:
    print(
        ", ".join(f"{key} {value}" for key, value in program.describe_environment(device).items())
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beside", action="store_true", help="only beside other programs")
    parser.add_argument("--optimizers", action="store_true", help="only Muon against Adam")
    arguments = parser.parse_args()
    print_environment(torch.device("cpu"))
    if arguments.beside:
        return print_beside_others()
    if arguments.optimizers:
        return print_optimizers()
    sets = program.load_fashion_mnist(DATA)
    print("\n| network | loop | training | images per second | textbook's time / this |")
    print("|---|---|---|---|---|", flush=True)
    for kind in (program.MLP, program.TinyVGG):
        textbook_seconds = train_textbook(build_textbook_model(kind, seed=0), epochs=3)
        print_time(kind, "textbook", 3, textbook_seconds, textbook_seconds)
        for epochs in (1, 3):
            seconds = train_ours(kind, 0, epochs, *sets)[-1].training_seconds
            print_time(kind, "ours", epochs, seconds, textbook_seconds)
        if kind is program.TinyVGG:  # the MLP is in float32 anyway
            with patch.object(program, "training_precision", lambda network: torch.float32):
                seconds = train_ours(kind, 0, 3, *sets)[-1].training_seconds
            print_time(kind, "ours in float32", 3, seconds, textbook_seconds)
    print_whole_programs()


def print_time(
    kind: type[nn.Module], loop: str, epochs: int, seconds: float, textbook_seconds: float
) -> None:
    name = f"{loop}, {epochs} epoch{'s' if epochs > 1 else ''}"
    rate = f"{epochs * IMAGES / seconds:,.0f}"
    ratio = f"{textbook_seconds / seconds:.1f}"
    print(f"| {kind.__name__} | {name} | {seconds:.2f} s | {rate} | {ratio} |", flush=True)


def train_ours(
    kind: type[program.Network],
    seed: int,
    epochs: int,
    train_set: program.ImageSet,
    test_set: program.ImageSet,
    optimizer: str = "muon",
) -> list[program.Record]:
    """Train a network by our default recipe; return its learning curves."""
    torch.manual_seed(seed)
    return program.train(
        kind(),
        train_set,
        test_set,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        learning_rate=program.peak_learning_rate(kind, kind.default_hidden_units, optimizer),
        seed=seed,
        optimizer_name=optimizer,
    )


def print_optimizers() -> None:
    """Print milliseconds per step with Adam and with Muon, which take turns: medians."""
    train_set, test_set = program.load_fashion_mnist(DATA)
    print("\n| network | Adam, ms per step | Muon | Muon / Adam, median of 15 pairs |")
    print("|---|---|---|---|", flush=True)
    for kind, steps in ((program.MLP, 300), (program.TinyVGG, 60), (program.ResNet, 10)):
        sets = train_set.subset(slice(steps * BATCH_SIZE)), test_set.subset(slice(100))
        seconds: dict[str, list[float]] = {"adam": [], "muon": []}
        for _ in range(15):
            for optimizer, times in seconds.items():
                history = train_ours(kind, 0, 2, *sets, optimizer)
                # Of the second epoch: the first is not at full speed from its beginning.
                times.append(history[-1].training_seconds - history[-2].training_seconds)
        ratio = median(muon / adam for adam, muon in zip(*seconds.values(), strict=True))
        adam, muon = (1000 / steps * median(times) for times in seconds.values())
        print(f"| {kind.__name__} | {adam:.2f} | {muon:.2f} | {ratio:.3f} |", flush=True)


def print_whole_programs() -> None:
    """Run both programs from start to exit, imports and figures included."""
    with tempfile.TemporaryDirectory() as folder:
        ours = ["fashion_mnist_cnn.py", "--models-dir", folder, "--assets-dir", folder]
        textbook_seconds, textbook_memory = run_program(["benchmarks/textbook.py", folder])
        seconds, memory = run_program(ours)
    print("\n| whole program | start to exit | peak memory |")
    print("|---|---|---|")
    print(f"| textbook | {textbook_seconds:.1f} s | {textbook_memory:,.0f} MB |")
    print(f"| ours | {seconds:.1f} s | {memory:,.0f} MB |")
    print(f"ours takes 1/{textbook_seconds / seconds:.1f} of the textbook's time")


def print_beside_others() -> None:
    """Print seconds per epoch of TinyVGG beside other programs, by how the threads wait."""
    columns = "".join(f" {name} |" for name in NEIGHBOURS)
    print(f"\n| seconds per epoch (evaluation of 10,000 images) |{columns}")
    print("|---|" + "---|" * len(NEIGHBOURS), flush=True)
    for name, options in WAITING.items():
        cells = [measure_beside(neighbour, options) for neighbour in NEIGHBOURS.values()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def measure_beside(neighbour: str, options: dict[str, str]) -> str:
    """Train with OpenMP's options beside a neighbour; return what was measured."""
    kept = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    other = None
    if neighbour:
        other = subprocess.Popen([sys.executable, "-c", neighbour], start_new_session=True)
        time.sleep(5)  # it imports torch
    try:
        command = [sys.executable, "-c", MEASURE.format(folder=str(REPOSITORY))]
        environment = kept | options
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    finally:
        if other:
            other.kill()
            other.wait()
    epoch, evaluation = map(float, result.stdout.split())
    return f"{epoch:.1f} ({evaluation:.1f})"


def run_program(command: list[str]) -> tuple[float, float]:
    """Return the seconds a command took and the most memory it held, in MB (10^6 bytes, Linux)."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
