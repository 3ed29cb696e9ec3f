"""The program under faults, each brought about for real: what was there stays whole, one line says what is wrong."""

import gzip
import http.server
import io
import itertools
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.datasets import FashionMNIST

import fashion_mnist_cnn as program
from conftest import REPOSITORY

QUICK = ("--epochs", "1", "--batch-size", "2000", "--hidden-units", "4")
IMAGES = "train-images-idx3-ubyte"
OUTPUTS = (
    "models/CNN_model.pth",
    "models/CNN_model.json",
    "assets/results.json",
    "assets/accuracy_model_graph.png",
    "assets/confusion_matrix.png",
    "assets/feature_maps.png",
    "assets/learning_curves.png",
    "assets/mistakes.png",
    "assets/prediction_examples.png",
    "assets/shift_robustness.png",
)
# Root may do everything: without these two capabilities a folder without permission is one for root as well.
WITHOUT_PRIVILEGES = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder to run the program in, with the archives, not extracted, and the outputs of an earlier run."""
    return prepare(tmp_path)


def prepare(folder: Path) -> Path:
    (folder / "data/FashionMNIST/raw").mkdir(parents=True)
    for archive in (REPOSITORY / "data_1/FashionMNIST/raw").glob("*.gz"):
        shutil.copy(archive, folder / "data/FashionMNIST/raw")
    for name in OUTPUTS:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


def start(folder: Path, *arguments: str, prefix: tuple[str, ...] = (), **options: object) -> subprocess.Popen:
    """Start a short run in folder, on one thread, so that two may run side by side."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    environment = {"env": os.environ | {"OMP_NUM_THREADS": "1"}}
    command = [*prefix, sys.executable, str(REPOSITORY / "fashion_mnist_cnn.py"), "--data-dir", "data", *QUICK]
    return subprocess.Popen([*command, *arguments], cwd=folder, **(pipes | environment | options))


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def assert_whole(folder: Path) -> None:
    program.load_model(folder / OUTPUTS[0])
    for name in OUTPUTS[1:3]:
        json.loads((folder / name).read_text())
    for name in OUTPUTS[3:]:
        with Image.open(folder / name) as picture:
            picture.load()


def temporary_files(folder: Path) -> list[Path]:
    return list(folder.rglob(".fashion_mnist_cnn-*"))


def is_one_line(text: str) -> bool:
    return text.startswith("fashion_mnist_cnn.py: ") and text.count("\n") == 1 and text.endswith("\n")


PHASES = {  # and for how many seconds each lasts, about
    "importing": 3.0,
    "extracting": 0.5,
    "MLP:": 1.0,
    "TinyVGG:": 3.0,
    "model ": 2.0,  # the table is printed, the pictures are drawn
    "saving": 0.01,
}


def wait_for_phase(process: subprocess.Popen, folder: Path, phase: str) -> None:
    """Return as soon as the run in folder has come to phase: by what it writes or by what it prints."""
    if phase in ("extracting", "saving"):
        written = folder / ("models" if phase == "saving" else "data/FashionMNIST/raw")
        while process.poll() is None and not temporary_files(written):
            time.sleep(0.0005)
        assert process.poll() is None, f"it ended before {phase}"
    elif phase != "importing":
        assert any(line.startswith(phase) for line in process.stdout), f"it ended before {phase}"


def forget_extracted(folder: Path) -> None:
    for extracted in (folder / "data/FashionMNIST/raw").glob("*-ubyte"):
        extracted.unlink()


def age_temporary_files(folder: Path) -> None:
    for path in temporary_files(folder):
        os.utime(path, (time.time() - 120,) * 2)


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_sigkill_at_moments_spread_over_a_run(place: Path, kills: int):
    landed = set()
    for number, (phase, lasts) in zip(range(kills), itertools.cycle(PHASES.items())):
        if phase == "extracting":
            forget_extracted(place)
        process = start(place)
        wait_for_phase(process, place, phase)
        time.sleep(lasts * number / kills)
        process.kill()
        if finish(process)[0] == -signal.SIGKILL:
            landed.add(phase)
        assert_whole(place)
        # Of one killed run at most, for the next one that comes as far as its folders clears what is old.
        assert len(temporary_files(place)) <= len(OUTPUTS) + 1
        age_temporary_files(place)
    assert landed >= set(PHASES) - {"saving"}
    before = contents(place)
    assert finish(start(place, "--seed", "7"))[0] == 0
    assert all(new != before[name] for name, new in contents(place).items())
    assert_whole(place)
    assert not temporary_files(place)


