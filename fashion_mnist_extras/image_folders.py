"""Folders of one's own images as tensors, and the recipe that networks are trained with on them."""

from __future__ import annotations

import itertools
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

import fashion_mnist_cnn as program
from fashion_mnist_extras.augmentation import Augmentation
from fashion_mnist_extras.image_files import (
    Header,
    explain,
    is_hidden,
    is_image_name,
    list_visible,
    read_header,
    read_largest,
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


def load_image_folder(folder: Path, image_size: int | None, seed: int) -> program.Dataset:
    """Return the training images and the test images of a folder, on the CPU.

    For its layouts see find_splits; without a test folder one image in five of each class, chosen
    by seed, is for testing. The images get a side of image_size pixels; None is 28 if all are
    28 x 28, else 64. They have one channel if all are grey, else three. A few unreadable files are
    left out. Raises UserError, naming the file or folder, for what is missing or not understood.
    """
    generator = torch.Generator().manual_seed(seed)
    train_files, test_files = split_files(folder, generator)
    paths = [*itertools.chain(*train_files.values(), *test_files.values())]
    images, white_value = read_images(paths, image_size)

    labels = torch.cat([label_files(train_files), label_files(test_files)])
    is_train = torch.arange(len(paths)) < sum(len(files) for files in train_files.values())
    is_readable = torch.tensor([image is not None for image in images])
    labels, is_train = labels[is_readable], is_train[is_readable]
    pixels = torch.stack([image for image in images if image is not None])
    if (pixels == pixels[:, :1]).all():  # grey
        pixels = pixels[:, :1]

    class_names = tuple(printable(name) for name in train_files)
    for part in (labels[is_train], labels[~is_train]):
        counts = part.bincount(minlength=len(class_names)).tolist()
        if 0 in counts:
            name = class_names[counts.index(0)]
            raise program.UserError(f"{folder}: no file of {name} can be read")
    # Shuffled, since the first ones serve as a sample.
    test_order = torch.randperm(int((~is_train).sum()), generator=generator)
    train_set = program.ImageSet(pixels[is_train], labels[is_train], class_names)
    test_set = program.ImageSet(pixels[~is_train], labels[~is_train], class_names)
    test_set = test_set.subset(test_order)
    copies = measure_copies(train_set.images, test_set.images)
    if copies > 0.25:
        program.print_error(
            f"{copies:.0%} of the test images are nearly the same as a training image: copies, or "
            "frames of one film, belong on one side, or the test says nothing of new images"
        )
    subfolder = name_subfolder(folder)
    return program.Dataset(
        name=printable(subfolder),
        train_set=train_set,
        test_set=test_set,
        subfolder=subfolder,
        unreadable_files=len(images) - len(pixels),
        notes={"white_value": white_value},
        # Names of classes and folders are text, in any alphabet, even with two dollar signs.
        figure_settings={"text.parse_math": False, "font.family": find_fonts()},
    )


def name_subfolder(folder: str | Path) -> str:
    """Return the name of the folders for what is trained on the images in folder."""
    return Path(os.path.realpath(folder)).name or "root"


# Fonts of Linux, Windows and macOS for other alphabets and emoji.
FONTS = ("Noto Sans CJK JP", "Noto Emoji", "Yu Gothic", "Segoe UI Emoji", "Hiragino Sans")


def find_fonts() -> list[str]:
    """Return the installed fonts of FONTS after matplotlib's own, which lacks their characters."""
    from matplotlib.font_manager import get_font_names

    installed = set(get_font_names())
    return ["DejaVu Sans", *(name for name in FONTS if name in installed)]


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


# ---- List the files ------------------------------------------------------------------------------
def split_files(folder: Path, generator: torch.Generator) -> tuple[Files, Files]:
    """Return the files to train on and those to test on, of the same classes. Raises UserError."""
    train_folder, test_folder = find_splits(folder)
    train_files = find_images(train_folder, set())
    if not test_folder:
        return hold_out(train_files, generator)
    # A file linked from both folders must not be tested on: it is in the training set.
    trained_on = {path.resolve() for path in itertools.chain(*train_files.values())}
    test_files = find_images(test_folder, trained_on)
    if different := sorted(train_files.keys() ^ test_files.keys()):
        names = f"{train_folder.name} and {test_folder.name}"
        only = f"only one of {names} has {', '.join(different)}"
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
        raise program.UserError(f"{folder} must have at least two folders of images, one per class")
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
                f"{folder}: {both} are one name but for case or spaces; use one folder"
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
        raise program.UserError(f"{folder} cannot be read: {error.strerror}") from error
    return folders


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
        for path in list_visible(class_folder.resolve()):
            is_image = path.is_file() and is_image_name(path)
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
        print(f"{len(unused)} skipped, not images of a class, or again: {shown}")
    if empty := [name for name in files if not files[name]]:
        hints = [hint for hint in map(explain, unused) if hint]
        raise program.UserError(f"{folder} has no image in {', '.join(empty)}{''.join(hints[:1])}")
    return files


def hold_out(files: Files, generator: torch.Generator) -> tuple[Files, Files]:
    """Return the files to train on and, one in five of each class, those to test on."""
    train_files = {}
    test_files = {}
    for name, paths in files.items():
        if len(paths) < 2:
            raise program.UserError(
                f"{paths[0].parent} has one image; a class needs one to test on too"
            )
        shuffled = [paths[i] for i in torch.randperm(len(paths), generator=generator)]
        count = max(1, round(len(paths) / 5))
        test_files[name] = shuffled[:count]
        train_files[name] = shuffled[count:]
    return train_files, test_files


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


def label_files(files: Files) -> Tensor:
    """Return the index of its class for each file: int64 (N,)."""
    counts = torch.tensor([len(paths) for paths in files.values()])
    return torch.arange(len(files)).repeat_interleave(counts)


def printable(name: str) -> str:
    """Return a file's name with a question mark for what is not UTF-8 in it."""
    return name.encode(errors="replace").decode()


# ---- Read them -----------------------------------------------------------------------------------
def read_images(paths: list[Path], image_size: int | None) -> tuple[list[Tensor | None], float]:
    """Return each image, uint8 (3, image_size, image_size), or None, and the value of white.

    That is one for all files of more than 8 bits. Raises UserError if more than ten files and more
    than one in a hundred are unreadable, or all.
    """
    headers = map_files(read_header, paths)
    sizes = {header.size for header in headers if isinstance(header, Header)}
    image_size = image_size or (28 if sizes == {(28, 28)} else 64)
    is_deep = [isinstance(header, Header) and header.mode[0] in "IF" for header in headers]
    largest = map_files(read_largest, list(itertools.compress(paths, is_deep)))
    white_value = find_white([value for value in largest if isinstance(value, float)])
    read = partial(read_square, mode="RGB", image_size=image_size, white_value=white_value)
    results = map_files(read, paths)
    errors = [result for result in results if isinstance(result, program.UserError)]
    for error in errors[:10]:
        program.print_error(f"left out: {error}")
    if len(errors) > max(10, len(paths) / 100) or len(errors) == len(paths):
        raise program.UserError(f"{len(errors)} of {len(paths)} files cannot be read as images")
    return [result if isinstance(result, Tensor) else None for result in results], white_value


def map_files(function: Callable[[Path], T], paths: list[Path]) -> list[T | program.UserError]:
    """Apply function to each path in a pool of threads; return results or errors."""

    def attempt(path: Path) -> T | program.UserError:
        try:
            return function(path)
        except program.UserError as error:
            return error

    def leave_processor() -> None:
        """Undo OpenMP's pinning, which threads inherit from the main one."""
        if program.PROCESSORS:
            os.sched_setaffinity(0, program.PROCESSORS)

    with ThreadPoolExecutor(os.cpu_count(), initializer=leave_processor) as pool:
        results = pool.map(attempt, paths)
        return list(program.progress_bar(results, "reading images", len(paths)))


def find_white(largest: list[float]) -> float:
    """Return the value of white in files of more than 8 bits from the largest value in each."""
    if not largest:
        return 65535
    white = max(largest)
    for usual in (1.0, 255, 4095, 65535):
        if white <= usual:
            white = usual
            break
    values = f"{len(largest)} images of more than 8 bits, values up to {max(largest):g}"
    print(f"{values}: {white:g} is white")
    return white
