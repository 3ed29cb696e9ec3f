"""Datasets in IDX, NPZ and CSV files, which --images takes as well as folders of image files."""

from __future__ import annotations

import gzip
import lzma
import math
import os
import re
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import BufferedIOBase
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import FashionMNIST

import fashion_mnist_cnn as program
from fashion_mnist_extras.image_files import (
    Tones,
    explain,
    fit_square,
    is_hidden,
    measure_ink,
)
from fashion_mnist_extras.image_folders import (
    Images,
    has_classes,
    list_some,
    name_split,
    printable,
    refuse_names,
    unwrap,
    warn_of_long_images,
)

# As MNIST, EMNIST and KMNIST name their four files: what is before, the split, what is in it.
FOUR_FILES = re.compile(
    r"(.*?)[-_.]?(train|t10k|test)-(images|imgs|labels)([-.]idx\d-ubyte|\.npz)", re.IGNORECASE
)
ROLES = ("train images", "train labels", "test images", "test labels")
ARRAY_NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),  # Keras
    ("train_images", "train_labels", "test_images", "test_labels"),  # MedMNIST
)
# EMNIST's datasets are stored transposed.
EMNIST = re.compile("emnist-(balanced|byclass|bymerge|digits|letters|mnist)", re.IGNORECASE)
OTHER_FORMATS = (".npy", ".mat", ".h5", ".hdf5", ".parquet", ".tfrecord")
# Columns that are neither a label nor a pixel, as pandas and Kaggle name them.
LINE_NUMBERS = {"", "unnamed: 0", "id", "index", "imageid", "image_id"}
MANY_IMAGES = 10_000  # with fewer, augmentation helps; chosen on held-out images
# What is raised for files that are damaged, or are not what their names say.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tokenize.TokenError,
)


@dataclass(frozen=True)
class ArrayFiles:
    """The files of one dataset, before they are read."""

    kind: str
    name: str  # what the names of its files have in common; may be empty
    place: Path  # whose last part names the folders for what is trained on the dataset
    files: Mapping[str, Path]  # of each role; of CSV files "train", "test"; or "" for all in one

    @property
    def is_transposed(self) -> bool:
        return self.kind != "NPZ" and bool(EMNIST.fullmatch(self.name))


@dataclass(frozen=True)
class StoredArray:
    """An array in an NPZ file, whose rows are read one by one: it may be larger than memory."""

    path: Path
    name: str
    shape: tuple[int, ...]
    row: np.dtype  # its type and shape
    offset: int  # of the first row

    def __iter__(self) -> Iterator[np.ndarray]:
        """Raises UserError."""
        with reading(self.path), zipfile.ZipFile(self.path) as archive:
            file = archive.open(self.name)
            file.read(self.offset)
            for _ in range(self.shape[0]):
                yield np.frombuffer(file.read(self.row.itemsize), self.row)[0]


class Split(NamedTuple):
    """Images and their labels, as they are stored."""

    path: Path
    images: np.ndarray | StoredArray
    labels: np.ndarray | StoredArray


@dataclass(frozen=True)
class ImageArrays(Images):
    """The images of a dataset, before they are cropped and resized."""

    splits: Sequence[Split]  # to train on, to test on
    shape: tuple[int, ...]  # of an image: (H, W) or, in colour, (H, W, 3)
    white: float  # the value that stands for white
    is_transposed: bool
    is_fashion_mnist: bool = False

    @property
    def default_size(self) -> int:
        return min(64, max(8, min(self.shape[:2])))

    @property
    def is_small_and_grey(self) -> bool:
        return len(self.shape) == 2 and min(self.shape) <= 64

    def have_color(self) -> bool:
        return len(self.shape) == 3

    def read(self, image_size: int) -> Iterator[Tensor]:
        images = program.progress_bar(self.read_stored(), "reading images", len(self.labels))
        for image in images:
            yield fit_square(Image.fromarray(image), image_size)

    def read_stored(self) -> Iterator[np.ndarray]:
        """Yield each image with values in [0, 255]: uint8 (H, W) or (H, W, 3). Raises UserError."""
        for stored in chain(*(split.images for split in self.splits)):
            image = stored.reshape(self.shape)
            if self.is_transposed:
                image = image.T
            if not 0 <= image.min() <= image.max() <= self.white:
                values = f"{image.min():g} to {image.max():g}"
                expected = f"the first 1,000 have 0 to {self.white:g}, a later one {values}"
                raise program.UserError(f"{self.splits[0].path}: {expected}: scale all alike")
            yield np.rint(image * np.float32(255 / self.white)).astype(np.uint8)

    def choose_name(self, subfolder: str) -> str:
        """Return FashionMNIST only for FashionMNIST: by this name --predict prepares garments."""
        if self.is_fashion_mnist:
            return "FashionMNIST"
        return "other images" if subfolder == "FashionMNIST" else subfolder

    def describe(self, train_images: Tensor) -> dict[str, object]:
        notes = super().describe(train_images)
        if train_images.shape[1] == 1 and not self.is_fashion_mnist:
            notes["ink_size"] = measure_ink(train_images[:, 0])
        return notes


