import shutil
from pathlib import Path

import pytest
import torch
from torchvision.datasets import FashionMNIST

import fashion_mnist_cnn as program

REPOSITORY = Path(program.__file__).parent


@pytest.fixture(scope="session")
def fashion_mnist() -> tuple[program.ImageSet, program.ImageSet]:
    return program.load_fashion_mnist(REPOSITORY / "data_1")


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the four archives, not extracted, on a machine that reaches no dataset server."""
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (REPOSITORY / "data_1/FashionMNIST/raw").glob("*.gz"):
        shutil.copy(archive, raw)
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    return tmp_path / "data"


@pytest.fixture
def random_set() -> program.ImageSet:
    """203 images of noise in four classes: enough for a few steps and an incomplete last batch."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (203, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(4, (203,), generator=generator)
    return program.ImageSet(images, labels, ("a", "b", "c", "d"))
