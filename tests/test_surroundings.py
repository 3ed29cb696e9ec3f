"""Where people run it: in notebooks, from other folders, in any encoding, beside other programs."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbclient
import nbformat
import pytest
import torch
from PIL import Image
from speed import WAITING

import fashion_mnist_cnn as program
from conftest import RAW, REPOSITORY, load_folder, make_result, save_lamps
from fashion_mnist_extras import image_folders

SCRIPT = REPOSITORY / "fashion_mnist_cnn.py"
QUICK = [
    *["--images", "lamps", "--image-size", "12", "--epochs", "1", "--batch-size", "8"],
    *["--networks", "mlp", "tinyvgg"],
]
README = (REPOSITORY / "README.md").read_text()


def start_python(
    *arguments: object, folder: Path | None = None, **environment: str
) -> subprocess.Popen:
    """Start Python; the environment has no setting of OpenMP but those given."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP", "GOMP"))
    }
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish_python(process: subprocess.Popen) -> str:
    """Return what Python prints."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


# ---- Beside other programs ----------------------------------------------------------------------
# Run the script until it imports torch.nn: of torch only the options matter that are set by then.
PRINT_OPTIONS = f"""
import os, runpy, sys
{{before}}
runpy.run_path({str(SCRIPT)!r}, run_name={{name!r}})
"""
TORCH_NN = """
import os, sys
print("options:", os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_PROC_BIND"), sep=" ")
sys.exit()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="OpenMP has other options elsewhere")
@pytest.mark.parametrize(
    "name, before, environment, expected",
    [
        ("__main__", "", {}, "10000 true"),
        ("__main__", "", {"OMP_NUM_THREADS": "1"}, "None None"),
        ("__main__", "", {"OMP_WAIT_POLICY": "active"}, "None None"),
        ("__main__", "", {"GOMP_SPINCOUNT": "5"}, "5 None"),
        ("__main__", "import torch", {}, "None None"),
        ("__main__", "sys.modules['IPython'] = None", {}, "None None"),
        ("imported", "", {}, "None None"),
    ],
)
def test_how_threads_wait_is_decided_only_in_a_process_of_its_own(
    tmp_path: Path, name, before, environment, expected
):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").touch()
    (tmp_path / "torch/nn.py").write_text(TORCH_NN)
    code = PRINT_OPTIONS.format(name=name, before=before)
    process = start_python("-c", code, PYTHONPATH=str(tmp_path), **environment)
    assert finish_python(process) == f"options: {expected}\n"


def test_the_benchmark_measures_what_the_program_sets():
    assert list(WAITING["the program"].values()) == ["10000", "true"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where a thread may run")
def test_images_are_read_on_all_processors_where_openmp_keeps_the_main_thread_to_one(
    tmp_path: Path, monkeypatch
):
    save_lamps(tmp_path, 10)
    allowed = os.sched_getaffinity(0)
    seen = []
    read_square = image_folders.read_square

    def read_and_look(*arguments: object, **options: object) -> torch.Tensor:
        seen.append(os.sched_getaffinity(0))
        return read_square(*arguments, **options)

    def load_on_one_processor() -> None:
        os.sched_setaffinity(0, {min(allowed)})  # of this thread alone
        load_folder(tmp_path, 8)

    monkeypatch.setattr(image_folders, "read_square", read_and_look)
    thread = threading.Thread(target=load_on_one_processor)
    thread.start()
    thread.join()
    assert seen == [allowed] * 10


# ---- In notebooks -------------------------------------------------------------------------------
def test_the_readmes_cells_run_in_a_notebook(tmp_path: Path, monkeypatch):
    """All but the one that clones: the program stands here already.

    The program is started as `python`, which adds options here: one small network is enough.
    """
    section = README.split("### In a notebook")[1].split("\n## ")[0]
    clone, *cells = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    assert "git clone" in clone and len(cells) == 2
    shutil.copy(SCRIPT, tmp_path)
    shutil.copytree(SCRIPT.with_name("fashion_mnist_extras"), tmp_path / "fashion_mnist_extras")
    (tmp_path / "data_1").symlink_to(REPOSITORY / "data_1")
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    options = "--networks mlp --epochs 1 --batch-size 1000"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@" {options}\n')
    python.chmod(0o755)
    monkeypatch.setenv("PATH", f"{python.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # other tests may run beside this one
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": tmp_path}}
    ).execute()
    (*run, figure), own = (cell.outputs for cell in notebook.cells)
    printed = "".join(output.text for output in run)
    assert "assets/learning_curves.png" in printed and "Warning" not in printed
    assert figure.data["image/png"]
    texts = {
        name: "".join(output.text for output in own if output.name == name)
        for name in ("stdout", "stderr")
    }
    assert 0.7 < float(texts["stdout"].strip().rstrip("%")) / 100 < 0.95
    shown = texts["stderr"].split("\r")
    assert any("epoch 1/1" in line for line in shown) and shown[-1] == "", "a bar, gone at the end"
    assert all(line.strip() == "" or line.startswith("epoch 1/1") for line in shown)


def test_it_runs_where_the_backend_of_a_notebook_is_not_installed(tmp_path: Path):
    save_lamps(tmp_path / "lamps", 20)
    environment = {"MPLBACKEND": "module://not_installed.backend", "OMP_NUM_THREADS": "1"}
    finish_python(start_python(SCRIPT, *QUICK, folder=tmp_path, **environment))
    assert (tmp_path / "assets/lamps/confusion_matrix.png").exists()


def test_it_runs_where_stderr_is_closed(tmp_path: Path):
    save_lamps(tmp_path / "lamps", 20)
    command = f'exec "{sys.executable}" "{SCRIPT}" {" ".join(QUICK)} --no-plots 2>&-'
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True).returncode == 0


