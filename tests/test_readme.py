import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fashion_mnist_cnn as program
from conftest import REPOSITORY, save_lamps

README = (REPOSITORY / "README.md").read_text()
TABLES = (REPOSITORY / "benchmarks/README.md").read_text()
COMMANDS = re.findall(
    r"(?:^|`)\.venv/bin/(python fashion_mnist_cnn\.py[^`\n]*)", README, re.MULTILINE
)
REPORT = json.loads((REPOSITORY / "assets/results.json").read_text())


def rows_of(name: str) -> list[list[str]]:
    table = re.search(rf"<!-- {name} -->\n(.*)<!-- /{name} -->", README + TABLES, re.DOTALL)[1]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.strip().splitlines()[2:]
    ]


def test_the_table_is_that_of_the_committed_run():
    assert rows_of("results") == [
        [
            network["name"],
            f"{network['parameters']:,}",
            f"{network['multiply_adds']:,}",
            f"{network['test_accuracy']:.2%}",
            f"{network['test_loss']:.4f}",
            f"{network['training_seconds']:.1f} s",
        ]
        for network in REPORT["models"]
    ]


def test_precision_and_recall_are_those_of_the_committed_run():
    figures = [model[measure] for measure in ("precision", "recall") for model in REPORT["models"]]
    assert rows_of("classes") == [
        [name, *(f"{figure:.1%}" for figure in of_class)]
        for name, *of_class in zip(REPORT["dataset"]["class_names"], *figures, strict=True)
    ]


def test_the_shifts_are_those_of_the_committed_run():
    assert rows_of("shifts") == [
        [name, *(f"{accuracy:.1%}" for accuracy in accuracies)]
        for name, accuracies in REPORT["evidence"]["shift_accuracy"].items()
    ]
    assert sum(map(len, REPORT["evidence"]["dead_channels"])) == 1 and "one of forty" in README


def test_it_says_on_what_the_figures_were_measured():
    text = re.search(r"<!-- environment -->\n(.*)<!-- /environment -->", README, re.DOTALL)[1]
    text, environment = " ".join(text.split()), REPORT["environment"]
    for key in ("python", "torch", "torchvision", "device_name", "precision"):
        assert str(environment[key]) in text
    assert (
        f"{environment['threads']} threads" in text and f"seed {REPORT['settings']['seed']}" in text
    )


def test_the_snippet_runs():
    snippet = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    result = subprocess.run(
        [sys.executable, "-c", snippet], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"Ankle boot, probability [01]\.\d\d\n", result.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command: str):
    program.parse_args(shlex.split(command)[2:])


def test_the_quick_commands_run(tmp_path: Path, monkeypatch, capsys):
    """On images in folders of the names that the README gives them."""
    for name in ("assets", "models"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    (predict,) = (shlex.split(command)[2:] for command in COMMANDS if "--predict" in command)
    assert program.main(predict) == 0
    assert "photograph.jpg: Pullover" in capsys.readouterr().out
    save_lamps(tmp_path / "pets", 20)
    (train,) = (shlex.split(command)[2:] for command in COMMANDS if "--images" in command)
    (tmp_path / "assets").unlink()
    (tmp_path / "models").unlink()
    assert train == ["--images", "pets"]
    assert program.main([*train, "--epochs", "20"]) == 0
    assert (
        program.main(
            ["--predict", "pets/red/0.png", "--model", "models/pets/CNN_model.pth", "--json"]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["class"] == "red"


def test_it_is_short_and_its_links_lead_somewhere():
    assert len(README.split()) <= 2100
    headings = {
        line.strip("# ").lower().replace(" ", "-")
        for line in TABLES.splitlines()
        if line.startswith("##")
    }
    anchors = re.findall(r"\(benchmarks/README\.md#([^)]+)\)", README)
    assert anchors and set(anchors) <= headings
    for link in re.findall(r"\]\(([^)#]+)", README):
        assert link.startswith("https://") or (REPOSITORY / link).exists()


def test_the_listed_options_have_their_defaults():
    listed = re.findall(r"^--([a-z-]+)\b.*?(?:\(([^)]*)\))?$", README, re.MULTILINE)
    settings = program.Settings()
    fashion = program.ImageSet(torch.zeros(1, 1, 28, 28), torch.zeros(1), ())
    defaults = {}
    for name, value in (vars(settings) | vars(program.plan_training(settings, fashion))).items():
        shown = " ".join(value) if isinstance(value, tuple) else str(value or "")
        defaults[name.replace("_", "-")] = shown
    assert len(listed) == 6
    assert dict(listed) == {name: defaults[name] for name, _ in listed}


def test_every_figure_shown_exists():
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert sorted(shown) == sorted(
        f"assets/{path.name}" for path in (REPOSITORY / "assets").glob("*.png")
    )
    assert all((REPOSITORY / path).read_bytes().startswith(b"\x89PNG") for path in shown)
