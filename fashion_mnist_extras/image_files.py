"""One image file as a tensor, and a photograph in the style of FashionMNIST."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageFile, ImageFilter, ImageOps, TiffImagePlugin
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
    "__macosx",
    "lost+found",
    "@eadir",
    "__pycache__",
    "system volume information",
}
# What network drives and Windows keep of deleted files.
RECYCLED = {"#recycle", "@recycle", "#snapshot", "$recycle.bin", "recycler"}


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFTOVERS | RECYCLED


def name_subfolder(folder: str | Path) -> str:
    """Return the name of the folders for what is trained on the images in folder."""
    return Path(os.path.realpath(folder)).name or "root"


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
        with open_image(path) as file:
            yield file
    except UNREADABLE as error:
        reason = f"{error}{explain(path)}"
        raise program.UserError(f"{path} cannot be read as an image: {reason}") from error


def open_image(path: str | Path) -> Image.Image:
    """Return Image.open(path), whatever it is that Pillow does not expect in the file."""
    try:
        file = Image.open(path)
    except (TypeError, LookupError) as error:
        raise ValueError(f"it is malformed ({error})") from error
    # Pillow searches these for the orientation, and fails on what is no text.
    for name, kind in (("xmp", bytes), ("XML:com.adobe.xmp", str)):
        if not isinstance(file.info.get(name, kind()), kind):
            del file.info[name]
    return file


TRANSPOSITIONS = {  # of EXIF's orientations
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_upright(file: Image.Image) -> Image.Image:
    """Return an open file with its pixels, rotated as its EXIF says. Raises ValueError.

    Pillow's exif_transpose also writes the other tags anew, and fails if one of them is malformed.
    """
    orientation = None
    try:
        file.load()
        with suppress(*UNREADABLE, TypeError, LookupError):  # of the tags: the pixels are there
            orientation = file.getexif().get(ExifTags.Base.Orientation)
    except (TypeError, LookupError) as error:
        raise ValueError(f"it is malformed ({error})") from error
    except MemoryError as error:
        if 4 * file.width * file.height >= 1e9:  # bytes
            raise
        raise ValueError("it asks for more memory than its pixels need") from error
    if orientation in TRANSPOSITIONS:
        return file.transpose(TRANSPOSITIONS[orientation])
    return file


HEIC = "it is HEIC, which Pillow reads once pillow-heif is installed"
SIGNATURES = {  # how files begin, in lower case, that are no image to Pillow
    "it only points to the image: `git lfs pull` gets it": (b"version https://git-lfs",),
    "it is a web page": (b"<!doctype html", b"<html"),
    "it is a video": (b"\x1ae\xdf\xa3",),
    "it is an archive: unpack it first": (b"pk\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"rar!"),
    "it is a PDF document": (b"%pdf",),
}


def explain(path: str | Path) -> str:
    """Return what a file is, or what to do about it, if it is no image to Pillow; or nothing."""
    if Path(path).suffix.lower() in (".heic", ".heif"):
        return f"; {HEIC}"
    beginning = b""
    if os.path.isfile(path):  # a named pipe would be waited for
        with suppress(OSError), open(path, "rb") as file:
            beginning = file.read(1000)
    if beginning[4:8] == b"ftyp":  # a format of MPEG, whose name follows
        name = beginning[8:11]
        if name in (b"hei", b"hev", b"mif", b"msf"):
            return f"; {HEIC}"
        if name == b"avi":
            return "; it is AVIF, which Pillow reads from version 11.3 on"
        return "; it is a video"
    for meaning, signatures in SIGNATURES.items():
        if beginning.strip().lower().startswith(signatures):
            return f"; {meaning}"
    with suppress(UnicodeDecodeError):
        words = beginning.decode().split()
        if words and "".join(words).isprintable():
            return "; it is text"
    return ""


class Header(NamedTuple):
    """What is known of an image before its pixels are read."""

    mode: str
    size: tuple[int, int]
    is_transparent: bool


def read_header(path: Path) -> Header:
    """Return an image's header, and nothing else of its file. Raises UserError."""
    with reading(path) as file:
        return Header(file.mode, file.size, file.has_transparency_data)


