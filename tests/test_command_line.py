import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

import fashion_mnist_cnn as program
from conftest import MODEL, REPOSITORY, is_one_line, make_result, save_lamps
from fashion_mnist_extras import analysis, command_line, explorer
from fashion_mnist_extras.augmentation import Augmentation
from fashion_mnist_extras.prediction import identify_folder

FIGURES = (
    "accuracy_model_graph.png",
    "confusion_matrix.png",
    "feature_maps.png",
    "learning_curves.png",
    "mistakes.png",
    "prediction_examples.png",
    "shift_robustness.png",
)
EXPLORER = ("explorer.html",)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "0"],
        ["--epochs", "-3"],
        ["--epochs", "2.5"],
        ["--epochs", "many"],
        ["--epochs", ""],
        ["--epochs", "9" * 400],
        ["--epochs"],
        ["--batch-size", "-1"],
        ["--batch-size", "12 8"],
        ["--learning-rate", "nan"],
        ["--learning-rate", "inf"],
        ["--learning-rate", "0"],
        ["--learning-rate", "0,02"],
        ["--hidden-units", "0"],
        ["--seed", "-1"],
        ["--seed", "9" * 5000],
        ["--seed", "4294967296"],
        ["--runs", "0"],
        ["--runs", "\n"],
        ["--device", "tpu"],
        ["--device", "mps" if not torch.backends.mps.is_available() else "cuda"],
        ["--networks", "lenet"],
        ["--optimizer", "rmsprop"],
        ["--optimizer"],
        ["--image-size", "7"],
        ["--predict"],
        ["--images", ""],
        ["--data-dir", ""],
        ["--models-dir", ""],
        ["--assets-dir", ""],
        ["--model", "", "--predict", "image.png"],
        ["--predict", "image.png", ""],
        ["--image-size", "20"],
        ["--model", "models/CNN_model.pth"],
        ["--json"],
        ["--images", "pets", "--predict", "image.png"],
        ["--mirror"],
        ["--no-mirror"],
        ["--mirror", "--images", "pets", "--no-augment"],
        ["--no-mirror", "--no-augment"],
        ["--unknown"],
        ["--epoch", "3"],
        ["--two\nlines"],
    ],
    ids=lambda arguments: " ".join(arguments)[:30].encode("unicode_escape").decode(),
)
def test_an_invalid_command_line_is_rejected_in_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        program.main(arguments)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == "" and is_one_line(err)
    assert arguments[0].replace("\n", " ") in err


def test_help_shows_each_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as stopped:
        program.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    for option in vars(program.parse_args([])).keys() - {"start"}:
        assert f"--{option.replace('_', '-')} " in text
    for shown in (
        "(default: 3;",
        "(default: mlp tinyvgg;",
        "(default: muon)",
        "(default: models)",
        "(default: 42)",
        "(default: 1)",
        "(default: auto)",
    ):
        assert shown in text
    assert "None" not in text and "False" not in text


def choose(image_set: program.ImageSet, *arguments: str) -> program.Recipe:
    dataset = program.Dataset("any", image_set, image_set)
    return command_line.choose_recipe(program.parse_args(arguments), dataset)


def test_the_defaults_are_the_documented_ones(small_sets):
    recipe = choose(small_sets[0])
    assert recipe == program.Recipe(seeds=range(42, 43))
    assert (recipe.epochs, recipe.batch_size) == (3, 128)
    assert (recipe.networks, recipe.optimizers) == (("mlp", "tinyvgg"), ("muon",))
    assert recipe.augment is None and recipe.learning_rate_scale == 1.0


def image_set(count: int, channels: int = 3, side: int = 64) -> program.ImageSet:
    images = torch.zeros(1, channels, side, side, dtype=torch.uint8).expand(count, -1, -1, -1)
    return program.ImageSet(images, torch.zeros(count).long(), ("a", "b"))


