"""What --predict makes of an image file."""

import dataclasses
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps
from torch import nn

import fashion_mnist_cnn as program
from conftest import MODEL, brightnesses, is_one_line, make_result, save_image
from fashion_mnist_extras import set_aside
from fashion_mnist_extras.image_files import measure_ink
from fashion_mnist_extras.image_folders import load_image_folder
from fashion_mnist_extras.prediction import (
    ModelMetadata,
    SetAside,
    choose_subfolder,
    find_best_model,
    prepare_image,
    read_metadata,
    set_aside_others,
)

FASHION_MNIST = ModelMetadata(list("abcdefghij"), 28, 1, 10, dataset="FashionMNIST")


# ---- Prepare images ------------------------------------------------------------------------------
def test_only_the_real_dataset_is_prepared_like_it(tmp_path: Path):
    path = str(save_image(tmp_path / "image.png", "RGB", (50, 50)))
    metadata = replace(FASHION_MNIST, channels=3, image_size=64)
    image, preparation = prepare_image(path, metadata)
    assert image.shape == (3, 64, 64)
    assert preparation == "resized to 64 x 64"


def test_images_of_the_dataset_are_not_prepared_again_but_others_are(tmp_path: Path, fashion_mnist):
    for index, image in enumerate(fashion_mnist[1].images[:100]):
        original = Image.fromarray(image[0].numpy())
        original.save(tmp_path / "original.png")
        prepared, preparation = prepare_image(str(tmp_path / "original.png"), FASHION_MNIST)
        assert preparation == "as it is", index
        assert torch.equal(prepared, image), index
        ImageOps.invert(original).save(tmp_path / "inverted.png")
        assert "prepared" in prepare_image(str(tmp_path / "inverted.png"), FASHION_MNIST)[1], index
        original.resize((29, 29)).save(tmp_path / "larger.png")
        assert "prepared" in prepare_image(str(tmp_path / "larger.png"), FASHION_MNIST)[1], index


def test_a_network_of_ordinary_images_takes_a_deep_one_as_of_16_bits(tmp_path: Path):
    for number in range(4):
        save_image(tmp_path / "folder" / "ab"[number % 2] / f"{number}.png")
    white_value = load_image_folder(tmp_path / "folder", None, 0).notes["white_value"]
    assert white_value == 65535
    Image.fromarray(numpy.full((28, 28), 257 * 77, dtype="uint16")).save(tmp_path / "deep.png")
    metadata = ModelMetadata(["a", "b"], 28, 1, 10)
    assert metadata.white_value == white_value
    image, _ = prepare_image(str(tmp_path / "deep.png"), metadata)
    assert image.unique().tolist() == [77]


@pytest.mark.parametrize(
    ("dtype", "white", "depth"),
    [
        ("uint16", 255, 255),
        ("uint16", 4095, 4095),
        ("uint16", 65535, 65535),
        ("int32", 200, 255),
        ("int32", 100_000, 100_000),
        ("float32", 1.0, 1.0),
        ("float32", 255, 255),
    ],
)
def test_deep_images_have_one_depth_which_prediction_uses(
    tmp_path: Path, capsys, dtype: str, white: float, depth: float
):
    folder = tmp_path / "deep"
    for name, share in (("dark", 0.25), ("light", 1.0)):
        (folder / name).mkdir(parents=True)
        values = numpy.full((28, 28), white * share).astype(dtype)
        for number in range(10):
            Image.fromarray(values).save(folder / name / f"{number}.tif")
    dataset = load_image_folder(folder, None, 0)
    assert dataset.notes["white_value"] == depth
    assert f"{depth:g} is white" in capsys.readouterr().out
    expected = [round(255 * white * share / depth) for share in (0.25, 1.0)]
    assert sorted(set(brightnesses(dataset.train_set))) == pytest.approx(expected, abs=1)
    metadata = ModelMetadata(["dark", "light"], 28, 1, 10, white_value=depth)
    image, _ = prepare_image(str(folder / "light" / "0.tif"), metadata)
    assert image.unique().tolist() == pytest.approx(expected[1:], abs=1)