def read_range(path: Path) -> tuple[float, float]:
    """Return the smallest and the largest value of an image of more than 8 bits.

    Values for "nothing here" are not measured: those that are not finite, below -1e30, or named by
    the file (GDAL's tag). Raises UserError.
    """
    with reading(path) as file:
        load_upright(file)
        values = pil_to_tensor(to_float_mode(file))
        is_measured = values.isfinite() & (values > -1e30) & (values != read_missing_value(file))
        measured = values[is_measured]
        if not len(measured):
            return 0.0, 0.0
        return measured.min().item(), measured.max().item()


def read_missing_value(file: Image.Image) -> float:
    """Return the value that a TIFF of GDAL names as "nothing here", or NaN."""
    if not isinstance(file, TiffImagePlugin.TiffImageFile):
        return math.nan
    with suppress(ValueError):
        return float(str(file.tag_v2.get(42113, "nan")).strip("\0 "))
    return math.nan


def to_float_mode(image: Image.Image) -> Image.Image:
    """Return an image of more than 8 bits, in whatever order of its bytes, in mode F."""
    return image if image.mode == "F" else image.convert("I").convert("F")


@dataclass(frozen=True)
class Tones:
    """How the files of a set become 8-bit images, all of them alike."""

    black_value: float = 0.0  # of files of more than 8 bits
    white_value: float = 65535.0
    # Under transparent images: "white" or "black", the "best" for most pixels of each image, or, as
    # it was once trained, None: white, or black if nothing of an image would be seen on white.
    page: str | None = None


def read_image(path: str | Path, mode: str, tones: Tones) -> Image.Image:
    """Return an image in mode L or RGB, upright, on a page if it is transparent.

    Raises UserError.
    """
    with reading(path) as file:
        image = load_upright(file)
        if image.mode[0] in "IF":  # more than 8 bits
            scale = 255 / (tones.white_value - tones.black_value)
            offset = 0.5 - tones.black_value * scale
            image = to_float_mode(image).point(lambda value: value * scale + offset).convert("L")
        if image.has_transparency_data:
            image = put_on_page(image.convert("RGBA"), tones.page)
        return image.convert(mode)


def read_page(path: Path) -> str:
    """Return the page that is best for an image file, or nothing if it is opaque.

    Raises UserError.
    """
    with reading(path) as file:
        image = load_upright(file).convert("RGBA")
        return choose_page(image) if pil_to_tensor(image)[3].min() < 255 else ""


def choose_page(image: Image.Image) -> str:
    """Return the page, white or black, on which most visible pixels of an RGBA image are seen."""
    values = pil_to_tensor(image.convert("RGB").convert("L")).flatten()
    visible = values[pil_to_tensor(image)[3].flatten() >= 128]
    return "black" if len(visible) and visible.median() >= 200 else "white"


def put_on_page(image: Image.Image, page: str | None) -> Image.Image:
    """Return an RGBA image on a page: see Tones."""
    if page == "best":
        page = choose_page(image)
    if page is None:
        on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        page = "white" if min(on_white.convert("L").tobytes()) < 200 else "black"
    return Image.alpha_composite(Image.new("RGBA", image.size, page), image)


def read_square(path: str | Path, mode: str, image_size: int, tones: Tones) -> Tensor:
    """Return an image as uint8 (C, image_size, image_size): its middle, resized, antialiased."""
    return fit_square(read_image(path, mode, tones), image_size)


def fit_square(image: Image.Image, image_size: int) -> Tensor:
    """Return an image's middle, resized, antialiased: uint8 (C, image_size, image_size)."""
    return pil_to_tensor(ImageOps.fit(image, (image_size, image_size), Image.Resampling.LANCZOS))