@pytest.mark.parametrize("count", [16, 180, 3068, 25_000])
def test_few_images_of_ones_own_get_as_many_steps_as_many(count: int):
    recipe = choose(image_set(count), "--images", "own")
    steps_per_epoch = -(-count // recipe.batch_size)
    assert steps_per_epoch > 1 and 8 <= recipe.batch_size <= 64
    assert 1500 < recipe.epochs * steps_per_epoch < 2500
    assert recipe.networks == ("tinyvgg", "resnet")
    assert recipe.augment.mirror and recipe.is_mirrored


def test_what_is_asked_for_overrides_what_would_be_chosen():
    own = ("--images", "own")
    grey = image_set(100, channels=1, side=28)
    for arguments, images, is_mirrored in (
        ([], grey, False),
        (["--mirror"], grey, True),
        (["--no-mirror"], image_set(9), False),
    ):
        recipe = choose(images, *own, *arguments)
        assert recipe.augment.mirror is recipe.is_mirrored is is_mirrored
    unchanged = choose(image_set(9), *own, "--no-augment")
    assert unchanged.augment is None and not unchanged.is_mirrored
    recipe = choose(image_set(9), *own, "--epochs", "7", "--batch-size", "5", "--networks", "mlp")
    assert (recipe.epochs, recipe.batch_size, recipe.networks) == (7, 5, ("mlp",))
    twice = choose(grey, "--networks", "mlp", "resnet", "mlp", "--optimizer", "sgd", "sgd")
    assert (twice.networks, twice.optimizers) == (("mlp", "resnet"), ("sgd",))
    large = choose(image_set(3000), *own, "--batch-size", "1024")
    assert large.learning_rate_scale == 1, "a larger batch does not make training diverge"
    assert choose(grey, "--augment").augment == Augmentation()


def test_larger_images_get_fewer_steps():
    own = ("--images", "own", "--image-size", "128")
    recipes = [choose(image_set(1000, side=side), *own) for side in (64, 128)]
    assert recipes[1].epochs == pytest.approx(recipes[0].epochs / 4, abs=1)


def test_importing_the_script_has_no_side_effect(tmp_path: Path):
    code = (
        "import torch; state = torch.get_rng_state(); import fashion_mnist_cnn, sys;"
        "assert torch.equal(state, torch.get_rng_state());"
        "print([name for name in ('matplotlib', 'torchmetrics', 'mlxtend') if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")
    assert list(tmp_path.iterdir()) == []


class RetypedTinyVGG(nn.Module):
    """The network as the tutorials write it, by hand and with nothing of this program."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_block_1 = nn.Sequential(
            nn.Conv2d(1, 10, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(10, 10, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.conv_block_2 = nn.Sequential(
            nn.Conv2d(10, 10, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(10, 10, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(490, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.conv_block_2(self.conv_block_1(x)))


def count_correct_with_stock_code(model_path: Path) -> int:
    """Count what a saved network gets right, by torchvision and a loader, without code of ours."""
    network = RetypedTinyVGG().eval()
    network.load_state_dict(torch.load(model_path, weights_only=True))
    test_set = FashionMNIST(REPOSITORY / "data_1", train=False, transform=ToTensor(), download=True)
    loader = torch.utils.data.DataLoader(test_set, 500)
    with torch.inference_mode():
        return sum(
            (network(images).argmax(dim=1) == labels).sum().item() for images, labels in loader
        )


def test_one_epoch_from_end_to_end(tmp_path: Path, fashion_mnist, monkeypatch, capsys):
    """On a third of the training images, for it takes a third of the time."""
    monkeypatch.chdir(tmp_path)
    sets = fashion_mnist[0].subset(slice(20_000)), fashion_mnist[1]
    monkeypatch.setattr(program, "load_fashion_mnist", lambda root: sets)
    assert program.main(["--epochs", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    written = sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()
    )
    files = [*(f"assets/{name}" for name in (*FIGURES, *EXPLORER)), "assets/results.json"]
    assert written == sorted(
        [
            *files,
            *(f"models/{name}_model.{end}" for name in ("CNN", "MLP") for end in ("json", "pth")),
        ]
    )
    report = json.loads((tmp_path / "assets/results.json").read_text())
    assert report["settings"]["epochs"] == 1 and report["dataset"]["image_shape"] == [1, 28, 28]
    for network, parameters in zip(report["models"], (7960, 7740), strict=True):
        diagonal = [network["confusion_matrix"][i][i] for i in range(10)]
        assert (
            network["test_accuracy"]
            == sum(diagonal) / 10_000
            == network["epochs"][-1]["test_accuracy"]
        )
        assert network["parameters"] == parameters
        assert network["failed"] is None and network["at_chance"] is False
        assert network["training_seconds"] == network["epochs"][-1]["training_seconds"]
        assert f"{network['test_accuracy']:.2%}" in out
        predicted = [sum(row[k] for row in network["confusion_matrix"]) for k in range(10)]
        assert network["recall"] == pytest.approx([count / 1000 for count in diagonal])
        assert network["precision"] == pytest.approx(
            [c / p for c, p in zip(diagonal, predicted, strict=True)]
        )
        curve = network["epochs"]
        assert len(curve) == 8 and [curve[0]["epoch"], curve[-1]["epoch"]] == [0, 1]
        assert curve[0]["train_loss"] is None
        assert curve[1]["train_loss"] > curve[-1]["train_loss"]
    assert [network["multiply_adds"] for network in report["models"]] == [
        784 * 10 + 10 * 10,
        1_133_860,
    ]
    assert {len(accuracies) for accuracies in report["evidence"]["shift_accuracy"].values()} == {7}
    mlp, cnn = (network["test_accuracy"] for network in report["models"])
    assert mlp > 0.75 and cnn > 0.8 and cnn > mlp
    assert count_correct_with_stock_code(tmp_path / "models/CNN_model.pth") == round(cnn * 10_000)


def test_the_committed_model_is_that_of_the_committed_results():
    report = json.loads((REPOSITORY / "assets/results.json").read_text())
    cnn = next(network for network in report["models"] if network["name"] == "TinyVGG")
    args = program.parse_args([])
    recipe = program.choose_recipe(args, program.Recipe())
    defaults = json.loads(json.dumps(program.describe_settings(args, recipe)))
    assert report["settings"] == defaults | {"device": report["environment"]["device"]}
    assert cnn["test_accuracy"] >= 0.90
    assert count_correct_with_stock_code(MODEL) == round(cnn["test_accuracy"] * 10_000)


QUICK = ["--epochs", "1", "--hidden-units", "4"]


class LeNetOfManyYearsAgo(nn.Module):
    """A network added from outside: a long name and a layer that no network of the program has."""

    model_file = "LeNet_model.pth"
    default_hidden_units = 10
    learning_rates: ClassVar = {"muon": 0.02}

    def __init__(
        self, in_channels: int, hidden_units: int, num_classes: int, image_size: int
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, hidden_units, 5, stride=2),
            nn.BatchNorm2d(hidden_units),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(hidden_units * ((image_size - 5) // 2 + 1) ** 2, num_classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)

    @classmethod
    def build(cls, config: program.NetworkConfig) -> "LeNetOfManyYearsAgo":
        return cls(config.in_channels, config.hidden_units, config.num_classes, config.image_size)

    @classmethod
    def read_config(cls, state) -> program.NetworkConfig:
        hidden_units, in_channels, _, _ = state["layers.0.weight"].shape
        return program.NetworkConfig(in_channels, 28, hidden_units, len(state["layers.4.bias"]))


def test_one_registry_entry_adds_a_network_or_an_optimizer(in_tmp: Path, monkeypatch, capsys):
    rmsprop = program.OptimizerConfig("RMSprop", 0.002, torch.optim.RMSprop)
    monkeypatch.setitem(program.NETWORKS, "lenet", LeNetOfManyYearsAgo)
    monkeypatch.setitem(program.OPTIMIZERS, "rmsprop", rmsprop)
    arguments = ["--networks", "mlp", "tinyvgg", "lenet", "--optimizer", "muon", "rmsprop"]
    assert program.main([*QUICK, "--batch-size", "32", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    names = ("MLP  ", "TinyVGG  ", "LeNetOfManyYearsAgo  ")
    rows = [line for line in out.splitlines() if line.startswith(names)]
    assert len(rows) == 6 and len({row.index("%") for row in rows}) == 1, (
        "columns stand below each other"
    )
    assert "\nMLP Muon and TinyVGG Muon and LeNetOfManyYearsAgo Muon: in models" in out
    assert sorted(path.name for path in (in_tmp / "assets").iterdir()) == sorted(
        [*FIGURES, *EXPLORER, "results.json"]
    )
    report = json.loads((in_tmp / "assets/results.json").read_text())
    assert len(report["models"]) == 6 and len(report["evidence"]["dead_channels"]) == 1
    assert list(report["evidence"]["shift_accuracy"]) == ["MLP", "TinyVGG", "LeNetOfManyYearsAgo"]
    saved = sorted(path.stem for path in (in_tmp / "models").glob("*.pth"))
    assert saved == ["CNN_model", "LeNet_model", "MLP_model"]
    assert isinstance(program.load_model("models/LeNet_model.pth"), LeNetOfManyYearsAgo)
    Image.new("L", (28, 28)).save("black.png")
    assert program.main(["--predict", "black.png", "--model", "models/LeNet_model.pth"]) == 0
    with pytest.raises(SystemExit):
        program.main(["--help"])
    assert "lenet" in capsys.readouterr().out.partition("--optimizer")[0]


def test_the_mlp_alone_is_trained_drawn_saved_and_loaded(in_tmp: Path):
    assert program.main([*QUICK, "--networks", "mlp"]) == 0
    assert isinstance(program.load_model("models/MLP_model.pth"), program.MLP)
    written = {path.name for path in (in_tmp / "assets").iterdir()}
    assert written == {*FIGURES, *EXPLORER, "results.json"} - {"feature_maps.png"}, (
        "it has no feature maps"
    )


def test_the_resnet_is_trained_drawn_and_saved(in_tmp: Path):
    assert program.main([*QUICK, "--networks", "resnet", "--batch-size", "32"]) == 0
    network = program.load_model("models/ResNet_model.pth")
    assert isinstance(network, program.ResNet) and not network.training
    report = json.loads((in_tmp / "assets/results.json").read_text())
    accuracy = report["models"][0]["test_accuracy"]
    assert accuracy > 0.5 and report["models"][0]["hidden_units"] == 4
    metadata = json.loads((in_tmp / "models/ResNet_model.json").read_text())
    assert (metadata["hidden_units"], metadata["test_accuracy"]) == (4, accuracy)
    assert {path.name for path in (in_tmp / "assets").iterdir()} == {
        *FIGURES,
        *EXPLORER,
        "results.json",
    }


def test_the_resnet_of_coloured_images_takes_their_size(in_tmp: Path, capsys):
    save_lamps(in_tmp / "lamps", 20)
    options = ["--image-size", "20", "--epochs", "10", "--hidden-units", "4", "--no-plots"]
    assert program.main(["--images", "lamps", "--networks", "resnet", *options]) == 0
    capsys.readouterr()
    model = ["--model", "models/lamps/ResNet_model.pth"]
    assert program.main(["--predict", "lamps/red/0.png", *model]) == 0
    assert capsys.readouterr().out.endswith("(ResNet, resized to 20 x 20)\n")


def test_the_stack_from_main_to_backward_has_five_functions(in_tmp: Path, monkeypatch):
    backward, names = torch.Tensor.backward, []

    def record_stack(self: torch.Tensor) -> None:
        stack = traceback.extract_stack()
        files = (program.__file__, command_line.__file__)
        names.append([frame.name for frame in stack if frame.filename in files])
        backward(self)

    monkeypatch.setattr(torch.Tensor, "backward", record_stack)
    assert program.main([*QUICK, "--no-plots"]) == 0
    assert set(map(tuple, names)) == {("main", "start", "run", "compare_networks", "train")}


@pytest.fixture
def diverging(monkeypatch) -> None:
    """Training from seed 1 diverges, whatever the network."""
    train = program.train

    def train_or_diverge(*sets, seed, learning_rate, **options):
        return train(
            *sets, seed=seed, learning_rate=1e30 if seed == 1 else learning_rate, **options
        )

    monkeypatch.setattr(program, "train", train_or_diverge)


def test_a_run_that_diverges_is_recorded_and_the_others_are_saved(in_tmp: Path, diverging, capsys):
    assert (
        program.main([*QUICK, "--batch-size", "32", "--runs", "3", "--seed", "0", "--no-plots"])
        == 0
    )
    out, err = capsys.readouterr()
    warnings = err.splitlines()
    assert len(warnings) == 2 and all("seed 1 diverged" in line for line in warnings)
    assert [
        row.split()[-2:] for row in out.splitlines() if row.startswith(("MLP  ", "TinyVGG  "))
    ] == [["3", "1"]] * 2
    report = json.loads((in_tmp / "assets/results.json").read_text(), parse_constant=pytest.fail)
    assert [network["failed"] for network in report["models"]] == [None] * 2 + ["diverged"] * 2 + [
        None
    ] * 2
    assert report["models"][2]["test_loss"] is None and report["models"][2]["epochs"] == []


def test_the_first_cnn_that_did_not_diverge_is_saved(in_tmp: Path, diverging, small_sets):
    assert (
        program.main([*QUICK, "--batch-size", "32", "--runs", "2", "--seed", "1", "--no-plots"])
        == 0
    )
    report = json.loads((in_tmp / "assets/results.json").read_text())
    accuracy = program.evaluate(program.load_model("models/CNN_model.pth"), small_sets[1]).accuracy
    assert accuracy == report["models"][3]["test_accuracy"] and report["models"][3]["seed"] == 2
    assert json.loads((in_tmp / "models/CNN_model.json").read_text())["test_accuracy"] == accuracy


def test_if_every_run_diverged_the_exit_code_is_1_and_earlier_outputs_are_kept(
    in_tmp: Path, diverging, capsys
):
    (in_tmp / "models").mkdir()
    (in_tmp / "models/CNN_model.pth").write_text("earlier")
    assert program.main([*QUICK, "--seed", "1"]) == 1
    *warnings, last = capsys.readouterr().err.splitlines()
    assert "every run diverged" in last and "nothing was saved" in last
    for peak, warning in zip((0.1, 0.04), warnings, strict=True):
        assert f"a learning rate below {peak} may help" in warning
    assert [path.name for path in in_tmp.rglob("*.*")] == ["CNN_model.pth"]
    assert (in_tmp / "models/CNN_model.pth").read_text() == "earlier"


def test_a_network_of_which_every_run_diverged_is_named_and_the_rest_is_written(
    in_tmp, monkeypatch, capsys
):
    train = program.train

    def train_or_diverge(network, *sets, learning_rate, **options):
        rate = 1e30 if isinstance(network, program.TinyVGG) else learning_rate
        return train(network, *sets, learning_rate=rate, **options)

    monkeypatch.setattr(program, "train", train_or_diverge)
    assert program.main(QUICK) == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("every run of TinyVGG diverged, and none was saved")
    )
    assert sorted(path.name for path in (in_tmp / "models").iterdir()) == [
        "MLP_model.json",
        "MLP_model.pth",
    ]
    written = {path.name for path in (in_tmp / "assets").iterdir()}
    assert written == {*FIGURES, *EXPLORER, "results.json"} - {"feature_maps.png"}


def test_what_is_at_chance_is_marked_and_saved(in_tmp: Path, capsys):
    assert program.main([*QUICK, "--learning-rate", "1e-9", "--networks", "mlp"]) == 0
    out, err = capsys.readouterr()
    assert "MLP with Muon, seed 42 is at chance" in err and out.count("  at chance\n") == 1
    model = json.loads((in_tmp / "assets/results.json").read_text())["models"][0]
    assert model["at_chance"] is True and model["failed"] is None and len(model["epochs"]) == 6
    assert isinstance(program.load_model("models/MLP_model.pth"), program.MLP)


STEPS = {  # in their order
    "print_table": program,
    "describe_run": program,
    "draw_figures": program,
    "analyze_networks": analysis,
    "plot_shifts": analysis,
    "build_page": explorer,
}


@pytest.mark.parametrize("step", STEPS)
def test_a_bug_keeps_its_traceback_and_what_was_finished_before_it(
    in_tmp: Path, monkeypatch, step: str
):
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(STEPS[step], step, fail)
    with pytest.raises(ZeroDivisionError):
        program.main(QUICK)
    for name in ("MLP_model.pth", "CNN_model.pth"):
        program.load_model(in_tmp / "models" / name)
    written = [path.name for path in (in_tmp / "assets").glob("*")]
    number = list(STEPS).index(step)
    assert ("results.json" in written) == (number > 1)
    assert ("accuracy_model_graph.png" in written) == (number > 2)
    assert ("shift_robustness.png" in written) == (number > 4)
    if number > 1:
        evidence = json.loads((in_tmp / "assets/results.json").read_text())["evidence"]
        assert (evidence is not None) == (number > 3)


def test_output_closed_while_the_table_is_printed_loses_nothing(in_tmp: Path, monkeypatch):
    def broken_pipe(trained: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(program, "print_table", broken_pipe)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    monkeypatch.setattr("sys.stdout.fileno", lambda: 1, raising=False)
    assert program.main(QUICK) == 1
    assert isinstance(program.load_model(), program.TinyVGG)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
    ],
)
def test_too_little_memory_is_reported_in_one_line(in_tmp: Path, monkeypatch, capsys, error):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(program, "train", fail)
    assert program.main(QUICK) == 1
    err = capsys.readouterr().err
    assert is_one_line(err) and "out of memory" in err
    assert "--batch-size" in err and "--device cpu" in err


def test_a_network_larger_than_the_memory_is_reported_in_one_line(in_tmp: Path, capsys):
    assert program.main(["--networks", "mlp", "--hidden-units", "400000000"]) == 1
    err = capsys.readouterr().err
    assert is_one_line(err) and "out of memory" in err and "--hidden-units" in err


def test_another_runtime_error_is_a_bug(in_tmp: Path, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(program, "compare_networks", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        program.main(QUICK)


@pytest.mark.parametrize("option", ["--models-dir", "--assets-dir", "--data-dir"])
def test_a_file_in_place_of_a_folder_is_rejected_before_any_work(option, tmp_path: Path, capsys):
    (tmp_path / "file").write_text("mine")
    folders = {
        "--models-dir": tmp_path / "m",
        "--assets-dir": tmp_path / "a",
        option: tmp_path / "file",
    }
    assert program.main([str(word) for pair in folders.items() for word in pair]) == 1
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err) and str(tmp_path / "file") in err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("option", ["--models-dir", "--assets-dir"])
@pytest.mark.parametrize("name", ["x" * 300, "file/below", "/proc/nothing/here"])
def test_a_folder_that_cannot_be_made_is_rejected_in_one_line(
    tmp_path: Path, monkeypatch, capsys, option, name
):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    assert program.main(["--models-dir", "models", "--assets-dir", "assets", option, name]) == 1
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err) and option in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_plots_the_model_is_the_same_and_no_figure_is_drawn(in_tmp: Path):
    for name, more in (("plain", []), ("with", ["--no-plots"])):
        assert (
            program.main(
                [*QUICK, "--models-dir", f"{name}/models", "--assets-dir", f"{name}/assets", *more]
            )
            == 0
        )
    assert [path.name for path in (in_tmp / "with/assets").iterdir()] == ["results.json"]
    assert {path.name for path in (in_tmp / "plain/assets").iterdir()} == {
        *FIGURES,
        *EXPLORER,
        "results.json",
    }
    assert (
        Path("plain/models/CNN_model.pth").read_bytes()
        == Path("with/models/CNN_model.pth").read_bytes()
    )


def test_your_own_images_from_end_to_end(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_lamps(tmp_path / "lamps", 60)
    arguments = [
        "--images",
        "lamps",
        "--image-size",
        "12",
        "--epochs",
        "10",
        "--batch-size",
        "8",
    ]
    assert program.main([*arguments, "--optimizer", "sgd"]) == 0
    out = capsys.readouterr().out
    assert "2 classes: blue, red\n" in out
    assert "images of 3 x 12 x 12, changed at random, mirrored too; tinyvgg and resnet: " in out
    assert "10 epochs of 6 steps of 8 images\n" in out
    description = json.loads(Path("models/lamps/CNN_model.json").read_text())
    assert description.pop("folder") == identify_folder("lamps", "models")
    assert description == {
        "dataset": "lamps",
        "classes": ["blue", "red"],
        "image_size": 12,
        "channels": 3,
        "hidden_units": 10,
        "test_accuracy": 1.0,
        "white_value": 65535,
    }
    assert {path.name for folder in ("models", "assets") for path in Path(folder).iterdir()} == {
        "lamps"
    }
    report = json.loads(Path("assets/lamps/results.json").read_text())
    assert report["dataset"]["name"] == "lamps" and report["settings"]["augment"]["mirror"] is True
    assert [model["name"] for model in report["models"]] == ["TinyVGG", "ResNet"]
    assert all(Path("assets/lamps", name).exists() for name in EXPLORER)
    capsys.readouterr()
    model = ["--model", "models/lamps/CNN_model.pth", "--json"]
    assert program.main(["--predict", "lamps/red/0.png", "lamps/blue/1.png", *model]) == 0
    assert [json.loads(line)["class"] for line in capsys.readouterr().out.splitlines()] == [
        "red",
        "blue",
    ]


STRANGE_NAMES = [
    "$0_to_$50",
    "$$",
    "\\alpha_{",
    b"caf\xe9".decode(errors="surrogateescape"),
    "<b>&",
    "a\nb",
]


def test_class_folders_of_any_name_are_trained_drawn_and_saved(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(STRANGE_NAMES):
        for brightness in range(5):
            Path("$shop", name).mkdir(parents=True, exist_ok=True)
            color = (40 * number, 10 * brightness, 0)
            Image.new("RGB", (30, 30), color).save(Path("$shop", name, f"{brightness}.png"))
    options = ["--image-size", "8", "--networks", "tinyvgg", "--epochs", "2"]
    assert program.main(["--images", "$shop", *options]) == 0
    assert {path.name for path in Path("assets/$shop").iterdir()} == {
        *FIGURES,
        *EXPLORER,
        "results.json",
    }
    classes = json.loads(Path("models/$shop/CNN_model.json").read_text())["classes"]
    assert "caf?" in classes and {"$0_to_$50", "$$", "<b>&"} < set(classes)


def test_a_folder_whose_name_is_not_utf8_is_trained_on(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = b"caf\xe9".decode(errors="surrogateescape")
    save_lamps(tmp_path / name, 10)
    options = ["--image-size", "8", "--networks", "mlp", "--epochs", "1", "--no-plots"]
    assert program.main(["--images", name, *options]) == 0
    report = json.loads(Path("assets", name, "results.json").read_text())
    assert report["dataset"]["name"] == "caf?" and report["settings"]["images"] == name


@pytest.mark.parametrize("folder", ["nowhere", "file", "empty"])
def test_invalid_images_leave_nothing_behind(tmp_path, monkeypatch, capsys, folder):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("empty").mkdir()
    assert program.main(["--images", folder]) == 1
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err) and folder in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


class BrokenDevice:
    """A torch in which a GPU is there, and all work on it fails as the reports of people show."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **errors: str) -> None:
        ones = torch.ones

        def fail_on_device(*arguments: object, device: str = "cpu", **options: object):
            if device in errors:
                raise getattr(torch, "AcceleratorError", RuntimeError)(errors[device])
            return ones(*arguments, **options)

        monkeypatch.setattr(torch, "ones", fail_on_device)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in errors)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in errors)


