import json
import re
import subprocess
import sys

import fashion_mnist_cnn as program
from conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
REPORT = json.loads((REPOSITORY / "assets/results.json").read_text())


def rows_of(name: str) -> list[list[str]]:
    table = re.search(rf"<!-- {name} -->\n(.*)<!-- /{name} -->", README, re.DOTALL)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]


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
    environment = REPORT["environment"]
    for key in ("python", "torch", "torchvision", "device_name", "precision"):
        assert str(environment[key]) in text
    assert f"{environment['threads']} threads" in text and f"seed {REPORT['settings']['seed']}" in text


def test_the_snippet_runs():
    snippet = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    result = subprocess.run([sys.executable, "-c", snippet], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"Ankle boot, probability [01]\.\d\d\n", result.stdout)


def test_every_option_is_listed_with_its_default():
    listed = re.findall(r"^--([a-z-]+)\b.*?(?:\(([^)]*)\))?$", README, re.MULTILINE)
    defaults = {}
    for name, value in vars(program.Settings()).items():
        defaults[name.replace("_", "-")] = " ".join(value) if isinstance(value, tuple) else str(value or "")
    assert dict(listed) == defaults


def test_every_figure_shown_exists():
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert sorted(shown) == sorted(f"assets/{path.name}" for path in (REPOSITORY / "assets").glob("*.png"))
    assert all((REPOSITORY / path).read_bytes().startswith(b"\x89PNG") for path in shown)
