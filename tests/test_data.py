from pathlib import Path

import pytest
import torch
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

import fashion_mnist_cnn as program

IMAGES = "train-images-idx3-ubyte"


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


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:1000] + bytes([content[1000] ^ 1]) + content[1001:],
    ],
    ids=["cut short", "emptied", "one bit changed"],
)
def test_a_damaged_extracted_file_heals(data_dir: Path, fashion_mnist, damage):
    program.load_fashion_mnist(data_dir)
    extracted = data_dir / "FashionMNIST/raw" / IMAGES
    extracted.write_bytes(damage(extracted.read_bytes()))
    healed, _ = program.load_fashion_mnist(data_dir)
    assert torch.equal(healed.images, fashion_mnist[0].images)


def test_whole_extracted_files_are_enough(data_dir: Path):
    program.load_fashion_mnist(data_dir)
    for archive in (data_dir / "FashionMNIST/raw").glob("*.gz"):
        archive.unlink()
    assert len(program.load_fashion_mnist(data_dir)[0]) == 60_000


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_an_archive_that_cannot_be_fetched_is_named(data_dir: Path, damage: str):
    archive = data_dir / "FashionMNIST/raw" / f"{IMAGES}.gz"
    content = archive.read_bytes()
    archive.unlink() if damage == "missing" else archive.write_bytes(content[:5000])
    with pytest.raises(program.UserError) as error:
        program.load_fashion_mnist(data_dir)
    message = str(error.value)
    assert f"{IMAGES}.gz is {damage}" in message and "t10k-labels-idx1-ubyte.gz)" in message
    assert str(data_dir) in message and "\n" not in message

    archive.write_bytes(content)
    assert len(program.load_fashion_mnist(data_dir)[0]) == 60_000


def test_a_data_folder_that_is_a_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(program.UserError, match="data"):
        program.load_fashion_mnist(tmp_path / "data")