TOO_OLD = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors"
FULL = "MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 1.00 GB)"


@pytest.mark.parametrize("errors", [{"cuda": TOO_OLD}, {"cuda": TOO_OLD, "mps": FULL}])
def test_auto_goes_on_to_a_device_that_works_and_says_why(monkeypatch, capsys, errors):
    BrokenDevice(monkeypatch, **errors)
    assert program.parse_args([]).device == "cpu"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(errors)
    for line, (device, error) in zip(lines, errors.items(), strict=True):
        assert f"{device} does not work: {error.splitlines()[0]}" in line


@pytest.mark.parametrize("arguments", [[], ["--predict", "image.png"]])
@pytest.mark.parametrize(("device", "error"), [("cuda", TOO_OLD), ("mps", FULL)])
def test_a_device_asked_for_that_does_not_work_is_refused_in_one_line(
    monkeypatch, capsys, arguments, device, error
):
    BrokenDevice(monkeypatch, **{device: error})
    with pytest.raises(SystemExit) as stopped:
        program.main([*arguments, "--device", device])
    out, err = capsys.readouterr()
    assert (stopped.value.code, out) == (2, "") and is_one_line(err)
    assert f"argument --device: {device} does not work: {error.splitlines()[0]}" in err


SIGNS = {"left": (0, 3), "right": (9, 12)}  # columns of a bright bar