# ---- Find the files ------------------------------------------------------------------------------
def find_arrays(path: Path) -> ArrayFiles | None:
    """Return the files of the dataset in a folder, or of the one to which a file belongs.

    None means that it is a folder of image files. Raises UserError if it has several datasets, or
    files of other formats alone.
    """
    if path.is_dir():
        folders = dict.fromkeys([path, path / "raw", path / "gzip", unwrap(path)])
        found = list(chain(*map(find_datasets, folders)))
        names = sorted(file.name for file in path.iterdir())
        others = [name for name in names if Path(name).suffix.lower().startswith(OTHER_FORMATS)]
        if not (found or others) or has_classes(path):
            return None
    elif path.is_file():
        found = []
        for each in find_datasets(path.parent):
            if without_gz(path) in [without_gz(file) for file in each.files.values()]:
                found.append(each)
        others = [path.name]
    else:
        return None
    if not found:
        read = "IDX, NPZ and CSV files of pixels are read, and folders of image files"
        raise program.UserError(f"{path}: {read}, not {list_some(others)}{explain(path)}")
    if len(found) > 1:
        files = ", ".join(str(min(each.files.values())) for each in found)
        raise program.UserError(f"{path} has several datasets; name a file of one of them: {files}")
    place = Path(os.path.realpath(path if path.is_dir() else path.parent))
    if place.name.lower() in ("raw", "gzip"):  # as torchvision and EMNIST call them
        place = place.parent
    return replace(found[0], place=place if path.is_dir() else place / found[0].name)


def without_gz(path: Path) -> str:
    return path.name.removesuffix(".gz")


def find_datasets(folder: Path) -> list[ArrayFiles]:
    """Return the datasets whose files are in a folder."""
    sets: dict[tuple[str, str, bool], dict[str, Path]] = {}
    for path in sorted(folder.glob("*")):
        kind, name, role = identify(path)
        if not kind:
            continue
        files = sets.setdefault((kind, name, bool(role)), {})
        if role not in files:
            files[role] = path
        elif without_gz(files[role]) != without_gz(path):  # not the same one, compressed
            sets[kind, path.name, False] = {role: path}
    found = []
    for (kind, name, _), files in sets.items():
        found.append(ArrayFiles(kind, name.strip("-_. "), folder, files))
    return found


def identify(path: Path) -> tuple[str, str, str]:
    """Return a file's format, what the files of its dataset are called, and its role among them.

    The role is empty for a file that has all. The format is empty if it is no file of a dataset.
    """
    name = without_gz(path)
    stem, suffix = os.path.splitext(name)
    if is_hidden(path.name) or not path.is_file():
        return "", "", ""
    if match := FOUR_FILES.fullmatch(name):
        split = match[2].lower().replace("t10k", "test")
        content = match[3].lower().replace("imgs", "images")
        return "NPZ" if suffix.lower() == ".npz" else "IDX", match[1], f"{split} {content}"
    if suffix.lower() == ".npz":
        return "NPZ", stem, ""
    if suffix.lower() != ".csv" or not has_pixels(path):
        return "", "", ""
    split = name_split(Path(stem))
    if split not in ("train", "test"):
        return "CSV", stem, ""
    word = rf"(?<![a-z])(?i:{split}(ing|set|data)?)(?![a-z])"
    return "CSV", re.sub(word, "", stem), split