@pytest.mark.parametrize("color", ["white", "black", "tan", (240, 240, 242)])
def test_where_the_preparation_finds_no_garment_that_is_said(tmp_path: Path, capsys, color):
    table = save_image(tmp_path / "table.jpg", "RGB", (300, 400), color)
    assert program.main(["--predict", str(table), "--model", str(MODEL)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"fashion_mnist_cnn.py: {table} shows nothing before its background\n"


def test_only_a_grey_image_is_taken_for_one_of_the_datasets(tmp_path: Path, fashion_mnist):
    """A plot draws the dataset's images with a colour map."""
    image = fashion_mnist[1].images[1, 0]
    colored = torch.stack([image, image // 2, image // 3], dim=2)
    Image.fromarray(colored.numpy()).save(tmp_path / "plot.png")
    prepared, preparation = prepare_image(str(tmp_path / "plot.png"), FASHION_MNIST)
    assert preparation == "prepared like FashionMNIST's images"
    assert prepared.max() > 200, "as light as the dataset's"
    Image.fromarray(image.numpy()).convert("RGB").save(tmp_path / "grey.png")
    assert prepare_image(str(tmp_path / "grey.png"), FASHION_MNIST)[1] == "as it is"


INK = ModelMetadata(list("01"), 28, 1, 10, dataset="digits", ink_size=0.7)


def draw_seven(ink: int, page: int, size: tuple[int, int] = (300, 400)) -> Image.Image:
    """A seven that is 150 pixels high, off the middle."""
    image = Image.new("L", size, page)
    ImageDraw.Draw(image).line([(60, 100), (160, 100), (100, 250)], fill=ink, width=16)
    return image


@pytest.mark.parametrize("form", ["paper", "photograph", "framed", "transparent"])
def test_ink_on_paper_is_turned_for_a_network_of_light_on_dark(tmp_path: Path, form: str):
    image = draw_seven(20, 235)
    if form == "photograph":  # in light that falls off to the right
        shade = Image.linear_gradient("L").rotate(90).resize(image.size)
        image = ImageChops.multiply(image, shade.point(lambda value: 255 - 0.3 * value))
    elif form == "framed":
        image = ImageOps.expand(image, 3, 0)
    elif form == "transparent":
        image = Image.merge("LA", (Image.new("L", image.size), draw_seven(255, 0)))
    image.save(tmp_path / "seven.png")
    prepared, preparation = prepare_image(str(tmp_path / "seven.png"), INK)
    assert "turned light on dark" in preparation
    assert prepared.shape == (1, 28, 28)
    light = (prepared[0] >= 64).nonzero()
    top, left = light.amin(dim=0).tolist()
    bottom, right = light.amax(dim=0).tolist()
    assert bottom - top + 1 == pytest.approx(0.7 * 28, abs=1)
    assert top + bottom == pytest.approx(27, abs=2) and left + right == pytest.approx(27, abs=2)
    bar, stem = prepared[0, top + 1], prepared[0, bottom - 3]
    assert bar[left + 1 : right].float().mean() > 150 and (stem >= 128).sum() <= 4


@pytest.mark.parametrize("turned", [False, True])
def test_only_paper_is_turned_and_only_if_the_training_images_were_dark(tmp_path: Path, turned):
    path = tmp_path / "seven.png"
    dark, light = draw_seven(235, 20), draw_seven(20, 235)
    image, metadata = (dark, INK) if turned else (light, replace(INK, ink_size=0))
    image.save(path)
    prepared, preparation = prepare_image(str(path), metadata)
    assert preparation == "resized to 28 x 28"
    assert (prepared[0, 0, 0] < 64) == turned


@pytest.mark.parametrize("panel", [None, (100, 150), (220, 220)])
def test_a_page_without_ink_or_with_a_dark_picture_on_it_is_refused(tmp_path: Path, panel):
    page = Image.new("L", (300, 400), 240)
    if panel:
        page.paste(draw_seven(235, 0).resize(panel), (20, 30))
    page.save(tmp_path / "page.png")
    with pytest.raises(program.UserError, match="no ink on a light page; if it is framed"):
        prepare_image(str(tmp_path / "page.png"), INK)


@pytest.mark.parametrize("letter", "EBO17I8")
def test_letters_are_no_pictures_on_a_page(tmp_path: Path, letter: str):
    page = Image.new("L", (300, 400), 240)
    font = ImageFont.load_default(200)
    ImageDraw.Draw(page).text((60, 80), letter, fill=20, font=font)
    page.save(tmp_path / "page.png")
    prepared, preparation = prepare_image(str(tmp_path / "page.png"), INK)
    assert "turned" in preparation and prepared.max() > 200


@pytest.mark.parametrize(("dark", "expected"), [(1.0, 0.5), (0.96, 0.5), (0.9, 0.0)])
def test_ink_is_measured_if_nearly_all_borders_are_dark(dark: float, expected: float):
    images = torch.zeros(100, 20, 20, dtype=torch.uint8)
    images[:, 4:14, 8:12] = 200  # ten of twenty pixels high
    images[round(100 * dark) :] = 255 - images[round(100 * dark) :]
    assert measure_ink(images) == pytest.approx(expected)


# ---- Describe a saved network -------------------------------------------------------------------
METADATA = {
    "dataset": "pets",
    "classes": ["cat", "dog", "größer"],
    "image_size": 31,  # of which the two poolings leave 7, as of 28
    "channels": 3,
    "hidden_units": 5,
    "test_accuracy": 0.75,
}


@pytest.fixture
def described(tmp_path: Path) -> tuple[Path, program.TinyVGG]:
    path = tmp_path / "CNN_model.pth"
    path.with_suffix(".json").write_text(json.dumps(METADATA))
    return path, program.TinyVGG(3, 5, 3, 31)


def test_the_metadata_beside_a_model_are_read(described):
    path, network = described
    assert read_metadata(path, network) == ModelMetadata(**METADATA)


@pytest.mark.parametrize("name", ["CNN", "MLP", "ResNet"])
def test_ten_classes_of_fashion_mnists_size_without_metadata_are_taken_for_its(
    tmp_path: Path, capsys, name: str
):
    path = tmp_path / f"{name}_model.pth"
    path.write_bytes(MODEL.with_name(path.name).read_bytes())
    description = json.loads(MODEL.with_name(f"{name}_model.json").read_text())
    description.pop("test_accuracy")
    metadata = read_metadata(path, program.load_model(path))
    err = capsys.readouterr().err
    assert is_one_line(err) and re.search(rf"{name}_model.json is missing: .*FashionMNIST's", err)
    expected = ModelMetadata(**description)
    assert dataclasses.replace(metadata, classes=list(metadata.classes)) == expected


def test_without_metadata_sizes_come_from_the_weights_and_classes_are_numbered(described):
    path, network = described
    path.with_suffix(".json").unlink()
    expected = ModelMetadata(["class 0", "class 1", "class 2"], 28, 3, 5)
    assert read_metadata(path, network) == expected


@pytest.mark.parametrize(
    "change",
    [{"classes": ["cat"]}, {"image_size": 64}, {"channels": 1}, {"hidden_units": 10}],
    ids=lambda change: next(iter(change)),
)
def test_metadata_of_another_network_are_rejected(described, change):
    path, network = described
    path.with_suffix(".json").write_text(json.dumps(METADATA | change))
    with pytest.raises(program.UserError, match=r"_model\.json does not describe the network in"):
        read_metadata(path, network)


def test_metadata_without_a_dataset_are_read(described):
    path, network = described
    path.with_suffix(".json").write_text(
        json.dumps({k: v for k, v in METADATA.items() if k != "dataset"})
    )
    expected = ModelMetadata(**METADATA | {"dataset": ""})
    assert read_metadata(path, network) == expected


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[1, 2]", b"{}", b'{"dataset": 1}', b"\xff\xfe", b"null"),
        json.dumps(METADATA | {"classes": {"0": "cat", "1": "dog", "2": "cow"}}).encode(),
        json.dumps(METADATA | {"image_size": 0}).encode(),
        json.dumps(METADATA | {"white_value": 1, "black_value": 1}).encode(),
        json.dumps(METADATA | {"page": "red"}).encode(),
    ],
)
def test_invalid_metadata_are_rejected(described, content):
    path, network = described
    path.with_suffix(".json").write_bytes(content)
    with pytest.raises(program.UserError, match=r"_model\.json does not describe the network in"):
        read_metadata(path, network)


def test_a_description_that_an_editor_of_windows_saved_is_read(described):
    path, network = described
    content = path.with_suffix(".json").read_text()
    path.with_suffix(".json").write_text(content, encoding="utf-8-sig")
    assert read_metadata(path, network) == ModelMetadata(**METADATA)


def save_described(folder: Path, name: str, **description: object) -> Path:
    """Save a network as the program does, of which the description says this."""
    network = {"MLP": program.MLP, "CNN": program.TinyVGG, "ResNet": program.ResNet}[name](
        num_classes=len(description["classes"])
    )
    path = folder / f"{name}_model.pth"
    program.write_files(
        {
            path: program.serialize_network(network),
            path.with_suffix(".json"): program.encode_json(description),
        }
    )
    return path


@pytest.mark.parametrize(
    "content", ["{", '{"test_accuracy": 0.99', "[1]", '{"classes": []}', '{"test_accuracy": 84.6}']
)
def test_a_description_that_cannot_be_read_is_named_where_the_best_network_is_looked_for(
    tmp_path: Path, capsys, content: str
):
    best = save_described(tmp_path, "MLP", classes=["a", "b"], test_accuracy=0.5)
    broken = save_described(tmp_path, "CNN", classes=["a", "b"], test_accuracy=0.9)
    broken.with_suffix(".json").write_text(content)
    assert find_best_model([tmp_path]) == best
    err = capsys.readouterr().err
    assert is_one_line(err) and str(broken.with_suffix(".json")) in err


# ---- Earlier networks ----------------------------------------------------------------------------
NAMES = ["MLP_model.pth", "CNN_model.pth", "ResNet_model.pth"]


def set_aside_beside(
    folder: Path, network: nn.Module, class_names: tuple[str, ...], subfolder: str
) -> list[SetAside]:
    """Set aside what a run that has trained this network, on images of these classes, would."""
    images = torch.zeros(len(class_names), 1, 28, 28, dtype=torch.uint8)
    image_set = program.ImageSet(images, torch.arange(len(class_names)), class_names)
    dataset = program.Dataset(subfolder or "FashionMNIST", image_set, image_set, subfolder)
    return set_aside_others(folder, make_result(network), dataset)


def test_networks_of_other_classes_and_the_one_that_is_replaced_are_kept(tmp_path: Path):
    same = save_described(tmp_path, "MLP", classes=["a", "b"], test_accuracy=0.99)
    replaced = save_described(tmp_path, "CNN", classes=["a", "b"], test_accuracy=0.1)
    other = save_described(tmp_path, "ResNet", classes=["a", "b", "c"], test_accuracy=0.1)
    before = {path: path.read_bytes() for path in (replaced, other)}
    cnn = program.TinyVGG(num_classes=2)
    others = set_aside_beside(tmp_path, cnn, ("a", "b"), "pets")
    assert [other.reason for other in others] == ["of an earlier run", "of other classes"]
    assert same.exists() and not replaced.exists() and not other.exists()
    assert not replaced.with_suffix(".json").exists()
    for path, kept in zip((replaced, other), [each.kept for each in others], strict=True):
        assert kept.read_bytes() == before[path]
        assert kept.with_suffix(".json").exists()
        assert kept.name not in NAMES
    assert set_aside_beside(tmp_path, cnn, ("a", "b"), "pets") == []
    for each in others:
        each.put_back()
    assert all(path.read_bytes() == content for path, content in before.items())
    assert replaced.with_suffix(".json").exists() and other.with_suffix(".json").exists()


@pytest.mark.parametrize(("subfolder", "count"), [("pets", 1), ("", 0)])
def test_the_same_network_and_one_of_fashion_mnist_may_be_replaced(
    tmp_path: Path, subfolder: str, count: int
):
    path = save_described(tmp_path, "CNN", classes=["a", "b"], test_accuracy=0.9)
    same = program.load_model(path)
    assert set_aside_beside(tmp_path, same, ("a", "b"), subfolder) == []
    other = program.TinyVGG(num_classes=2)
    assert len(set_aside_beside(tmp_path, other, ("a", "b"), subfolder)) == count
    assert len(set_aside_beside(tmp_path, other, ("a", "c"), "")) == 1 - count


DAMAGED = ["", "{", "[1]", "{}", '{"test_accuracy": "0.99"}', '{"test_accuracy": null}', None]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_network_whose_description_is_damaged_is_kept(tmp_path: Path, content: str | None):
    path = save_described(tmp_path, "CNN", classes=["a", "b"], test_accuracy=0.9)
    if content is None:
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_text(content)
    (other,) = set_aside_beside(tmp_path, program.TinyVGG(num_classes=2), ("a", "b"), "pets")
    assert other.reason == "of an earlier run"
    assert other.kept.exists() and not path.exists()


def test_several_files_kept_in_one_second_have_names_of_their_own(tmp_path: Path):
    for number in range(5):
        (tmp_path / "checkpoint.pth").write_text(str(number))
        set_aside(tmp_path / "checkpoint.pth")
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == list("01234")


def save_colors(folder: Path, names: str) -> None:
    """40 shades of each of the named colours."""
    colors = {"red": (150, 0, 0), "blue": (0, 0, 150), "green": (0, 150, 0)}
    for number in range(40):
        for name in names.split():
            shade = tuple(value and value + 2 * number for value in colors[name])
            save_image(folder / name / f"{number}.png", "RGB", (12, 12), shade)


FEW = ["--image-size", "12", "--no-plots", "--batch-size", "16", "--learning-rate", "0.01"]


def test_a_class_that_was_added_replaces_nothing(tmp_path: Path, monkeypatch, capsys):
    """One of two networks is trained again: --predict takes the new classes."""
    monkeypatch.chdir(tmp_path)
    save_colors(tmp_path / "data", "red blue")
    first = ["--networks", "mlp", "tinyvgg", "--epochs", "10"]
    assert program.main(["--images", "data", *FEW, *first]) == 0
    before = {path.name: path.read_bytes() for path in Path("models/data").glob("*.pth")}
    save_colors(tmp_path / "data", "green")
    assert program.main(["--images", "data", *FEW, "--networks", "tinyvgg", "--epochs", "4"]) == 0
    out = capsys.readouterr().out
    assert out.count("of other classes, is now models/data/") == 2
    kept = {path.name: path.read_bytes() for path in Path("models/data").glob("*_model-*.pth")}
    assert sorted(kept.values()) == sorted(before.values())
    model = ["--models-dir", "models/data", "--json"]
    assert program.main(["--predict", "data/green/0.png", *model]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "TinyVGG"


def test_folders_of_one_name_have_networks_and_figures_each(tmp_path: Path, monkeypatch, capsys):
    """As the folds of a cross-validation; again, they go where they were before."""
    monkeypatch.chdir(tmp_path)
    quick = [*FEW, "--networks", "tinyvgg", "--epochs", "2"]
    for fold in ("fold1", "fold2"):
        save_colors(tmp_path / fold / "data", "red blue")
    assert program.main(["--images", "fold1/data", *quick]) == 0
    first = Path("models/data/CNN_model.pth").read_bytes()
    for _ in range(2):
        capsys.readouterr()
        assert program.main(["--images", "fold2/data", *quick, "--seed", "7"]) == 0
        line = "models/data has networks of another folder: these go to fold2-data\n"
        assert capsys.readouterr().out.startswith(line)
    assert Path("models/data/CNN_model.pth").read_bytes() == first
    assert sorted(path.name for path in Path("assets").iterdir()) == ["data", "fold2-data"]
    assert (
        json.loads(Path("models/fold2-data/CNN_model.json").read_text())["dataset"] == "fold2-data"
    )
    assert choose_subfolder("fold1/../fold1/data", Path("models")) == "data"
    moved = Path(shutil.copytree(tmp_path, tmp_path.with_name("moved")))
    assert choose_subfolder(moved / "fold1/data", moved / "models") == "data"
    assert choose_subfolder(moved / "fold2/data", moved / "models") == "fold2-data"


@pytest.mark.parametrize("content", ["{", "[1]", "{}", '{"classes": ["a"]}'])
def test_networks_that_do_not_say_their_folder_are_of_this_one(tmp_path: Path, content: str):
    (tmp_path / "models/data").mkdir(parents=True)
    (tmp_path / "models/data/CNN_model.json").write_text(content)
    assert choose_subfolder(tmp_path / "data", tmp_path / "models") == "data"


# ---- Predict ------------------------------------------------------------------------------------
@pytest.fixture
def garments(tmp_path: Path, fashion_mnist) -> list[str]:
    """An ankle boot as it is in the dataset, and a pullover as a photograph on white."""
    boot, pullover = (Image.fromarray(image[0].numpy()) for image in fashion_mnist[1].images[:2])
    boot.save(tmp_path / "boot.png")
    photograph = Image.new("RGB", (300, 400), "white")
    photograph.paste(
        ImageOps.invert(pullover).convert("RGB").resize((240, 240), Image.Resampling.BICUBIC),
        (40, 130),
    )
    photograph.save(tmp_path / "photograph.jpg")
    return [str(tmp_path / name) for name in ("boot.png", "photograph.jpg")]


@pytest.mark.parametrize(
    "accuracies, expected",
    [
        ({"CNN": 0.9054, "ResNet": 0.5355}, "TinyVGG"),
        ({"CNN": 0.9054, "ResNet": 0.9451, "MLP": 0.846}, "ResNet"),
        ({"CNN": 0.3, "MLP": 0.846}, "MLP"),
        ({"CNN": 0.3, "ResNet": None}, "TinyVGG"),
        ({"ResNet": None}, "ResNet"),
    ],
)
def test_the_network_of_the_highest_accuracy_predicts(
    tmp_path, monkeypatch, garments, capsys, accuracies, expected
):
    kinds = {"MLP": program.MLP, "CNN": program.TinyVGG, "ResNet": program.ResNet}
    for name, accuracy in accuracies.items():
        network = kinds[name]()
        path = tmp_path / "models" / network.model_file
        program.write_files({path: program.serialize_network(network)})
        if accuracy is not None:
            metadata = ModelMetadata(
                list("abcdefghij"), 28, 1, network.default_hidden_units, "FashionMNIST", accuracy
            )
            path.with_suffix(".json").write_bytes(program.encode_json(vars(metadata)))
    monkeypatch.chdir(tmp_path)
    assert program.main(["--predict", garments[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == expected


def test_predictions_name_the_runner_up_and_the_preparation(garments, capsys):
    assert program.main(["--predict", *garments, "--model", str(MODEL)]) == 0
    boot, pullover = capsys.readouterr().out.splitlines()
    assert boot.startswith(f"{garments[0]}: Ankle boot ") and boot.endswith("(TinyVGG, as it is)")
    assert pullover.startswith(f"{garments[1]}: Pullover ") and "then" in pullover
    assert pullover.endswith("(TinyVGG, prepared like FashionMNIST's images)")


def test_predictions_in_json_agree_with_the_network(garments, fashion_mnist, capsys):
    assert program.main(["--predict", garments[0], "--model", str(MODEL), "--json"]) == 0
    prediction = json.loads(capsys.readouterr().out)
    probabilities = program.predict_logits(
        program.load_model(MODEL), fashion_mnist[1].images[:1]
    ).softmax(dim=1)[0]
    names = fashion_mnist[1].class_names
    first, second = probabilities.topk(2).indices.tolist()
    assert (prediction["image"], prediction["class"], prediction["runner_up"]) == (
        garments[0],
        names[first],
        names[second],
    )
    assert prediction["probability"] == pytest.approx(probabilities[first].item())
    assert prediction["runner_up_probability"] == pytest.approx(probabilities[second].item())


@pytest.mark.parametrize(
    ("options", "averages"),
    [(["--augment"], True), (["--augment", "--no-mirror"], False), ([], False)],
)
def test_a_resnet_that_trained_on_mirrored_images_answers_for_both_alike(
    in_tmp: Path, garments, capsys, options: list[str], averages: bool
):
    train = ["--networks", "resnet", "--hidden-units", "2", "--epochs", "1", "--no-plots"]
    assert program.main([*train, *options]) == 0
    mirrored = Path(garments[0]).with_name("mirrored.png")
    ImageOps.mirror(Image.open(garments[0])).save(mirrored)
    capsys.readouterr()
    model = ["--model", "models/ResNet_model.pth", "--json"]
    assert program.main(["--predict", garments[0], str(mirrored), *model]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    first, second = (line["probability"] for line in lines)
    assert (abs(first - second) < 1e-6) == averages
    assert (program.load_model(model[1]).mirror_averaging is not None) == averages


def test_an_unreadable_image_is_reported_and_the_others_are_predicted(
    garments, tmp_path: Path, capsys
):
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty").mkdir()
    unreadable = [str(tmp_path / name) for name in ("notes.txt", "none.png", "empty")]
    paths = [unreadable[0], garments[0], *unreadable[1:], garments[1]]
    assert program.main(["--predict", *paths, "--model", str(MODEL), "--json"]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["image"] for line in out.splitlines()] == garments
    lines = err.splitlines()
    assert all(
        f" {path} cannot be read" in line for path, line in zip(unreadable, lines, strict=True)
    )


def test_a_copied_model_without_its_metadata_predicts_as_with_it(garments, tmp_path, capsys):
    alone = tmp_path / "alone.pth"
    alone.write_bytes(MODEL.read_bytes())
    assert program.main(["--predict", *garments, "--model", str(MODEL)]) == 0
    expected, _ = capsys.readouterr()
    assert program.main(["--predict", *garments, "--model", str(alone)]) == 0
    out, err = capsys.readouterr()
    assert out == expected
    assert is_one_line(err) and "alone.json is missing" in err and "FashionMNIST's" in err


def test_without_metadata_the_classes_of_other_networks_are_numbered(garments, tmp_path, capsys):
    path = tmp_path / "pets.pth"
    path.write_bytes(program.serialize_network(program.TinyVGG(num_classes=3)))
    assert program.main(["--predict", garments[0], "--model", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["class"] in ("class 0", "class 1", "class 2")


@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (1, 0), (2, 10), (4, 10)])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_model_that_cannot_classify_images_is_rejected(
    garments, tmp_path, capsys, channels: int, classes: int
):
    path = tmp_path / "odd.pth"
    path.write_bytes(program.serialize_network(program.TinyVGG(channels, 5, classes)))
    assert program.main(["--predict", garments[0], "--model", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and f"{classes} classes, {channels} channels" in err.splitlines()[-1]


def test_a_missing_model_is_reported_in_one_line(garments, capsys):
    assert program.main(["--predict", garments[0], "--model", "models/pets/CNN_model.pth"]) == 1
    err = capsys.readouterr().err
    assert (
        is_one_line(err) and "models/pets/CNN_model.pth cannot be read" in err and "--images" in err
    )


def test_a_path_that_cannot_be_one_does_not_end_the_others(garments, capsys):
    paths = ["x" * 300 + ".jpg", garments[0]]
    assert program.main(["--predict", *paths, "--model", str(MODEL), "--json"]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["image"] for line in out.splitlines()] == garments[:1]
    assert is_one_line(err) and "too long" in err