def test_pyplot_is_left_as_it_was(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_lamps(tmp_path / "lamps", 20)
    figures = [plt.figure(), plt.figure()]
    axes = figures[0].add_subplot(xlabel="mine", ylabel="my own")
    plt.figure(figures[1].number)  # current, and without axes
    before = mpl.rcParams.copy()
    numbers = plt.get_fignums()
    assert program.main(QUICK) == 0
    assert mpl.rcParams == before and mpl.get_backend() == before["backend"]
    assert plt.get_fignums() == numbers and plt.gcf() is figures[1] and figures[1].axes == []
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("mine", "my own")
    plt.close("all")
    (axes,) = program.plot_confusion_matrix(make_result(), "TinyVGG", list("abcdefghij")).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert plt.get_fignums() == []


def test_output_may_be_redirected_to_something_that_is_no_file(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_lamps(tmp_path / "lamps", 20)
    with redirect_stdout(io.StringIO()) as output:
        assert program.main([*QUICK, "--no-plots"]) == 0
    assert "TinyVGG" in output.getvalue()


# ---- From any folder, in any encoding -----------------------------------------------------------
def test_data_and_models_are_read_beside_the_script_and_nothing_is_left(
    tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert isinstance(program.load_model(), program.TinyVGG)
    assert len(program.load_fashion_mnist("data_1")[0]) == 60_000
    photograph = REPOSITORY / "assets/test_image_as_photograph.jpg"
    assert program.main(["--predict", str(photograph)]) == 0
    assert "Pullover" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_current_folder_comes_first(tmp_path: Path, monkeypatch, data_dir: Path):
    monkeypatch.chdir(tmp_path)
    network = program.TinyVGG(hidden_units=3)
    program.write_files({Path("models/CNN_model.pth"): program.serialize_network(network)})
    assert torch.equal(program.load_model().classifier[1].bias, network.classifier[1].bias)
    data_dir.rename("data_1")
    (Path("data_1/FashionMNIST/raw") / "t10k-labels-idx1-ubyte.gz").unlink()
    assert len(program.load_fashion_mnist("data_1")[1]) == 10_000, (
        "corrupt here, whole beside the script"
    )


def test_archives_directly_in_the_data_folder_are_found(tmp_path: Path, offline: None):
    for archive in RAW.glob("*.gz"):
        shutil.copy(archive, tmp_path)
    assert len(program.load_fashion_mnist(tmp_path)[0]) == 60_000
    assert {path.suffix for path in tmp_path.iterdir()} == {".gz"}


def test_without_archives_and_network_both_places_are_named_and_no_folder_is_made(
    tmp_path: Path, offline: None
):
    root = tmp_path / "data"
    with pytest.raises(program.UserError) as error:
        program.load_fashion_mnist(root)
    assert f"{root}/FashionMNIST/raw" in str(error.value) and f"or into {root}," in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_output_of_another_encoding_escapes_what_it_lacks(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, color in (("犬", "red"), ("🐱 cat", "blue")):
        for number in range(5):
            (tmp_path / "動物" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), color).save(tmp_path / "動物" / name / f"{number}.png")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output := io.BytesIO(), encoding="cp1252"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert program.main(["--images", "動物", "--image-size", "8", "--epochs", "1"]) == 0
    sys.stdout.flush()
    assert b"\\u52d5\\u7269: 8 training" in output.getvalue()


def test_processes_of_a_plain_locale_print_any_name(tmp_path: Path):
    save_lamps(tmp_path / "lamps", 20)
    (tmp_path / "lamps/red/メモ.txt").write_text("not an image")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPT]
    options = [*QUICK, "--no-plots", "--networks", "mlp"]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    printed = finish_python(start_python(*command, *options, folder=tmp_path, **plain))
    assert "lamps/red/\\udce3\\udc83" in printed.split("skipped, ")[1]


HERE = ["IMG1.png", "IMG[1].png", "a.png", "b.png"]
BELOW = ["more/c.png", "more/deep/d.png"]


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("*.png", ["IMG1.png", "IMG[1].png", "a.png", "b.png"]),
        ("?.png", ["a.png", "b.png"]),
        ("IMG[1].png", ["IMG[1].png"]),
        (".", [*HERE, *BELOW]),
        ("more/", BELOW),
        ("more", BELOW),
        ("**/*.png", [*HERE, *BELOW]),
        ("*/*/*.png", BELOW[1:]),
        ("m*", BELOW),
        ("more/**", BELOW),
        ("*.jpeg", []),
        ("empty", []),
    ],
)
def test_patterns_and_folders_are_predicted(tmp_path: Path, monkeypatch, capsys, pattern, expected):
    monkeypatch.chdir(tmp_path)
    hidden = [".hidden.png", ".cache/e.png", "more/.thumbnails/f.png", "more/__MACOSX/g.png"]
    hidden += ["@eaDir/h.png", "more/#recycle/i.png"]
    for name in (*HERE, *BELOW, *hidden):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28)).save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("not an image")
    assert program.main(["--predict", pattern, "--json"]) == (0 if expected else 1)
    out, err = capsys.readouterr()
    predicted = [json.loads(line)["image"] for line in out.splitlines()]
    assert [path.removeprefix("./") for path in predicted] == expected
    assert bool(err) == (not expected)
