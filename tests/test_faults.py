"""The started program under faults, each brought about for real.

Outputs stay whole, one line says what is wrong. Here is only what a program of its own must show;
faults that a call can show stand beside what they test.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import fashion_mnist_cnn as program
from conftest import REPOSITORY, WITHOUT_PRIVILEGES, save_lamps

# A run of a few seconds, on 60 images that are easily told apart.
QUICK = (
    *("--images", "lamps", "--image-size", "12", "--epochs", "20", "--batch-size", "8"),
    *("--networks", "mlp", "tinyvgg", "--no-augment", "--learning-rate", "0.02"),
)
MODELS = (
    "models/lamps/CNN_model.pth",
    "models/lamps/CNN_model.json",
    "models/lamps/MLP_model.pth",
    "models/lamps/MLP_model.json",
)
OUTPUTS = (
    "assets/lamps/results.json",
    "assets/lamps/accuracy_model_graph.png",
    "assets/lamps/confusion_matrix.png",
    "assets/lamps/explorer.html",
    "assets/lamps/explorer_data.js",
    "assets/lamps/feature_maps.png",
    "assets/lamps/learning_curves.png",
    "assets/lamps/mistakes.png",
    "assets/lamps/prediction_examples.png",
    "assets/lamps/shift_robustness.png",
)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 60 images of lamps and the outputs of a run.

    The run is made without a terminal and a home folder.
    """
    home = tmp_path_factory.mktemp("home")
    home.chmod(0o555)
    bare = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TERM": "dumb", "OMP_NUM_THREADS": "1"}
    environment = bare | {"HOME": str(home), "XDG_CACHE_HOME": str(home)}
    folder = tmp_path_factory.mktemp("earlier") / "größe  und\nzwei Zeilen 衣"
    save_lamps(folder / "lamps", 60)
    options = {"env": environment, "stdin": subprocess.DEVNULL, "prefix": WITHOUT_PRIVILEGES}
    code, out, err = finish(start(folder, "--assets-dir", str(folder / "assets"), **options))
    assert (
        code == 0 and "zwei Zeilen" in out and "Traceback" not in err
    )  # matplotlib warns about its cache
    return folder


@pytest.fixture
def folder(tmp_path: Path, earlier: Path) -> Path:
    return Path(shutil.copytree(earlier, tmp_path / "folder"))


