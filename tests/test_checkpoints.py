"""Runs that are killed or interrupted and go on: each is a process of its own."""

import io
import json
import os
import pickle
import re
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields, replace
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from test_processes import QUICK, lamps, run_processes  # noqa: F401 (lamps is a fixture)
from torch import nn

import fashion_mnist_cnn as program
from conftest import MODEL, SCRIPT_NETWORKS, Fork, shrink, to_bytes, wait
from fashion_mnist_extras import checkpoints
from fashion_mnist_extras.augmentation import Augmentation
from fashion_mnist_extras.checkpoints import Checkpoint

CHECKPOINT = "models/checkpoint.pth"
MODELS = ("models/CNN_model.pth", "models/MLP_model.pth", "models/CNN_model.json")
# Without accuracy_model_graph.png, which shows times.
FIGURES = (
    *("assets/confusion_matrix.png", "assets/learning_curves.png", "assets/mistakes.png"),
    *("assets/prediction_examples.png", "assets/shift_robustness.png", "assets/explorer.html"),
)


@dataclass(frozen=True)
class End:
    """When a run is sent a signal.

    In this training step, before this line, or during this write of the checkpoint.
    """

    signal: int
    step: int = 0
    line: str = ""
    write: int = 0


class Output(io.TextIOWrapper):
    """What a run prints; it is sent the signal just before the line."""

    def __init__(self, path: Path, end: End) -> None:
        super().__init__(path.open("wb", buffering=0), write_through=True)
        self.end = end
        self.is_sent = False

    def write(self, text: str) -> int:
        is_line = bool(self.end.line) and text.strip().startswith(self.end.line)
        if is_line and not self.is_sent:
            self.is_sent = True
            os.kill(os.getpid(), self.end.signal)
        return super().write(text)


