import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import exercises
import pytest
import run_all
import speed

import fashion_mnist_cnn as program
from conftest import REPOSITORY, save_lamps

README = (REPOSITORY / "README.md").read_text()
TABLES = (REPOSITORY / "benchmarks/README.md").read_text()
COMMANDS = re.findall(
    r"(?:^|`)\.venv/bin/(python fashion_mnist_cnn\.py[^`\n]*)", README, re.MULTILINE
)
REPORT = json.loads((REPOSITORY / "assets/results.json").read_text())


MEASURED = json.loads(run_all.RESULTS.read_text())


def shown_tables(text: str) -> dict[str, str]:
    return dict(re.findall(r"<!-- ([^/].*?) -->\n(.*?)\n<!-- /\1 -->", text, re.DOTALL))


def columns_of(table: str) -> dict[str, list[str]]:
    names = [name.strip() for name in table.splitlines()[0].strip("|").split("|")]
    return dict(zip(names, map(list, zip(*run_all.read_rows(table), strict=True)), strict=True))


def test_the_brief_table_takes_each_figure_from_its_benchmark():
    tables = run_all.make_tables(MEASURED)
    brief = {row[0]: row for row in run_all.read_rows(tables["brief"])}
    stability = columns_of(tables["stability"])
    for name, recipe, accuracy in zip(
        stability["network"], stability["recipe"], stability["mean"], strict=True
    ):
        assert brief[name][3].startswith(f"{accuracy}, ") == (recipe == "ours")
    assert brief["ResNet, `--augment`"][3].startswith(
        columns_of(tables["resnet"])["test accuracy"][0]
    )


def test_no_figure_is_still_missing():
    assert re.findall(r"\b[A-Z]{4,}(?:TEXT|POINTS|MINUTES)\b", README + TABLES) == []


@pytest.mark.parametrize("text", [README, TABLES], ids=["README", "benchmarks/README"])
def test_every_table_is_what_was_measured(text: str):
    tables = run_all.make_tables(MEASURED)
    shown = shown_tables(text)
    assert len(shown) == text.count("<!-- /") >= 4
    for name in shown.keys() - {"environment"}:
        assert shown[name] == tables[name], name


def test_every_benchmark_was_run_as_it_is_listed():
    commands = {name: step["command"] for name, step in MEASURED.items()}
    assert commands == run_all.STEPS


def test_figures_of_two_machines_are_not_mixed():
    other = MEASURED["speed"] | {"output": "python 3.99.0, device_name another\n"}
    with pytest.raises(ValueError, match="not all measured on one machine"):
        run_all.make_tables(MEASURED | {"speed": other})


def test_benchmarks_train_each_network_at_its_own_peak(monkeypatch: pytest.MonkeyPatch):
    used = {}

    def train(network, *_, learning_rate: float, **__) -> None:
        used[type(network)] = learning_rate

    monkeypatch.setattr(program, "train", train)
    for kind in program.NETWORKS.values():
        speed.train_ours(kind, 0, 1, None, None)
    recipe = program.Recipe()
    assert used == {
        kind: recipe.choose_learning_rate(kind, kind.default_hidden_units, "muon")
        for kind in program.NETWORKS.values()
    }
    assert len(set(used.values())) == len(program.NETWORKS)


def test_the_tables_of_the_committed_run_are_those_of_its_results():
    results = columns_of(shown_tables(README)["results"])
    classes = columns_of(shown_tables(TABLES)["classes"])
    for row, model in enumerate(REPORT["models"]):
        assert results["network"][row] == model["name"]
        assert results["parameters"][row] == f"{model['parameters']:,}"
        assert results["MACs per image"][row] == f"{model['multiply_adds']:,}"
        assert results["test accuracy"][row] == f"{model['test_accuracy']:.2%}"
        assert results["test loss"][row] == f"{model['test_loss']:.4f}"
        assert results["training time"][row] == f"{model['training_seconds']:.1f} s"
        for measure in ("precision", "recall"):
            shown = classes[f"{measure}, {model['name']}"]
            assert shown == [f"{share:.1%}" for share in model[measure]]
    assert classes["class"] == REPORT["dataset"]["class_names"]
    shifts = run_all.read_rows(shown_tables(TABLES)["shifts"])
    for name, accuracies in REPORT["evidence"]["shift_accuracy"].items():
        assert [name, *(f"{accuracy:.1%}" for accuracy in accuracies)] in shifts
    words = " ".join(README.split())
    dead = sum(map(len, REPORT["evidence"]["dead_channels"]))
    assert f"*dead*: {('none', 'one', 'two', 'three')[dead]} of forty" in words


@pytest.mark.parametrize("name", [name for name in exercises.EDITS if name != "as it is"])
def test_an_exercise_is_one_edit_of_the_program_that_the_readme_names(name: str):
    before, after = exercises.EDITS[name]
    script = exercises.SCRIPT.read_text()
    assert before in script and after not in script
    compile(script.replace(before, after, 1), name, "exec")
    words = " ".join(README.split())
    assert f"`{before}`" in words and f"`{after}`" in words
    assert f"**{name}**" in words.lower()


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
    assert len(README.split()) <= 1500
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
    args = program.parse_args([])
    settings = program.describe_settings(args, program.choose_recipe(args, program.Recipe()))
    defaults = {}
    for name, value in settings.items():
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
