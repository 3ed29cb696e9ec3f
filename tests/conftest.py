import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.datasets import FashionMNIST

import fashion_mnist_cnn as program

REPOSITORY = Path(program.__file__).parent
RAW = REPOSITORY / "data_1/FashionMNIST/raw"
MODEL = REPOSITORY / "models/CNN_model.pth"


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
    """The first 2,000 training and 1,000 test images."""
    return fashion_mnist[0].subset(slice(2000)), fashion_mnist[1].subset(slice(1000))


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


def make_run(
    network: program.Network | None = None,
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
    if history is None:
        history = [program.Record(1, 0.5, 0.8, 0.5, accuracy, seconds)]
    return program.TrainedNetwork(
        network=network or program.MLP(),
        sizes=program.NetworkSizes(1, 28, 10, 10),
        optimizer=optimizer,
        learning_rate=0.02,
        seed=0,
        history=history,
        test_logits=logits,
        test_labels=labels,
    )


def save_lamps(folder: Path, count: int) -> None:
    """Save count images of 40 x 30 pixels, in turn red and blue."""
    for number in range(count):
        name, color = [("red", (150 + number, 0, 0)), ("blue", (0, 0, 150 + number))][number % 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), color).save(folder / name / f"{number}.png")