def cut_frame(image: Image.Image) -> Image.Image:
    """Return an RGB image without a frame, perhaps of two colours, one within the other.

    A frame is a closed, narrow ring of one colour, as of a shop's photograph or a screenshot. A
    page around a garment is none: it is wide, or goes on directly within the ring.
    """
    for _ in range(2):
        pixels = pil_to_tensor(image)
        color = ring_of(pixels, 0).median(dim=1, keepdim=True).values
        width = 0
        share = 1.0  # of the ring that is of the colour
        while 12 * width < min(image.size) - 2:
            is_of_color = ((ring_of(pixels, width) - color).abs() <= 12).all(dim=0)
            share = is_of_color.float().mean().item()
            if share < 1:
                break
            width += 1
        if share > 0.5:
            return image
        image = image.crop((width, width, image.width - width, image.height - width))
    return image


def ring_of(pixels: Tensor, width: int) -> Tensor:
    """Return the pixels of a uint8 image (C, H, W) so far from its edges: int16 (C, N)."""
    _, height, length = pixels.shape
    inner = pixels[:, width : height - width, width : length - width]
    sides = inner[:, 0], inner[:, -1], inner[:, :, 0], inner[:, :, -1]
    return torch.cat(sides, dim=1).short()  # which can be subtracted


def prepare_garment(photograph: Image.Image) -> Tensor:
    """Convert an RGB photograph to FashionMNIST's format: uint8 (1, 28, 28), light on black.

    The dataset's authors trimmed a white border, resized, sharpened, padded, inverted and greyed
    (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747, section 2). Here the more a pixel differs from
    the background, the lighter it becomes, so that garment and background may have any colours,
    and the light on the background may fall off to one side or to the edges. All is black if
    nothing is seen before the background.
    """
    garment = isolate(photograph)
    if not garment:
        return torch.zeros(1, 28, 28, dtype=torch.uint8)
    resized = resize_longer_side(garment, 28)
    sharpened = resized.filter(ImageFilter.UnsharpMask(radius=1, percent=80, threshold=0))
    return pil_to_tensor(ImageOps.pad(sharpened, (28, 28)))


def measure_ink(images: Tensor) -> float:
    """Return the share of the side that the light part of dark images takes up, a median.

    images are uint8 (N, H, W). It is 0 unless the borders of 95 % of them are dark.
    """
    is_dark = ring_of(images, 0).float().mean(dim=1) < 64
    if is_dark.float().mean() < 0.95:
        return 0.0
    is_light = images >= 64
    heights = is_light.any(dim=2).sum(dim=1)
    widths = is_light.any(dim=1).sum(dim=1)
    return (heights.maximum(widths).median() / images.shape[-1]).item()


def has_light_border(image: Image.Image) -> bool:
    return ring_of(pil_to_tensor(image), 0).float().mean().item() >= 128


def prepare_ink(photograph: Image.Image, image_size: int, ink_size: float) -> Tensor:
    """Return ink on paper light on dark, in the middle: uint8 (1, image_size, image_size).

    ink_size is the share of the side that it takes up. All is black if there is no ink, or what
    there is has a border of its own all around: it is a picture on the page, or a frame.
    """
    page = Image.new("L", (image_size, image_size))
    ink = isolate(photograph)
    if ink and not is_panel(ink):
        resized = resize_longer_side(ink, round(ink_size * image_size))
        left, top = (image_size - resized.width) // 2, (image_size - resized.height) // 2
        page.paste(resized, (left, top))
    return pil_to_tensor(page)


def is_panel(shown: Image.Image) -> bool:
    """Whether what stands on a page, light on black, is seen all along its edges, and no line."""
    seen = (ring_of(pil_to_tensor(shown), 0) >= 64).float().mean().item()
    return seen > 0.95 and min(shown.size) > 0.6 * max(shown.size)


