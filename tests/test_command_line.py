import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from torch import nn
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

import fashion_mnist_cnn as program
from conftest import REPOSITORY

SCRIPT = [sys.executable, str(REPOSITORY / "fashion_mnist_cnn.py")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "0"],
        ["--epochs", "2.5"],
        ["--epochs", "many"],
        ["--batch-size", "-1"],
        ["--batch-size", "60001"],
        ["--learning-rate", "nan"],
        ["--learning-rate", "inf"],
        ["--learning-rate", "0"],
        ["--learning-rate", "-0.1"],
        ["--hidden-units", "0"],
        ["--hidden-units", "1e9"],
        ["--seed", "-1"],
        ["--seed", "9" * 5000],
        ["--device", "tpu"],
        ["--device", "mps" if not torch.backends.mps.is_available() else "cuda"],
        ["--epochs"],
        ["--unknown"],
        ["--epoch", "3"],
        ["--optimizer", "rmsprop"],
        ["--optimizer", "adam", "adam"],
        ["--image-size", "3"],
        ["--image-size", "64"],
        ["--images", ""],
        ["--predict"],
        ["--json"],
        ["--model", "a.pth"],
        ["--epochs", "3", "--predict", "a.png"],
    ],
    ids=lambda arguments: " ".join(arguments)[:30],
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        program.main(arguments)
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == ""
    assert err.count("\n") == 1 and arguments[0] in err and len(err) < 6000


def test_help_shows_each_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        program.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    for name, value in vars(program.Settings()).items():
        assert f"--{name.replace('_', '-')} " in text and f"(default: {program.show_setting(value)})" in text


def test_the_defaults_are_the_documented_ones():
    settings = program.parse_args([])
    assert (settings.epochs, settings.seed, settings.hidden_units, settings.device) == (3, 42, 10, "auto")


