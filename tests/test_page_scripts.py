"""The explorer page's scripts without a browser: Node runs them beside PyTorch and Pillow.

Without Node these tests are skipped, or fail if REQUIRE_BROWSER is set.
"""

import copy
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import PIL
import pytest
import torch
from PIL import Image, ImageChops, ImageDraw, ImageOps
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

import fashion_mnist_cnn as program
from conftest import PHOTOGRAPH, REPOSITORY, decode_moment
from fashion_mnist_extras.explorer import Snapshot, add_snapshot, describe_training, encode
from fashion_mnist_extras.image_files import (
    cut_frame,
    fit_square,
    has_light_border,
    prepare_garment,
    prepare_ink,
)

NODE = shutil.which("node")


def run_node(test_file: str, cases: list[dict[str, Any]], folder: Path) -> None:
    """Run a file of tests/page with these cases; what it prints is shown if it fails."""
    if not NODE:
        end = pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip
        end("node is not installed")
    path = folder / "cases.json"
    path.write_text(json.dumps(cases))
    command = [NODE, "--test", "--test-reporter=tap", REPOSITORY / "tests/page" / test_file]
    environment = os.environ | {"PAGE_CASES": str(path)}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)
    assert f"# pass {len(cases)}\n" in done.stdout


# ---- Networks ------------------------------------------------------------------------------------
def initialize(network: nn.Module) -> None:
    """Draw weights and biases that let activations be neither all alike nor very large."""
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
        else:
            nn.init.uniform_(parameter, 0, 2)  # few logits of the MLP are zero


def run_layers(network: nn.Module, image: Tensor) -> dict[str, Any]:
    """What the network computes from an image (1, C, H, W) on its way to the logits."""
    if isinstance(network, program.MLP):
        sums = network.layer_stack[:2](image)
        return {"sums": encode(sums), "hidden": encode(sums.relu())}
    layers = []
    activations = image
    for layer in (*network.conv_block_1, *network.conv_block_2):
        activations = layer(activations)
        layers.append({"shape": activations.shape[1:], "values": encode(activations)})
    return {"layers": layers}


def describe_case(name: str, network: nn.Module, image: Tensor) -> dict[str, Any]:
    """A network at three moments, as the page is given it, and what it computes at each."""
    snapshots: list[Snapshot] = []
    for epoch in range(3):
        initialize(network)
        add_snapshot(snapshots, network, epoch, accuracy=0.5)
    described = describe_training(network, snapshots)
    last = copy.deepcopy(network.state_dict())  # which the page has exactly
    moments = []
    for state in (decode_moment(described, 0), decode_moment(described, 1), last):
        network.load_state_dict(state)
        logits = network(image)[0]
        assert logits.std() > 0.01  # they would be alike if all activations were zero
        moments.append(
            {
                **run_layers(network, image),
                "weights": encode(torch.cat([tensor.flatten() for tensor in state.values()])),
                "logits": encode(logits),
                "probabilities": encode(logits.softmax(dim=0)),
                "prediction": int(logits.argmax()),
            }
        )
    return {
        "name": name,
        "described": described,
        "shape": image.shape[1:],
        "image": encode(image),
        "moments": moments,
    }


@pytest.mark.parametrize(
    ("channels", "side", "hidden_units", "classes"),
    [
        (1, 28, 10, 10),
        (1, 28, 64, 10),
        (3, 20, 10, 2),
        (3, 30, 10, 2),  # whose half is odd
        (3, 64, 10, 2),
    ],
)
def test_networks_compute_what_pytorch_computes(
    tmp_path: Path, channels: int, side: int, hidden_units: int, classes: int
):
    torch.manual_seed(0)
    image = torch.rand(1, channels, side, side)
    mlp = program.MLP(channels * side**2, hidden_units, classes)
    cnn = program.TinyVGG(channels, hidden_units, classes, side)
    with torch.inference_mode():
        cases = [describe_case("MLP", mlp, image), describe_case("TinyVGG", cnn, image)]
    run_node("network.test.js", cases, tmp_path)