# Run the program, but wait after the line that begins with the first argument until stdin ends.
PAUSED = """
import io, runpy, sys

class PausedOutput(io.TextIOWrapper):
    line = ""

    def write(self, text):
        if self.line.endswith("\\n"):
            if self.line.strip().startswith(phase):
                sys.stdin.read()
            self.line = ""
        self.line += text
        return super().write(text)

_, phase, _, *sys.argv = sys.argv
sys.stdout = PausedOutput(sys.stdout.buffer)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(
    folder: Path, *arguments: str, prefix: tuple[str, ...] = (), **options: object
) -> subprocess.Popen:
    """Start a short run in folder, on one thread, so that two may run side by side."""
    pipes = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "errors": "replace",
    }
    environment = {"env": os.environ | {"OMP_NUM_THREADS": "1"}}
    command = [
        *prefix,
        sys.executable,
        str(REPOSITORY / "fashion_mnist_cnn.py"),
        *QUICK,
        *arguments,
    ]
    return subprocess.Popen(command, cwd=folder, **(pipes | environment | options))


def start_paused(folder: Path, phase: str, *arguments: str) -> subprocess.Popen:
    """Start a run; return when it has come to phase, where it waits for go_on()."""
    prefix = (sys.executable, "-c", PAUSED, phase)
    process = start(folder, *arguments, prefix=prefix, stdin=subprocess.PIPE)
    lines = (line.strip() for line in process.stdout)
    assert any(line.startswith(phase) for line in lines), f"it ended before {phase}"
    return process


def go_on(process: subprocess.Popen) -> None:
    process.stdin.close()
    process.stdin = None  # communicate() would flush it


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def read_outputs(folder: Path, names: tuple[str, ...] = MODELS + OUTPUTS) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def assert_whole(folder: Path) -> None:
    for name in ("CNN_model.pth", "MLP_model.pth"):
        path = folder / "models/lamps" / name
        program.read_metadata(path, program.load_model(path))
    json.loads((folder / OUTPUTS[0]).read_text())
    assert (folder / "assets/lamps/explorer_data.js").read_text().endswith("}};\n")
    for name in (name for name in OUTPUTS if name.endswith(".png")):
        with Image.open(folder / name) as image:
            image.load()


def temporary_files(folder: Path) -> list[Path]:
    return list(folder.rglob(".fashion_mnist_cnn-*"))


def is_one_line(text: str) -> bool:
    return (
        text.startswith("fashion_mnist_cnn.py: ") and text.count("\n") == 1 and text.endswith("\n")
    )


PHASES = {  # and about how many seconds each lasts
    "MLP:": 0.5,
    "TinyVGG:": 0.5,
    "network": 2.0,  # the table is printed, the figures are drawn
    "saving": 0.01,
    "importing": 3.0,
}


def start_until(folder: Path, phase: str, *arguments: str) -> subprocess.Popen:
    """Start a run; return when it has come to phase, while it goes on."""
    if phase in ("saving", "importing"):
        process = start(folder, *arguments)
        while phase == "saving" and not temporary_files(folder / "models"):
            assert process.poll() is None, "it ended before saving"
            time.sleep(0.0005)
    else:
        process = start_paused(folder, phase, *arguments)
        go_on(process)
    return process


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_outputs_are_whole_after_sigkill_at_moments_spread_over_a_run(folder: Path, kills: int):
    killed_in = set()
    for number, (phase, duration) in zip(range(kills), itertools.cycle(PHASES.items())):
        for temporary in temporary_files(folder):  # of the kill before
            temporary.unlink()
        process = start_until(folder, phase)
        time.sleep(duration * number / kills)
        process.kill()
        if finish(process)[0] == -signal.SIGKILL:
            killed_in.add(phase)
        assert_whole(folder)
    assert killed_in >= {"MLP:", "TinyVGG:", "network"}


@pytest.mark.parametrize("phase", ["epoch 1:", "network"])
def test_ctrl_c_ends_the_run_in_one_line(folder: Path, phase: str):
    # While figures are drawn the numbers may be written already: they are no part of the figures'
    # group.
    names = OUTPUTS[1:] if phase == "network" else OUTPUTS
    before = read_outputs(folder, names)
    epochs = ["--epochs", "100000"] if phase == "epoch 1:" else []
    process = start_until(folder, phase, *epochs)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    checkpoint = Path("models", "lamps", "checkpoint.pth")
    hint = f"interrupted; add --resume to go on from {checkpoint}"
    assert (code, err) == (130, f"fashion_mnist_cnn.py: {hint}\n")
    assert (folder / checkpoint).exists()
    assert read_outputs(folder, names) == before and not temporary_files(folder)
    assert_whole(folder)


def test_two_runs_at_the_same_time_in_one_folder(folder: Path):
    before = read_outputs(folder)
    processes = [start(folder, "--seed", seed) for seed in ("2", "3")]
    for process in processes:
        code, _, err = finish(process)
        assert (code, err) == (0, "")
    after = read_outputs(folder)
    assert all(
        after[name] != before[name]
        for name in ("models/lamps/CNN_model.pth", "assets/lamps/results.json")
    )
    assert_whole(folder)
    assert not temporary_files(folder)


@pytest.mark.parametrize("option", ["--models-dir", "--assets-dir"])
def test_a_folder_without_permission_is_rejected_before_training(folder: Path, option: str):
    locked = folder / option[2:].removesuffix("-dir") / "lamps"
    locked.chmod(0o555)
    before = read_outputs(folder)
    code, out, err = finish(start(folder, prefix=WITHOUT_PRIVILEGES))
    locked.chmod(0o755)
    assert code == 1 and is_one_line(err) and option in err and "Permission denied" in err
    assert out == "" and read_outputs(folder) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("a small disk cannot be mounted on this machine")
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path) -> None:
    with (
        pytest.raises(OSError, match="No space left"),
        (disk / "filler").open("wb", buffering=0) as file,
    ):
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("option", ["--models-dir", "--assets-dir"])
def test_a_full_disk_is_rejected_before_training(
    tmp_path: Path, small_disk: Path, capsys, option: str
):
    fill(small_disk)
    folders = {
        "--models-dir": tmp_path / "m",
        "--assets-dir": tmp_path / "a",
        option: small_disk / "folder",
    }
    assert program.main([str(word) for pair in folders.items() for word in pair]) == 1
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err) and option in err and "No space left" in err


def test_a_disk_too_small_for_a_download_is_reported(small_disk: Path, offline: None):
    with pytest.raises(program.UserError, match="cannot be read"):
        program.load_fashion_mnist(small_disk)
    assert not temporary_files(small_disk)


def test_a_disk_that_fills_up_during_the_run_loses_nothing(folder: Path, small_disk: Path):
    for name in ("models", "assets"):
        shutil.move(folder / name, small_disk)
    folders = (
        "--models-dir",
        str(small_disk / "models"),
        "--assets-dir",
        str(small_disk / "assets"),
    )
    process = start_paused(folder, "TinyVGG:", *folders)
    before = read_outputs(small_disk)
    fill(small_disk)
    go_on(process)
    code, _, err = finish(process)
    assert code == 1 and is_one_line(err) and "No space left" in err
    assert read_outputs(small_disk) == before and not temporary_files(small_disk)


def test_strange_names_no_terminal_and_no_home(earlier: Path):
    assert_whole(earlier)


@pytest.mark.parametrize("phase", ["MLP:", "network"])
def test_output_that_nobody_reads_ends_the_run_quietly(folder: Path, phase: str):
    before = read_outputs(folder, OUTPUTS)
    process = start_paused(folder, phase, "--seed", "1")
    process.stdout.close()
    go_on(process)
    assert process.wait(timeout=60) == 1 and process.stderr.read() == ""
    assert read_outputs(folder, OUTPUTS) == before
    assert_whole(folder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_output_on_a_full_disk_is_reported(folder: Path):
    with Path("/dev/full").open("w") as full:
        code, _, err = finish(start(folder, stdout=full))
    assert code == 1 and is_one_line(err) and "No space left" in err
