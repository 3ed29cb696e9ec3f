"""The comparison: what is trained from which seed, what is saved of it, and the table."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import pytest
import torch

import fashion_mnist_cnn as program
from conftest import make_result


@pytest.fixture
def few(small_sets, tmp_path: Path, monkeypatch) -> tuple[program.ImageSet, program.ImageSet]:
    """400 training and 200 test images; what is saved is saved in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tuple(image_set.subset(slice(400 // k)) for k, image_set in enumerate(small_sets, 1))


class Collected(program.Callback):
    """Keeps what was trained."""

    def __init__(self) -> None:
        self.results: list[program.TrainedNetwork] = []

    def after_training(self, result: program.TrainedNetwork) -> None:
        self.results.append(result)


def compare(sets: Sequence[program.ImageSet], **recipe: object) -> list[program.TrainedNetwork]:
    """Train for one epoch on the CPU, and save."""
    args = program.parse_args(["--no-plots"])
    callback = Collected()
    dataset = program.Dataset("FashionMNIST", *sets)
    assert program.run(args, dataset, program.Recipe(epochs=1, **recipe), callback) == 0
    return callback.results


def test_several_seeds_are_trained_in_turn_and_the_first_of_each_network_is_saved(few):
    results = compare(few, seeds=(5, 6))
    names = [(result.name, result.seed) for result in results]
    assert names == [("MLP", 5), ("TinyVGG", 5), ("MLP", 6), ("TinyVGG", 6)]
    for first, second in ((results[0], results[2]), (results[1], results[3])):
        saved = program.load_model(Path("models", first.network.model_file))
        logits = program.predict_logits(saved, few[1].images)
        assert torch.equal(logits, first.test_logits)
        assert not torch.equal(logits, second.test_logits)

    alone = compare(few, seeds=(6,))
    for result, before in zip(alone, results[2:], strict=True):
        assert torch.equal(result.test_logits, before.test_logits)


def test_several_optimizers_alternate_and_the_networks_of_the_first_are_saved(few, capsys):
    results = compare(few, optimizers=("sgd", "adam"), seeds=(5,))
    found = [(result.name, result.optimizer, result.learning_rate) for result in results]
    assert found == [
        ("MLP", "SGD", 0.06),
        ("TinyVGG", "SGD", 0.06),
        ("MLP", "Adam", 0.02),
        ("TinyVGG", "Adam", 0.02),
    ]
    logits = program.predict_logits(program.load_model(), few[1].images)
    assert torch.equal(logits, results[1].test_logits)
    assert not torch.equal(logits, results[3].test_logits)
    assert "TinyVGG: 7,740 parameters, SGD, seed 5" in capsys.readouterr().out


def test_a_given_learning_rate_is_used_for_every_optimizer(few):
    results = compare(few, networks=("mlp",), optimizers=("sgd", "adam"), learning_rate=0.01)
    assert [result.learning_rate for result in results] == [0.01, 0.01]


def test_the_width_of_each_network_follows_from_its_class(few):
    results = compare(
        [image_set.subset(slice(100)) for image_set in few], networks=("mlp", "resnet")
    )
    widths = [(result.name, result.config.hidden_units) for result in results]
    assert widths == [("MLP", 10), ("ResNet", 16)]
    assert [result.learning_rate for result in results] == [0.1, 0.03]


def test_the_time_left_is_said_after_the_first_epoch_of_a_training_of_minutes(capsys):
    records = [program.Record(0.5, 1, 0.5, 1, 0.5, 10.0), program.Record(1.0, 1, 0.5, 1, 0.5, 20.0)]
    for epochs, expected in ((20, ["  about 6 min left of this training"]), (2, [])):
        state = program.TrainingState(program.ResNet(hidden_units=2), None, None, None)
        for record in records:
            state.history.append(record)
            program.report_evaluation(program.Callback(), "resnet adam 0", epochs, state)
        lines = [line for line in capsys.readouterr().out.splitlines() if "left" in line]
        assert lines == expected


class Hooks(program.Callback):
    """Writes down which hook was called, and which network had been written by then."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def note(self, hook: str) -> None:
        written = sorted(path.stem for path in Path("models").glob("*.pth"))
        reported = Path("assets/results.json").exists()
        self.calls.append((hook, *written, *["results"] * reported))

    def state_to_resume(self, key, network):
        self.note(f"state_to_resume {key}")

    def after_evaluation(self, key, state):
        if state.history[-1].ends_epoch:
            self.note("after_evaluation")

    def before_saving(self, result):
        self.note("before_saving")

    def after_training(self, result):
        self.note("after_training")

    def after_outputs(self, chosen, report):
        self.note(f"after_outputs {' '.join(chosen)}")


def test_each_hook_is_called_in_its_place(few):
    callback = Hooks()
    args = program.parse_args(["--no-plots"])
    dataset = program.Dataset("FashionMNIST", *few)
    assert program.run(args, dataset, program.Recipe(epochs=1), callback) == 0
    both = ("CNN_model", "MLP_model")
    assert callback.calls == [
        ("state_to_resume mlp muon 42",),
        ("after_evaluation",),
        ("before_saving",),
        ("after_training", "MLP_model"),
        ("state_to_resume tinyvgg muon 42", "MLP_model"),
        ("after_evaluation", "MLP_model"),
        ("before_saving", "MLP_model"),
        ("after_training", *both),
        ("after_outputs MLP TinyVGG", *both, "results"),
    ]


def test_of_a_network_that_is_not_saved_only_the_end_of_its_training_is_called(few):
    callback = Hooks()
    args = program.parse_args(["--no-plots"])
    dataset = program.Dataset("FashionMNIST", *few)
    recipe = program.Recipe(networks=("mlp",), epochs=1, learning_rate=1e30)
    assert program.run(args, dataset, recipe, callback) == 1
    hooks = [hook for hook, *_ in callback.calls]
    assert hooks == ["state_to_resume mlp muon 42", "after_evaluation", "after_training"]


def test_the_table_of_a_short_name_has_a_whole_header(capsys):
    program.print_table([make_result(program.MLP())])
    header, row = capsys.readouterr().out.strip().splitlines()
    assert header.split()[:2] == ["network", "optimizer"]
    assert header.index("optimizer") == row.index("Adam")


def test_the_table_of_several_runs_shows_their_spread_and_what_diverged(capsys):
    converged = [make_result(accuracy=accuracy) for accuracy in (0.80, 0.82, 0.84)]
    program.print_table([*converged, make_result(diverged=True)])
    header, row = capsys.readouterr().out.strip().splitlines()
    assert header.split()[-4:] == ["accuracy:", "sd", "runs", "diverged"]
    mean_loss = mean(result.metrics.loss for result in converged)
    assert " ".join(row.split()) == f"MLP Adam 7,960 82.00% {mean_loss:.4f} 2.0 s 2.00% 4 1"


def test_the_table_marks_what_is_at_chance_and_what_diverged(capsys):
    program.print_table([make_result(accuracy=0.1), make_result(program.TinyVGG())])
    _, mlp, cnn = capsys.readouterr().out.strip().splitlines()
    assert mlp.endswith("  at chance") and "at chance" not in cnn
    program.print_table([make_result(diverged=True)])
    assert capsys.readouterr().out.endswith(" s  diverged\n")


def test_the_table_of_one_run_is_plain(capsys):
    program.print_table([make_result(), make_result(program.TinyVGG(), optimizer="SGD")])
    header, *rows = capsys.readouterr().out.strip().splitlines()
    assert header.split() == [
        "network",
        "optimizer",
        "parameters",
        "accuracy",
        "loss",
        "training",
        "time",
    ]
    assert [row.split()[1] for row in rows] == ["Adam", "SGD"] and [
        len(row.split()) for row in rows
    ] == [7, 7]
    assert all(row.index("%") + 1 == header.index("accuracy") + len("accuracy") for row in rows)


def test_the_first_run_that_did_not_diverge_is_saved_and_one_at_chance_only_without_another():
    diverged, chance, good, better = (
        make_result(diverged=True),
        make_result(accuracy=0.1),
        make_result(),
        make_result(accuracy=0.95),
    )
    assert program.choose_results([diverged]) == {}
    assert program.choose_results([diverged, chance])["MLP"] is chance
    assert program.choose_results([chance, make_result(accuracy=0.1)])["MLP"] is chance
    assert program.choose_results([diverged, chance, good, better])["MLP"] is good
    assert program.choose_results([good, chance])["MLP"] is good
    order = program.choose_results([diverged, make_result(program.TinyVGG()), good])
    assert list(order) == ["MLP", "TinyVGG"]  # the last one's predictions are drawn


def test_a_network_is_saved_before_anything_is_printed_about_it(few, monkeypatch):
    """What is printed may fail: the other end is closed, the disk of a log is full."""

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(program, "print_failure", fail)
    with pytest.raises(OSError, match="No space left"):
        compare(few)
    assert isinstance(program.load_model("models/MLP_model.pth"), program.MLP)


@pytest.mark.parametrize(
    ("epochs", "count"), [(1, 1), (3, 3), (100, 100), (101, 52), (250, 85), (2300, 101)]
)
def test_of_many_epochs_about_a_hundred_are_shown_the_first_and_the_last(epochs: int, count: int):
    records = [program.Record(epoch, 1, 0.5, 1, 0.5, 1.0) for epoch in range(1, epochs + 1)]
    shown = [record.epoch for record in records if record.is_shown(epochs)]
    assert len(shown) == count
    assert shown[0] == 1 and shown[-1] == epochs
    within_the_first = program.Record(0.25, 1, 0.5, 1, 0.5, 1.0)
    assert within_the_first.is_shown(epochs)


def test_a_long_training_prints_and_keeps_what_is_shown(few, capsys):
    dataset = program.Dataset("few", *(image_set.subset(slice(20)) for image_set in few))
    recipe = program.Recipe(networks=("mlp",), epochs=201, batch_size=20)
    (result,) = program.compare_networks(recipe, dataset, program.Callback())
    out = capsys.readouterr().out
    assert out.count("  epoch ") == len(result.history) - 1 == 1 + 201 // 3
    assert [record.epoch for record in result.history][:4] == [0, 1, 3, 6]
