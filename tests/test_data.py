from pathlib import Path

import pytest
import torch
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

import fashion_mnist_cnn as program


def test_both_sets_have_the_documented_shapes(fashion_mnist):
    for image_set, count in zip(fashion_mnist, (60_000, 10_000), strict=True):
        assert image_set.images.shape == (count, 1, 28, 28)
        assert image_set.images.dtype == torch.uint8
        assert image_set.labels.dtype == torch.int64
        assert torch.bincount(image_set.labels).tolist() == [count // 10] * 10
        assert image_set.class_names[0] == "T-shirt/top" and image_set.class_names[9] == "Ankle boot"


def test_images_become_what_to_tensor_makes_of_them(fashion_mnist):
    stock = FashionMNIST("data_1", train=False, transform=ToTensor())
    ours = program.to_float(fashion_mnist[1].images[:50])
    assert all(torch.equal(ours[i], stock[i][0]) for i in range(50))
    assert ours.min() == 0 and ours.max() == 1


def test_whole_extracted_files_are_enough(data_dir: Path):
    program.load_fashion_mnist(data_dir)
    for archive in (data_dir / "FashionMNIST/raw").glob("*.gz"):
        archive.unlink()
    assert len(program.load_fashion_mnist(data_dir)[0]) == 60_000


def test_a_data_folder_that_is_a_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(program.UserError, match="data"):
        program.load_fashion_mnist(tmp_path / "data")
