import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
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
        assert f"--{name.replace('_', '-')} " in text and f"(default: {value})" in text


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
        "assets/prediction_examples.png",
        "assets/results.json",
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
    mlp, cnn = (model["test_accuracy"] for model in report["models"])
    assert mlp > 0.8 and cnn > 0.88 and cnn > mlp
    assert stock_correct(tmp_path / "models/CNN_model.pth") == round(cnn * 10_000)


def test_the_committed_model_is_the_one_of_the_committed_results():
    report = json.loads((REPOSITORY / "assets/results.json").read_text())
    cnn = next(model for model in report["models"] if model["name"] == "TinyVGG")
    assert report["settings"] == vars(program.Settings())
    assert cnn["test_accuracy"] >= 0.90
    assert stock_correct(REPOSITORY / "models/CNN_model.pth") == round(cnn["test_accuracy"] * 10_000)


@pytest.fixture
def few_images(fashion_mnist) -> list[program.ImageSet]:
    return [program.ImageSet(s.images[:3000], s.labels[:3000], s.class_names) for s in fashion_mnist]


def test_several_runs_take_a_seed_each_and_keep_the_first_cnn(few_images, capsys):
    settings = program.Settings(epochs=1, runs=2, seed=5)
    results, cnn, logits = program.compare(settings, torch.device("cpu"), *few_images)
    assert [(result.name, result.seed) for result in results] == [
        ("MLP", 5),
        ("TinyVGG", 5),
        ("MLP", 6),
        ("TinyVGG", 6),
    ]
    assert program.evaluate(cnn, few_images[1]).accuracy == results[1].test_accuracy != results[3].test_accuracy

    assert torch.equal(logits, program.predict_logits(cnn, few_images[1].images))

    alone, _, _ = program.compare(program.Settings(epochs=1, seed=6), torch.device("cpu"), *few_images)
    assert [result.confusion_matrix for result in alone] == [result.confusion_matrix for result in results[2:]]


def made_up_result(name: str, accuracy: float) -> program.Result:
    return program.Result(name, "Adam", 0, 7960, accuracy, 0.5, 2.0, [], [])


def test_the_table_of_several_runs_says_how_far_they_lie_apart(capsys):
    program.print_table([made_up_result("MLP", accuracy) for accuracy in (0.80, 0.82, 0.84)])
    header, row = capsys.readouterr().out.strip().splitlines()
    assert header.split()[-5:] == ["accuracy:", "sd", "min", "max", "runs"]
    assert row.split() == ["MLP", "7,960", "82.00%", "0.5000", "2.0", "s", "2.00%", "80.00%", "84.00%", "3"]


def test_the_table_of_one_run_is_plain(capsys):
    program.print_table([made_up_result("MLP", 0.8), made_up_result("TinyVGG", 0.9)])
    header, *rows = capsys.readouterr().out.strip().splitlines()
    assert "sd" not in header and [len(row.split()) for row in rows] == [6, 6]


def test_a_model_no_better_than_chance_is_told(fashion_mnist):
    # Guessing gets 10 %, and with 10,000 images one guess in a thousand gets more than 10.9 %.
    program.check_better_than_chance(made_up_result("MLP", 0.11), fashion_mnist[1], 0.01)
    for accuracy in (0.0, 0.1, 0.108):
        with pytest.raises(program.UserError, match=r"MLP with seed 0 learned nothing.*chance"):
            program.check_better_than_chance(made_up_result("MLP", accuracy), fashion_mnist[1], 0.01)