@pytest.mark.parametrize("phase", PHASES)
def test_sigint_and_sigterm_end_the_run_at_once(tmp_path: Path, phase: str):
    def interrupt(number: signal.Signals) -> None:
        folder = tmp_path / number.name
        folder.mkdir()
        before = contents(prepare(folder))
        process = start(folder)
        wait_for_phase(process, folder, phase)
        time.sleep(0.3 if phase not in ("extracting", "saving") else 0)
        process.send_signal(number)
        sent = time.monotonic()
        code, _, err = finish(process)
        assert time.monotonic() - sent < 2
        assert (code, err) == (128 + number, "fashion_mnist_cnn.py: interrupted\n")
        assert_whole(folder)
        if phase != "saving":  # where each is the old one or the new one
            assert contents(folder) == before

    with ThreadPoolExecutor() as pool:
        list(pool.map(interrupt, (signal.SIGINT, signal.SIGTERM)))


def test_two_runs_at_the_same_time_in_one_folder(place: Path):
    processes = [start(place, "--seed", seed) for seed in ("1", "2")]
    for process in processes:
        code, _, err = finish(process)
        assert (code, err) == (0, "")
    assert_whole(place)
    assert not temporary_files(place)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:30_000_000]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"),
        lambda path: path.write_text("not what it should be"),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
        lambda path: (path.unlink(), path.symlink_to(path.name)),
    ],
    ids=["cut", "emptied", "one byte changed", "text", "named pipe", "device", "link to itself"],
)
def test_a_damaged_extracted_file_heals(data_dir: Path, fashion_mnist, damage):
    program.load_fashion_mnist(data_dir)
    damage(data_dir / "FashionMNIST/raw" / IMAGES)
    healed, _ = program.load_fashion_mnist(data_dir)
    assert torch.equal(healed.images, fashion_mnist[0].images)


def test_a_folder_in_the_place_of_an_extracted_file_is_told(data_dir: Path):
    (data_dir / "FashionMNIST/raw" / IMAGES).mkdir()
    with pytest.raises(program.UserError, match=rf"cannot write .*{IMAGES}: Is a directory"):
        program.load_fashion_mnist(data_dir)


def test_an_unreadable_extracted_file_heals(place: Path):
    program.load_fashion_mnist(place / "data")
    (place / "data/FashionMNIST/raw" / IMAGES).chmod(0)
    process = start(place, prefix=WITHOUT_PRIVILEGES)
    wait_for_phase(process, place, "MLP:")
    process.kill()
    process.communicate()


