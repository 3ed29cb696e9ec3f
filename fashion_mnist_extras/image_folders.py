"""Folders of one's own images as tensors, and the recipe that networks are trained with on them."""

from __future__ import annotations

import itertools
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

import fashion_mnist_cnn as program
from fashion_mnist_extras.augmentation import Augmentation
from fashion_mnist_extras.image_files import (
    LEFTOVERS,
    Tones,
    explain,
    is_hidden,
    is_image_name,
    list_visible,
    name_subfolder,
    read_header,
    read_page,
    read_range,
    read_square,
)

T = TypeVar("T")
Files = dict[str, list[Path]]  # of each class, in the order of their names
SPLITS = {
    "train": {"train", "training", "trn", "trainval"},
    "test": {"test", "testing", "tst", "holdout"},
    "validation": {"val", "valid", "validation", "validate", "dev", "eval", "evaluation"},
}
# What datasets of other tasks call their folders.
NO_CLASSES = {
    "images",
    "labels",
    "masks",
    "annotations",
    "annotation",
    "imgs",
    "jpegimages",
    "segmentationclass",
    "segmentationobject",
}
LAYOUTS = "DIR/<class>/, or DIR/train/<class>/ with DIR/test/<class>/ or DIR/validation/<class>/"


@dataclass(frozen=True)
class Images:
    """Images and their classes, before their pixels are read: those to train on come first."""

    folder: Path
    labels: Tensor  # int64 (N,), each an index into class_names
    is_train: Tensor  # bool (N,)
    class_names: tuple[str, ...]
    sizes: list[tuple[int, int]]  # width and height of those whose beginning can be read
    tones: Tones
    generator: torch.Generator  # of all that is chosen at random

    @property
    def default_size(self) -> int:
        """The side to which they are resized where nothing else is asked for."""
        return 28 if set(self.sizes) == {(28, 28)} else 64

    @property
    def is_small_and_grey(self) -> bool:
        """Whether they are like MNIST's, on which all networks of the script are compared."""
        return False

    def read(self, image_size: int) -> Iterator[Tensor | None]:
        """Yield each image, uint8 (C, image_size, image_size), or None if it is unreadable.

        C is 1 or 3. Raises UserError.
        """
        raise NotImplementedError

    def choose_name(self, subfolder: str) -> str:
        """Return what they are called in figures and in each network's JSON file."""
        return subfolder

    def describe(self, train_images: Tensor) -> dict[str, object]:
        """Return what is added to each network's JSON file."""
        notes: dict[str, object] = {"white_value": self.tones.white_value}
        if self.tones.black_value:
            notes["black_value"] = self.tones.black_value
        if self.tones.page:
            notes["page"] = self.tones.page
        return notes

    def have_color(self) -> bool:
        """Whether most of the images have colour."""
        raise NotImplementedError

    def are_photographs(self) -> bool:
        """Whether they have colour, and half of them 100 pixels or more on the smaller side."""
        is_large = bool(self.sizes) and median(min(size) for size in self.sizes) >= 100
        return is_large and self.have_color()


@dataclass(frozen=True)
class ImageFiles(Images):
    """The image files of a folder."""

    paths: list[Path]

    def read(self, image_size: int) -> Iterator[Tensor | None]:
        """Yield each image, uint8 (3, image_size, image_size), or None if it is unreadable.

        Raises UserError if more than ten files and more than one in a hundred are unreadable, or
        all.
        """
        read = partial(read_square, mode="RGB", image_size=image_size, tones=self.tones)
        count = len(self.paths)
        errors = 0
        for number, result in enumerate(map_files(read, self.paths), start=1):
            if isinstance(result, Tensor):
                yield result
                continue
            errors += 1
            if errors <= 10:
                program.print_error(f"left out: {result}")
            if errors > max(10, count / 100) or errors == count:
                files_read = f"the first {number}" if number < count else f"{count}"
                raise program.UserError(f"{errors} of {files_read} files cannot be read as images")
            yield None

    def have_color(self) -> bool:
        """Whether most of up to 200 images, spread over all, have colour."""
        rows = torch.linspace(0, len(self.paths) - 1, min(200, len(self.paths))).long().tolist()
        sample = [self.paths[row] for row in rows]
        read = partial(read_square, mode="RGB", image_size=32, tones=self.tones)
        is_colored = []
        for image in map_files(read, sample):
            if isinstance(image, Tensor):
                spread = image.amax(dim=0).int() - image.amin(dim=0).int()
                is_colored.append(bool(spread.max() > 16))
        return sum(is_colored) > len(is_colored) / 2