# ---- Photographs ---------------------------------------------------------------------------------
def describe_photograph(
    name: str,
    photograph: Image.Image,
    preparation: str,
    prepared: Tensor,
    parameters: tuple[float, ...] = (),
    largest_difference: int = 8,
) -> dict[str, Any]:
    """An RGB photograph and what Python makes of it; differences are of 255."""
    inside = cut_frame(photograph)
    return {
        "name": name,
        "preparation": preparation,
        "size": photograph.size,
        "pixels": encode(pil_to_tensor(photograph)),
        "parameters": parameters,
        "expected": {
            "sizeInside": inside.size,
            "hasLightBorder": has_light_border(inside),
            "values": prepared.flatten().tolist(),
            "largestDifference": largest_difference,
        },
    }


def add_frames(photograph: Image.Image) -> Image.Image:
    return ImageOps.expand(ImageOps.expand(photograph, 2, "black"), 5, "#d0d0f0")


def add_shade(photograph: Image.Image) -> Image.Image:
    """Let light fall off to one side."""
    gradient = Image.linear_gradient("L").resize(photograph.size).rotate(90)
    shade = gradient.point(lambda value: 255 - 0.3 * value).convert("RGB")
    return ImageChops.multiply(photograph, shade)


def add_vignette(photograph: Image.Image) -> Image.Image:
    """Let light fall off to the corners."""
    gradient = Image.radial_gradient("L").resize(photograph.size)
    shade = gradient.point(lambda value: 255 - 0.5 * value).convert("RGB")
    return ImageChops.multiply(photograph, shade)


def draw_garments() -> dict[str, Image.Image]:
    photograph = Image.open(PHOTOGRAPH)
    noisy = Image.effect_noise((1500, 1100), 12).convert("RGB")
    ImageDraw.Draw(noisy).polygon([(500, 200), (1000, 220), (950, 900), (560, 880)], (160, 20, 60))
    white = Image.new("RGB", (350, 450))
    ImageDraw.Draw(white).ellipse((75, 50, 275, 400), (250, 250, 250))
    small = Image.new("RGB", (28, 28))
    ImageDraw.Draw(small).rectangle((6, 3, 20, 25), (200, 100, 66))
    wall = Image.new("RGB", (400, 300), (190, 180, 170))
    ImageDraw.Draw(wall).rectangle((140, 60, 260, 240), (20, 40, 120))
    return {
        "photograph": photograph,
        "framed": add_frames(photograph),
        "shaded": add_shade(photograph),
        "large and noisy": noisy,
        "white on black": white,
        "small": small,
        "darker corners": add_vignette(wall),
    }


def test_garments_are_prepared_as_in_python(tmp_path: Path):
    cases = []
    for name, photograph in draw_garments().items():
        prepared = prepare_garment(cut_frame(photograph))
        assert prepared.max() > 200, name  # so that there is something to compare
        cases.append(describe_photograph(name, photograph, "garment", prepared))
    for color in ("white", "tan"):
        sheet = Image.new("RGB", (300, 400), color)
        nothing = torch.zeros(1, 28, 28)
        cases.append(describe_photograph(color, sheet, "garment", nothing, largest_difference=0))
    run_node("photograph.test.js", cases, tmp_path)


def test_ink_on_paper_is_prepared_as_in_python(tmp_path: Path):
    paper = Image.new("RGB", (300, 400), (235, 235, 235))
    ImageDraw.Draw(paper).line([(60, 100), (160, 100), (100, 250)], fill=(20, 20, 20), width=16)
    papers = {
        "paper": paper,
        "framed": ImageOps.expand(paper, 3, 0),
        "darker corners": add_vignette(paper),
        "blue on yellow": ImageOps.colorize(paper.convert("L"), "blue", "yellow"),
    }
    cases = []
    for name, photograph in papers.items():
        for size, ink_size in ((28, 0.7), (33, 0.613)):
            prepared = prepare_ink(cut_frame(photograph), size, ink_size)
            assert prepared.max() > 200, name
            parameters = (size, ink_size)
            cases.append(describe_photograph(name, photograph, "ink", prepared, parameters))
    panel = Image.new("RGB", (300, 400), (240, 240, 240))
    panel.paste((0, 0, 0), (50, 60, 250, 260))
    page = describe_photograph(
        name="picture on a page",
        photograph=panel,
        preparation="ink",
        prepared=torch.zeros(28, 28),
        parameters=(28, 0.7),
        largest_difference=0,
    )
    cases.append(page)
    run_node("photograph.test.js", cases, tmp_path)


