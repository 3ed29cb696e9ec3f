"""Datasets as the field stores them, in IDX, NPZ and CSV files: what --images takes as well."""

from __future__ import annotations

import gzip
import math
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedIOBase
from itertools import chain, islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import FashionMNIST

import fashion_mnist_cnn as program
from fashion_mnist_extras import image_folders
from fashion_mnist_extras.image_files import Tones, fit_square, is_hidden, measure_ink
from fashion_mnist_extras.image_folders import (
    Images,
    has_classes,
    list_some,
    unwrap,
    warn_of_long_images,
)

KINDS = {"ubyte": "IDX", "npz": "NPZ", "csv": "CSV"}  # by how their names end
ROLES = ("train images", "train labels", "test images", "test labels")
# What names of files say: emnist-letters-test-images-idx3-ubyte.gz, k49-train-imgs.npz, train.csv.
SPLITS = {"train": "train", "test": "test", "t10k": "test"}
CONTENTS = {"images": "images", "imgs": "images", "labels": "labels"}
PARTS = re.compile(
    r"train(ing)?|t10k|test(ing)?|images|imgs|labels|[-.]idx\d-ubyte|\.\w+", re.IGNORECASE
)
ARRAY_NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),  # Keras
    ("train_images", "train_labels", "test_images", "test_labels"),  # MedMNIST
)
OTHER_FORMATS = (".npy", ".mat", ".h5", ".hdf5", ".parquet", ".tfrecord")
MANY_IMAGES = 10_000  # with fewer, changing them at random helps; chosen on held-out images
# What is raised for files that are damaged, or are not what their names say.
UNREADABLE = (OSError, EOFError, ValueError, LookupError, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True)
class ArrayFiles:
    """The files of one dataset, before they are read."""

    kind: str
    name: str  # what the names of its files have in common; may be empty
    place: Path  # whose last part names the folders for what is trained on the dataset
    files: Mapping[str, Path]  # of each role; of CSV "train" and "test"; or "" for all in one


