"""One image file as a tensor, and photographs in the style of FashionMNIST."""

import pickle
import random
from pathlib import Path

import numpy
import pytest
import torch
from images import make_photograph
from PIL import Image, ImageDraw, ImageFile, ImageOps, TiffImagePlugin

import fashion_mnist_cnn as program
from conftest import MODEL
from fashion_mnist_extras.image_files import (
    Tones,
    cut_frame,
    prepare_garment,
    read_header,
    read_image,
    read_page,
    read_range,
    read_square,
)


# ---- Read files ----------------------------------------------------------------------------------
def test_an_image_is_turned_upright_and_cropped_to_its_middle(tmp_path: Path):
    sideways = Image.new("RGB", (8, 16), "black")
    sideways.paste("red", (0, 0, 8, 8))  # the upper half
    orientation = Image.Exif()
    orientation[0x0112] = 8  # the camera was held a quarter turn: what is above belongs to the left
    sideways.save(tmp_path / "a.png", exif=orientation)
    assert read_image(tmp_path / "a.png", "RGB", Tones()).size == (16, 8)
    red = read_square(tmp_path / "a.png", "RGB", 8, Tones())[0].float()
    assert red.mean(dim=0).tolist() == [255] * 4 + [0] * 4


def test_an_image_is_visible_where_transparent(tmp_path: Path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_square(tmp_path / "clear.png", "L", 8, Tones()).unique().tolist() == [0]
    dark = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    dark.paste("navy", (0, 0, 8, 4))
    dark.save(tmp_path / "dark.png")
    assert read_image(tmp_path / "dark.png", "RGB", Tones()).getpixel((0, 7)) == (255, 255, 255)
    light = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    light.paste("white", (0, 0, 8, 4))
    light.save(tmp_path / "light.png")
    column = read_square(tmp_path / "light.png", "L", 8, Tones())[0, :, 0]
    assert column.tolist() == [255] * 4 + [0] * 4


@pytest.mark.parametrize(("name", "dtype"), [("deep.png", "<u2"), ("deep.tif", ">u2")])
def test_an_image_of_16_bits_is_read(tmp_path: Path, name: str, dtype: str):
    Image.fromarray(numpy.full((8, 8), 257 * 77, dtype=dtype)).save(tmp_path / name)
    assert read_square(tmp_path / name, "L", 8, Tones()).unique().tolist() == [77]


def test_a_heic_file_is_called_what_it_is(tmp_path: Path):
    (tmp_path / "photo.HEIC").write_bytes(b"ftypheic")
    with pytest.raises(program.UserError, match=r"it is HEIC, .* pillow-heif"):
        read_image(tmp_path / "photo.HEIC", "RGB", Tones())


BEGINNINGS = {
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "it is HEIC, which Pillow reads once pillow-heif",
    b"\0\0\0\x1cftypmif1\0\0\0\0mif1": "it is HEIC",
    b"\0\0\0\x18ftypisom\0\0\2\0": "it is a video",
    b"\x1aE\xdf\xa3\x9fB\x86\x81": "it is a video",
    b"<!DOCTYPE html><html><head>": "it is a web page",
    b"\n<HTML lang=en>": "it is a web page",
    b"hello,\nthis is a list": "it is text",
    b"PK\x03\x04\x14\0": "it is an archive: unpack it first",
    b"version https://git-lfs.github.com/spec/v1": "`git lfs pull` gets it",
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_what_is_no_image_is_called_what_it_is(tmp_path: Path, beginning: bytes):
    path = tmp_path / "photo.jpg"
    path.write_bytes(beginning + bytes(3000) if b"\0" in beginning else beginning)
    with pytest.raises(program.UserError, match="cannot be read as an image") as error:
        read_header(path)
    assert BEGINNINGS[beginning] in str(error.value)


def malformed_exif(orientation: int, **tags: bytes) -> bytes:
    """EXIF with an orientation, and the resolution, a number, as text."""
    entries = [(0x112, 3, 1, orientation.to_bytes(2, "little")), (0x11A, 2, 3, b"72\0")]
    content = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little")
    for tag, kind, count, value in entries:
        content += tag.to_bytes(2, "little") + kind.to_bytes(2, "little")
        content += count.to_bytes(4, "little") + value.ljust(4, b"\0")
    return b"Exif\0\0" + content + bytes(4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("is_malformed", [True, False])
def test_an_image_is_upright_whatever_else_its_exif_says(
    tmp_path: Path, orientation: int, is_malformed: bool
):
    image = Image.new("L", (16, 8))
    image.paste(255, (0, 0, 8, 4))
    well_formed = Image.Exif()
    well_formed[0x112] = orientation
    image.save(tmp_path / "plain.png", exif=well_formed)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "plain.png"))
    exif = malformed_exif(orientation) if is_malformed else well_formed
    image.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    found = read_image(tmp_path / "photo.jpg", "L", Tones())
    assert found.size == expected.size
    difference = numpy.asarray(found).astype(int) - numpy.asarray(expected)
    assert abs(difference).max() < 30
    # Pillow itself rotates a TIFF; not compressed, it reads one on its side wrongly.
    image.save(tmp_path / "scan.tif", exif=well_formed, compression="tiff_lzw")
    scanned = read_image(tmp_path / "scan.tif", "L", Tones())
    assert numpy.array_equal(numpy.asarray(scanned), numpy.asarray(expected))


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_an_image_whose_exif_is_garbage_is_read_as_it_is(tmp_path: Path, suffix: str):
    path = tmp_path / f"photo.{suffix}"
    Image.new("L", (9, 5), 255).save(path, exif=b"Exif\0\0garbage garbage")
    assert read_image(path, "L", Tones()).size == (9, 5)


def test_a_tiff_whose_description_is_no_text_is_read(tmp_path: Path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[700] = tuple(range(60, 90))  # XMP, as numbers
    tags.tagtype[700] = 3
    Image.new("RGB", (9, 5), "red").save(tmp_path / "scan.tif", tiffinfo=tags)
    assert read_image(tmp_path / "scan.tif", "RGB", Tones()).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("error", [TypeError("odd"), KeyError("odd"), IndexError("odd")])
@pytest.mark.parametrize("place", ["open", "load"])
def test_what_pillow_stumbles_over_is_the_files_fault(tmp_path: Path, monkeypatch, place, error):
    def fail(*_: object) -> None:
        raise error

    Image.new("RGB", (9, 5)).save(tmp_path / "photo.jpg")
    owner = Image if place == "open" else ImageFile.ImageFile
    monkeypatch.setattr(owner, place, fail)
    with pytest.raises(program.UserError, match="it is malformed"):
        read_image(tmp_path / "photo.jpg", "RGB", Tones())


def test_a_bug_of_our_own_is_not_the_files_fault(tmp_path: Path, monkeypatch):
    def fail(*_: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(Image.Image, "convert", fail)
    Image.new("RGB", (9, 5)).save(tmp_path / "photo.jpg")
    with pytest.raises(TypeError, match="a bug"):
        read_image(tmp_path / "photo.jpg", "L", Tones())


@pytest.mark.parametrize(("side", "raised"), [(9, program.UserError), (20_000, MemoryError)])
def test_too_little_memory_is_the_files_fault_if_it_is_small(tmp_path, monkeypatch, side, raised):
    def fail(*_: object) -> None:
        raise MemoryError

    Image.new("1", (9, 5)).save(tmp_path / "photo.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    monkeypatch.setattr(Image.Image, "width", side)
    monkeypatch.setattr(Image.Image, "height", side)
    with pytest.raises(raised):
        read_image(tmp_path / "photo.png", "RGB", Tones())


@pytest.mark.parametrize(
    ("values", "missing", "expected"),
    [
        ([-1000, 0, 900], None, (-1000, 900)),
        ([-9999, -20, 900], "-9999", (-20, 900)),
        ([-9999, -20, 900], "-9999\0", (-20, 900)),
        ([-9999, -20, 900], "none", (-9999, 900)),
        ([-3.4e38, -0.5, 0.7], None, (-0.5, 0.7)),
        ([float("nan"), float("-inf"), 0.25], None, (0.25, 0.25)),
        ([float("nan"), float("nan"), float("inf")], None, (0, 0)),
    ],
)
def test_the_range_of_values_leaves_out_those_for_nothing(tmp_path, values, missing, expected):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if missing:
        tags[42113] = missing
        tags.tagtype[42113] = 2
    image = Image.fromarray(numpy.array([values] * 3, dtype="float32"))
    image.save(tmp_path / "a.tif", tiffinfo=tags)
    assert read_range(tmp_path / "a.tif") == pytest.approx(expected)


def test_values_below_zero_are_read_from_black_to_white(tmp_path: Path):
    values = numpy.array([[-1000, -500, 0, 1000]] * 4, dtype="float32")
    Image.fromarray(values).save(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif", "L", Tones(black_value=-1000, white_value=1000))
    assert numpy.asarray(image)[0].tolist() == [0, 64, 128, 255]


Color = tuple[int, int, int]


def save_cutout(path: Path, color: Color, label: Color | None) -> Path:
    """A garment of a colour on a transparent page, perhaps with a small label of another."""
    image = Image.new("RGBA", (60, 80), (255, 255, 255, 0))
    draw = ImageDraw.Draw(image)
    draw.rectangle((15, 10, 45, 70), (*color, 255))
    if label:
        draw.rectangle((27, 20, 31, 23), (*label, 255))
    image.save(path)
    return path


@pytest.mark.parametrize("label", [None, (20, 20, 40), (250, 250, 250)])
@pytest.mark.parametrize(("color", "page"), [((240, 240, 235), "black"), ((60, 20, 90), "white")])
def test_most_of_a_garment_decides_its_page_not_a_label(tmp_path: Path, color, page, label):
    path = save_cutout(tmp_path / "a.png", color, label)
    assert read_page(path) == page
    image = read_image(path, "RGB", Tones(page="best"))
    assert image.getpixel((0, 0)) == {"black": (0, 0, 0), "white": (255, 255, 255)}[page]
    for asked in ("white", "black"):
        corner = read_image(path, "L", Tones(page=asked)).getpixel((0, 0))
        assert corner == {"black": 0, "white": 255}[asked]


# ---- Prepare garments ----------------------------------------------------------------------------
@pytest.mark.parametrize("background", ["white", "grey", "uneven"])
def test_photographs_are_predicted_nearly_as_well_as_the_originals(fashion_mnist, background: str):
    network = program.load_model(MODEL)
    images = fashion_mnist[1].images[:1000:5]
    labels = fashion_mnist[1].labels[:1000:5]
    rng = random.Random(0)
    photographs = [make_photograph(image, rng, background) for image in images]
    prepared = torch.stack([prepare_garment(photograph) for photograph in photographs])
    original = (program.predict_logits(network, images).argmax(dim=1) == labels).float().mean()
    found = (program.predict_logits(network, prepared).argmax(dim=1) == labels).float().mean()
    assert found > original - 0.04


COLORS = [
    ("white", "navy"),
    ("white", "linen"),
    ("black", "yellow"),
    ("gray", "silver"),
    ("royalblue", "firebrick"),
]


@pytest.mark.parametrize(("background", "garment"), COLORS)
def test_a_garment_is_trimmed_centred_and_light_on_black(background: str, garment: str):
    photograph = Image.new("RGB", (300, 400), background)
    photograph.paste(garment, (20, 30, 90, 170))  # 70 wide, 140 high
    prepared = prepare_garment(photograph)[0]
    assert prepared.shape == (28, 28)
    assert prepared[:, :7].max() == prepared[:, 21:].max() == 0
    assert prepared[:, 7:21].min() > 127


@pytest.mark.parametrize(("width", "height"), [(60, 60), (3000, 60), (60, 3000)])
def test_a_garment_of_any_shape_is_visible(width: int, height: int):
    photograph = Image.new("RGB", (3100, 3100), "white")
    photograph.paste("black", (10, 10, 10 + width, 10 + height))
    prepared = prepare_garment(photograph)
    assert prepared.shape == (1, 28, 28)
    assert prepared.max() > 127


@pytest.mark.parametrize("size", [(300, 400), (28, 28), (1, 1), (1, 3000)])
def test_a_blank_photograph_is_black(size: tuple[int, int]):
    assert prepare_garment(Image.new("RGB", size, "tan")).unique().tolist() == [0]


@pytest.mark.parametrize(("left", "top"), [(-20, 100), (100, -20), (-20, -20), (200, 300)])
def test_a_garment_may_reach_beyond_the_edge_and_its_photograph_is_left_as_it_is(
    left: int, top: int
):
    photograph = Image.new("RGB", (300, 400), "white")
    photograph.paste("green", (left, top, left + 150, top + 150))
    before = photograph.tobytes()
    prepared = prepare_garment(photograph)[0]
    fills_width = prepared.amin(dim=0).max() > 200
    fills_height = prepared.amin(dim=1).max() > 200
    assert fills_width or fills_height
    assert photograph.tobytes() == before


def test_faint_shadows_and_noise_are_black():
    noise = torch.randint(-8, 9, (400, 300), generator=torch.Generator().manual_seed(0))
    page = 240 + noise - 10 * (torch.arange(400)[:, None] > 300)
    page[100:200, 50:250] = 40
    prepared = prepare_garment(Image.fromarray(page.byte().numpy()).convert("RGB"))[0]
    assert prepared[:6].max() == prepared[22:].max() == 0
    assert prepared[8:20].min() > 200


def test_of_a_header_nothing_but_mode_and_size_is_kept(tmp_path: Path):
    """A camera writes tens of kilobytes beside the pixels: of thousands of files that is much."""
    exif = Image.Exif()
    exif[0x010E] = "x" * 50_000  # a description
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.jpg", exif=exif)
    header = read_header(tmp_path / "photo.jpg")
    assert tuple(header) == ("RGB", (30, 20), False)
    assert len(pickle.dumps(header)) < 500


def photograph_of(image: torch.Tensor, page: int = 235) -> numpy.ndarray:
    """The image dark on a page of 300 x 400: float (400, 300)."""
    large = Image.fromarray(image[0].numpy()).resize((200, 200), Image.Resampling.BICUBIC)
    paper = numpy.full((400, 300), float(page))
    paper[100:300, 50:250] -= 0.8 * numpy.asarray(large)
    return paper


def to_photograph(values: numpy.ndarray) -> Image.Image:
    noise = numpy.random.default_rng(0).normal(0, 2, values.shape)
    return Image.fromarray((values + noise).clip(0, 255).astype("uint8")).convert("RGB")


Y, X = numpy.mgrid[-1:1:400j, -1:1:300j]
LIGHTS = {  # by how much light falls off
    "a window on the right": 0.3 * (1 + X) / 2,
    "a window above": 0.25 * (1 + Y) / 2,
    "a lamp in a corner": 0.3 * (2 + X + Y) / 4,
    "a lens": 0.3 * (X**2 + Y**2) / 2,
    "a desk at a window, and a lens": 0.15 * (1 + X) / 2 + 0.15 * (X**2 + Y**2) / 2,
}


@pytest.mark.parametrize("light", LIGHTS)
def test_light_that_falls_off_changes_little(fashion_mnist, light: str):
    differences = []
    for image in fashion_mnist[1].images[:12]:
        even = photograph_of(image)
        expected = prepare_garment(to_photograph(even)).int()
        found = prepare_garment(to_photograph(even * (1 - LIGHTS[light]))).int()
        differences.append((found - expected).abs().float().mean().item())
    assert sum(differences) / len(differences) < 9  # of 255


FRAMES = {
    "one pixel": [(1, "black")],
    "a screenshot": [(6, "#cccccc")],
    "wide": [(20, "navy")],
    "a margin and a line": [(8, "white"), (2, "black")],
}


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_is_cut_off(fashion_mnist, frame: str):
    photograph = to_photograph(photograph_of(fashion_mnist[1].images[1], page=150))
    framed = photograph
    for width, color in reversed(FRAMES[frame]):
        framed = ImageOps.expand(framed, width, color)
    assert cut_frame(framed).tobytes() == photograph.tobytes()


def test_what_is_no_closed_frame_is_left(fashion_mnist):
    photograph = to_photograph(photograph_of(fashion_mnist[1].images[1]))
    letterbox = ImageOps.expand(photograph, (0, 30), "black")
    page = Image.new("RGB", (300, 400), "white")
    page.paste("navy", (20, 30, 200, 400))
    bag = Image.new("RGB", (300, 300), "white")
    bag.paste("navy", (30, 30, 270, 270))
    for image in (photograph, letterbox, page, bag, Image.new("RGB", (40, 40), "tan")):
        assert cut_frame(image) is image
    assert cut_frame(Image.new("RGB", (1, 3000), "tan")).size == (1, 3000)