class Mirror(http.server.BaseHTTPRequestHandler):
    """Answers with what its path begins with: a status, other bytes, half of the file, or the file."""

    def do_GET(self) -> None:
        _, kind, name = self.path.split("/")
        content = (REPOSITORY / "data_1/FashionMNIST/raw" / name).read_bytes()
        self.send_response(int(kind) if kind.isdigit() else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not kind.isdigit():
            self.wfile.write({"other": content[::-1], "half": content[:5000], "whole": content}[kind])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/"
        listening.shutdown()


@pytest.fixture
def silent_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:  # the system accepts, and nobody answers
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


ARCHIVE_DAMAGES = {
    "missing": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "emptied": lambda path: path.write_bytes(b""),
    "one bit changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "other archive": lambda path: path.write_bytes(gzip.compress(bytes(1000))),
}


@pytest.mark.parametrize("damage", ARCHIVE_DAMAGES)
def test_a_damaged_archive_without_network_is_told_and_heals_with_it(data_dir, monkeypatch, server, damage):
    archive = data_dir / "FashionMNIST/raw" / f"{IMAGES}.gz"
    ARCHIVE_DAMAGES[damage](archive)
    with pytest.raises(program.UserError) as error:
        program.load_fashion_mnist(data_dir)
    message = str(error.value)
    assert f"{IMAGES}.gz is {'missing' if damage == 'missing' else 'damaged'}" in message
    assert "t10k-labels-idx1-ubyte.gz)" in message and str(data_dir) in message and "--data-dir" in message
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{server}whole/"])
    assert len(program.load_fashion_mnist(data_dir)[0]) == 60_000


@pytest.mark.parametrize("answer", ["404", "503", "other", "half", "nothing"])
def test_a_mirror_that_fails_is_told_and_the_next_one_asked(data_dir, monkeypatch, server, silent_server, answer):
    raw = data_dir / "FashionMNIST/raw"
    for archive in raw.iterdir():
        archive.unlink()
    bad = silent_server if answer == "nothing" else f"{server}{answer}/"
    monkeypatch.setattr(FashionMNIST, "mirrors", [bad])
    began = time.monotonic()
    with pytest.raises(program.UserError, match=bad):
        program.load_fashion_mnist(data_dir)
    assert time.monotonic() - began < 60
    assert list(raw.iterdir()) == []
    if answer != "nothing":  # four archives would wait for it four times
        monkeypatch.setattr(FashionMNIST, "mirrors", [bad, f"{server}whole/"])
        assert len(program.load_fashion_mnist(data_dir)[0]) == 60_000


@pytest.mark.parametrize("option", ["--models-dir", "--assets-dir", "--data-dir"])
def test_a_folder_without_permission_is_refused_before_training(place: Path, option: str):
    locked = place / ("data/FashionMNIST/raw" if option == "--data-dir" else option[2:].removesuffix("-dir"))
    locked.chmod(0o555)
    before = contents(place)
    code, out, err = finish(start(place, prefix=WITHOUT_PRIVILEGES))
    locked.chmod(0o755)
    assert code == 1 and is_one_line(err) and option in err and "Permission denied" in err
    assert "MLP" not in out and contents(place) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("option", ["--models-dir", "--assets-dir", "--data-dir"])
def test_a_full_disk_is_refused_before_training(place: Path, small_disk: Path, option: str):
    fill(small_disk)
    code, out, err = finish(start(place, option, str(small_disk / "folder")))
    assert code == 1 and is_one_line(err) and option in err and "No space left" in err and "MLP" not in out


def test_a_disk_too_small_for_the_data_is_told(small_disk: Path, place: Path):
    raw = small_disk / "FashionMNIST/raw"
    raw.mkdir(parents=True)
    for archive in (place / "data/FashionMNIST/raw").glob("*.gz"):
        (raw / archive.name).symlink_to(archive)
    with pytest.raises(program.UserError, match=rf"cannot write .*{IMAGES}: No space left"):
        program.load_fashion_mnist(small_disk)
    assert not temporary_files(small_disk)


def test_a_disk_that_fills_up_during_the_run_is_told_and_loses_nothing(place: Path, small_disk: Path):
    for folder in ("models", "assets"):
        shutil.move(place / folder, small_disk)
    process = start(place, "--models-dir", str(small_disk / "models"), "--assets-dir", str(small_disk / "assets"))
    wait_for_phase(process, place, "TinyVGG:")
    before = contents(small_disk)
    fill(small_disk)
    code, _, err = finish(process)
    assert code == 1 and is_one_line(err) and "No space left" in err
    assert contents(small_disk) == before and not temporary_files(small_disk)


class Call:
    """Unpickled by someone careless, calls function with arguments."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def as_torch_file(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def as_bomb(model_file: bytes) -> bytes:
    """The model file with its first weights replaced by 400 MB of zeros, compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(model_file)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(400_000_000) if name.endswith("data/0") else old.read(name))
    return buffer.getvalue()


def bad_models(folder: Path) -> dict[str, bytes]:
    whole = (REPOSITORY / OUTPUTS[0]).read_bytes()
    state = program.TinyVGG().state_dict()
    weight = state["conv_block_2.0.weight"]
    changed = {
        "other shapes": torch.rand(3, 3),
        "other dtype": weight.double(),
        "whole numbers": weight.int(),
        "NaN": torch.full_like(weight, torch.nan),
        "infinite": torch.full_like(weight, torch.inf),
        "no tensor": 7,
        "sparse": weight.to_sparse(),
    }
    return {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "random": os.urandom(20_000),
        "one bit changed": whole[:10_000] + bytes([whole[10_000] ^ 1]) + whole[10_001:],
        "bomb of zeros": as_bomb(whole),
        "memory without end": as_torch_file({"a": Call(bytearray, 2**40)}),
        "one number for a billion": as_torch_file({name: torch.zeros(1).expand(2**30) for name in state}),
        "pickle": pickle.dumps(Call(os.mkdir, str(folder / "executed"))),
        "pickle in a zip": as_torch_file(Call(os.mkdir, str(folder / "executed"))),
        "other keys": as_torch_file(program.MLP().state_dict()),
        "a list": as_torch_file([1, 2, 3]),
        "one key less": as_torch_file(dict(list(state.items())[:-1])),
    } | {name: as_torch_file(state | {"conv_block_2.0.weight": value}) for name, value in changed.items()}