# ---- Read them -----------------------------------------------------------------------------------
def list_arrays(source: ArrayFiles, data_dir: str, seed: int) -> ImageArrays:
    """Return the images of a dataset to train and to test on; print what they are.

    FashionMNIST's are recognized if it is in data_dir. Raises UserError.
    """
    generator = torch.Generator().manual_seed(seed)
    splits = read_splits(source, generator)
    values, labels = number_labels(splits)
    shape = find_shape(splits)
    class_names, origin = name_classes(source, values)
    images = ImageArrays(
        folder=source.place,
        labels=torch.from_numpy(labels),
        is_train=torch.arange(len(labels)) < splits[0].images.shape[0],
        class_names=class_names,
        sizes=len(labels) * [(shape[1], shape[0])],
        tones=Tones(),
        generator=generator,
        splits=splits,
        shape=shape,
        white=find_white(splits),
        is_transposed=source.is_transposed,
    )
    known_labels = find_in_fashion_mnist(images, data_dir)
    if known_labels:
        images = replace(images, is_fashion_mnist=True)
    if known_labels == values[labels].tolist() and origin == LABELS:
        origin = "as in FashionMNIST"
        images = replace(images, class_names=tuple(FashionMNIST.classes[value] for value in values))
    if len(values) < 2:
        raise program.UserError(f"{splits[0].path}: all images are of one class")
    refuse_names(splits[0].path, images.class_names)
    warn_of_long_images(images.sizes)
    details = " x ".join(str(side) for side in shape)
    if images.is_transposed:
        details += ", stored transposed"
    if images.white != 255:
        details += f", {images.white:g} is white"
    count = f"{len(labels):,} images of {details}"
    print(f"{source.kind}: {count}; {len(values)} classes, named {origin}")
    return images


def read_splits(source: ArrayFiles, generator: torch.Generator) -> list[Split]:
    """Return what is to be trained on and what is to be tested on. Raises UserError."""
    if source.kind == "CSV":
        return read_csv_files(source.files, generator)
    if "" in source.files:
        return read_npz(source.files[""])
    missing = [role for role in ROLES if role not in source.files]
    if missing:
        folder = min(source.files.values()).parent
        names = list_some([path.name for path in source.files.values()])
        raise program.UserError(f"{folder} has {names}, but no {' and no '.join(missing)}")
    paths = [source.files[role] for role in ROLES]
    arrays: list[np.ndarray | StoredArray] = []
    for path in paths:
        arrays.append(read_idx(path) if source.kind == "IDX" else read_member(path, "arr_0"))
    return [Split(paths[0], *arrays[:2]), Split(paths[2], *arrays[2:])]


def read_npz(path: Path) -> list[Split]:
    """Read an NPZ file whose arrays are named as by Keras or MedMNIST. Raises UserError."""
    with reading(path), zipfile.ZipFile(path) as archive:
        found = [name.removesuffix(".npy") for name in archive.namelist()]
    for names in ARRAY_NAMES:
        if set(names) <= set(found):
            unused = sorted(set(found) - set(names))
            if unused:
                print(f"not used: {', '.join(unused)} in {path}")
            arrays = [read_member(path, name) for name in names]
            return [Split(path, *arrays[:2]), Split(path, *arrays[2:])]
    needed = " or ".join(", ".join(names) for names in ARRAY_NAMES)
    raise program.UserError(f"{path} has the arrays {list_some(found)}; needed are {needed}")


def read_csv_files(files: Mapping[str, Path], generator: torch.Generator) -> list[Split]:
    """Read CSV files; of a single one, hold out one image in five of each class.

    Raises UserError.
    """
    paths = [files[role] for role in sorted(files, reverse=True)]  # train before test
    splits = [split for split in map(read_csv, paths) if split]
    if not splits:
        raise program.UserError(f"{paths[0]} has only pixels; a column of labels is needed")
    if len(splits) == 2:
        return splits
    path = splits[0].path
    images, labels = np.asarray(splits[0].images), np.asarray(splits[0].labels)
    print(f"{path}: one in five images of each class is held out for testing")
    is_test = np.zeros(len(labels), dtype=bool)
    for value in np.unique(labels):
        rows = np.flatnonzero(labels == value)
        order = torch.randperm(len(rows), generator=generator).numpy()
        count = max(round(len(rows) / 5), min(1, len(rows) - 1))
        is_test[rows[order[:count]]] = True
    return [Split(path, images[chosen], labels[chosen]) for chosen in (~is_test, is_test)]