def load_image_folder(folder: Path, image_size: int | None, seed: int) -> program.Dataset:
    """Return the training images and the test images of a folder: see list_files, read_dataset."""
    return read_dataset(list_files(folder, seed), image_size)


def list_files(folder: Path, seed: int) -> ImageFiles:
    """Return the files of a folder to train and to test on.

    For its layouts see find_splits; without a test folder one image in five of each class, chosen
    by seed, is for testing. Raises UserError, naming the file or folder, for what is missing or not
    understood.
    """
    generator = torch.Generator().manual_seed(seed)
    train_files, test_files = split_files(folder, generator)
    paths = [*itertools.chain(*train_files.values(), *test_files.values())]
    sizes = []
    deep = []  # of more than 8 bits
    transparent = []
    for path, header in zip(paths, map_files(read_header, paths), strict=True):
        if isinstance(header, program.UserError):
            continue
        sizes.append(header.size)
        if header.mode.startswith(("I", "F")):
            deep.append(path)
        if header.is_transparent:
            transparent.append(path)
    warn_of_long_images(sizes)
    ranges = [each for each in map_files(read_range, deep) if isinstance(each, tuple)]
    pages = [page for page in map_files(read_page, transparent) if isinstance(page, str)]
    return ImageFiles(
        folder=folder,
        paths=paths,
        labels=torch.cat([label_files(train_files), label_files(test_files)]),
        is_train=torch.arange(len(paths)) < sum(len(files) for files in train_files.values()),
        class_names=tuple(printable(name) for name in train_files),
        sizes=sizes,
        tones=find_tones(ranges, [page for page in pages if page]),
        generator=generator,
    )


def read_dataset(source: Images, image_size: int | None) -> program.Dataset:
    """Return the training images and the test images, on the CPU.

    The images get a side of image_size pixels; None is their default size. They have one channel if
    all are grey, else three. A few unreadable ones are left out. Raises UserError.
    """
    image_size = image_size or source.default_size
    count = len(source.labels)
    channels = 1
    pixels = torch.zeros(count, channels, image_size, image_size, dtype=torch.uint8)
    is_readable = torch.zeros(count, dtype=torch.bool)
    for row, image in enumerate(source.read(image_size)):
        if image is None:
            continue
        if channels == 1 and not (image == image[:1]).all():  # the first in colour
            channels = 3
            pixels = pixels.repeat(1, channels, 1, 1)
        pixels[row] = image[:channels]
        is_readable[row] = True
    train_rows, test_rows = divide_rows(source, is_readable)
    train_set = program.ImageSet(pixels[train_rows], source.labels[train_rows], source.class_names)
    test_set = program.ImageSet(pixels[test_rows], source.labels[test_rows], source.class_names)
    return describe_dataset(source, train_set, test_set)


def divide_rows(source: Images, is_readable: Tensor) -> tuple[Tensor, Tensor]:
    """Return which of the readable images are trained on and which are tested on: int64 (n,) each.

    Raises UserError if a class has none.
    """
    train_rows = (is_readable & source.is_train).nonzero().flatten()
    test_rows = (is_readable & ~source.is_train).nonzero().flatten()
    for purpose, rows in (("train", train_rows), ("test", test_rows)):
        counts = source.labels[rows].bincount(minlength=len(source.class_names)).tolist()
        missing = [
            name for name, count in zip(source.class_names, counts, strict=True) if not count
        ]
        if missing:
            names = list_some(missing)
            raise program.UserError(
                f"{source.folder}: no image of {names} to {purpose} on can be read"
            )
    # Shuffled, since the first ones serve as a sample.
    return train_rows, test_rows[torch.randperm(len(test_rows), generator=source.generator)]


