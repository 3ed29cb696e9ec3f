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


def save_lamps(folder: Path, count: int) -> None:
    """Save count images of 40 x 30 pixels, in turn red and blue."""
    for number in range(count):
        name, color = [("red", (150 + number, 0, 0)), ("blue", (0, 0, 150 + number))][number % 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), color).save(folder / name / f"{number}.png")