# ---- What the values mean ------------------------------------------------------------------------
def number_labels(splits: Sequence[Split]) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct labels in order, and the index of each image's: int64 (N,).

    Labels are text, if one of them is no number. Raises UserError.
    """
    columns = []
    for path, images, stored in splits:
        labels = np.array(list(stored))
        if labels.size != len(labels):
            shape = labels.shape
            raise program.UserError(f"{path}: labels have shape {shape}; one per image is needed")
        if len(labels) != images.shape[0]:
            raise program.UserError(f"{path}: {images.shape[0]} images, but {len(labels)} labels")
        with reading(path):  # bytes may be no text
            columns.append(np.char.strip(labels.flatten().astype(str)))
    values = np.concatenate(columns)
    if min(map(len, columns)) == 0 or (values == "").any():
        raise program.UserError(f"{splits[0].path}: too few images, or a label is missing")
    numbers = parse_numbers(values)
    if numbers is not None:
        is_class = numbers.clip(-1e9, 1e9).round() == numbers
        if not is_class.all():
            some = values[~is_class][0]
            raise program.UserError(f"{splits[0].path}: label {some} is not an integer")
        values = numbers.astype(int)
    return np.unique(values, return_inverse=True)


def parse_numbers(texts: np.ndarray) -> np.ndarray | None:
    """Return texts as float64, or None if one of them is no number."""
    if any("_" in text for text in texts):  # which Python allows in numbers
        return None
    with suppress(ValueError):
        return texts.astype(np.float64)
    return None


LABELS = "by their labels"


def name_classes(source: ArrayFiles, values: np.ndarray) -> tuple[tuple[str, ...], str]:
    """Return the names of the classes, and where they are from. Raises UserError.

    Each line of a file beside the data is a name, or a label and its name; EMNIST's file has one or
    two characters for each label, as their numbers.
    """
    folder = min(source.files.values()).parent
    for name in (f"{source.name}-mapping.txt", "classes.txt", "labels.txt"):
        path = folder / name
        if not path.is_file():
            continue
        with reading(path):
            text = path.read_text(encoding="utf-8-sig")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            parts = [re.split(r"[\s,:]+", line, maxsplit=1) for line in lines]
            named = {first: rest[0] for first, *rest in parts if rest}
            if name.endswith("-mapping.txt"):
                for label, codes in named.items():
                    named[label] = "".join(chr(int(code)) for code in codes.split())
        labels = [str(value) for value in values]
        if set(labels) <= named.keys():
            return tuple(printable(named[label]) for label in labels), f"in {name}"
        are_names = len(set(lines)) == len(lines) and parse_numbers(np.array(lines)) is None
        if len(lines) == len(values) and are_names and values.dtype.kind == "i":
            return tuple(lines), f"in {name}"
        print(f"not used: {path} does not name the {len(values)} classes")
    return tuple(printable(str(value)) for value in values), LABELS


def find_shape(splits: Sequence[Split]) -> tuple[int, ...]:
    """Return the shape of all images, (H, W) or (H, W, 3). Raises UserError."""
    path = splits[0].path
    shape, test_shape = (split.images.shape[1:] for split in splits)
    if shape != test_shape:
        images = f"training images are {shape}, test images {test_shape}"
        raise program.UserError(f"{path}: {images}")
    sides = tuple(side for side in shape if side != 1)  # one channel
    if len(sides) == 1 and math.isqrt(sides[0]) ** 2 == sides[0]:  # pixels in a row
        sides = 2 * (math.isqrt(sides[0]),)
    if len(sides) < 2 or sides[2:] not in ((), (3,)) or 0 in sides:
        needed = "(H, W), (H, W, 1), (H, W, 3), or the pixels of a grey square in a row"
        if len(sides) == 1 and 3 * math.isqrt(sides[0] // 3) ** 2 == sides[0]:
            needed += "; the order of colours in a row is unknown"
        raise program.UserError(f"{path}: images are {shape}, not {needed}")
    return sides


def find_white(splits: Sequence[Split]) -> float:
    """Return the value that stands for white: 1, 16 or 255. Raises UserError."""
    whites = []
    for split in splits:
        low, high = np.inf, -np.inf
        for image in islice(split.images, 1000):
            if image.dtype.kind not in "buif":
                raise program.UserError(f"{split.path}: images are {image.dtype}, not numbers")
            low = np.minimum(low, image.min())  # not a number, if one is none
            high = np.maximum(high, image.max())
        if not 0 <= low <= high <= 255:
            values = f"values from {low:g} to {high:g}"
            raise program.UserError(f"{split.path}: {values}; images have 0 to 255, or 0 to 1")
        # scikit-learn's digits have values up to 16.
        whites.append(next(white for white in (1, 16, 255) if high <= white))
    if whites[0] != whites[1]:
        white = f"{whites[0]:g} is white to train on, {whites[1]:g} to test on"
        raise program.UserError(f"{splits[0].path}: {white}; they must be scaled alike")
    return whites[0]


def find_in_fashion_mnist(images: ImageArrays, data_dir: str) -> list[int]:
    """Return the label of each image in FashionMNIST; none if they are not all in it."""
    known: dict[bytes, int] = {}
    with suppress(program.UserError):
        if images.shape == (28, 28) and program.find_archives(Path(data_dir)):
            for image_set in program.load_fashion_mnist(data_dir):
                for image, label in zip(image_set.images.numpy(), image_set.labels, strict=True):
                    known[image.tobytes()] = int(label)
    labels = []
    for image in images.read_stored():
        label = known.get(image.tobytes())
        if label is None:
            return []
        labels.append(label)
    return labels


def adapt_recipe(recipe: program.Recipe, count: int, is_changed: bool) -> program.Recipe:
    """Return how the script's networks are best trained on count small grey images.

    recipe is for one's own images. From MANY_IMAGES on it is better to train as on FashionMNIST,
    for as many steps, unless it is asked for that images are changed.
    """
    if count >= MANY_IMAGES and not is_changed:
        recipe = program.Recipe(epochs=max(1, round(180_000 / count)))
    return replace(recipe, networks=("mlp", "tinyvgg", "resnet"))


# ---- Formats -------------------------------------------------------------------------------------
@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what is raised for a damaged or unexpected file into a UserError."""
    try:
        yield
    except program.UserError:
        raise
    except UNREADABLE as error:
        raise program.UserError(f"{path} cannot be read: {error}") from error


