"""Time the textbook's training loop and ours, alternating in one process, then both programs whole.

python benchmarks/speed.py    # 1 seed; ours with 1 and with 3 epochs, the textbook with 3
python benchmarks/speed.py --seeds 3 --device cuda
python benchmarks/speed.py --beside    # only the table beside other programs (about 13 minutes)
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

import torch
from textbook import DATA, build_textbook_model, train_textbook
from torch import nn

import fashion_mnist_cnn as program

REPOSITORY = Path(program.__file__).parent
IMAGES = 60_000
# Multiplications and additions of TinyVGG on one image: outputs x weights that each sees x 2.
FORWARD = {
    "conv 1 -> 10 at 28 x 28": 28 * 28 * 10 * 9 * 1 * 2,
    "conv 10 -> 10 at 28 x 28": 28 * 28 * 10 * 9 * 10 * 2,
    "2 conv 10 -> 10 at 14 x 14": 2 * 14 * 14 * 10 * 9 * 10 * 2,
    "linear 490 -> 10": 490 * 10 * 2,
}


# How OpenMP's threads wait: as the program has it, as OpenMP does of itself, and other ways tried.
WAITING = {
    "the program": {"GOMP_SPINCOUNT": "10000", "OMP_PROC_BIND": "true"},
    "OpenMP's own": {},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
# Prints seconds per 60,000 images in training steps, and per 10,000 images evaluated.
MEASURE_OURS = """
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
MEASURE_TEXTBOOK = """
import sys
sys.path[:0] = [{folder!r}, {folder!r} + "/benchmarks"]
from textbook import TinyVGG, build_textbook_model, train_textbook
print(train_textbook(build_textbook_model(TinyVGG, 0), epochs=1, images=12800) * 60000 / 12800, 0)
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
    parser.add_argument("--seeds", type=int, default=1, help="rounds, each with another seed (1)")
    parser.add_argument(
        "--epochs", type=int, default=3, help="epochs of the textbook and of our longer run (3)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--beside", action="store_true", help="only beside other programs")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print_environment(device)
    if arguments.beside:
        return print_beside_others()
    train_set, test_set = (image_set.to(device) for image_set in program.load_fashion_mnist(DATA))

    seconds: dict[tuple[str, str], list[float]] = {}
    for seed in range(arguments.seeds):
        for kind in (program.MLP, program.TinyVGG):
            textbook = build_textbook_model(kind, seed)
            taken = {
                f"textbook, {arguments.epochs} epochs": train_textbook(
                    textbook, arguments.epochs, device.type
                )
            }
            for epochs in sorted({1, arguments.epochs}):
                history = train_ours(kind, seed, epochs, train_set, test_set)
                taken[f"ours, {epochs} epochs"] = history[-1].training_seconds
            for loop, value in taken.items():
                seconds.setdefault((kind.__name__, loop), []).append(value)
    print_times(seconds, arguments.epochs)
    print_utilization(IMAGES / mean(seconds["TinyVGG", "ours, 1 epochs"]), device)
    if device.type == "cpu":
        print_whole_programs()
        print_beside_others()


def train_ours(
    kind: type[nn.Module],
    seed: int,
    epochs: int,
    train_set: program.ImageSet,
    test_set: program.ImageSet,
) -> list[program.Record]:
    """Train a network by our default recipe; return its learning curves."""
    settings = program.Settings()
    torch.manual_seed(seed)
    return program.train(
        kind().to(train_set.images.device),
        train_set,
        test_set,
        epochs=epochs,
        batch_size=settings.batch_size,
        learning_rate=program.OPTIMIZERS[settings.optimizer[0]].learning_rate,
        seed=seed,
    )


def print_times(seconds: dict[tuple[str, str], list[float]], textbook_epochs: int) -> None:
    print(f"\n{'network':<9}{'loop':<22}{'training':>10}{'images/s':>10}{'textbook / this':>17}")
    for (network, loop), taken in seconds.items():
        epochs = int(loop.split()[-2])
        ratio = mean(seconds[network, f"textbook, {textbook_epochs} epochs"]) / mean(taken)
        print(
            f"{network:<9}{loop:<22}{mean(taken):>8.2f} s"
            f"{epochs * IMAGES / mean(taken):>10,.0f}{ratio:>17.1f}"
        )


def print_utilization(images_per_second: float, device: torch.device) -> None:
    """Compare the arithmetic of a training step of the CNN with that of a matrix product.

    The product is the fastest measured here.
    """
    print("\nTinyVGG, arithmetic per image:")
    for layer, count in FORWARD.items():
        print(f"  {layer:<28}{count / 1e6:>7.3f} MFLOP")
    # Backward: as much again for the weights and as much for the inputs, which the first layer does
    # not need.
    total = 3 * sum(FORWARD.values()) - FORWARD["conv 1 -> 10 at 28 x 28"]
    print(f"  {'forward and backward':<28}{total / 1e6:>7.3f} MFLOP")
    dtype = program.training_precision(device)
    matrix = torch.randn(2048, 2048, device=device).to(dtype)
    fastest = 0.0
    for _ in range(10):
        start = time.perf_counter()
        matrix @ matrix
        getattr(torch, device.type).synchronize()
        fastest = max(fastest, 2 * 2048**3 / (time.perf_counter() - start))
    reached = total * images_per_second
    print(
        f"the step reaches {reached / 1e9:.0f} GFLOP/s, {reached / fastest:.0%} of the "
        f"{fastest / 1e9:.0f} GFLOP/s of a 2048 x 2048 matrix product "
        f"in {str(dtype).removeprefix('torch.')}"
    )


def print_whole_programs() -> None:
    """Run both programs from start to exit, imports and figures included."""
    with tempfile.TemporaryDirectory() as folder:
        ours = [
            "fashion_mnist_cnn.py",
            "--device",
            "cpu",
            "--models-dir",
            folder,
            "--assets-dir",
            folder,
        ]
        commands = {"textbook": ["benchmarks/textbook.py", folder], "ours": ours}
        measured = {
            name: run_program([sys.executable, *command]) for name, command in commands.items()
        }
        starts = {
            "import torch and torchvision.datasets": [
                "-c",
                "import torch; from torchvision import datasets",
            ],
            "import fashion_mnist_cnn": ["-c", "import fashion_mnist_cnn"],
            "--help": ["fashion_mnist_cnn.py", "--help"],
            "--epochs 0 (refused)": ["fashion_mnist_cnn.py", "--epochs", "0"],
        }
        # Turn by turn, and the shortest of seven: a start is short, and what disturbs it only ever
        # adds.
        rounds = [
            {name: run_program([sys.executable, *c])[0] for name, c in starts.items()}
            for _ in range(7)
        ]
    print(f"\n{'whole program, start to exit':<40}{'time':>9}{'peak memory':>14}")
    for name, (taken, peak) in measured.items():
        print(f"{name:<40}{taken:>7.1f} s{peak:>11.0f} MB")
    print(
        f"ours takes 1/{measured['textbook'][0] / measured['ours'][0]:.1f} of the textbook's time"
    )
    print(f"\n{'start-up':<40}{'time':>9}{'ratio':>14}")
    base = min(times["import torch and torchvision.datasets"] for times in rounds)
    for name in starts:
        fastest = min(times[name] for times in rounds)
        print(f"{name:<40}{fastest:>7.2f} s{fastest / base:>14.2f}")


def print_beside_others() -> None:
    """Print seconds per epoch of TinyVGG beside other programs, by how the threads wait."""
    print(
        "\n| seconds per epoch (evaluation of 10,000 images) |"
        + "".join(f" {name} |" for name in NEIGHBOURS)
    )
    print("|---|" + "---|" * len(NEIGHBOURS), flush=True)
    rows = {name: (MEASURE_OURS, options) for name, options in WAITING.items()}
    rows["the textbook loop"] = (MEASURE_TEXTBOOK, {})
    for name, (code, options) in rows.items():
        cells = [measure_beside(neighbour, code, options) for neighbour in NEIGHBOURS.values()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def measure_beside(neighbour: str, code: str, options: dict[str, str]) -> str:
    """Run code with OpenMP's options beside a neighbour; return what it measured."""
    kept = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    other = None
    if neighbour:
        other = subprocess.Popen([sys.executable, "-c", neighbour], start_new_session=True)
        time.sleep(5)  # it imports torch
    try:
        command = [sys.executable, "-c", code.format(folder=str(REPOSITORY))]
        printed = subprocess.run(
            command, env=kept | options, stdout=subprocess.PIPE, check=True
        ).stdout
    finally:
        if other:
            other.kill()
            other.wait()
    epoch, evaluation = map(float, printed.split())
    return f"{epoch:.1f} ({evaluation:.1f})" if evaluation else f"{epoch:.1f}"


def run_program(command: list[str]) -> tuple[float, float]:
    """Return the seconds a command took and the most memory it held, in MB (10^6 bytes, Linux)."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, _, usage = os.wait4(process.pid, 0)
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
