"""The script alone, copied into an empty folder beside data_1: it trains, compares and saves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY

NAME = "fashion_mnist_cnn.py"
OUTPUTS = {
    *("models/CNN_model.json", "models/CNN_model.pth"),
    *("models/MLP_model.json", "models/MLP_model.pth"),
    *("assets/accuracy_model_graph.png", "assets/confusion_matrix.png"),
    *("assets/learning_curves.png", "assets/mistakes.png", "assets/prediction_examples.png"),
    "assets/results.json",
}
STARTS = {  # how a person starts it, before the options; tests of the folder start it so too
    "python": [NAME],
    "python -P": ["-P", NAME],
    "run_path": [
        "-c",
        f"import runpy, sys; sys.argv[0] = {NAME!r}; runpy.run_path({NAME!r}, run_name='__main__')",
    ],
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    shutil.copy(REPOSITORY / NAME, folder)
    (folder / "data_1").symlink_to(REPOSITORY / "data_1")
    return folder


def begin(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start Python in folder, where no other copy of the program is found."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=kept | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def finished(alone: Path) -> tuple[int, str, str]:
    """The run of one epoch, by `python -P`, which does not look for modules beside the script."""
    return finish(begin(alone, *STARTS["python -P"], "--epochs", "1", "--hidden-units", "6"))


def test_it_trains_compares_saves_and_draws(alone: Path, finished):
    code, out, err = finished
    assert (code, err) == (0, "")
    written = {str(path.relative_to(alone)) for path in alone.glob("*s/*")}
    assert written == OUTPUTS
    first, *_ = out.splitlines()
    assert first.startswith("fashion_mnist_extras is not beside the script: no figures of shifted")
    report = json.loads((alone / "assets/results.json").read_text())
    assert report["evidence"] is None and report["resumed_from"] is None
    mlp, cnn = (model["test_accuracy"] for model in report["models"])
    assert 0.7 < mlp < cnn


def test_the_cnn_it_saved_is_loaded_beside_it(alone: Path, finished):
    code = """
import torch
from fashion_mnist_cnn import UserError, load_model
print(tuple(load_model()(torch.zeros(1, 1, 28, 28)).shape))
try:
    load_model("fashion_mnist_cnn.py")
except UserError as error:
    print(error)
"""
    status, out, err = finish(begin(alone, "-c", code))
    shape, refusal = out.splitlines()
    assert (status, shape, err) == (0, "(1, 10)", "")
    assert "is not a float32 state dict" in refusal


FLAGS = ["--images pets", "--augment", "--predict image.png", "--resume"]


def test_flags_that_need_the_folder_and_torchrun_are_refused_before_any_work(alone: Path):
    code = f"""
import contextlib, fashion_mnist_cnn as program, os
def run(*arguments):
    try:
        print(program.main([*arguments, "--models-dir", "unmade"]))
    except SystemExit as stopped:
        print(stopped.code)
for flag in {FLAGS}:
    run(*flag.split())
os.environ["TORCHELASTIC_RUN_ID"] = "none"
run()
"""
    status, out, err = finish(begin(alone, "-c", code))
    assert (status, out.split()) == (0, ["2"] * 5), err
    hint = "; more flags need the folder fashion_mnist_extras beside the script (see --help)"
    lines = [f"{NAME}: unrecognized arguments: {flag}{hint}" for flag in FLAGS]
    torchrun = "torchrun needs the folder fashion_mnist_extras beside the script (see --help)"
    assert err.splitlines() == [*lines, f"{NAME}: {torchrun}"]
    assert not (alone / "unmade").exists()


def test_its_help_and_settings_have_its_own_flags_and_no_more(alone: Path, finished):
    status, out, err = finish(begin(alone, NAME, "--help"))
    assert (status, err) == (0, "")
    assert "more flags need the folder fashion_mnist_extras beside the script" in out
    assert "--networks" in out and "--images DIR" not in out and "--resume" not in out
    report = json.loads((alone / "assets/results.json").read_text())
    assert report["settings"]["augment"] is False and "images" not in report["settings"]


def test_each_way_of_starting_it_says_that_the_folder_is_missing(alone: Path):
    starts = {name: begin(alone, *command, "--predict", "x") for name, command in STARTS.items()}
    for name, process in starts.items():
        code, out, err = finish(process)
        assert (code, out) == (2, "") and err.count("\n") == 1, name
        assert "more flags need the folder fashion_mnist_extras" in err, name