def open_file(path: Path) -> BufferedIOBase:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def read_idx(path: Path) -> np.ndarray:
    """Return the bytes in a file of MNIST's format. Raises UserError."""
    with reading(path):
        with open_file(path) as file:
            content = file.read()
        if content[:3] != b"\0\0\x08" or not content[3]:  # zeros, the code of bytes, sides
            raise ValueError("it is not an IDX file of unsigned bytes")
        sides = content[3]
        shape = np.frombuffer(content, ">u4", count=sides, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * sides).reshape(shape)


def read_member(path: Path, name: str) -> StoredArray:
    """Return an array of an NPZ file. Raises UserError."""
    with reading(path), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        read_header = np.lib.format.read_array_header_2_0
        if np.lib.format.read_magic(file) == (1, 0):
            read_header = np.lib.format.read_array_header_1_0
        shape, is_fortran, dtype = read_header(file)
        if dtype.kind not in "buifSU":  # above all objects: unpickling could run any code
            raise ValueError(f"{name} is pickled, or neither numbers nor text")
        if not shape:
            raise ValueError(f"{name} is a single number")
        if is_fortran:
            raise ValueError(f"{name} is in Fortran order: save numpy.ascontiguousarray of it")
        return StoredArray(path, f"{name}.npy", shape, np.dtype((dtype, shape[1:])), file.tell())