@pytest.mark.parametrize("option", ["--models-dir", "--assets-dir", "--data-dir"])
def test_a_file_in_the_place_of_a_folder_is_refused_before_any_work(option, tmp_path: Path, capsys):
    (tmp_path / "file").write_text("mine")
    folders = {"--models-dir": tmp_path / "m", "--assets-dir": tmp_path / "a", option: tmp_path / "file"}
    assert program.main([str(word) for pair in folders.items() for word in pair]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and str(tmp_path / "file") in err
    assert (tmp_path / "file").read_text() == "mine"


def test_importing_the_script_does_nothing(tmp_path: Path):
    code = (
        "import torch; state = torch.get_rng_state(); import fashion_mnist_cnn, sys;"
        "assert torch.equal(state, torch.get_rng_state());"
        "print([name for name in ('matplotlib', 'torchmetrics', 'mlxtend') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")
    assert list(tmp_path.iterdir()) == []


class RetypedTinyVGG(nn.Module):
    """The network as the tutorials write it, by hand and with nothing of this program."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_block_1 = nn.Sequential(
            nn.Conv2d(1, 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 10, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.conv_block_2 = nn.Sequential(
            nn.Conv2d(10, 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 10, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(490, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.conv_block_2(self.conv_block_1(x)))


def stock_correct(model_path: Path) -> int:
    """Count the right answers of a saved model with stock torchvision, one loader, no code of ours."""
    model = RetypedTinyVGG().eval()
    model.load_state_dict(torch.load(model_path, weights_only=True))
    loader = torch.utils.data.DataLoader(FashionMNIST(REPOSITORY / "data_1", train=False, transform=ToTensor()), 500)
    with torch.inference_mode():
        return sum((model(images).argmax(dim=1) == labels).sum().item() for images, labels in loader)


def test_one_epoch_from_end_to_end(tmp_path: Path):
    arguments = ["--epochs", "1", "--data-dir", str(REPOSITORY / "data_1")]
    result = subprocess.run([*SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert written == [
        "assets/accuracy_model_graph.png",
        "assets/confusion_matrix.png",
        "assets/feature_maps.png",
        "assets/learning_curves.png",
        "assets/mistakes.png",
        "assets/prediction_examples.png",
        "assets/results.json",
        "assets/shift_robustness.png",
        "models/CNN_model.json",
        "models/CNN_model.pth",
    ]
    report = json.loads((tmp_path / "assets/results.json").read_text())
    assert report["settings"]["epochs"] == 1 and report["dataset"]["image_shape"] == [1, 28, 28]
    for model, parameters in zip(report["models"], (7960, 7740), strict=True):
        diagonal = sum(model["confusion_matrix"][i][i] for i in range(10))
        assert model["test_accuracy"] == diagonal / 10_000 == model["epochs"][-1]["test_accuracy"]
        assert model["parameters"] == parameters and len(model["epochs"]) == 1
        assert math.isclose(model["training_seconds"], sum(epoch["seconds"] for epoch in model["epochs"]))
        assert f"{model['test_accuracy']:.2%}" in result.stdout
        assert [round(1000 * recall) for recall in model["recall"]] == [
            model["confusion_matrix"][i][i] for i in range(10)
        ]
        points = model["epochs"][0]["points"]
        assert len(points) == 20 and points[-1]["epoch"] == 1 and points[0]["train_loss"] > points[-1]["train_loss"]
    assert [model["multiply_adds"] for model in report["models"]] == [784 * 10 + 10 * 10, 1_133_860]
    assert {len(accuracies) for accuracies in report["evidence"]["shift_accuracy"].values()} == {7}
    mlp, cnn = (model["test_accuracy"] for model in report["models"])
    assert mlp > 0.8 and cnn > 0.88 and cnn > mlp
    assert stock_correct(tmp_path / "models/CNN_model.pth") == round(cnn * 10_000)


def test_the_committed_model_is_the_one_of_the_committed_results():
    report = json.loads((REPOSITORY / "assets/results.json").read_text())
    cnn = next(model for model in report["models"] if model["name"] == "TinyVGG")
    defaults = {k: v for k, v in vars(program.Settings()).items() if k not in program.FOR_PREDICTING}
    assert report["settings"] == defaults | {"optimizer": list(defaults["optimizer"])}
    assert cnn["test_accuracy"] >= 0.90
    assert stock_correct(REPOSITORY / "models/CNN_model.pth") == round(cnn["test_accuracy"] * 10_000)


@pytest.fixture
def few_images(fashion_mnist) -> list[program.ImageSet]:
    return [program.ImageSet(s.images[:3000], s.labels[:3000], s.class_names) for s in fashion_mnist]


def test_several_runs_take_a_seed_each_and_keep_the_first_cnn(few_images, capsys):
    settings = program.Settings(epochs=1, runs=2, seed=5)
    results, (mlp, cnn), logits = program.compare(settings, torch.device("cpu"), *few_images)
    assert [(result.name, result.seed) for result in results] == [
        ("MLP", 5),
        ("TinyVGG", 5),
        ("MLP", 6),
        ("TinyVGG", 6),
    ]
    assert program.evaluate(cnn, few_images[1]).accuracy == results[1].test_accuracy != results[3].test_accuracy
    assert program.evaluate(mlp, few_images[1]).accuracy == results[0].test_accuracy
    assert torch.equal(logits, program.predict_logits(cnn, few_images[1].images))

    alone, _, _ = program.compare(program.Settings(epochs=1, seed=6), torch.device("cpu"), *few_images)
    assert [result.confusion_matrix for result in alone] == [result.confusion_matrix for result in results[2:]]


def test_several_optimizers_take_turns_and_the_cnn_of_the_first_is_kept(few_images, capsys):
    settings = program.Settings(epochs=1, optimizer=("sgd", "adam"), seed=5)
    results, (_, cnn), _ = program.compare(settings, torch.device("cpu"), *few_images)
    assert [(result.name, result.optimizer, result.learning_rate) for result in results] == [
        ("MLP", "SGD", 0.06),
        ("TinyVGG", "SGD", 0.06),
        ("MLP", "Adam", 0.02),
        ("TinyVGG", "Adam", 0.02),
    ]
    assert program.evaluate(cnn, few_images[1]).accuracy == results[1].test_accuracy != results[3].test_accuracy
    assert "TinyVGG: 7,740 parameters, SGD, seed 5" in capsys.readouterr().out


def test_a_learning_rate_that_is_given_holds_for_every_optimizer(few_images):
    settings = program.Settings(epochs=1, optimizer=("sgd", "adam"), learning_rate=0.01)
    results, _, _ = program.compare(settings, torch.device("cpu"), *few_images)
    assert {result.learning_rate for result in results} == {0.01}


def made_up_result(name: str, accuracy: float, optimizer: str = "Adam") -> program.Result:
    return program.Result(name, optimizer, 0.02, 0, 7960, 7940, accuracy, 0.5, 2.0, [], [], [], [])


def test_the_table_of_several_runs_says_how_far_they_lie_apart(capsys):
    program.print_table([made_up_result("MLP", accuracy) for accuracy in (0.80, 0.82, 0.84)])
    header, row = capsys.readouterr().out.strip().splitlines()
    assert header.split()[-5:] == ["accuracy:", "sd", "min", "max", "runs"]
    assert row.split() == ["MLP", "7,960", "82.00%", "0.5000", "2.0", "s", "2.00%", "80.00%", "84.00%", "3"]


def test_the_table_of_one_run_is_plain(capsys):
    program.print_table([made_up_result("MLP", 0.8), made_up_result("TinyVGG", 0.9)])
    header, *rows = capsys.readouterr().out.strip().splitlines()
    assert "sd" not in header and [len(row.split()) for row in rows] == [6, 6]


def test_the_table_of_several_optimizers_names_them(capsys):
    program.print_table([made_up_result("MLP", 0.8, optimizer) for optimizer in ("Adam", "SGD")])
    header, *rows = capsys.readouterr().out.strip().splitlines()
    assert header.split()[:2] == ["model", "optimizer"] and [row.split()[1] for row in rows] == ["Adam", "SGD"]


def test_a_handful_of_test_images_does_not_condemn_a_good_model():
    ten = program.ImageSet(torch.zeros(10, 1, 28, 28), torch.tensor([0, 1] * 5), ("a", "b"))
    program.check_better_than_chance(made_up_result("MLP", 0.8), ten)
    with pytest.raises(program.UserError, match="learned nothing"):
        program.check_better_than_chance(made_up_result("MLP", 0.5), ten)


def test_a_model_no_better_than_chance_is_told(fashion_mnist):
    # Guessing gets 10 %, and with 10,000 images one guess in a thousand gets more than 10.9 %.
    program.check_better_than_chance(made_up_result("MLP", 0.11), fashion_mnist[1])
    for accuracy in (0.0, 0.1, 0.108):
        with pytest.raises(program.UserError, match=r"MLP with seed 0 learned nothing.*chance"):
            program.check_better_than_chance(made_up_result("MLP", accuracy), fashion_mnist[1])


MODEL = str(REPOSITORY / "models/CNN_model.pth")


@pytest.fixture
def garments(tmp_path: Path, fashion_mnist) -> list[str]:
    """An ankle boot and a pullover: the first as it is in the dataset, the second as a photograph on white."""
    boot, pullover = (Image.fromarray(image[0].numpy()) for image in fashion_mnist[1].images[:2])
    boot.save(tmp_path / "boot.png")
    photograph = Image.new("RGB", (300, 400), "white")
    photograph.paste(ImageOps.invert(pullover).convert("RGB").resize((240, 240), Image.Resampling.BICUBIC), (40, 130))
    photograph.save(tmp_path / "photograph.jpg")
    return [str(tmp_path / name) for name in ("boot.png", "photograph.jpg")]


def test_pictures_are_named_with_their_runner_up_and_how_they_were_prepared(garments, capsys):
    assert program.main(["--predict", *garments, "--model", MODEL]) == 0
    header, boot, pullover = capsys.readouterr().out.splitlines()
    assert header.split() == ["picture", "class", "probability", "runner-up", "probability", "prepared"]
    assert boot.startswith(garments[0]) and "Ankle boot" in boot and boot.endswith("taken as it is")
    assert pullover.startswith(garments[1]) and "Pullover" in pullover and pullover.endswith("FashionMNIST were")


def test_answers_in_json_agree_with_the_model(garments, fashion_mnist, capsys):
    assert program.main(["--predict", garments[0], "--model", MODEL, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    probabilities = program.predict_logits(program.load_model(MODEL), fashion_mnist[1].images[:1]).softmax(dim=1)[0]
    names = fashion_mnist[1].class_names
    first, second = probabilities.topk(2).indices.tolist()
    assert (answer["picture"], answer["class"], answer["runner_up"]) == (garments[0], names[first], names[second])
    assert answer["probability"] == pytest.approx(probabilities[first].item())
    assert answer["runner_up_probability"] == pytest.approx(probabilities[second].item())


def test_a_bad_picture_is_told_and_the_others_answered(garments, tmp_path: Path, capsys):
    (tmp_path / "notes.txt").write_text("no picture")
    pictures = [str(tmp_path / "notes.txt"), garments[0], str(tmp_path / "none.png"), str(tmp_path), garments[1]]
    assert program.main(["--predict", *pictures, "--model", MODEL, "--json"]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["picture"] for line in out.splitlines()] == garments
    bad = pictures[0], pictures[2], pictures[3]
    assert all(f" {name} is no picture" in line for name, line in zip(bad, err.splitlines(), strict=True))


def test_a_model_without_a_description_numbers_its_classes(garments, tmp_path: Path, capsys):
    (tmp_path / "alone.pth").write_bytes(Path(MODEL).read_bytes())
    assert program.main(["--predict", garments[0], "--model", str(tmp_path / "alone.pth"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["class"] == "class 9"


def test_without_plots_the_model_is_the_same_and_no_picture_is_drawn(tmp_path: Path, few_images, monkeypatch):
    monkeypatch.setattr(program, "load_fashion_mnist", lambda root: few_images)
    for name, more in (("plain", []), ("with", ["--no-plots"])):
        folders = ["--models-dir", str(tmp_path / name / "models"), "--assets-dir", str(tmp_path / name / "assets")]
        assert program.main(["--epochs", "1", *folders, *more]) == 0
    assert [path.name for path in (tmp_path / "with/assets").iterdir()] == ["results.json"]
    assert len(list((tmp_path / "plain/assets").iterdir())) == 8
    plain, without = ((tmp_path / name / "models/CNN_model.pth").read_bytes() for name in ("plain", "with"))
    assert plain == without


def test_own_pictures_from_end_to_end(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number in range(60):
        (tmp_path / "lamps" / "red").mkdir(parents=True, exist_ok=True)
        (tmp_path / "lamps" / "blue").mkdir(exist_ok=True)
        color = [(150 + number, 0, 0), (0, 0, 150 + number)][number % 2]
        Image.new("RGB", (40, 30), color).save(f"lamps/{['red', 'blue'][number % 2]}/{number}.png")
    arguments = ["--images", "lamps", "--image-size", "12", "--epochs", "10", "--batch-size", "8", "--augment"]
    assert program.main([*arguments, "--optimizer", "sgd"]) == 0
    card = json.loads(Path("models/lamps/CNN_model.json").read_text())
    assert card == {
        "dataset": "lamps",
        "classes": ["blue", "red"],
        "image_size": 12,
        "channels": 3,
        "hidden_units": 10,
        "test_accuracy": 1.0,
    }
    assert {path.name for path in Path("models").iterdir()} | {path.name for path in Path("assets").iterdir()} == {
        "lamps"
    }
    report = json.loads(Path("assets/lamps/results.json").read_text())
    assert report["dataset"]["name"] == "lamps" and report["settings"]["augment"] is True
    capsys.readouterr()
    model = ["--model", "models/lamps/CNN_model.pth", "--json"]
    assert program.main(["--predict", "lamps/red/0.png", "lamps/blue/1.png", *model]) == 0
    assert [json.loads(line)["class"] for line in capsys.readouterr().out.splitlines()] == ["red", "blue"]


@pytest.mark.parametrize("folder", ["nowhere", "/", "file"])
def test_a_folder_of_pictures_that_is_none_is_told_before_anything_is_made(tmp_path, monkeypatch, capsys, folder):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    assert program.main(["--images", folder]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"fashion_mnist_cnn.py: --images: {folder} is no folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