def describe_dataset(
    source: Images,
    train_set: program.ImageSet,
    test_set: program.ImageSet,
    input_shape: tuple[int, ...] = (),
) -> program.Dataset:
    """Return the sets as a dataset; print a line of what may be wrong with its images."""
    warn_of_copies(train_set.pictures, test_set.pictures)
    warn_of_plain_images(train_set.pictures, test_set.pictures)
    name = name_subfolder(source.folder)
    return program.Dataset(
        name=printable(name),
        train_set=train_set,
        test_set=test_set,
        subfolder=name,
        unreadable_files=len(source.labels) - len(train_set) - len(test_set),
        notes=source.describe(train_set.pictures),
        figure_settings={"text.parse_math": False},  # names are text, even with two dollar signs
        input_shape=input_shape,
    )


def find_fonts(texts: Iterable[str]) -> list[str]:
    """Return matplotlib's own font, and installed ones for the characters that it lacks.

    Prints a line if some of them are in no font.
    """
    from matplotlib.font_manager import findfont, fontManager, get_font

    families = ["DejaVu Sans"]
    lacking = {character for text in texts for character in text if character.isprintable()}
    lacking -= {chr(code) for code in get_font(findfont(families[0])).get_charmap()}
    for entry in fontManager.ttflist:
        if not lacking:
            break
        if "Last Resort" in entry.name:  # matplotlib's own, which has a box for every character
            continue
        with suppress(OSError, RuntimeError):  # a font that is broken, or was removed
            found = lacking & {chr(code) for code in get_font(entry.fname).get_charmap()}
            if found:
                families.append(entry.name)
                lacking -= found
    if lacking:
        some = "".join(sorted(lacking)[:10])
        hint = "install a font of their alphabet, such as Noto Sans"
        program.print_error(f"no installed font has {some}: figures show boxes instead; {hint}")
    return families