LOAD_ALL = """
import resource, sys
from pathlib import Path
import fashion_mnist_cnn as program
program.load_model(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[2]).iterdir()):
    try:
        program.load_model(path)
        print("loaded", path)
    except program.UserError as error:
        print("refused", error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_file_that_is_no_model_is_refused_and_neither_executed_nor_unpacked(tmp_path: Path):
    models = tmp_path / "bad"
    models.mkdir()
    for name, content in (bad := bad_models(tmp_path)).items():
        (models / name).write_bytes(content)
    command = [sys.executable, "-c", LOAD_ALL, str(REPOSITORY / OUTPUTS[0]), str(models)]
    result = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True)
    *lines, grown = result.stdout.splitlines()
    assert result.returncode == 0 and len(lines) == len(bad), result.stdout + result.stderr
    for name, line in zip(sorted(bad), lines, strict=True):
        assert line.startswith(f"refused {models / name} is "), line
    assert int(grown) < 60_000  # kilobytes
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", ""],
        ["--epochs", "-3"],
        ["--epochs", "9" * 400],
        ["--epochs", "1001"],
        ["--batch-size", "0"],
        ["--batch-size", "1e3"],
        ["--batch-size", "12 8"],
        ["--learning-rate", "-inf"],
        ["--learning-rate", "1e400"],
        ["--learning-rate", "0,02"],
        ["--learning-rate", ""],
        ["--hidden-units", "-10"],
        ["--hidden-units", "1025"],
        ["--hidden-units", "ten"],
        ["--seed", "4294967296"],
        ["--seed", "1.5"],
        ["--runs", "0"],
        ["--runs", "\n"],
        ["--device", ""],
        ["--device", "CPU"],
        ["--data-dir", ""],
        ["--models-dir", ""],
        ["--assets-dir", ""],
        ["--assets-dir", "a\0b"],
        ["--models-dir"],
        ["--größe", "3"],
        ["--two\nlines"],
        ["-x"],
        ["--optimizer"],
        ["--optimizer", "Adam"],
        ["--images", "a\0b"],
        ["--image-size", "64.0"],
        ["--image-size", "-1"],
    ],
    ids=lambda arguments: " ".join(arguments)[:30].encode("unicode_escape").decode(),
)
def test_a_bad_call_is_refused_in_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        program.main(arguments)
    out, err = capsys.readouterr()
    named = arguments[0].replace("\n", "\\n")
    assert stopped.value.code == 2 and out == "" and is_one_line(err) and named in err


@pytest.mark.parametrize("option", ["--models-dir", "--assets-dir"])
@pytest.mark.parametrize("name", ["x" * 300, "file/below", "/proc/nothing/here"])
def test_a_folder_that_cannot_be_is_refused_in_one_line(tmp_path: Path, monkeypatch, capsys, option: str, name: str):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    assert program.main(["--models-dir", "models", "--assets-dir", "assets", option, name]) == 1
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err) and option in err


def test_strange_names_no_terminal_and_no_home_work(tmp_path: Path):
    strange, homeless = tmp_path / "größe  und\nzwei Zeilen 衣", tmp_path / "homeless"
    for folder in (strange, homeless):
        folder.mkdir()
        prepare(folder)
    bare = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TERM": "dumb", "OMP_NUM_THREADS": "1"}
    first = start(strange, "--assets-dir", "bilder é", env=bare, stdin=subprocess.DEVNULL)
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    second = start(homeless, prefix=WITHOUT_PRIVILEGES, env=bare | {"HOME": str(home), "XDG_CACHE_HOME": str(home)})

    code, out, err = finish(first)
    assert (code, err) == (0, "")
    assert "bilder" in out and len(list((strange / "bilder é").iterdir())) == 8
    code, _, err = finish(second)
    assert code == 0 and "Traceback" not in err  # matplotlib warns that it keeps its cache elsewhere
    assert_whole(homeless)


def test_output_that_nobody_reads_ends_the_run_quietly(place: Path):
    before = contents(place)
    process = start(place)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 1 and process.stderr.read() == ""
    assert contents(place) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_output_on_a_full_disk_is_told(place: Path):
    with Path("/dev/full").open("w") as full:
        code, _, err = finish(start(place, stdout=full))
    assert code == 1 and is_one_line(err) and "No space left" in err


@pytest.mark.parametrize(
    "gigabytes, arguments",
    [
        (1, ()),
        (6, ("--batch-size", "20000", "--hidden-units", "40")),
        (64, ("--batch-size", "60000", "--hidden-units", "1024")),
    ],
    ids=["too little to import", "too little for a step", "a step no machine has room for"],
)
def test_too_little_memory_is_told(place: Path, gigabytes: int, arguments: tuple[str, ...]):
    before = contents(place)
    limit = ("bash", "-c", f'ulimit -v {gigabytes}000000; exec "$@"', "limited")
    code, _, err = finish(start(place, *arguments, prefix=limit))
    assert code == 1 and is_one_line(err) and "memory" in err
    assert contents(place) == before


@pytest.mark.parametrize("learning_rate", ["100", "5"])
def test_an_absurd_learning_rate_is_told_and_the_old_model_kept(place, monkeypatch, capsys, learning_rate):
    monkeypatch.chdir(place)
    before = contents(place)
    assert (
        program.main(["--data-dir", str(REPOSITORY / "data_1"), "--epochs", "1", "--learning-rate", learning_rate]) == 1
    )
    err = capsys.readouterr().err
    assert is_one_line(err) and "learning rate" in err and contents(place) == before