def isolate(photograph: Image.Image) -> Image.Image | None:
    """Return what an RGB photograph shows, light on black and trimmed, or None if that is nothing.

    The more a pixel differs from the background, the lighter it becomes.
    """
    small = photograph.copy()
    small.thumbnail((280, 280), reducing_gap=None)  # as the explorer does it
    without_noise = small.filter(ImageFilter.MedianFilter(3))
    pixels = pil_to_tensor(without_noise).float()[None]
    background = estimate_background(pixels)
    difference = (pixels - background).abs().mean(dim=(0, 1))
    threshold = max(9, 0.1 * difference.max().item())  # below: shadows and noise
    is_shown = difference > threshold
    if not is_shown.any():
        return None
    brightest = difference[is_shown].quantile(0.95)
    shown = to_pil_image(((difference - threshold) / (brightest - threshold)).clamp(0, 1))
    return shown.crop(shown.point(lambda value: 255 * (value > 0)).getbbox())


def resize_longer_side(image: Image.Image, side: int) -> Image.Image:
    """Return the image in its proportions, its longer side of this many pixels."""
    scale = side / max(image.size)
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    return image.resize(size, Image.Resampling.BICUBIC)


def estimate_background(pixels: Tensor) -> Tensor:
    """Return the background of a photograph, both float32 (1, 3, H, W) in [0, 255].

    From corner to corner it may vary a little. Where that leaves much of the outer sixteenth of the
    photograph unexplained, and a curved surface does not, light falls off: the surface is taken.
    """
    _, _, height, width = pixels.shape
    rows, columns = math.ceil(height / 16), math.ceil(width / 16)
    is_edge = torch.ones(height, width, dtype=torch.bool)
    is_edge[rows : height - rows, columns : width - columns] = False
    corners = F.interpolate(pixels, (32, 32), mode="area")[:, :, ::31, ::31]
    color = corners.flatten(2).median(dim=2).values[:, :, None, None]
    # From corner to corner light may vary by 12 of 255; what differs more is a garment there.
    corners = color + (corners - color).clamp(-12, 12)
    even = F.interpolate(corners, pixels.shape[2:], mode="bilinear", align_corners=True)
    explained = share_explained(pixels, even, is_edge)
    if explained >= 0.7:
        return even
    curved = fit_surface(pixels, color, is_edge)
    return curved if share_explained(pixels, curved, is_edge) > explained + 0.3 else even


def share_explained(pixels: Tensor, background: Tensor, is_edge: Tensor) -> float:
    """Return the share of the pixels at the edges that hardly differ from the background."""
    difference = (pixels - background).abs().mean(dim=(0, 1))
    return (difference[is_edge] < 9).float().mean().item()


def fit_surface(pixels: Tensor, color: Tensor, is_edge: Tensor) -> Tensor:
    """Return a quadratic surface for each colour, float32 (1, 3, H, W), fitted to the edges.

    It begins at a colour; again and again it is fitted to what is near it, first as a plane.
    """
    _, _, height, width = pixels.shape
    y = torch.linspace(-1, 1, height, dtype=torch.float64)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width, dtype=torch.float64)[None, :].expand(height, width)
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])
    at_edges = terms[:, is_edge]
    surfaces = []
    for plane, start in zip(pixels[0].double(), color.flatten(), strict=True):
        values = plane[is_edge]
        fitted = start.double().expand_as(values)
        for count in 6 * [3] + 6 * [6]:
            is_near = (values - fitted).abs() <= 12
            near = at_edges[:count, is_near]
            # Least squares; the small number lets the terms be found of few pixels.
            products = near @ near.T + 1e-3 * torch.eye(count, dtype=torch.float64)
            weights = torch.linalg.solve(products, near @ values[is_near])
            fitted = weights @ at_edges[:count]
        surfaces.append(torch.einsum("t,thw->hw", weights, terms))
    return torch.stack(surfaces)[None].float()