@dataclass(frozen=True)
class Member:
    """An array in an NPZ file, whose rows are read one by one: it may be larger than memory."""

    path: Path
    name: str
    shape: tuple[int, ...]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Raises UserError."""
        with reading(self.path), zipfile.ZipFile(self.path) as archive:
            file = archive.open(self.name)
            (count, *sides), dtype = read_header(file)
            for _ in range(count):
                content = file.read(math.prod(sides) * dtype.itemsize)
                yield np.frombuffer(content, dtype).reshape(sides)


class Split(NamedTuple):
    """Images and their labels, as they are stored."""

    path: Path
    images: np.ndarray | Member
    labels: np.ndarray | Member


@dataclass(frozen=True)
class ImageArrays(Images):
    """The images of a dataset, before they are cropped and resized."""

    splits: Sequence[Split]  # to train on, to test on
    shape: tuple[int, ...]  # of an image: (H, W) or, in colour, (H, W, 3)
    white: float  # the largest value
    is_transposed: bool
    is_fashion_mnist: bool = False

    @property
    def name(self) -> str:
        return "FashionMNIST" if self.is_fashion_mnist else super().name

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
                values = f"values from {image.min():g} to {image.max():g}"
                expected = f"the first ones have 0 to {self.white:g}"
                raise program.UserError(f"{self.folder}: an image has {values}; {expected}")
            yield np.rint(image * np.float32(255 / self.white)).astype(np.uint8)

    def describe(self, train_images: Tensor) -> dict[str, object]:
        notes = super().describe(train_images)
        if train_images.shape[1] == 1 and not self.is_fashion_mnist:
            notes["ink_size"] = measure_ink(train_images[:, 0])
        return notes


# ---- Find the files ------------------------------------------------------------------------------
def find_arrays(path: Path) -> ArrayFiles | None:
    """Return the files of the dataset in a folder, or of the one that path is a file of.

    None means that it is a folder of image files. Raises UserError if it has several datasets, or
    files of other formats alone.
    """
    if path.is_dir():
        folders = [path, path / "raw", path / "gzip", unwrap(path)]
        found = next((sets for sets in map(find_sets, folders) if sets), [])
        names = sorted(file.name for file in path.iterdir())
        others = [name for name in names if any(known in name.lower() for known in OTHER_FORMATS)]
        if not (found or others) or has_classes(path):
            return None
    elif path.is_file():
        found = [each for each in find_sets(path.parent) if path in each.files.values()]
        others = [path.name]
    else:
        return None
    if not found:
        read = "IDX, NPZ and CSV files of pixels are read, and folders of image files"
        raise program.UserError(f"{path}: {read}, not {list_some(others)}")
    if len(found) > 1:
        files = list_some([str(min(each.files.values())) for each in found])
        raise program.UserError(f"{path} has several datasets; name a file of one of them: {files}")
    place = Path(os.path.realpath(path if path.is_dir() else path.parent))
    if place.name.lower() in ("raw", "gzip"):  # as torchvision and EMNIST call them
        place = place.parent
    return replace(found[0], place=place if path.is_dir() else place / found[0].name)


def find_sets(folder: Path) -> list[ArrayFiles]:
    """Return the datasets whose files are in a folder."""
    sets: dict[tuple[str, str], dict[str, Path]] = {}
    for path in sorted(folder.glob("*")):
        name = path.name.removesuffix(".gz")
        kind = KINDS.get(re.split("[.-]", name.lower())[-1])
        if not kind or is_hidden(name) or (kind == "CSV" and not has_pixels(path)):
            continue
        split = next((SPLITS[word] for word in SPLITS if word in name.lower()), "")
        content = next((CONTENTS[word] for word in CONTENTS if word in name.lower()), "")
        common = PARTS.sub("", name).strip("-_. ")
        role = f"{split} {content}"
        if kind == "CSV":
            role = split
        elif kind == "NPZ" and not content:  # one file has it all
            role, common = "", path.stem
        sets.setdefault((kind, common), {})[role] = path
    return [ArrayFiles(kind, name, folder, files) for (kind, name), files in sets.items()]


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
        white=find_white(splits[0]),
        is_transposed=source.name.lower().startswith("emnist"),
    )
    known_labels = find_in_fashion_mnist(list(islice(images.read_stored(), 100)), data_dir)
    if None not in known_labels:
        images = replace(images, is_fashion_mnist=True)
    if known_labels == values[labels[:100]].tolist():
        origin = "FashionMNIST's"
        images = replace(images, class_names=tuple(FashionMNIST.classes[value] for value in values))
    check_classes(images)
    warn_of_long_images(images.sizes)
    details = " x ".join(str(side) for side in shape)
    if images.is_transposed:
        details += ", stored transposed"
    if images.white != 255:
        details += f", {images.white:g} is white"
    count = f"{len(labels):,} images of {details}"
    print(f"{source.kind}: {count}; {len(values)} classes, their names are {origin}")
    return images


def check_classes(images: ImageArrays) -> None:
    """Raise UserError unless there are two classes, and images of each to train and to test on."""
    if len(images.class_names) < 2:
        raise program.UserError(f"{images.folder}: all images are of one class")
    for purpose, chosen in (("train", images.is_train), ("test", ~images.is_train)):
        present = set(images.labels[chosen].tolist())
        missing = [name for label, name in enumerate(images.class_names) if label not in present]
        if missing:
            names = list_some(missing)
            raise program.UserError(f"{images.folder} has no image of {names} to {purpose} on")


def read_splits(source: ArrayFiles, generator: torch.Generator) -> list[Split]:
    """Return what is to be trained on and what is to be tested on. Raises UserError."""
    if source.kind == "CSV":
        return read_csv_files(source.files, generator)
    if "" in source.files:
        return read_npz(source.files[""])
    missing = [role for role in ROLES if role not in source.files]
    if missing:
        names = list_some([path.name for path in source.files.values()])
        raise program.UserError(f"{source.place} has {names}, but no {' and no '.join(missing)}")
    paths = [source.files[role] for role in ROLES]
    arrays: list[np.ndarray | Member] = []
    for path in paths:
        arrays.append(read_idx(path) if source.kind == "IDX" else read_member(path, "arr_0"))
    return [Split(paths[0], *arrays[:2]), Split(paths[2], *arrays[2:])]


def read_npz(path: Path) -> list[Split]:
    """Return what the arrays of Keras or of MedMNIST hold. Raises UserError."""
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
    """Return what CSV files hold, of a single one an image in five of each class as the test set.

    Raises UserError.
    """
    paths = [files[role] for role in sorted(files, reverse=True)]  # train before test
    splits = [split for split in map(read_csv, paths) if split]
    if not splits:
        raise program.UserError(f"{paths[0]} has pixels alone: it needs a column of labels")
    if len(splits) == 2:
        return splits
    path = splits[0].path
    images, labels = np.asarray(splits[0].images), np.asarray(splits[0].labels)
    print(f"{path}: one in five images of each class is held out for testing")
    is_test = np.zeros(len(labels), dtype=bool)
    for value in np.unique(labels):
        rows = np.flatnonzero(labels == value)
        order = torch.randperm(len(rows), generator=generator).numpy()
        is_test[rows[order[: max(1, round(len(rows) / 5))]]] = True
    return [Split(path, images[chosen], labels[chosen]) for chosen in (~is_test, is_test)]


# ---- What the values mean ------------------------------------------------------------------------
def number_labels(splits: Sequence[Split]) -> tuple[np.ndarray, np.ndarray]:
    """Return the different labels in order, and the index of each image's: int64 (N,).

    Labels are text, if one of them is no number. Raises UserError.
    """
    columns = []
    for path, images, stored in splits:
        labels = np.array(list(stored))
        if labels.size != len(labels):
            raise program.UserError(
                f"{path}: its labels are {labels.shape}: one an image is needed"
            )
        if len(labels) != images.shape[0]:
            raise program.UserError(
                f"{path} has {images.shape[0]} images, but {len(labels)} labels"
            )
        if not len(labels):
            raise program.UserError(f"{path} has no image")
        columns.append(labels.flatten().astype(str))
    values = np.concatenate(columns)
    numbers = parse_numbers(values)
    if numbers is not None:
        fractions = values[numbers % 1 != 0]
        if len(fractions):
            raise program.UserError(
                f"{splits[0].path}: a label is {fractions[0]}, which is no class"
            )
        values = numbers.astype(int)
    return np.unique(values, return_inverse=True)


def parse_numbers(texts: np.ndarray) -> np.ndarray | None:
    """Return texts as float64, or None if one of them is no number."""
    with suppress(ValueError):
        return texts.astype(np.float64)
    return None


def name_classes(source: ArrayFiles, values: np.ndarray) -> tuple[tuple[str, ...], str]:
    """Return the names of the classes, and where they are from. Raises UserError.

    EMNIST's file maps each label to characters: in its second column, perhaps in its third.
    """
    folder = min(source.files.values()).parent
    path = folder / f"{source.name}-mapping.txt"
    if path.is_file():
        names = {}
        with reading(path):
            for line in path.read_text().splitlines():
                label, *codes = line.split()
                names[int(label)] = "".join(chr(int(code)) for code in codes)
            return tuple(
                names.get(value, str(value)) for value in values.tolist()
            ), f"in {path.name}"
    for path in (folder / "classes.txt", folder / "labels.txt"):
        if path.is_file():
            with reading(path):
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            listed = [line.strip() for line in lines if line.strip()]
            if len(listed) == len(values):
                return tuple(listed), f"in {path.name}"
            print(f"not used: {path} names {len(listed)} classes of {len(values)}")
    return tuple(str(value) for value in values), "their labels"


def find_shape(splits: Sequence[Split]) -> tuple[int, ...]:
    """Return the shape of all images, (H, W) or (H, W, 3). Raises UserError."""
    path = splits[0].path
    shape, test_shape = (split.images.shape[1:] for split in splits)
    if shape != test_shape:
        raise program.UserError(f"{path}: images to train on are {shape}, to test on {test_shape}")
    if len(shape) == 1:
        if math.isqrt(shape[0]) ** 2 == shape[0]:
            return 2 * (math.isqrt(shape[0]),)
        if 3 * math.isqrt(shape[0] // 3) ** 2 == shape[0]:
            hint = "in what order its colours are is not known"
            raise program.UserError(f"{path}: {shape[0]} values are an image in colour; {hint}")
    if len(shape) == 3 and shape[2] == 1:
        return shape[:2]
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 3):
        return shape
    needed = "(H, W), (H, W, 1), (H, W, 3), or a square number of pixels"
    raise program.UserError(f"{path}: its images are {shape}, not {needed}")


def find_white(split: Split) -> float:
    """Return the value that stands for white: 1, 255, or the largest. Raises UserError."""
    first = np.stack([*islice(split.images, 1000)])
    if first.dtype.kind not in "buif":
        raise program.UserError(f"{split.path}: its images are {first.dtype}, no numbers")
    low, high = first.min(), first.max()
    if not 0 <= low <= high <= 255:
        values = f"values from {low} to {high}"
        raise program.UserError(f"{split.path}: {values}; images have 0 to 255, or 0 to 1")
    if high <= 1:
        return 1.0
    return float(high) if high < 128 else 255.0  # scikit-learn's digits have values up to 16


def find_in_fashion_mnist(images: Sequence[np.ndarray], data_dir: str) -> list[int | None]:
    """Return the label of each uint8 image (H, W) in FashionMNIST, or None if it is not in it."""
    known: dict[bytes, int] = {}
    with suppress(program.UserError):
        if images[0].shape == (28, 28) and program.find_archives(Path(data_dir)):
            for image_set in program.load_fashion_mnist(data_dir):
                for image, label in zip(image_set.images.numpy(), image_set.labels, strict=True):
                    known[image.tobytes()] = int(label)
    return [known.get(image.tobytes()) for image in images]


def recommend_recipe(shape: Sequence[int], batch_size: int | None) -> program.Recipe:
    """Return how the script's networks are best trained on small grey images (N, C, H, W).

    Chosen on images held out of MNIST, FashionMNIST and others: with fewer than MANY_IMAGES it is
    better to change them at random, as one's own.
    """
    recipe = image_folders.recommend_recipe(shape, batch_size, mirror=None)
    if shape[0] >= MANY_IMAGES:
        # As many steps as FashionMNIST's, whose defaults these are.
        recipe = program.Recipe(epochs=max(1, round(180_000 / shape[0])))
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
            raise ValueError("it does not begin as bytes in IDX do")
        sides = content[3]
        shape = np.frombuffer(content, ">u4", count=sides, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * sides).reshape(shape)


def read_member(path: Path, name: str) -> Member:
    """Return an array of an NPZ file. Raises UserError."""
    with reading(path), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        shape, _ = read_header(file)
        return Member(path, f"{name}.npy", shape)


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape and the type of an array. Raises ValueError."""
    np.lib.format.read_magic(file)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if not shape:
        raise ValueError("an array in it is a single number")
    if dtype.hasobject:
        raise ValueError("an array in it is a pickle, which may execute anything")
    if is_fortran:
        raise ValueError("an array in it is stored by columns: save numpy.ascontiguousarray of it")
    return shape, dtype


