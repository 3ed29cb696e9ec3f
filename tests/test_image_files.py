"""One image file as a tensor, and photographs in the style of FashionMNIST."""

import pickle
import random
from pathlib import Path

import numpy
import pytest
import torch
from images import make_photograph
from PIL import Image

import fashion_mnist_cnn as program
from conftest import MODEL
from fashion_mnist_extras.image_files import prepare_garment, read_header, read_image, read_square


# ---- Read files ----------------------------------------------------------------------------------
def test_an_image_is_turned_upright_and_cropped_to_its_middle(tmp_path: Path):
    sideways = Image.new("RGB", (8, 16), "black")
    sideways.paste("red", (0, 0, 8, 8))  # the upper half
    orientation = Image.Exif()
    orientation[0x0112] = 8  # the camera was held a quarter turn: what is above belongs to the left
    sideways.save(tmp_path / "a.png", exif=orientation)
    assert read_image(tmp_path / "a.png", "RGB").size == (16, 8)
    red = read_square(tmp_path / "a.png", "RGB", 8, 65535)[0].float()
    assert red.mean(dim=0).tolist() == [255] * 4 + [0] * 4


def test_an_image_is_visible_where_transparent(tmp_path: Path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_square(tmp_path / "clear.png", "L", 8, 65535).unique().tolist() == [0]
    dark = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    dark.paste("navy", (0, 0, 8, 4))
    dark.save(tmp_path / "dark.png")
    assert read_image(tmp_path / "dark.png", "RGB").getpixel((0, 7)) == (255, 255, 255)
    light = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    light.paste("white", (0, 0, 8, 4))
    light.save(tmp_path / "light.png")
    column = read_square(tmp_path / "light.png", "L", 8, 65535)[0, :, 0]
    assert column.tolist() == [255] * 4 + [0] * 4


@pytest.mark.parametrize(("name", "dtype"), [("deep.png", "<u2"), ("deep.tif", ">u2")])
def test_an_image_of_16_bits_is_read(tmp_path: Path, name: str, dtype: str):
    Image.fromarray(numpy.full((8, 8), 257 * 77, dtype=dtype)).save(tmp_path / name)
    assert read_square(tmp_path / name, "L", 8, 65535).unique().tolist() == [77]


def test_a_heic_file_is_called_what_it_is(tmp_path: Path):
    (tmp_path / "photo.HEIC").write_bytes(b"ftypheic")
    with pytest.raises(program.UserError, match=r"it is HEIC, .* pillow-heif"):
        read_image(tmp_path / "photo.HEIC", "RGB")


# ---- Prepare garments ----------------------------------------------------------------------------
@pytest.mark.parametrize("background", ["white", "grey", "uneven"])
def test_photographs_are_predicted_nearly_as_well_as_the_originals(fashion_mnist, background: str):
    network = program.load_model(MODEL)
    images = fashion_mnist[1].images[:1000:2]
    labels = fashion_mnist[1].labels[:1000:2]
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
    assert tuple(header) == ("RGB", (30, 20))
    assert len(pickle.dumps(header)) < 500