def recommend_recipe(
    shape: Sequence[int], batch_size: int | None, mirror: bool | None
) -> program.Recipe:
    """Return how networks are best trained on images of this shape: (N, C, H, W).

    Chosen on held-out photographs of clothes. What is given instead of None is kept.
    """
    count, channels, _, side = shape
    batch_size = batch_size or min(64, max(8, count // 10))
    steps_per_epoch = math.ceil(count / batch_size)
    # As many steps for few images as for many, and no more than take some ten minutes.
    steps = 2300 * min(1.0, (64 / side) ** 2)
    augment = Augmentation(
        mirror=channels == 3 if mirror is None else mirror,
        shift=0.1,
        zoom=0.2,
        rotation=10,
        color=0.2,
        until=0.8,  # as it was chosen for photographs
        padding="reflection",
    )
    return program.Recipe(
        networks=("tinyvgg", "resnet"),
        epochs=max(1, round(steps / steps_per_epoch)),
        batch_size=batch_size,
        learning_rate_scale=min(1.0, batch_size / 128),
        augment=augment,
        is_mirrored=augment.mirror,
    )


def has_classes(folder: Path) -> bool:
    """Whether two folders in folder hold image files, as in every layout that is understood."""
    holding = 0
    for child in class_folders(unwrap(folder)):
        places = [child, *class_folders(child)]  # which may be links
        holding += any(find_image_files(list_visible(place.resolve())) for place in places)
    return holding > 1


# ---- List the files ------------------------------------------------------------------------------
def split_files(folder: Path, generator: torch.Generator) -> tuple[Files, Files]:
    """Return the files to train on and those to test on, of the same classes. Raises UserError."""
    report_hidden(folder)
    train_folder, test_folder = find_splits(folder)
    for split in (train_folder, test_folder):
        if split and split != folder:
            report_hidden(split)
    train_files = find_images(train_folder, set())
    if not test_folder:
        return hold_out(train_files, generator)
    # A file linked from both folders must not be tested on: it is in the training set.
    trained_on = {path.resolve() for path in itertools.chain(*train_files.values())}
    test_files = find_images(test_folder, trained_on)
    if different := sorted(train_files.keys() ^ test_files.keys()):
        names = f"{train_folder.name} and {test_folder.name}"
        only = f"only one of {names} has {list_some(different)}"
        raise program.UserError(f"{folder}: {only}{suggest_holding_out(train_folder)}")
    return train_files, test_files


def find_splits(folder: Path) -> tuple[Path, Path | None]:
    """Return the folders to train and to test on, each with a folder per class; None: hold out.

    A split has a name that name_split recognizes and at least two class folders. Raises UserError
    if that is ambiguous, or if apparent classes are or contain splits.
    """
    root = unwrap(folder)
    splits: dict[str, list[Path]] = {"class": []}
    for child in class_folders(root):
        kind = name_split(child)
        inner = unwrap(child) if class_folders(unwrap(child)) else child
        if len(class_folders(inner)) < 2:  # a class may be called train, and test/ have no labels
            kind = "class"
        splits.setdefault(kind, []).append(inner)
    if splits.keys() == {"class"}:
        refuse_splits_as_classes(root)
        report_parts(class_folders(root))
        return root, None
    unused = splits.pop("class")
    if "test" in splits:
        unused += splits.pop("validation", [])
    tested_on = splits.get("test") or splits.get("validation")
    is_ambiguous = any(len(found) > 1 for found in splits.values())
    if is_ambiguous or "train" not in splits or not tested_on:
        hint = ""
        if len(splits.get("train", [])) == 1 and not tested_on:
            hint = suggest_holding_out(splits["train"][0])
        raise program.UserError(f"{folder} is not laid out as {LAYOUTS}{hint}")
    for path in unused:
        print(f"not used: {path}")
    refuse_splits_as_classes(splits["train"][0])
    return splits["train"][0], tested_on[0]


def name_split(folder: Path) -> str:
    """Return train, test or validation if a folder is called so, else class.

    So is one whose first or last word is: train_images, Train2, catTest, "pets - val", testset.
    """
    words = split_words(folder.name)
    for kind, names in SPLITS.items():
        if names & {*words[:1], *words[-1:]}:
            return kind
    return "class"


def split_words(name: str) -> list[str]:
    """Return the words of a folder's name, in lower case, testset as test."""
    words = re.findall("[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower())
    words = [re.sub("(.)(set|data|images?|imgs?)$", r"\1", word) for word in words]
    return [word for word in words if len(word) > 1] or words  # without the v of v2


def refuse_splits_as_classes(root: Path) -> None:
    """Raise UserError if classes are called as splits are, or one of them holds splits."""
    classes = class_folders(root)
    kinds = [name_split(path) for path in classes]
    known = set().union(*SPLITS.values())
    words = {word for path in classes for word in split_words(path.name) or ["?"]}
    if ("train" in kinds and len(set(kinds) - {"class"}) > 1) or (words and words <= known):
        names = " and ".join(path.name for path in classes)
        raise program.UserError(
            f"{root} has no class but {names}: a class is a folder, as in {LAYOUTS}; images that "
            "are named by their class go into a folder of that name"
        )
    for path in classes:
        inside = {name_split(inner) for inner in class_folders(path)}
        if "train" in inside and inside & {"test", "validation"}:
            raise program.UserError(
                f"{path} is split itself, which is not understood: use {LAYOUTS}"
            )


def refuse_names(folder: Path, names: Iterable[str]) -> None:
    """Raise UserError if names are not class names, or differ only in case or spaces."""
    lowered = [name.lower() for name in names]
    if len(lowered) < 2:
        hint = ""
        if any(folder.glob("*.csv")) or any(folder.parent.glob("*.csv")):
            hint = "; a CSV file is read if it has a column per pixel, separated by commas"
        if any(folder.glob("*.zip")) or any(folder.parent.glob("*.zip")):
            hint = "; an archive is not read: unpack it first"
        raise program.UserError(
            f"{folder} must have at least two folders of images, one per class{hint}"
        )
    if set(lowered) <= NO_CLASSES:
        raise program.UserError(
            f"{folder}: {' and '.join(sorted(names))} are no classes; a class is a folder, as in "
            f"{LAYOUTS}"
        )
    seen: dict[str, str] = {}
    for name in names:
        same = " ".join(name.split())
        if len(same) > 1:  # of letters, a and A are two classes
            same = same.casefold()
        if same in seen:
            both = f"{seen[same]!r} and {name!r}"
            raise program.UserError(
                f"{folder}: {both} are one name but for case or spaces; use one of them"
            )
        seen[same] = name


def report_parts(classes: Sequence[Path]) -> None:
    """Say it if several classes hold folders of the same names: those may be the classes."""
    by_inside: dict[tuple[str, ...], list[str]] = {}
    for path in classes:
        inside = tuple(inner.name for inner in class_folders(path))
        by_inside.setdefault(inside, []).append(path.name)
    for inside, names in by_inside.items():
        if len(inside) > 1 and len(names) > 1:
            holders, held = " and ".join(names[:5]), ", ".join(inside[:5])
            print(f"{holders} each hold {held}: each is taken as one class")


def suggest_holding_out(train_folder: Path) -> str:
    return f"; --images {train_folder} holds out one in five of its images for testing"


def unwrap(folder: Path) -> Path:
    """Return the only folder in folder, or the only one in that, or folder itself."""
    for _ in range(2):
        inside = class_folders(folder)
        if len(inside) == 1 and not any(is_image_name(path) for path in folder.iterdir()):
            folder = inside[0]
    return folder


def class_folders(folder: Path) -> list[Path]:
    """Return the visible folders in folder, without links back to itself. Raises UserError."""
    real = Path(os.path.realpath(folder))  # also of a link to itself
    folders = []
    try:
        for path in sorted(folder.iterdir()):
            is_visible = path.is_dir() and not is_hidden(path.name)
            if is_visible and not real.is_relative_to(path.resolve()):
                folders.append(path)
    except OSError as error:
        reason = f"{error.strerror}{explain(folder)}"
        raise program.UserError(f"{folder} cannot be read: {reason}") from error
    return folders


# Hidden folders that programs make, which hold copies of images.
COPIES = {
    ".ipynb_checkpoints",
    ".thumbnails",
    ".@__thumb",
    ".appledouble",
    ".cache",
    ".git",
    ".venv",
}


def report_hidden(folder: Path) -> None:
    """Print a line if hidden folders in folder hold images: they may be meant as classes."""
    hidden = []
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            is_known = path.name.lower() in LEFTOVERS | COPIES
            if not path.is_dir() or not is_hidden(path.name) or is_known:
                continue
            if any(is_image_name(inner) for inner in path.rglob("*")):
                hidden.append(path.name)
    if hidden:
        dots = any(name.startswith(".") for name in hidden)
        hint = "; the name of a class must not begin with a dot" if dots else ""
        print(f"left out, hidden or deleted, though with images: {list_some(hidden)}{hint}")


def list_some(names: Sequence[str]) -> str:
    """Return the first five names, and how many more there are."""
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


MASK_FOLDERS = {"mask", "masks", "seg", "segmentation", "gt", "labels", "annotations"}
# What is added to the name of an image to name its mask, perhaps with a number.
MASK = re.compile(r"(.+?)[ _.-]+(masks?|seg|segmentation|gt|label|annotation)([ _.-]*\d+)?", re.I)


def find_masks(paths: Iterable[Path]) -> set[Path]:
    """Return the images that are the masks of others.

    These are named like another of their folder, cat_mask.png of cat.jpg, or are in a folder of
    masks beside that of the others: masks/cat.png of images/cat.jpg.
    """
    stems = set()
    beside = set()
    for path in paths:
        stems.add((path.parent, path.stem.lower()))
        if path.parent.name.lower() not in MASK_FOLDERS:
            beside.add((path.parent.parent, path.stem.lower()))
    masks = set()
    for path in paths:
        stem = path.stem.lower()
        match = MASK.fullmatch(stem)
        base = match[1] if match else stem
        if match and (path.parent, base) in stems:
            masks.add(path)
        others = {(path.parent.parent, stem), (path.parent.parent, base)}
        if path.parent.name.lower() in MASK_FOLDERS and others & beside:
            masks.add(path)
    return masks


def find_images(folder: Path, excluded: set[Path]) -> Files:
    """Return the image files of each class, which is a folder in folder. Raises UserError.

    Links to class folders and files are followed, but each file is taken once, and none of those
    that are excluded: otherwise one image could be both trained and tested on.
    """
    classes = class_folders(folder)
    # macOS may write an accented letter as two characters (NFD).
    names = [unicodedata.normalize("NFC", path.name) for path in classes]
    refuse_names(folder, dict.fromkeys(names))
    # Labels are numbered in this order, which must not depend on how a system writes accents.
    files: Files = {name: [] for name in sorted(names)}
    taken = set(excluded)
    skipped = [path for path in folder.iterdir() if path not in classes]
    for class_folder, name in zip(classes, names, strict=True):
        paths = list_visible(class_folder.resolve())
        images = set(find_image_files(paths))
        masks = find_masks(images)
        for path in paths:
            is_image = path in images and path not in masks
            if is_image and path.resolve() not in taken:
                files[name].append(path)
                taken.add(path.resolve())
            elif path.is_symlink() or not path.is_dir():
                skipped.append(path)
    unused = sorted(str(path) for path in skipped if not is_hidden(path.name))
    if unused:
        shown = ", ".join(unused[:5])
        if len(unused) > 5:
            shown += ", ..."
        print(f"{len(unused)} skipped, not images of a class, masks, or again: {shown}")
    if empty := [name for name in files if not files[name]]:
        hints = [hint for hint in map(explain, unused) if hint]
        reason = f"has no image in {list_some(empty)}{''.join(hints[:1])}"
        raise program.UserError(f"{folder} {reason}")
    return files


def find_image_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files that are images by name or, if none is, those without any suffix.

    Of these, which are named by their digest, say, the first five must be images to Pillow.
    """
    files = [path for path in paths if path.is_file()]
    images = [path for path in files if is_image_name(path)]
    unnamed = [path for path in files if not path.suffix]
    if not images and not any(
        isinstance(header, program.UserError) for header in map_files(read_header, unnamed[:5])
    ):
        return unnamed
    return images


def hold_out(files: Files, generator: torch.Generator) -> tuple[Files, Files]:
    """Return the files to train on and, one in five of each class, those to test on."""
    train_files = {}
    test_files = {}
    single = [name for name, paths in files.items() if len(paths) < 2]
    if single:
        folder = files[single[0]][0].parent
        have = f"{folder} has" if len(single) == 1 else f"{len(single)} classes have"
        names = "" if len(single) == 1 else f": {list_some(single)}"
        raise program.UserError(f"{have} one image; a class needs one to test on too{names}")
    for name, paths in files.items():
        shuffled = [paths[i] for i in torch.randperm(len(paths), generator=generator)]
        count = max(1, round(len(paths) / 5))
        test_files[name] = shuffled[:count]
        train_files[name] = shuffled[count:]
    return train_files, test_files


def label_files(files: Files) -> Tensor:
    """Return the index of its class for each file: int64 (N,)."""
    counts = torch.tensor([len(paths) for paths in files.values()])
    return torch.arange(len(files)).repeat_interleave(counts)


def printable(name: str) -> str:
    """Return a file's name with a question mark for what is not UTF-8 in it."""
    return name.encode(errors="replace").decode()


# ---- Warn of what may be wrong -------------------------------------------------------------------
def warn_of_copies(train_images: Tensor, test_images: Tensor) -> None:
    copies = measure_copies(train_images, test_images)
    if copies > 0.25:
        program.print_error(
            f"{copies:.0%} of the test images are nearly the same as a training image: copies, or "
            "frames of one film, belong on one side, or the test says nothing of new images"
        )


def warn_of_plain_images(*parts: Tensor) -> None:
    """Print a line if many of the uint8 images, each part (N, C, H, W), are of one colour each."""
    values = [images.flatten(2) for images in parts]
    is_plain = torch.cat([(each.amax(dim=2) == each.amin(dim=2)).all(dim=1) for each in values])
    if is_plain.float().mean() > 0.1:
        program.print_error(
            f"{is_plain.sum()} of {len(is_plain)} images are of one colour each, as they are read: "
            "of colour images of more than 8 bits only the upper 8, of a film the first picture"
        )


def warn_of_long_images(sizes: Sequence[tuple[int, int]]) -> None:
    """Print a line if many images are more than twice as long as wide: they lose their ends."""
    long = [size for size in sizes if max(size) > 2 * min(size)]
    if len(long) > len(sizes) / 10:
        width, height = max(long, key=lambda size: max(size) / min(size))
        program.print_error(
            f"{len(long)} of {len(sizes)} images are more than twice as long as wide, as one of "
            f"{width} x {height}: of each only a square in the middle is used"
        )


def measure_copies(train_images: Tensor, test_images: Tensor) -> float:
    """Return the share of the test images, or of 500, that are nearly the same as a training image.

    Nearly: resized to 16 x 16, mirrored or not, their mean absolute difference is below 4 of 255,
    and below a third of the median difference: pages of text or night photographs all look alike
    without being copies.
    """
    tested = shrink(test_images[:500])
    mirrored = shrink(test_images[:500].flip(3))
    parts = []
    for batch in train_images.split(1000):
        trained = shrink(batch)
        parts.append(torch.minimum(l1_distances(tested, trained), l1_distances(mirrored, trained)))
    distances = torch.cat(parts, dim=1)
    nearest = distances.amin(dim=1)
    usual = distances.median(dim=1).values
    return ((nearest < 4) & (nearest < usual / 3)).float().mean().item()


def shrink(images: Tensor) -> Tensor:
    """Return uint8 images (N, C, H, W) made 16 x 16: float32 (N, C * 256)."""
    return F.interpolate(images.float(), (16, 16), mode="area").flatten(1)


def l1_distances(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean absolute difference of each pair of rows: float32 (N, M)."""
    return torch.cdist(first, second, p=1) / first.shape[1]


# ---- Read them -----------------------------------------------------------------------------------
PIECE = 256  # files that are read ahead: all at once, thousands of images would wait in memory


def map_files(
    function: Callable[[Path], T], paths: Sequence[Path]
) -> Iterator[T | program.UserError]:
    """Apply function to each path in a pool of threads; yield results or errors, in order."""

    def attempt(path: Path) -> T | program.UserError:
        try:
            return function(path)
        except program.UserError as error:
            return error

    def leave_processor() -> None:
        """Undo OpenMP's pinning, which threads inherit from the main one."""
        if program.PROCESSORS:
            os.sched_setaffinity(0, program.PROCESSORS)

    # A host may have many more processors than its container, and each thread holds an image.
    threads = min(16, len(program.PROCESSORS or ()) or os.cpu_count() or 1)
    pieces = [paths[start : start + PIECE] for start in range(0, len(paths), PIECE)]
    with ThreadPoolExecutor(threads, initializer=leave_processor) as pool:
        results = itertools.chain.from_iterable(pool.map(attempt, piece) for piece in pieces)
        yield from program.progress_bar(results, "reading images", len(paths))


def find_tones(ranges: list[tuple[float, float]], pages: list[str]) -> Tones:
    """Return how a set is read, and print it.

    ranges are of the images of more than 8 bits, pages are the best ones of transparent images.
    """
    tones = Tones(page=choose_common_page(pages))
    if not ranges:
        return tones
    smallest = min(low for low, _ in ranges)
    largest = max(high for _, high in ranges)
    black = min(0.0, smallest)
    white = largest
    for usual in (1.0, 255.0, 4095.0, 65535.0):
        if white <= usual:
            white = usual
            break
    values = f"{len(ranges)} images of more than 8 bits, values "
    values += f"from {smallest:g} to {largest:g}" if black else f"up to {largest:g}"
    print(f"{values}: {white:g} is white" + (f", {black:g} black" if black else ""))
    if -black > 10 * largest > 0:
        program.print_error(
            f"the smallest value, {black:g}, is far from the largest, {largest:g}: if it stands "
            "for pixels without a value, replace it, or everything else is nearly white"
        )
    return replace(tones, black_value=black, white_value=white)


def choose_common_page(pages: list[str]) -> str | None:
    """Return the page that is best for nearly all transparent images, or None.

    None, too, if some are light and some are dark: then each is put where it is seen.
    """
    for page in ("white", "black"):
        if pages.count(page) > 0.9 * len(pages):
            return page
    if pages:
        light = f"{pages.count('black')} of {len(pages)} transparent images are light"
        print(f"{light}, the others dark: each is put on black or white, where it is seen")
    return None