def has_pixels(path: Path) -> bool:
    """Whether a CSV file has as many columns as there are in an image."""
    with suppress(program.UserError):
        return len(read_fields(path)) > 16
    return True  # why it cannot be read is said later


def read_fields(path: Path) -> list[str]:
    """Return what is in the first line of a CSV file. Raises UserError."""
    with reading(path), open_file(path) as file:
        line = file.readline().decode("utf-8-sig")
        return [field.strip(' "') for field in line.rstrip().split(",")]


def read_csv(path: Path) -> Split | None:
    """Return the image and the label of each line, or None if there are no labels.

    Raises UserError.
    """
    fields = read_fields(path)
    if math.isqrt(len(fields)) ** 2 == len(fields):
        print(f"not used: {path} has no labels")
        return None
    columns = range(len(fields))
    named = [column for column in columns if fields[column].lower() in ("label", "class")]
    has_header = named or parse_numbers(np.array(fields[1:-1])) is None
    load = partial(
        np.loadtxt,
        path,
        delimiter=",",
        comments=None,
        quotechar='"',
        skiprows=1 if has_header else 0,
        encoding="utf-8-sig",
    )
    with reading(path), warnings.catch_warnings(action="ignore"):  # of files without any line
        if not named:
            named = [
                column
                for column in (0, columns[-1])
                if are_labels(load(dtype=str, usecols=column, ndmin=1))
            ]
        if len(named) != 1:
            hint = "name one column label, in a first line of names"
            raise ValueError(f"which column has the labels is not known: {hint}")
        pixels = [column for column in columns if column != named[0]]
        try:
            images = load(dtype=np.uint8, usecols=pixels, ndmin=2)
        except ValueError:  # of 0.5 and 255.0
            images = load(dtype=np.float32, usecols=pixels, ndmin=2)
        return Split(path, images, load(dtype=str, usecols=named[0], ndmin=1))


def are_labels(texts: np.ndarray) -> bool:
    """Whether a column looks like labels: text, or few whole numbers without many gaps.

    A pixel in a corner has many values, or nearly always the same.
    """
    numbers = parse_numbers(texts)
    if numbers is None:
        return True
    values, counts = np.unique(numbers, return_counts=True)
    is_few = 1 < len(values) <= 100 and np.ptp(values) < 2 * len(values)
    return is_few and not (values % 1).any() and counts.max() < 0.9 * len(texts)