def has_pixels(path: Path) -> bool:
    """Whether a CSV file has as many columns as an image of 8 x 8, and a label."""
    with suppress(program.UserError):
        return len(read_two_lines(path)[0]) > 64
    return True  # why it cannot be read is reported when it is read


def read_two_lines(path: Path) -> list[list[str]]:
    """Return the fields of the first two lines of a CSV file. Raises UserError."""
    with reading(path), open_file(path) as file:
        lines = [file.readline().decode("utf-8-sig") for _ in range(2)]
    return [[field.strip(' "') for field in line.rstrip().split(",")] for line in lines]


def read_csv(path: Path) -> Split | None:
    """Return the image and the label of each line, or None if there are no labels.

    Raises UserError.
    """
    fields, below = read_two_lines(path)
    check_lengths(path, len(fields))
    columns = list(range(len(fields)))
    labels = []
    skipped = 0
    if is_header(fields, below):
        skipped = 1
        names = [field.lower() for field in fields]
        columns = [column for column in columns if names[column] not in LINE_NUMBERS]
        labels = [column for column in columns if names[column] in ("label", "class")]
    if math.isqrt(len(columns)) ** 2 == len(columns):
        print(f"not used: {path} has no labels")
        return None
    if not labels:
        for end in (columns[0], columns[-1]):
            if are_labels(load_columns(path, skipped, [end], np.str_)[:, 0], path):
                labels.append(end)
    if len(labels) != 1:
        hint = "name one column label, in a header line"
        raise program.UserError(f"{path}: which column has the labels is not known: {hint}")
    columns.remove(labels[0])
    # Not as bytes: numpy 2.0 makes 0 of 0.5, and of 256.
    images = load_columns(path, skipped, columns, np.float32)
    return Split(path, images, load_columns(path, skipped, labels, np.str_))


def check_lengths(path: Path, count: int) -> None:
    """Raise UserError if a line has not count fields: numpy.loadtxt ignores what is too much."""
    with reading(path), open_file(path) as file:
        for number, line in enumerate(file, start=1):
            found = line.count(b",") + 1
            if found != count and line.strip() and b'"' not in line:
                raise ValueError(f"line {number} has {found} fields, the first {count}")


def load_columns(
    path: Path, skipped: int, columns: Sequence[int], dtype: type[np.generic]
) -> np.ndarray:
    """Return columns of a CSV file, (N, columns), without its first lines. Raises UserError."""
    with reading(path), warnings.catch_warnings(action="ignore"):  # of a file without lines
        return np.loadtxt(
            path,
            dtype,
            delimiter=",",
            comments=None,
            quotechar='"',
            skiprows=skipped,
            usecols=columns,
            encoding="utf-8-sig",
            ndmin=2,
        )


def is_header(fields: Sequence[str], below: Sequence[str]) -> bool:
    """Whether the first line has names: label, class, or text above a number in the second line.

    Names may be numbers: 0, 1, 2, as pandas names columns, or 0, 0.1, 0.2, where it has taken a
    line of zeros for names.
    """
    if [field.rpartition(".")[2] for field in fields] == [str(k) for k in range(len(fields))]:
        return True
    if {"label", "class"} & {field.lower() for field in fields}:
        return True
    for field, under in zip(fields, below, strict=False):
        is_text = parse_numbers(np.array([field])) is None
        if is_text and parse_numbers(np.array([under])) is not None:
            return True
    return False


def are_labels(texts: np.ndarray, path: Path) -> bool:
    """Whether a column looks like labels: text, or few whole numbers without many gaps.

    A pixel in a corner has many values, or nearly always the same. Raises UserError if the column
    numbers the lines.
    """
    numbers = parse_numbers(texts)
    if numbers is None:
        return True
    if len(numbers) > 2 and (np.diff(numbers) == 1).all():
        raise program.UserError(f"{path}: a column numbers its lines: leave it out, or name it id")
    values, counts = np.unique(numbers, return_counts=True)
    is_few = len(values) <= 100 and np.ptp(values) < 2 * len(values) < 2 * len(texts)
    return is_few and not (values % 1).any() and counts.max() < 0.9 * len(texts)