def run_program(
    folder: Path, sets: bytes, arguments: tuple[str, ...], end: End, interval: float
) -> None:
    """Train in folder on pickled image sets, 16 steps an epoch.

    interval is in seconds, from one writing of the checkpoint to the next.
    """
    os.chdir(folder)
    checkpoints.INTERVAL = interval
    unpickled = pickle.loads(sets)
    program.load_fashion_mnist = lambda _: unpickled
    replace, writes = os.replace, count(1)
    to_float, steps = program.to_float, count(1)

    def end_while_replacing(source: Path, target: Path) -> None:
        if Path(target).name == "checkpoint.pth" and next(writes) == end.write:
            source.write_bytes(source.read_bytes()[:1000])
            os.kill(os.getpid(), end.signal)
        replace(source, target)

    def end_in_step(images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and next(steps) == end.step:
            os.kill(os.getpid(), end.signal)
        return to_float(images)

    os.replace = end_while_replacing
    program.to_float = end_in_step
    output = Output(Path("output"), end)
    with redirect_stdout(output), redirect_stderr(output):
        options = ["--epochs", "3", "--batch-size", "16"]
        code = program.main([*options, *arguments])
    sys.exit(code)


Begin = Callable[..., BaseProcess]
Start = Callable[..., int]


@pytest.fixture(scope="module")
def begin(fork: Fork, fashion_mnist) -> Begin:
    """Return what starts the program in a process of its own, without waiting for the run.

    It trains on 250 images of 14 x 14 pixels, and tests on 64.
    """
    train_set, test_set = fashion_mnist
    sets = pickle.dumps((shrink(train_set, 250), shrink(test_set, 64)))

    def begin(folder: Path, *arguments: str, end: End = End(0), interval: float = 0) -> BaseProcess:
        folder.mkdir(exist_ok=True)
        return fork(run_program, folder, sets, arguments, end, interval)

    return begin


@pytest.fixture(scope="module")
def start(begin: Begin) -> Start:
    return lambda folder, *arguments, **options: wait(begin(folder, *arguments, **options))


def read_table(folder: Path) -> list[str]:
    """The table that a run printed, without its times."""
    table = (folder / "output").read_text().partition("\nnetwork ")[2].partition("assets/")[0]
    return re.sub(r" *[\d.]+ s\b", "", table).splitlines()


def read_results(folder: Path) -> dict[str, object]:
    """What results.json says, without times and without the notes that the run was resumed."""
    report = json.loads((folder / "assets/results.json").read_text())
    for model in report["models"]:
        del model["training_seconds"]
        for record in model["epochs"]:
            del record["training_seconds"]
    del report["resumed_from"], report["settings"]["resume"]
    return report


def assert_same(folder: Path, expected: Path, names: tuple[str, ...]) -> None:
    for name in names:
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    assert read_results(folder) == read_results(expected)
    assert read_table(folder) == read_table(expected)
    assert not (folder / CHECKPOINT).exists()


@pytest.fixture(scope="module")
def undisturbed(start: Start, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert start(folder) == 0
    assert len(read_table(folder)) > 2 and not (folder / CHECKPOINT).exists()
    assert json.loads((folder / "assets/results.json").read_text())["resumed_from"] is None
    return folder


@pytest.fixture(scope="module")
def without_figures(start: Start, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("without figures")
    assert start(folder, "--no-plots") == 0
    return folder


STEPS = [(5, 95), (15, 85), (25, 75), (35, 65), (45, 55)]  # of 96: 2 networks, 3 epochs of 16


@pytest.mark.parametrize("pair", STEPS)
def test_a_run_killed_at_any_moment_goes_on_to_the_same_bytes(
    begin, without_figures, tmp_path, pair: tuple[int, int]
):
    """Two runs are side by side, started by one thread: multiprocessing is not thread-safe.

    Process.start() may take the exit code that another thread's join() is waiting for.
    """
    folders = {step: tmp_path / str(step) for step in pair}
    killed = [
        begin(folder, "--no-plots", end=End(signal.SIGKILL, step=step))
        for step, folder in folders.items()
    ]
    assert [wait(process) for process in killed] == [-signal.SIGKILL] * 2
    resumed = []
    for step, folder in folders.items():
        epochs_done = (step - 1) // 16
        assert (folder / "output").read_text().count("  epoch ") == epochs_done
        assert (folder / CHECKPOINT).exists() == (epochs_done > 0)
        resume = ["--resume"] if epochs_done else []
        resumed.append(begin(folder, "--no-plots", *resume))
    assert [wait(process) for process in resumed] == [0, 0]
    for folder in folders.values():
        assert_same(folder, without_figures, MODELS)


@pytest.mark.parametrize("write", [1, 2, 5])
def test_a_run_killed_while_it_writes_a_checkpoint_goes_on(
    start, without_figures, tmp_path, write: int
):
    folder = tmp_path / "run"
    end = End(signal.SIGKILL, write=write)
    assert start(folder, "--no-plots", end=end) == -signal.SIGKILL
    assert (folder / CHECKPOINT).exists() == (write > 1)
    resume = ["--resume"] if write > 1 else []
    assert start(folder, "--no-plots", *resume) == 0
    assert_same(folder, without_figures, MODELS)
    printed = (folder / "output").read_text()
    assert printed.count("  epoch ") == 6 - (write - 1)


MOMENTS = {  # when Ctrl-C is pressed, and how many epochs are left
    "after an epoch of the MLP": (End(signal.SIGINT, line="epoch 1"), 5),
    "in the second epoch of the MLP": (End(signal.SIGINT, step=20), 5),
    "in the second epoch of TinyVGG": (End(signal.SIGINT, step=48 + 20), 2),
    "before the table": (End(signal.SIGINT, line="network "), 0),
    "in the table": (End(signal.SIGINT, line="TinyVGG  Muon"), 0),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(start, undisturbed, tmp_path, moment):
    folder = tmp_path / "run"
    end, epochs_left = MOMENTS[moment]
    assert start(folder, end=end, interval=1000) == 130
    *before, last = (folder / "output").read_text().splitlines()
    hint = f"interrupted; add --resume to go on from {CHECKPOINT}"
    assert last == f"fashion_mnist_cnn.py: {hint}"
    has_row = any(line.startswith("MLP ") for line in before)
    assert has_row == ("TinyVGG" in moment or moment == "in the table")
    assert not any((folder / name).exists() for name in FIGURES)
    assert start(folder, "--resume") == 0
    assert (folder / "output").read_text().count("  epoch ") == epochs_left
    assert_same(folder, undisturbed, MODELS + FIGURES)
    report = json.loads((folder / "assets/results.json").read_text())
    assert report["resumed_from"] == report["environment"] and report["settings"]["resume"]


def test_a_second_ctrl_c_ends_the_run_at_once(start, tmp_path):
    """The first comes in the third epoch, the second while the checkpoint is written."""
    end = End(signal.SIGINT, step=2 * 16 + 1, write=1)
    assert start(tmp_path, "--no-plots", end=end, interval=1000) == 130
    assert (tmp_path / "output").read_text().endswith("\nfashion_mnist_cnn.py: interrupted\n")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "output"]


def test_a_resnet_with_augmentation_goes_on_to_the_same_bytes(start, tmp_path):
    options = ("--networks", "resnet", "--augment", "--hidden-units", "4", "--no-plots")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, *options) == 0
    resume: list[str] = []
    for _ in range(2):  # in the second epoch, then in the third
        end = End(signal.SIGKILL, step=20)
        assert start(killed, *options, *resume, end=end) == -signal.SIGKILL
        resume = ["--resume"]
    assert start(killed, *options, "--resume") == 0
    assert (killed / "output").read_text().count("  epoch ") == 1
    assert_same(killed, whole, ("models/ResNet_model.pth", "models/ResNet_model.json"))


def test_torchrun_goes_on_by_itself_when_a_process_is_killed(fork, lamps):  # noqa: F811
    options = (*QUICK, "--networks", "mlp", "resnet", "--augment")
    code, _, err = run_processes(fork, lamps, 2, *options, max_restarts=1)
    assert code == 0, err
    names = ("MLP_model.pth", "ResNet_model.pth")
    expected = [(lamps / "models/lamps" / name).read_bytes() for name in names]
    report = json.loads((lamps / "assets/lamps/results.json").read_text())
    for name in names:
        (lamps / "models/lamps" / name).unlink()
    code, out, err = run_processes(fork, lamps, 2, *options, max_restarts=1, killed_in="ResNet 4")
    assert code == 0, err
    assert [(lamps / "models/lamps" / name).read_bytes() for name in names] == expected
    resumed = json.loads((lamps / "assets/lamps/results.json").read_text())
    assert report["resumed_from"] is None and resumed["resumed_from"] == resumed["environment"]
    assert out.count("  epoch 10:") == 2 and out.count("  epoch 4:") == 2
    assert not (lamps / "models/lamps/checkpoint.pth").exists()


# From here on no process is needed.


def small_images(fashion_mnist) -> tuple[program.ImageSet, program.ImageSet]:
    return shrink(fashion_mnist[0], 500), shrink(fashion_mnist[1], 200)


@pytest.fixture(scope="module")
def interrupted_run(tmp_path_factory, fashion_mnist) -> Path:
    """A folder with the checkpoint of a run of which the MLP and an epoch of TinyVGG are done."""
    folder = tmp_path_factory.mktemp("interrupted")
    sets = small_images(fashion_mnist)
    update, updates = Checkpoint.update, []

    def update_or_interrupt(self: Checkpoint, *state: object) -> None:
        update(self, *state)
        updates.append(state)
        if len(updates) == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(program, "load_fashion_mnist", lambda _: sets)
        patch.setattr(Checkpoint, "update", update_or_interrupt)
        assert program.main(["--epochs", "2", "--no-plots"]) == 130
    return folder


@pytest.fixture
def interrupted(tmp_path, monkeypatch, interrupted_run, fashion_mnist, capsys) -> Path:
    shutil.copytree(interrupted_run, tmp_path, dirs_exist_ok=True)
    sets = small_images(fashion_mnist)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, "load_fashion_mnist", lambda _: sets)
    capsys.readouterr()
    return Path(CHECKPOINT)


OTHERS = {  # what a flag changes, by its name in the recipe
    "epochs": ("--epochs", "3"),
    "batch_size": ("--batch-size", "64"),
    "networks": ("--networks", "tinyvgg", "mlp"),
    "augment, is_mirrored": ("--augment",),
    "augment": ("--augment", "--no-mirror"),
    "optimizers": ("--optimizer", "sgd"),
    "learning_rate": ("--learning-rate", "0.01"),
    "hidden_units": ("--hidden-units", "12"),
    "seeds": ("--seed", "7"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_recipe_is_refused(interrupted: Path, capsys, name: str):
    before = interrupted.read_bytes()
    assert program.main(["--epochs", "2", "--no-plots", "--resume", *OTHERS[name]]) == 1
    out, err = capsys.readouterr()
    expected = f"fashion_mnist_cnn.py: {CHECKPOINT} is of a run with other {name}\n"
    assert (out, err) == ("", expected)
    assert interrupted.read_bytes() == before


@dataclass(frozen=True)
class LongerRecipe(program.Recipe):
    """A recipe with a field that somebody has added."""

    dropout: float = 0.0


def test_a_new_field_of_the_recipe_decides_too(interrupted: Path, monkeypatch, capsys):
    monkeypatch.setattr(program, "Recipe", LongerRecipe)
    assert program.main(["--epochs", "2", "--no-plots", "--resume"]) == 1
    expected = f"fashion_mnist_cnn.py: {CHECKPOINT} is of a run with other dropout\n"
    assert capsys.readouterr() == ("", expected)


def test_all_that_decides_the_weights_is_compared(random_set):
    augment = Augmentation(rotation=5.0)
    recipe = program.Recipe(seeds=range(3, 5), augment=augment)
    dataset = program.Dataset("noise", random_set, random_set)
    conditions = checkpoints.describe_conditions(recipe, dataset, 2)
    assert conditions["augment"] == vars(augment) and conditions["seeds"] == [3, 4]
    assert conditions.keys() > {field.name for field in fields(program.Recipe)}
    changed = replace(random_set, labels=random_set.labels.flip(0))
    others = [
        checkpoints.describe_conditions(recipe, dataset, 1),
        checkpoints.describe_conditions(replace(recipe, seeds=range(3, 6)), dataset, 2),
        checkpoints.describe_conditions(
            replace(recipe, augment=replace(augment, rotation=6.0)), dataset, 2
        ),
        checkpoints.describe_conditions(recipe, replace(dataset, test_set=changed), 2),
    ]
    assert conditions not in others
    assert conditions == checkpoints.describe_conditions(recipe, dataset, 2)


def test_a_checkpoint_of_other_images_is_refused(interrupted, monkeypatch, capsys):
    train_set, test_set = program.load_fashion_mnist("")
    images = test_set.images.clone()
    images[-1, 0, 9, 9] ^= 1
    changed = program.ImageSet(images, test_set.labels, test_set.class_names)
    monkeypatch.setattr(program, "load_fashion_mnist", lambda _: (train_set, changed))
    assert program.main(["--epochs", "2", "--no-plots", "--resume"]) == 1
    assert capsys.readouterr().err.endswith(f"{CHECKPOINT} is of a run with other images\n")


def test_settings_that_decide_nothing_may_differ(interrupted, capsys):
    arguments = ["--epochs", "2", "--resume", "--assets-dir", "other", "--networks", "mlp"]
    assert program.main([*arguments, "tinyvgg", "--no-plots", "--data-dir", "data_1"]) == 0
    out, err = capsys.readouterr()
    assert out.count("  epoch ") == 1 and err == ""  # of four, three were done
    assert not interrupted.exists()


def test_another_version_of_torch_may_go_on_and_is_named(interrupted, monkeypatch, capsys):
    earlier = torch.__version__
    monkeypatch.setattr(torch, "__version__", "9.8.7")
    assert program.main(["--epochs", "2", "--no-plots", "--resume"]) == 0
    assert f"{CHECKPOINT} was written in another environment" in capsys.readouterr().out
    report = json.loads(Path("assets/results.json").read_text())
    assert report["resumed_from"]["torch"] == earlier
    assert report["environment"]["torch"] == "9.8.7"


def flip_bit(content: bytes) -> bytes:
    """Change one bit of the largest tensor; elsewhere it might be one that nothing reads."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        values = max(map(archive.read, archive.namelist()), key=len)
    changed = bytearray(content)
    changed[content.index(values) + len(values) // 2] ^= 1
    return bytes(changed)


BAD_CHECKPOINTS = {
    "cut": lambda content: content[: len(content) // 2],
    "cut at its end": lambda content: content[:-10],
    "changed": flip_bit,
    "empty": lambda _: b"",
    "text": lambda _: b"hello",
    "a network": lambda _: MODEL.read_bytes(),
    "a list": lambda _: to_bytes([1, 2]),
    "other keys": lambda _: to_bytes({"conditions": {}, "states": {}}),
}


@pytest.mark.parametrize("kind", BAD_CHECKPOINTS)
def test_a_cut_or_foreign_checkpoint_is_refused(interrupted: Path, capsys, kind: str):
    interrupted.write_bytes(BAD_CHECKPOINTS[kind](interrupted.read_bytes()))
    files = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert program.main(["--epochs", "2", "--no-plots", "--resume"]) == 1
    out, err = capsys.readouterr()
    start = f"fashion_mnist_cnn.py: {CHECKPOINT} is no checkpoint to go on from: "
    assert out == "" and err.startswith(start) and err.count("\n") == 1
    assert files == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_resume_without_a_checkpoint_is_refused(tmp_path, monkeypatch, fashion_mnist, capsys):
    monkeypatch.chdir(tmp_path)
    sets = small_images(fashion_mnist)
    monkeypatch.setattr(program, "load_fashion_mnist", lambda _: sets)
    assert program.main(["--resume"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "No such file" in err and CHECKPOINT in err and err.count("\n") == 1


def test_a_checkpoint_is_not_used_unasked_nor_overwritten(interrupted: Path, monkeypatch, capsys):
    content = interrupted.read_bytes()
    line = f"{CHECKPOINT} is of a run that was interrupted: --resume would go on with it"
    options = ["--epochs", "1", "--no-plots"]
    assert program.main(options) == 0  # too short for a checkpoint of its own
    assert line in capsys.readouterr().out.splitlines()
    assert interrupted.read_bytes() == content
    monkeypatch.setattr(checkpoints, "INTERVAL", 0)
    assert program.main(options) == 0
    out = capsys.readouterr().out
    assert line in out.splitlines() and f"{CHECKPOINT} of the run before is now" in out
    assert not interrupted.exists()  # its own is removed, the other one kept
    kept = list(interrupted.parent.glob("checkpoint-*.pth"))
    assert [path.read_bytes() for path in kept] == [content]


EDITS = {  # of the script, as the exercises of the README are
    "pooling": ("nn.MaxPool2d(kernel_size=2)", "nn.AvgPool2d(kernel_size=2)"),
    "optimizer": ("betas=(0.9, 0.99)", "betas=(0.9, 0.9)"),
}


def edit_script(folder: Path, monkeypatch, content: bytes) -> None:
    """Let the program be one of this content, in folder."""
    edited = folder / "fashion_mnist_cnn.py"
    edited.write_bytes(content)
    (folder / "fashion_mnist_extras").symlink_to(Path(checkpoints.__file__).parent)
    monkeypatch.setattr(program, "__file__", str(edited))
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.parametrize("name", EDITS)
def test_a_checkpoint_of_another_version_of_the_program_is_refused_and_not_offered(
    interrupted: Path, tmp_path, monkeypatch, capsys, name: str
):
    content = interrupted.read_bytes()
    before, after = EDITS[name]
    script = Path(program.__file__).read_bytes()
    assert before.encode() in script
    edit_script(tmp_path, monkeypatch, script.replace(before.encode(), after.encode()))
    assert program.main(["--epochs", "2", "--no-plots", "--resume"]) == 1
    expected = f"fashion_mnist_cnn.py: {CHECKPOINT} is of another version of the program; run the"
    err = capsys.readouterr().err
    assert err.startswith(expected) and err.count("\n") == 1
    assert program.main(["--epochs", "2", "--no-plots", "--networks", "mlp"]) == 0
    assert "--resume" not in capsys.readouterr().out
    assert interrupted.read_bytes() == content


def test_a_comment_makes_no_other_version(interrupted: Path, tmp_path, monkeypatch, capsys):
    script = Path(program.__file__).read_bytes()
    edit_script(tmp_path, monkeypatch, (script + b"# mine\n").replace(b"\n", b"\r\n"))
    assert program.main(["--epochs", "2", "--no-plots", "--resume"]) == 0
    assert capsys.readouterr().out.count("  epoch ") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"conditions": None},
        {"conditions": {}},
        {"states": [1]},
        {"environment": "here"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_checkpoint_with_other_contents_is_refused_in_one_line(interrupted, capsys, change):
    content = torch.load(interrupted, weights_only=True)
    torch.save(content | change, interrupted)
    assert program.main(["--epochs", "2", "--no-plots"]) == 0
    capsys.readouterr()
    assert program.main(["--epochs", "2", "--no-plots", "--resume"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_checkpoint_that_does_not_say_its_version_is_of_another(interrupted, capsys):
    content = torch.load(interrupted, weights_only=True)
    del content["conditions"]["version of the program"]
    torch.save(content, interrupted)
    assert program.main(["--epochs", "2", "--no-plots", "--resume"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and f"{CHECKPOINT} is of another version of the program" in err
    assert err.count("\n") == 1


def test_a_checkpoint_is_written_once_in_an_interval(tmp_path, monkeypatch):
    clock, writes = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(program, "write_files", lambda contents: writes.append(clock[0]))
    checkpoint = Checkpoint(tmp_path / "checkpoint.pth", conditions={}, environment={})
    for now in (10, 59, 60, 61, 119, 121, 200):
        clock[0] = now
        checkpoint.update("mlp", {"history": []})
    assert writes == [60, 121, 200]


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(
    tmp_path, monkeypatch, fashion_mnist, capsys
):
    monkeypatch.chdir(tmp_path)
    sets = small_images(fashion_mnist)
    monkeypatch.setattr(program, "load_fashion_mnist", lambda _: sets)
    write_files = program.write_files

    def write_all_but_checkpoints(contents: Mapping[Path, bytes]) -> None:
        if Path(CHECKPOINT) in contents:
            raise OSError("cannot write it: No space left on device")
        write_files(contents)

    monkeypatch.setattr(program, "write_files", write_all_but_checkpoints)
    monkeypatch.setattr(checkpoints, "INTERVAL", 0)
    assert program.main(["--epochs", "2", "--networks", "mlp", "--no-plots"]) == 0
    assert capsys.readouterr().err.count("No space left on device") == 2
    assert isinstance(program.load_model("models/MLP_model.pth"), program.MLP)


@pytest.mark.parametrize("optimizer", program.OPTIMIZERS)
@pytest.mark.parametrize("learning_rate", [0.01, 1e30], ids=["learns", "diverges"])
@pytest.mark.parametrize("key", SCRIPT_NETWORKS)
def test_training_goes_on_from_any_epoch(fashion_mnist, key: str, learning_rate: float, optimizer):
    train_set, test_set = (shrink(image_set, 300) for image_set in fashion_mnist)

    def train(**options: object) -> tuple[nn.Module, list[program.Record]]:
        torch.manual_seed(3)
        network = program.NETWORKS[key].build(program.NetworkConfig(1, 14, 4, 10))
        history = program.train(
            network,
            train_set,
            test_set,
            epochs=3,
            batch_size=100,
            learning_rate=learning_rate,
            seed=5,
            optimizer_name=optimizer,
            augment=Augmentation(),
            **options,
        )
        return network, history

    states = []

    def keep(state: program.TrainingState) -> None:
        if state.history[-1].ends_epoch:
            states.append(state.state_dict())

    network, history = train(after_evaluation=keep)
    assert len(states) == (3 if learning_rate < 1 else 1)
    for state in states:
        tensors = {name: state[name] for name in ("network", "optimizer", "order_generator")}
        before = to_bytes(tensors)
        resumed, resumed_history = train(resume_from=state)
        assert to_bytes(tensors) == before  # so that one can go on from it once more
        assert [record.epoch for record in resumed_history] == [record.epoch for record in history]
        for name, weights in network.state_dict().items():
            assert weights.numpy().tobytes() == resumed.state_dict()[name].numpy().tobytes()


SOURCE = """# a comment
def f(x):  # another
    text = f"{x!r:>5} # no comment"

    return text + '#'  # the last
"""


def test_a_version_is_a_sources_text_without_comments_and_empty_lines():
    """Not its syntax tree or tokens, which differ from one version of Python to the next."""
    expected = """def f(x):
    text = f"{x!r:>5} # no comment"
    return text + '#'"""
    assert checkpoints.remove_comments(SOURCE) == expected
    assert checkpoints.remove_comments(expected) == expected
    assert checkpoints.remove_comments(SOURCE.replace("5", "6")) != expected


def test_every_line_of_the_program_but_comments_is_in_its_version(tmp_path, monkeypatch):
    version = checkpoints.compute_version()
    copy = tmp_path / "fashion_mnist_cnn.py"
    content = Path(program.__file__).read_text()
    monkeypatch.setattr(program, "__file__", str(copy))
    for edited, is_same in (
        (content.replace("\n", "\r\n\r\n"), True),
        (content.replace("label_smoothing=0.05", "label_smoothing=0.06"), False),
    ):
        copy.write_bytes(edited.encode())
        assert (checkpoints.compute_version() == version) == is_same
