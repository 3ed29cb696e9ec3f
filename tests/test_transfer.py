"""Transfer learning: EfficientNet-Lite0, frozen, and a last layer trained on its features."""

import copy
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import fashion_mnist_cnn as program
from conftest import REPOSITORY, is_one_line, save_image, save_lamps, to_bytes
from fashion_mnist_extras import image_folders, transfer
from fashion_mnist_extras.image_files import Tones, read_square
from fashion_mnist_extras.transfer import EfficientNet

LAMPS = ["--images", "lamps"]
TRAINED = [*LAMPS, "--networks", "efficientnet", "--image-size", "96", "--no-plots"]
MODEL = "models/lamps/EfficientNet_model.pth"
PHOTOGRAPH = REPOSITORY / "assets/test_image_as_photograph.jpg"


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program runs in a folder of 40 photographs of lamps, each of 130 x 100 pixels."""
    save_lamps(tmp_path / "lamps", 40, size=(130, 100))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def network() -> EfficientNet:
    torch.manual_seed(0)
    return EfficientNet(num_classes=3, mirror_averaging=True).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))


# ---- The network ---------------------------------------------------------------------------------
def test_a_stride_of_two_pads_as_tensorflow_does():
    """At the left and above one less than at the right and below."""
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 0, 0] = 1
    for kernel in (3, 5):
        convolution = transfer.build_convolution(1, 1, kernel, stride=2, activation=None)
        (layer,) = (each for each in convolution.modules() if isinstance(each, nn.Conv2d))
        weights = torch.arange(kernel**2).view(1, 1, kernel, kernel) / kernel**2
        layer.weight.data = weights
        nn.init.zeros_(layer.bias)
        before = (kernel - 2) // 2
        assert convolution(image).shape == (1, 1, 4, 4)
        assert convolution(image)[0, 0, 0, 0] == weights[0, 0, before, before]


def test_the_input_is_normalized_as_in_the_training_on_imagenet(network, images, monkeypatch):
    seen = []
    hook = network.features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network.compute_features(images)
    hook.remove()
    torch.testing.assert_close(seen[0], (255 * images - 127) / 128)


def test_logits_of_images_are_those_of_their_features(network, images):
    with torch.inference_mode():
        features = network.compute_features(images)
        mirrored = network.compute_features(images.flip(3))
        assert features.shape == (3, 1280, 1, 1)
        assert not features.allclose(mirrored)
        torch.testing.assert_close(network(images), network((features + mirrored) / 2))


def test_grey_images_are_taken_as_colourless_ones(network, images):
    grey = images[:, :1]
    with torch.inference_mode():
        torch.testing.assert_close(network(grey), network(grey.repeat(1, 3, 1, 1)))


def test_only_the_classifier_is_trained_and_saved(images):
    network = EfficientNet(num_classes=2)
    frozen = {name: weights.clone() for name, weights in network.features.state_dict().items()}
    features = torch.rand(8, 1280, 1, 1)
    train_set = program.ImageSet(features, torch.arange(8) % 2, ("a", "b"))
    before = network.classifier.weight.clone()
    for optimizer in program.OPTIMIZERS:
        program.train(
            network,
            train_set,
            train_set,
            epochs=2,
            batch_size=4,
            learning_rate=0.01,
            seed=0,
            optimizer_name=optimizer,
        )
    assert not network.classifier.weight.equal(before)
    for name, weights in network.features.state_dict().items():
        assert weights.equal(frozen[name])
    assert network.state_dict().keys() == {
        "classifier.weight",
        "classifier.bias",
        "_extra_state",
    }
    assert len(program.serialize_network(network)) < 20_000


def test_what_is_saved_is_loaded_whole(network, images, tmp_path: Path):
    path = tmp_path / network.model_file
    path.write_bytes(program.serialize_network(network))
    with pytest.warns(UserWarning, match="images of 3 x 224 x 224"):
        loaded = program.load_model(path)
    assert isinstance(loaded, EfficientNet) and not loaded.training
    with torch.inference_mode():
        assert loaded(images).equal(network(images))


def test_what_is_frozen_is_left_out_and_filled_in_within_other_modules_too(network, images):
    outer = nn.Sequential(network, nn.Softmax(dim=1)).eval()
    state = outer.state_dict()
    assert not any("features" in name for name in state)
    again = nn.Sequential(EfficientNet(num_classes=3, mirror_averaging=True), nn.Softmax(dim=1))
    missing, unexpected = again.load_state_dict(state)
    assert missing == unexpected == []
    with torch.inference_mode():
        assert again.eval()(images).equal(outer(images))


@pytest.mark.parametrize("is_frozen_again", [False, True])
def test_layers_that_someone_trains_on_are_saved(images, tmp_path: Path, is_frozen_again: bool):
    network = EfficientNet(num_classes=3).eval()
    before = copy.deepcopy(network.state_dict())
    with torch.inference_mode():
        original = network(images)
    network.features[-2].requires_grad_(not is_frozen_again)
    with torch.no_grad():
        network.features[-2][0].bias += 1
        expected = network(images)
    path = tmp_path / network.model_file
    path.write_bytes(program.serialize_network(network))
    with pytest.warns(UserWarning), torch.inference_mode():
        assert program.load_model(path)(images).equal(expected)
    network.load_state_dict(before)
    with torch.inference_mode():
        assert network(images).equal(original), "what was not saved is as it was"


def test_half_precision_and_bytes_give_the_same_answer(network, images):
    again = EfficientNet(num_classes=3, mirror_averaging=True).eval()
    again.load_state_dict(copy.deepcopy(network).half().float().state_dict())
    pixels = (255 * images).byte()
    with torch.inference_mode():
        torch.testing.assert_close(again(images), network(images), atol=1e-2, rtol=0)
        assert network(pixels).equal(network(program.to_float(pixels)))


def test_it_is_exported_whole(network, images):
    dynamic = {"images": {0: torch.export.Dim("n", min=1, max=64)}}
    exported = torch.export.export(network, (images,), dynamic_shapes=dynamic)
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    module = torch.export.load(buffer).module()
    with torch.inference_mode():
        torch.testing.assert_close(module(images[:2]), network(images[:2]), atol=1e-5, rtol=0)


# ---- The weights beside the module ---------------------------------------------------------------
def other_weights(path: Path) -> None:
    weights = torch.load(transfer.PRETRAINED, weights_only=True)
    first = next(iter(weights))
    weights[first] = weights[first] + 1
    path.write_bytes(to_bytes(weights))


def other_layers(path: Path) -> None:
    weights = torch.load(transfer.PRETRAINED, weights_only=True)
    del weights[next(iter(weights))]
    path.write_bytes(to_bytes(weights))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "cannot be read: No such file"),
    "a pointer of Git LFS": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
        "no intact zip file",
    ),
    "truncated": (
        lambda path: path.write_bytes(transfer.PRETRAINED.read_bytes()[:-1000]),
        "no intact zip file",
    ),
    "something else": (lambda path: path.write_bytes(to_bytes([1, 2])), "no state dict"),
    "of other layers": (other_layers, "no state dict"),
    "other weights": (other_weights, "trained with other weights"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_other_weights_are_one_line_and_never_a_wrong_answer(
    network, tmp_path: Path, monkeypatch, capsys, kind: str
):
    path = tmp_path / network.model_file
    path.write_bytes(program.serialize_network(network))
    spoil, message = BROKEN[kind]
    pretrained = tmp_path / "efficientnet_lite0.pth"
    spoil(pretrained)
    monkeypatch.setattr(transfer, "PRETRAINED", pretrained)
    assert program.main(["--predict", str(PHOTOGRAPH), "--model", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err) and message in err and str(pretrained) in err


def test_without_the_folder_the_file_is_named_for_what_it_lacks(network, tmp_path, monkeypatch):
    path = tmp_path / network.model_file
    path.write_bytes(program.serialize_network(network))
    monkeypatch.delitem(program.NETWORKS, "efficientnet")
    monkeypatch.setattr(program, "find_extras", lambda: None)
    with pytest.raises(program.UserError, match="need the folder fashion_mnist_extras"):
        program.load_model(path)


# ---- When it is chosen ---------------------------------------------------------------------------
def list_lamps(folder: Path) -> image_folders.ImageFiles:
    return image_folders.list_files(folder, seed=0)


def test_photographs_are_in_colour_and_not_small(tmp_path: Path):
    save_lamps(tmp_path / "large", 10, size=(130, 100))
    save_lamps(tmp_path / "small", 10, size=(130, 99))
    for number in range(6):
        for name in ("a", "b"):
            save_image(tmp_path / "grey" / name / f"{number}.png", "RGB", (200, 200), 3 * (9,))
            save_image(tmp_path / "mixed" / name / f"{number}.png", "RGB", (200, 200), 3 * (9,))
    save_lamps(tmp_path / "mixed", 16, size=(130, 100))
    chosen = {path.name for path in tmp_path.iterdir() if list_lamps(path).are_photographs()}
    assert chosen == {"large", "mixed"}


@pytest.mark.parametrize(
    ("options", "networks", "line"),
    [
        ([], ("efficientnet",), "photographs in colour: efficientnet"),
        (["--no-mirror", "--seed", "3"], ("efficientnet",), "photographs in colour"),
        (["--networks", "mlp"], ("mlp",), ""),
        (["--epochs", "3"], ("tinyvgg", "resnet"), "--epochs: tinyvgg and resnet are"),
        (["--no-augment"], ("tinyvgg", "resnet"), "--no-augment: tinyvgg"),
        (["--augment"], ("tinyvgg", "resnet"), "--augment: tinyvgg"),
        (["--image-size", "16"], ("tinyvgg", "resnet"), "--image-size"),
        (["--hidden-units", "4"], ("tinyvgg", "resnet"), "--hidden-units"),
        (["--batch-size", "8"], ("tinyvgg", "resnet"), "--batch-size"),
        (["--learning-rate", "0.01"], ("tinyvgg", "resnet"), "--learning-rate"),
    ],
)
def test_it_is_chosen_where_no_flag_says_otherwise(
    in_folder: Path, monkeypatch, capsys, options, networks, line
):
    recipes = []

    def record(recipe: program.Recipe, *_: object) -> list[program.TrainedNetwork]:
        recipes.append(recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "compare_networks", record)
    assert program.main([*LAMPS, *options]) == 130
    assert recipes[0].networks == networks
    first_line = [*capsys.readouterr().out.splitlines(), ""][0]
    assert first_line.startswith(line)
    assert ("--networks" in first_line) == bool(line), "how to get the other is said"
    if networks == ("efficientnet",):
        assert recipes[0].is_mirrored == ("--no-mirror" not in options)


@pytest.mark.parametrize(
    "options",
    [
        ["--image-size", "100"],
        ["--image-size", "64"],
        ["--hidden-units", "8"],
        ["--augment"],
        ["--networks", "efficientnet", "resnet"],
        None,  # without --images
    ],
)
def test_flags_that_do_not_suit_it_are_refused(in_folder: Path, capsys, options):
    command = ["--networks", "efficientnet"]
    if options is not None:
        command += [*LAMPS, *options]
    with pytest.raises(SystemExit) as error:
        program.main(command)
    assert error.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err) and "efficientnet" in err


def test_torchrun_is_refused(in_folder: Path, monkeypatch, capsys):
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    with pytest.raises(SystemExit):
        program.main(TRAINED)
    assert "in one process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "options", "is_mirrored"),
    [
        ("lamps", [], True),
        ("lamps", ["--no-mirror"], False),
        ("lamps", ["--no-augment"], False),
        ("letters", [], False),
        ("letters", ["--mirror"], True),
    ],
)
def test_grey_images_are_not_averaged_with_their_mirror_images(
    in_folder: Path, monkeypatch, folder: str, options: list[str], is_mirrored: bool
):
    for number in range(4):
        for name in ("b", "d"):
            save_image(in_folder / "letters" / name / f"{number}.png", "L", (96, 96), 50 * number)

    def end(recipe: program.Recipe, *_: object) -> None:
        assert recipe.is_mirrored == is_mirrored
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "compare_networks", end)
    networks = ["--networks", "efficientnet", "--image-size", "96"]
    assert program.main(["--images", folder, *networks, *options]) == 130


# ---- A run ---------------------------------------------------------------------------------------
def test_photographs_are_learned_saved_and_predicted(in_folder: Path, capsys):
    (in_folder / "models/lamps").mkdir(parents=True)
    (in_folder / "models/lamps/CNN_model.pth").write_bytes(
        program.serialize_network(program.TinyVGG(3, 4, 2, 16))
    )
    for name in ("explorer.html", "feature_maps.png"):
        (in_folder / "assets/lamps").mkdir(parents=True, exist_ok=True)
        (in_folder / "assets/lamps" / name).write_text("earlier")
    assert program.main(LAMPS) == 0
    out, _ = capsys.readouterr()
    assert "still there from earlier runs: models/lamps/CNN_model.pth" in out
    assert "images of 3 x 224 x 224" in out
    report = json.loads((in_folder / "assets/lamps/results.json").read_text())
    (model,) = report["models"]
    assert model["name"] == "EfficientNet" and model["test_accuracy"] == 1
    assert report["evidence"] is None and report["dataset"]["image_shape"] == [3, 224, 224]
    first, *_, last = model["epochs"]
    seconds = float(out.partition("with their mirror images: ")[2].partition(" s")[0])
    assert first["training_seconds"] == pytest.approx(seconds, abs=0.06), "features are training"
    assert last["training_seconds"] > first["training_seconds"]
    names = {path.name for path in (in_folder / "assets/lamps").iterdir()}
    assert not names & {"explorer.html", "feature_maps.png", "shift_robustness.png"}
    page, _ = sorted(name for name in names if name.startswith(("explorer", "feature_maps")))
    assert page.startswith("explorer-")
    assert {"mistakes.png", "prediction_examples.png", "confusion_matrix.png"} <= names

    photographs = sorted(map(str, (in_folder / "lamps/red").iterdir()))[:4]
    assert program.main(["--predict", *photographs, "--model", MODEL, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    network = program.load_model(MODEL)
    for path, line in zip(photographs, lines, strict=True):
        image = program.to_float(read_square(path, "RGB", 224, Tones()))
        with torch.inference_mode():
            probabilities = network(image[None]).softmax(dim=1)[0]
        assert line["class"] == "red" and line["prepared"] == "resized to 224 x 224"
        assert line["probability"] == pytest.approx(probabilities.max().item(), abs=1e-6)


def test_what_is_kept_of_an_image_is_its_features_and_a_thumbnail(in_folder: Path):
    (in_folder / "lamps/red/broken.png").write_bytes(b"")
    files = list_lamps(in_folder / "lamps")
    dataset, seconds = transfer.load_features(files, 96, mirror=True, device="cpu")
    train_set, test_set = dataset.train_set, dataset.test_set
    trained, tested = len(train_set), len(test_set)
    assert (trained + tested, dataset.unreadable_files) == (40, 1) and seconds > 0
    assert train_set.images.shape == (trained, 1280, 1, 1)
    assert train_set.pictures.shape == (trained, 3, 16, 16)
    assert test_set.pictures.shape == (tested, 3, 64, 64)
    network = EfficientNet().eval()
    whole = image_folders.read_dataset(list_lamps(in_folder / "lamps"), 96)
    for features, images, average in (
        (train_set, whole.train_set, False),
        (test_set, whole.test_set, True),
    ):
        assert features.labels.equal(images.labels)
        with torch.inference_mode():
            pixels = program.to_float(images.images)
            expected = network.compute_features(pixels)
            if average:
                expected = (expected + network.compute_features(pixels.flip(3))) / 2
        torch.testing.assert_close(features.images, expected, atol=1e-4, rtol=0)


def test_copies_and_plain_images_are_warned_of(in_folder: Path, capsys):
    for name in ("red", "blue"):
        for path in sorted((in_folder / "lamps" / name).iterdir()):
            shutil.copy(path, path.with_name(f"copy-{path.name}"))
    for number in range(20):
        save_image(in_folder / f"lamps/white/{number}.png", "RGB", (120, 120), (255, 255, 255))
    transfer.load_features(list_lamps(in_folder / "lamps"), 96, mirror=True, device="cpu")
    err = capsys.readouterr().err
    assert "nearly the same as a training image" in err and "of one colour each" in err


def test_an_interrupted_training_goes_on_to_the_same_weights(in_folder: Path, monkeypatch):
    command = [*TRAINED, "--epochs", "6", "--runs", "2"]
    assert program.main(command) == 0
    whole = Path(MODEL).read_bytes()
    print_evaluation = program.report_evaluation

    def interrupt(callback, key, epochs, state) -> None:
        print_evaluation(callback, key, epochs, state)
        if state.history[-1].epoch == 3:
            raise KeyboardInterrupt

    Path(MODEL).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(program, "report_evaluation", interrupt)
        assert program.main(command) == 130
    assert program.main([*command, "--resume"]) == 0
    assert Path(MODEL).read_bytes() == whole


def test_the_committed_network_of_clothes_is_one(capsys):
    path = REPOSITORY / "models/clothing/EfficientNet_model.pth"
    network = program.load_model(path)
    assert isinstance(network, EfficientNet) and network.mirror_averaging is not None
    assert program.main(["--predict", str(PHOTOGRAPH), "--model", str(path)]) == 0
    assert "longsleeve" in capsys.readouterr().out