@pytest.mark.parametrize("options", [[], ["--no-mirror"]], ids=["mirrored", "not mirrored"])
def test_classes_that_are_mirror_images_of_each_other_are_named(
    tmp_path: Path, monkeypatch, capsys, options
):
    monkeypatch.chdir(tmp_path)
    for name, (first, last) in SIGNS.items():
        for number in range(150):
            image = Image.new("RGB", (12, 12), (0, number, 40))
            image.paste((250, 200, 0), (first, number % 5, last, 12))
            (tmp_path / "signs" / name).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / "signs" / name / f"{number}.png")
    quick = ["--image-size", "12", "--epochs", "5", "--no-plots", "--networks", "tinyvgg"]
    assert program.main(["--images", "signs", *quick, *options]) == 0
    err = capsys.readouterr().err
    hints = [line for line in err.splitlines() if "--no-mirror" in line]
    assert len(hints) == (0 if options else 1)
    accuracy = json.loads(Path("models/signs/CNN_model.json").read_text())["test_accuracy"]
    assert (accuracy == 1.0) == bool(options)


def test_what_a_network_mistakes_for_its_mirror_image_is_named(capsys):
    labels = torch.arange(400) % 4
    predictions = labels.clone()
    predictions[(labels == 1) & (torch.arange(400) < 200)] = 3
    predictions[(labels == 3) & (torch.arange(400) >= 200)] = 1
    result = make_result()
    result.test_labels = labels
    result.test_logits = torch.nn.functional.one_hot(predictions, 4) * 3.0
    names = ("up", "left", "down", "right")
    command_line.print_mirrored_classes(result, names)
    err = capsys.readouterr().err
    assert is_one_line(err) and "does not tell left and right apart" in err
    assert "--no-mirror" in err
    command_line.print_mirrored_classes(make_result(), names)
    assert capsys.readouterr().err == ""
