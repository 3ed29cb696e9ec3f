import base64
import io
import math
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.datasets import FashionMNIST

import fashion_mnist_cnn as program
from fashion_mnist_extras.image_folders import load_image_folder

pytest.register_assert_rewrite("explorer_page")

REPOSITORY = Path(program.__file__).parent
RAW = REPOSITORY / "data_1/FashionMNIST/raw"
MODEL = REPOSITORY / "models/CNN_model.pth"
PHOTOGRAPH = REPOSITORY / "assets/test_image_as_photograph.jpg"
SCRIPT_NETWORKS = ("mlp", "tinyvgg", "resnet")  # the folder adds to NETWORKS


# Root may do everything: without these two capabilities a folder without permission is one for root
# as well.
WITHOUT_PRIVILEGES = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
)


@pytest.fixture(scope="session")
def fashion_mnist() -> tuple[program.ImageSet, program.ImageSet]:
    return program.load_fashion_mnist(REPOSITORY / "data_1")


@pytest.fixture
def small_sets(fashion_mnist) -> tuple[program.ImageSet, program.ImageSet]:
    """The first 2,000 training and 400 test images."""
    return fashion_mnist[0].subset(slice(2000)), fashion_mnist[1].subset(slice(400))


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch, small_sets) -> Path:
    """The program runs in an empty folder, on 2,000 images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, "load_fashion_mnist", lambda root: small_sets)
    return tmp_path


@pytest.fixture
def random_set() -> program.ImageSet:
    """203 images of noise in four classes: enough for a few steps and an incomplete last batch."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (203, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(4, (203,), generator=generator)
    return program.ImageSet(images, labels, ("a", "b", "c", "d"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that cannot reach the dataset's server."""
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])


@pytest.fixture
def data_dir(tmp_path: Path, offline: None) -> Path:
    """A copy of the four archives, not extracted."""
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in RAW.glob("*.gz"):
        shutil.copy(archive, raw)
    return tmp_path / "data"


def make_result(
    network: nn.Module | None = None,
    accuracy: float = 0.9,
    seconds: float = 2.0,
    optimizer: str = "Adam",
    history: list[program.Record] | None = None,
    diverged: bool = False,
) -> program.TrainedNetwork:
    """A trained network as the table and figures see it, of 10,000 test images in ten classes."""
    labels = torch.arange(10_000) % 10
    predictions = torch.where(
        torch.arange(10_000) < round(10_000 * accuracy), labels, (labels + 1) % 10
    )
    logits = torch.nn.functional.one_hot(predictions, 10) * 3.0
    if diverged:
        logits *= torch.nan
    network = network or program.MLP()
    if history is None:
        history = [program.Record(1, 0.5, 0.8, 0.5, accuracy, seconds)]
    return program.TrainedNetwork(
        kind=type(network),
        network=network,
        config=program.NetworkConfig(1, 28, 10, 10),
        optimizer=optimizer,
        learning_rate=0.02,
        seed=0,
        history=history,
        test_logits=logits,
        test_labels=labels,
    )


def load_folder(
    folder: Path, image_size: int | None = None, seed: int = 0
) -> tuple[program.ImageSet, program.ImageSet]:
    """The training set and the test set of a folder of images, read as the program reads them."""
    dataset = load_image_folder(folder, image_size, seed)
    return dataset.train_set, dataset.test_set


def is_one_line(text: str) -> bool:
    return (
        text.startswith("fashion_mnist_cnn.py: ") and text.count("\n") == 1 and text.endswith("\n")
    )


def save_lamps(folder: Path, count: int, size: tuple[int, int] = (40, 30)) -> None:
    """Save count images of this size, in turn red and blue, each lit in a way of its own."""
    for number in range(count):
        name, channel = [("red", 0), ("blue", 2)][number % 2]
        generator = torch.Generator().manual_seed(number)
        pixels = torch.zeros(3, 4, 3, dtype=torch.uint8)
        pixels[:, :, channel] = torch.randint(120, 256, (3, 4), generator=generator)
        (folder / name).mkdir(parents=True, exist_ok=True)
        lamp = Image.fromarray(pixels.numpy()).resize(size, Image.Resampling.NEAREST)
        lamp.save(folder / name / f"{number}.png")


def shrink(image_set: program.ImageSet, count: int) -> program.ImageSet:
    """Every second pixel of the first count images: 14 x 14 are trained on in no time."""
    first = image_set.subset(slice(count))
    images = first.images[:, :, ::2, ::2].contiguous()
    return program.ImageSet(images, first.labels, first.class_names)


def to_bytes(content: object) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def decode_moment(network: Mapping[str, Any], moment: int) -> dict[str, Tensor]:
    """The weights that the explorer page has at a moment: int8 times the scale of their row."""
    weights = torch.frombuffer(
        bytearray(base64.b64decode(network["weights"][moment])), dtype=torch.int8
    )
    scales = torch.frombuffer(
        bytearray(base64.b64decode(network["scales"][moment])), dtype=torch.float32
    )
    state = {}
    for key, shape in network["shapes"].items():
        size = math.prod(shape)
        rows = shape[0] if len(shape) > 1 else 1
        values = weights[:size].reshape(rows, -1) * scales[:rows, None]
        state[key] = values.reshape(shape)
        weights = weights[size:]
        scales = scales[rows:]
    assert len(weights) == len(scales) == 0
    return state


# ---- Processes -----------------------------------------------------------------------------------
Fork = Callable[..., BaseProcess]
PRELOADED = (
    *("conftest", "fashion_mnist_cnn", "fashion_mnist_extras.command_line"),
    *("matplotlib.backends.backend_agg", "matplotlib.figure", "mlxtend.plotting", "torchmetrics"),
    *("torch._dynamo", "torch.distributed.launcher.api"),  # the first step of an optimizer loads it
)


@pytest.fixture(scope="session")
def fork() -> Iterator[Fork]:
    """Calls a function in a process of its own, on one thread, and does not wait for its end.

    The process is a fork of one that has loaded torch and the rest: that saves seconds each time.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with pytest.MonkeyPatch.context() as patch:
        folders = [REPOSITORY, REPOSITORY / "tests", REPOSITORY / "benchmarks"]
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    processes = []

    def fork(function: Callable[..., object], *arguments: object) -> BaseProcess:
        process = context.Process(target=function, args=arguments)
        process.start()
        processes.append(process)
        return process

    yield fork
    for process in processes:
        process.kill()  # if a test that failed has not waited for it: pytest would


def wait(process: BaseProcess) -> int | None:
    """Return the exit code, or None for a process that does not end."""
    process.join(timeout=120)
    return process.exitcode


def redirect(descriptor: int, path: Path) -> None:
    """Let a file descriptor of this process be a file, as `1>path` does in a shell."""
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(opened, descriptor)
    os.close(opened)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests run beside each other: several threads each would wait for the others' processors."""
    torch.set_num_threads(1)


def save_image(
    path: Path, mode: str = "L", size: tuple[int, int] = (28, 28), color: object = 0
) -> Path:
    """Save an image of one colour, in a folder that is made if need be, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)
    return path


def brightnesses(image_set: program.ImageSet) -> list[int]:
    """The first value of each image: all there is to know of those of one grey."""
    return image_set.images[:, 0, 0, 0].tolist()
