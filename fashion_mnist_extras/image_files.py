"""One image file as a tensor, and a photograph in the style of FashionMNIST."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image, ImageFile, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

import fashion_mnist_cnn as program

# What Pillow raises for files that are no image, or only the beginning of one.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
)


@cache
def image_suffixes() -> set[str]:
    """Return how the names of files end that Pillow can read, pixels and all."""
    with suppress(ImportError):  # of HEIC, if it is installed
        from pillow_heif import register_heif_opener

        register_heif_opener()
    suffixes = set()
    for suffix, name in Image.registered_extensions().items():
        reader = Image.OPEN[name][0] if name in Image.OPEN else ImageFile.StubImageFile
        is_stub = isinstance(reader, type) and issubclass(reader, ImageFile.StubImageFile)
        if not is_stub and name != "MPEG":  # of which Pillow reads the size alone
            suffixes.add(suffix)
    return suffixes


def is_image_name(path: str | Path) -> bool:
    """Whether a path ends like an image that Pillow reads, and is not hidden."""
    return Path(path).suffix.lower() in image_suffixes() and not is_hidden(Path(path).name)


# Folders that programs leave beside images: of an archive, a disk, a Synology, Python, Windows.
LEFTOVERS = {
    "__MACOSX",
    "lost+found",
    "@eaDir",
    "__pycache__",
    "$RECYCLE.BIN",
    "System Volume Information",
}


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name in LEFTOVERS


def list_visible(folder: Path) -> list[Path]:
    """Return all that is below folder, but what is hidden and what is in a hidden folder."""
    paths = []
    for path in sorted(folder.rglob("*")):
        if not any(is_hidden(part) for part in path.relative_to(folder).parts):
            paths.append(path)
    return paths


@contextmanager
def reading(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file; what Pillow raises while it is read becomes a UserError."""
    image_suffixes()  # registers a reader of HEIC
    try:
        with Image.open(path) as file:
            yield file
    except UNREADABLE as error:
        reason = f"{error}{explain(path)}"
        raise program.UserError(f"{path} cannot be read as an image: {reason}") from error


def explain(path: str | Path) -> str:
    """Return what to do about a file that is no image to Pillow, or nothing."""
    if Path(path).suffix.lower() in (".heic", ".heif"):
        return "; it is HEIC, which Pillow reads once pillow-heif is installed"
    if os.path.isfile(path):  # a named pipe would be waited for
        with suppress(OSError), open(path, "rb") as file:
            if file.read(40).startswith(b"version https://git-lfs"):
                return "; it only points to the image: `git lfs pull` gets it"
    return ""


class Header(NamedTuple):
    """What is known of an image before its pixels are read."""

    mode: str
    size: tuple[int, int]


def read_header(path: Path) -> Header:
    """Return an image's mode and size, and nothing else of its file. Raises UserError."""
    with reading(path) as file:
        return Header(file.mode, file.size)


def read_largest(path: Path) -> float:
    """Return the largest finite value in an image of more than 8 bits. Raises UserError."""
    with reading(path) as file:
        values = pil_to_tensor(to_float_mode(file))
        return values.nan_to_num(0, 0, 0).max().item()


def to_float_mode(image: Image.Image) -> Image.Image:
    """Return an image of more than 8 bits, in whatever order of its bytes, in mode F."""
    return image if image.mode == "F" else image.convert("I").convert("F")


def read_image(path: str | Path, mode: str, white_value: float = 65535) -> Image.Image:
    """Return an image in mode L or RGB, rotated by EXIF, visible where transparent.

    white_value is that of a file of more than 8 bits. Raises UserError.
    """
    with reading(path) as file:
        image = ImageOps.exif_transpose(file)  # cameras store the orientation beside the pixels
        if image.mode[0] in "IF":  # more than 8 bits
            values = to_float_mode(image)
            image = values.point(lambda value: value * (255 / white_value) + 0.5).convert("L")
        if image.has_transparency_data:
            image = put_on_page(image.convert("RGBA"))
        return image.convert(mode)


def put_on_page(image: Image.Image) -> Image.Image:
    """Return a transparent RGBA image on white, or on black if nothing would be seen on white."""
    on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if min(on_white.convert("L").tobytes()) < 200:
        return on_white
    return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)


def read_square(path: str | Path, mode: str, image_size: int, white_value: float) -> Tensor:
    """Return an image as uint8 (C, image_size, image_size): its middle, resized, antialiased."""
    image = read_image(path, mode, white_value)
    return pil_to_tensor(ImageOps.fit(image, (image_size, image_size), Image.Resampling.LANCZOS))


def prepare_garment(photograph: Image.Image) -> Tensor:
    """Convert an RGB photograph to FashionMNIST's format: uint8 (1, 28, 28), light on black.

    The dataset's authors trimmed a white border, resized, sharpened, padded, inverted and greyed
    (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747, section 2). Here the more a pixel differs from
    the background, the lighter it becomes, so that garment and background may have any colours,
    and the light on the background may vary a little.
    """
    small = photograph.copy()
    small.thumbnail((280, 280), reducing_gap=None)  # as explorer.html does it
    without_noise = small.filter(ImageFilter.MedianFilter(3))
    pixels = pil_to_tensor(without_noise).float()[None]
    corners = F.interpolate(pixels, (32, 32), mode="area")[:, :, ::31, ::31]
    color = corners.flatten(2).median(dim=2).values[:, :, None, None]
    # From corner to corner light may vary by 12 of 255; what differs more is a garment there.
    corners = color + (corners - color).clamp(-12, 12)
    background = F.interpolate(corners, pixels.shape[2:], mode="bilinear", align_corners=True)
    difference = (pixels - background).abs().mean(dim=(0, 1))
    threshold = max(9, 0.1 * difference.max().item())  # below: shadows and noise
    is_garment = difference > threshold
    if not is_garment.any():
        return torch.zeros(1, 28, 28, dtype=torch.uint8)
    brightest = difference[is_garment].quantile(0.95)
    garment = to_pil_image(((difference - threshold) / (brightest - threshold)).clamp(0, 1))
    trimmed = garment.crop(garment.point(lambda value: 255 * (value > 0)).getbbox())
    scale = 28 / max(trimmed.width, trimmed.height)
    size = (max(1, round(scale * trimmed.width)), max(1, round(scale * trimmed.height)))
    resized = trimmed.resize(size, Image.Resampling.BICUBIC)
    sharpened = resized.filter(ImageFilter.UnsharpMask(radius=1, percent=80, threshold=0))
    return pil_to_tensor(ImageOps.pad(sharpened, (28, 28)))
