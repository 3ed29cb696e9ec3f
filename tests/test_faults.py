"""The started program under faults, each brought about for real.

Outputs stay whole, one line says what is wrong. Here is only what a program of its own must show;
faults that a call can show stand beside what they test.
"""

import io
import itertools
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from PIL import Image

import fashion_mnist_cnn as program
from conftest import (
    REPOSITORY,
    WITHOUT_PRIVILEGES,
    Fork,
    is_one_line,
    redirect,
    save_lamps,
    wait,
)
from fashion_mnist_extras.prediction import read_metadata

SCRIPT = str(REPOSITORY / "fashion_mnist_cnn.py")
# A run of a second, on 60 images that are easily told apart.
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
    options = {"env": environment, "stdin": subprocess.DEVNULL}
    process = start_python(folder, "--assets-dir", str(folder / "assets"), **options)
    code, out, err = finish_python(process)
    assert code == 0 and "zwei Zeilen" in out
    assert "Traceback" not in err  # matplotlib warns about its cache
    return folder


@pytest.fixture
def folder(tmp_path: Path, earlier: Path) -> Path:
    return Path(shutil.copytree(earlier, tmp_path / "folder"))


def start_python(folder: Path, *arguments: str, **options: object) -> subprocess.Popen:
    """Start `python fashion_mnist_cnn.py` in folder, by somebody who is not root."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {"env": os.environ | {"OMP_NUM_THREADS": "1"}}
    command = [*WITHOUT_PRIVILEGES, sys.executable, SCRIPT, *QUICK, *arguments]
    return subprocess.Popen(
        command, cwd=folder, text=True, errors="replace", **(pipes | environment | options)
    )


def finish_python(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


class PausedOutput(io.TextIOWrapper):
    """stdout of a run; after the line that begins with phase, if one is given, it waits."""

    def __init__(self, phase: str, channel: Connection) -> None:
        super().__init__(os.fdopen(1, "wb"), errors="backslashreplace")
        self.phase = phase
        self.channel = channel
        self.line = ""

    def write(self, text: str) -> int:
        if self.line.endswith("\n"):
            if self.phase and self.line.strip().startswith(self.phase):
                self.channel.send("paused")
                self.channel.recv()
            self.line = ""
        self.line += text
        return super().write(text)


def run_script(
    folder: Path,
    arguments: tuple[str, ...],
    stdout: Path | Connection,
    phase: str,
    pause: Connection,
) -> None:
    """Do what `python fashion_mnist_cnn.py` does, in this process."""
    os.chdir(folder)
    if isinstance(stdout, Path):
        redirect(1, stdout)
    else:
        os.dup2(stdout.fileno(), 1)
        stdout.close()
    redirect(2, Path("errors"))
    sys.stdout = PausedOutput(phase, pause)
    sys.argv = [SCRIPT, *arguments]
    runpy.run_path(SCRIPT, run_name="__main__")


class Run:
    """The program in a process of its own, which has loaded torch already."""

    def __init__(
        self,
        fork: Fork,
        folder: Path,
        *arguments: str,
        stdout: Path | Connection = Path("output"),
        phase: str = "",
    ) -> None:
        self.folder = folder
        self.pause, pause = Pipe()
        options = (*QUICK, *arguments)
        self.process = fork(run_script, folder, options, stdout, phase, pause)
        pause.close()

    def wait_for_pause(self) -> None:
        assert self.pause.poll(60), "it came to nothing"
        self.pause.recv()  # EOFError: it ended before

    def go_on(self) -> None:
        self.pause.send("go on")

    def finish(self) -> tuple[int | None, str, str]:
        """Return the exit code and what was printed to stdout, if that is a file, and to stderr."""
        code = wait(self.process)
        printed = []
        for name in ("output", "errors"):
            path = self.folder / name
            printed.append(path.read_text(errors="replace") if path.exists() else "")
        return code, printed[0], printed[1]


@pytest.fixture(scope="module")
def start(fork: Fork) -> Callable[..., Run]:
    """Return what starts a short run in a folder, on one thread."""
    return lambda folder, *arguments, **options: Run(fork, folder, *arguments, **options)


@pytest.fixture(scope="module")
def start_paused(start) -> Callable[..., Run]:
    """Return what starts a run and waits until that has come to a phase, where it waits too."""

    def start_paused(folder: Path, phase: str, *arguments: str, **options: object) -> Run:
        run = start(folder, *arguments, phase=phase, **options)
        run.wait_for_pause()
        return run

    return start_paused


def read_outputs(folder: Path, names: tuple[str, ...] = MODELS + OUTPUTS) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def assert_whole(folder: Path) -> None:
    for name in ("CNN_model.pth", "MLP_model.pth"):
        path = folder / "models/lamps" / name
        read_metadata(path, program.load_model(path))
    json.loads((folder / OUTPUTS[0]).read_text())
    assert (folder / "assets/lamps/explorer.html").read_text().endswith("</html>\n")
    for name in (name for name in OUTPUTS if name.endswith(".png")):
        with Image.open(folder / name) as image:
            image.load()


def temporary_files(folder: Path) -> list[Path]:
    return list(folder.rglob(".fashion_mnist_cnn-*"))


PHASES = {  # and about how many seconds each lasts
    "MLP:": 0.2,
    "TinyVGG:": 0.3,
    "network": 0.6,  # the table is printed, the figures are drawn
    "saving": 0.01,
    "importing": 3.0,
}


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_outputs_are_whole_after_sigkill_at_moments_spread_over_a_run(
    start, start_paused, folder: Path, kills: int
):
    killed_in = set()
    for number, (phase, duration) in zip(range(kills), itertools.cycle(PHASES.items())):
        for temporary in temporary_files(folder):  # of the kill before
            temporary.unlink()
        if phase == "importing":
            process = start_python(folder)
        elif phase == "saving":
            run = start(folder)
            while not temporary_files(folder / "models"):
                assert run.process.is_alive(), "it ended before saving"
                time.sleep(0.0005)
        else:
            run = start_paused(folder, phase)
            run.go_on()
        time.sleep(duration * number / kills)
        if phase == "importing":
            process.kill()
            code, _, _ = finish_python(process)
        else:
            run.process.kill()
            code, _, _ = run.finish()
        if code == -signal.SIGKILL:
            killed_in.add(phase)
        assert_whole(folder)
    assert killed_in >= {"MLP:", "TinyVGG:", "network"}


@pytest.mark.parametrize("phase", ["epoch 1:", "network"])
def test_ctrl_c_ends_the_run_in_one_line(start_paused, folder: Path, phase: str):
    # While figures are drawn the numbers may be written already: they are no part of the figures'
    # group.
    names = OUTPUTS[1:] if phase == "network" else OUTPUTS
    before = read_outputs(folder, names)
    epochs = ["--epochs", "100000"] if phase == "epoch 1:" else []
    run = start_paused(folder, phase, *epochs)
    run.go_on()
    time.sleep(0.2)
    os.kill(run.process.pid, signal.SIGINT)
    code, _, err = run.finish()
    checkpoint = Path("models", "lamps", "checkpoint.pth")
    hint = f"interrupted; add --resume to go on from {checkpoint}"
    assert (code, err) == (130, f"fashion_mnist_cnn.py: {hint}\n")
    assert (folder / checkpoint).exists()
    assert read_outputs(folder, names) == before and not temporary_files(folder)
    assert_whole(folder)


def test_two_runs_at_the_same_time_in_one_folder(start, folder: Path):
    before = read_outputs(folder)
    runs = [start(folder, "--seed", seed, stdout=Path(seed)) for seed in ("2", "3")]
    for run in runs:
        code, _, err = run.finish()
        assert (code, err) == (0, "")
    after = read_outputs(folder)
    assert all(
        after[name] != before[name]
        for name in ("models/lamps/CNN_model.pth", "assets/lamps/results.json")
    )
    assert_whole(folder)
    assert not temporary_files(folder)


def test_a_folder_without_permission_is_rejected_before_training(tmp_path: Path, earlier: Path):
    processes = {}
    for option in ("--models-dir", "--assets-dir"):
        folder = Path(shutil.copytree(earlier, tmp_path / option))
        (folder / option[2:].removesuffix("-dir") / "lamps").chmod(0o555)
        processes[option] = start_python(folder)
    before = read_outputs(earlier)
    for option, process in processes.items():
        code, out, err = finish_python(process)
        assert code == 1 and is_one_line(err) and option in err and "Permission denied" in err
        assert out == "" and read_outputs(tmp_path / option) == before


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


def test_a_disk_that_fills_up_during_the_run_loses_nothing(
    start_paused, folder: Path, small_disk: Path
):
    for name in ("models", "assets"):
        shutil.move(folder / name, small_disk)
    folders = (
        "--models-dir",
        str(small_disk / "models"),
        "--assets-dir",
        str(small_disk / "assets"),
    )
    run = start_paused(folder, "TinyVGG:", *folders)
    before = read_outputs(small_disk)
    fill(small_disk)
    run.go_on()
    code, _, err = run.finish()
    assert code == 1 and is_one_line(err) and "No space left" in err
    assert read_outputs(small_disk) == before and not temporary_files(small_disk)


def test_strange_names_no_terminal_and_no_home(earlier: Path):
    assert_whole(earlier)


@pytest.mark.parametrize("phase", ["MLP:", "network"])
def test_output_that_nobody_reads_ends_the_run_quietly(start_paused, folder: Path, phase: str):
    before = read_outputs(folder, OUTPUTS)
    reader, writer = Pipe(duplex=False)
    run = start_paused(folder, phase, "--seed", "1", stdout=writer)
    writer.close()
    reader.close()
    run.go_on()
    code, _, err = run.finish()
    assert (code, err) == (1, "")
    assert read_outputs(folder, OUTPUTS) == before
    assert_whole(folder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_output_on_a_full_disk_is_reported(folder: Path):
    with Path("/dev/full").open("w") as full:
        code, _, err = finish_python(start_python(folder, stdout=full))
    assert code == 1 and is_one_line(err) and "No space left" in err