def test_other_images_are_resized_as_in_python(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    cases = []
    sizes = [(40, 30), (100, 31), (10, 13)]
    if int(PIL.__version__.partition(".")[0]) >= 13:  # before, columns never came first
        sizes += [(31, 100), (60, 200), (20, 45)]
    for width, height in sizes:
        pixels = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=generator)
        noise = Image.fromarray(pixels.numpy())
        for size in (20, 28, 64):
            for preparation, mode in (("square", "RGB"), ("grey square", "L")):
                resized = fit_square(noise.convert(mode), size)
                name = f"noise of {width} x {height}"
                cases.append(describe_photograph(name, noise, preparation, resized, (size,), 2))
    run_node("photograph.test.js", cases, tmp_path)


# ---- Sentences -----------------------------------------------------------------------------------
EPOCHS = [0, 0.1, 0.5, 1, 2, 3]
RUNS = {  # accuracies at these epochs, and what is said of them
    "most is learned early": (
        [0.1, 0.7, 0.8, 0.82, 0.85, 0.86],
        "^Early: CNN goes from 10.0 % to 80.0 % in the first 0.5 epochs; the rest of the 3 epochs "
        "adds 6.0 percentage points",
    ),
    "it learns late": (
        [0.1, 0.1, 0.1, 0.11, 0.2, 0.9],
        "^Late: after 2 epochs CNN classifies 20.0 % correctly, after 3 epochs 90.0 %",
    ),
    "it falls": (
        [0.1, 0.5, 0.8, 0.9, 0.6, 0.5],
        "^CNN is best after 1 epoch, with 90.0 % right, and falls to 50.0 %",
    ),
    "a little is lost at the end": (
        [0.1, 0.5, 0.86, 0.86, 0.85, 0.85],
        "^Early: .* the rest of the 3 epochs takes away 1.0 percentage points",
    ),
    "it stays at chance": ([0.1, 0.11, 0.1, 0.12, 0.1, 0.11], "^Nothing was learned: .*11.0 %"),
    "it stays where it began": ([0.1] * 6, "^Nothing was learned"),
}
SENTENCES: list[tuple[str, list[object], str]] = [
    *(
        (name, ["describeLearning", "CNN", run, EPOCHS, 0.1], said)
        for name, (run, said) in RUNS.items()
    ),
    ("two moments", ["describeLearning", "CNN", [0.5, 1], [0, 1], 0.5], "^Late: after 0 epochs"),
    (
        "of two classes",
        ["describeLearning", "CNN", [1, 0.5], [0, 1], 0.5],
        "^CNN is best after 0 ep",
    ),
    (
        "alike",
        ["describeGuess", "CNN", [[0.09, 0.11], [0.1, 0.12]]],
        "^Hardly.*9 % and 12 %.* 2 im",
    ),
    ("not alike", ["describeGuess", "CNN", [[0.4, 0.6], [0.55, 0.45]]], "^A little: .*40 % and 60"),
    ("below zero", ["twoDigits", -1.5], "^\N{MINUS SIGN}1.50$"),
    ("no negative zero", ["twoDigits", -0.001], "^0.00$"),
    (
        "rounded parts",
        ["addUp", "sum", [0.004, 0.004, 0.004], 0.1, 0.112],
        "sum 0.00 . bias 0.10 = .*>0.10<.*unrounded 0.11",
    ),
    (
        "the same",
        ["addUp", "sum", [0.5, -0.25], -0.1, 0.15],
        "^sum 0.25 . bias .0.10 = <strong>0.15</strong>$",
    ),
]


def test_sentences_say_what_a_run_gave(tmp_path: Path):
    cases = []
    for name, call, expected in SENTENCES:
        never = ["-", "+-", "NaN", "undefined", "Infinity"]  # a true minus is another character
        cases.append({"name": name, "call": call, "expected": expected, "never": never})
    run_node("sentences.test.js", cases, tmp_path)
