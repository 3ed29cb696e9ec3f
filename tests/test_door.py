"""Each way of starting the script finds the folder, and both are of one copy of the program."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_alone import NAME, STARTS, begin, finish

from conftest import REPOSITORY

# The folder uses print_error of the script: an edit of it shows which copy it has.
BEFORE = 'tqdm.write(f"fashion_mnist_cnn.py: '
MISSING = "none.png cannot be read as an image"


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the script and the folder; experiment.py is an edited copy of the script."""
    folder = tmp_path_factory.mktemp("beside")
    shutil.copytree(REPOSITORY / "fashion_mnist_extras", folder / "fashion_mnist_extras")
    shutil.copy(REPOSITORY / NAME, folder)
    (folder / "experiment.py").write_text(edit("experiment"))
    (folder / "models").symlink_to(REPOSITORY / "models")
    return folder


def edit(mark: str) -> str:
    """The script, in which errors begin with mark."""
    source = (REPOSITORY / NAME).read_text()
    assert source.count(BEFORE) == 1
    return source.replace(BEFORE, f'tqdm.write(f"{mark}: ')


STARTS_BESIDE = STARTS | {
    "-m": ["-m", "fashion_mnist_cnn"],
    "pdb": ["-m", "pdb", "-c", "continue", "-c", "quit", NAME],
    "experiment": ["experiment.py"],
}


@pytest.mark.parametrize(
    "pair", [("python", "python -P"), ("run_path", "-m"), ("pdb", "experiment")]
)
def test_it_predicts_and_says_what_is_wrong_however_it_is_started(beside: Path, pair):
    """What the folder raises is known to the script, and one line."""
    photograph = str(REPOSITORY / "assets/test_image_as_photograph.jpg")
    options = ["--predict", photograph, "none.png"]
    processes = [begin(beside, *STARTS_BESIDE[name], *options) for name in pair]
    for name, process in zip(pair, processes, strict=True):
        code, out, err = finish(process)
        mark = "experiment" if name == "experiment" else NAME
        assert "Pullover" in out and err.startswith(f"{mark}: {MISSING}"), (name, out, err)
        assert err.count("\n") == 1, (name, err)
        assert code == (0 if name == "pdb" else 1)


def test_from_another_folder_it_finds_the_one_beside_it(beside: Path, tmp_path: Path):
    code, out, err = finish(begin(tmp_path, str(beside / NAME), "--images", "nowhere"))
    assert (code, out) == (1, "")
    assert err.startswith(f"{NAME}: nowhere cannot be read") and err.count("\n") == 1


# Each run tells, by the line that the folder prints, which copy of the program it has used.
IN_ONE_PROCESS = f"""
import contextlib, io, runpy, sys
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell

script = Path({NAME!r})
shell = InteractiveShell.instance()
before = script.read_text()
options = ["--predict", "none.png"]

def used(start):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.suppress(SystemExit):
        start()
    print("used", errors.getvalue().partition(":")[0])

def edit(mark):
    script.write_text(before.replace({BEFORE!r}, f'tqdm.write(f"{{mark}}: '))

def run_magic():
    shell.run_line_magic("run", " ".join([script.name, *options]))

def run_path():
    sys.argv = [script.name, *options]
    runpy.run_path(script.name, run_name="__main__")

import experiment, fashion_mnist_cnn
for program in (experiment, fashion_mnist_cnn, experiment):
    used(lambda: program.main(options))
for start, mark in ((run_magic, "first"), (run_magic, "second"), (run_path, "third"),
                    (run_path, "fourth"), (run_magic, "fifth")):
    edit(mark)
    used(start)
used(lambda: fashion_mnist_cnn.main(options))
module = Path("fashion_mnist_extras/prediction.py")
module.write_text(module.read_text() + "\\nprint('used edited folder')\\n")
used(run_magic)
used(lambda: fashion_mnist_cnn.main(options))
edit("reloaded")
import importlib
importlib.reload(fashion_mnist_cnn)
used(lambda: fashion_mnist_cnn.main(options))
"""


def test_in_one_process_each_copy_of_the_program_has_the_folder_to_itself(
    beside: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(beside, tmp_path / "copy", symlinks=True))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "", "PYTHONPYCACHEPREFIX": ""}
    command = [sys.executable, "-c", IN_ONE_PROCESS]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    lines = [line for line in result.stdout.splitlines() if line.startswith("used ")]
    assert [line.removeprefix("used ") for line in lines] == [
        *("experiment", NAME, "experiment"),
        *("first", "second", "third", "fourth", "fifth"),
        NAME,
        *("edited folder", "fifth"),
        *("edited folder", NAME),
        *("edited folder", "reloaded"),
    ], result.stderr
