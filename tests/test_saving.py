import io
import json
import os
import pickle
import resource
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import fashion_mnist_cnn as program
from conftest import MODEL, REPOSITORY, SCRIPT_NETWORKS, save_lamps
from fashion_mnist_extras import checkpoints


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "network.pth"
    path.write_bytes(program.serialize_network(program.TinyVGG()))
    return path


@pytest.mark.filterwarnings("ignore:.*has no JSON file")
@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(SCRIPT_NETWORKS),
    st.builds(
        program.NetworkConfig,
        in_channels=st.sampled_from([1, 3]),
        image_size=st.integers(4, 40),
        hidden_units=st.integers(1, 12),
        num_classes=st.integers(1, 12),
    ),
)
def test_a_saved_network_of_any_size_is_loaded_with_its_logits(tmp_path_factory, key, sizes):
    network = program.NETWORKS[key].build(sizes).eval()
    path = tmp_path_factory.mktemp("saved") / "network.pth"
    path.write_bytes(program.serialize_network(network))
    random_state = torch.get_rng_state()
    loaded = program.load_model(path)
    assert torch.equal(random_state, torch.get_rng_state()) and not loaded.training
    images = torch.rand(3, sizes.in_channels, sizes.image_size, sizes.image_size)
    assert type(loaded) is type(network) and torch.equal(loaded(images), network(images))


def test_the_file_is_a_bare_state_dict_of_contiguous_floats(saved: Path):
    state = torch.load(saved, weights_only=True)
    assert type(state).__name__ in ("dict", "OrderedDict")
    assert all(
        t.is_contiguous() and t.dtype == torch.float32 and t.device.type == "cpu"
        for t in state.values()
    )


def test_a_state_dict_saved_by_other_code_is_loaded(tmp_path: Path):
    network = program.TinyVGG(hidden_units=3)
    torch.save(
        network.state_dict(), tmp_path / "other.pth"
    )  # an OrderedDict with metadata, channels_last
    images = torch.rand(9, 1, 28, 28)
    assert torch.equal(program.load_model(tmp_path / "other.pth")(images), network(images))


def test_a_missing_model_is_reported_with_what_writes_one(tmp_path: Path):
    with pytest.raises(
        program.UserError, match=r"none\.pth cannot be read: No such file.*; train first .*--images"
    ):
        program.load_model(tmp_path / "none.pth")


class Tutorial(nn.Module):
    """The network under the names of the well-known tutorial; padding as there, 1 or 0."""

    def __init__(self, channels: int = 1, features: int = 490, padding: int = 1) -> None:
        super().__init__()

        def conv_block(inputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, 10, 3, padding=padding),
                nn.ReLU(),
                nn.Conv2d(10, 10, 3, padding=padding),
                nn.ReLU(),
                nn.MaxPool2d(2),
            )

        self.block_1 = conv_block(channels)
        self.block_2 = conv_block(10)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(features, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.block_2(self.block_1(images)))


def test_the_cnn_fits_the_tutorials_class_as_the_readme_says(fashion_mnist):
    assert "remove `conv_`" in (REPOSITORY / "README.md").read_text()
    state = torch.load(MODEL, weights_only=True)
    network = Tutorial()
    network.load_state_dict({name.removeprefix("conv_"): t for name, t in state.items()})
    images = program.to_float(fashion_mnist[1].images[:50])
    torch.testing.assert_close(network(images), program.load_model(MODEL)(images))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda network: network,
        nn.DataParallel,
        torch.compile,
        lambda n: torch.compile(nn.DataParallel(n)),
    ],
    ids=["tutorial", "DataParallel", "compile", "both"],
)
@pytest.mark.parametrize("kind", [Tutorial, program.MLP, program.ResNet])
def test_weights_under_other_names_are_loaded(tmp_path: Path, recwarn, kind, wrap):
    network = kind().eval()
    torch.save(wrap(network).state_dict(), tmp_path / "other.pth")
    images = torch.rand(3, 1, 28, 28)
    loaded = program.load_model(tmp_path / "other.pth")
    torch.testing.assert_close(loaded(images), network(images))
    assert not recwarn.list  # one channel and 490 features are FashionMNIST's


def test_a_network_that_is_compiled_in_parts_is_loaded(tmp_path: Path):
    network = program.TinyVGG()
    weight = network.conv_block_2[0].weight
    network.conv_block_2 = torch.compile(network.conv_block_2)
    torch.save(network.state_dict(), tmp_path / "other.pth")
    assert torch.equal(program.load_model(tmp_path / "other.pth").conv_block_2[0].weight, weight)


@pytest.mark.parametrize(
    ("state", "assumed"),
    [
        (
            Tutorial(3, 1690, padding=0).state_dict(),
            "images of 3 x 52 x 52 and padding of 1 are assumed",
        ),
        (
            Tutorial(1, 160, padding=0).state_dict(),
            "images of 1 x 16 x 16 and padding of 1 are assumed",
        ),
        (
            program.MLP(3 * 64 * 64).state_dict(),
            "images of 3 x 64 x 64 and padding of 1 are assumed",
        ),
        (program.ResNet(3, 2).state_dict(), "images of 3 x 28 x 28 and padding of 1 are assumed"),
    ],
    ids=["colour", "grey", "MLP", "ResNet"],
)
def test_an_assumed_image_size_is_warned_of_once(tmp_path: Path, capsys, state, assumed):
    path = tmp_path / "other.pth"
    torch.save(state, path)
    with pytest.warns(UserWarning, match=rf"other\.pth has no JSON file .* {assumed}") as warned:
        program.load_model(path)
    assert len(warned) == 1 and warned[0].filename == __file__
    image = tmp_path / "image.png"
    Image.new("RGB", (90, 90), "red").save(image)
    assert program.main(["--predict", str(image), "--model", str(path)]) == 0
    assert capsys.readouterr().err.count("\n") == 1
    path.with_suffix(".json").touch()
    with warnings.catch_warnings(action="error"):
        program.load_model(path)


def test_weights_are_loaded_without_what_only_reports_need(tmp_path: Path):
    code = """
import sys
for name in ("matplotlib", "torchmetrics", "mlxtend"):
    sys.modules[name] = None
import torch
from fashion_mnist_cnn import load_model
print(tuple(load_model()(torch.rand(2, 1, 28, 28)).shape))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert (result.stdout, result.stderr) == ("(2, 10)\n", "")


class Call:
    """Unpickled by careless code, calls function with arguments."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def as_torch_file(content: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def as_torchscript(network: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network), buffer)
    return buffer.getvalue()


def rezip(
    model_file: bytes,
    end: str = "none",
    content: bytes = b"",
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """The model file with other content in the entry of this end, all checksums correct."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(model_file)) as old,
        zipfile.ZipFile(buffer, "w", compression) as new,
    ):
        for name in old.namelist():
            new.writestr(name, content if name.endswith(end) else old.read(name))
    return buffer.getvalue()


def as_bomb(model_file: bytes) -> bytes:
    """The model file with its first weights replaced by 400 MB of zeros, compressed."""
    return rezip(model_file, "data/0", bytes(400_000_000), zipfile.ZIP_DEFLATED)


def as_compressed(model_file: bytes) -> bytes:
    """The model file, compressed, the first entry so that it cannot be unpacked."""
    content = bytearray(rezip(model_file, compression=zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        first = archive.infolist()[0]
    content[first.header_offset + 30 + len(first.filename)] = 255  # no block begins so
    return bytes(content) + bytes(30_000)  # as large as it claims to be


def as_encrypted(model_file: bytes) -> bytes:
    """The model file, of which each entry claims to be encrypted."""
    content = bytearray(model_file)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(signature)
        while start >= 0:
            content[start + offset] |= 1
            start = content.find(signature, start + 4)
    return bytes(content)


def with_garbage_pickle(model_file: bytes, garbage: bytes) -> bytes:
    """The model file with another pickle in it."""
    return rezip(model_file, "data.pkl", garbage)


def bad_models(folder: Path) -> dict[str, bytes]:
    intact = MODEL.read_bytes()
    state = program.TinyVGG().state_dict()
    weight = state["conv_block_2.0.weight"]
    changed = {
        "other shapes": torch.rand(3, 3),
        "other dtype": weight.double(),
        "integers": weight.int(),
        "NaN": torch.full_like(weight, torch.nan),
        "infinite": torch.full_like(weight, torch.inf),
        "no tensor": 7,
        "sparse": weight.to_sparse(),
    }
    return {
        "empty": b"",
        "truncated": intact[: len(intact) // 2],
        "random": os.urandom(20_000),
        "one bit changed": intact[:10_000] + bytes([intact[10_000] ^ 1]) + intact[10_001:],
        "bomb of zeros": as_bomb(intact),
        "a terabyte asked for": as_torch_file({"a": Call(bytearray, 2**40)}),
        "one number for a billion": as_torch_file(
            {name: torch.zeros(1).expand(2**30) for name in state}
        ),
        "pickle": pickle.dumps(Call(os.mkdir, str(folder / "executed"))),
        "pickle in a zip": as_torch_file(Call(os.mkdir, str(folder / "executed"))),
        "compressed and changed": as_compressed(intact),
        "two names for one": as_torch_file(
            state | {f"module.{name}": weight for name, weight in state.items()}
        ),
        "encrypted": as_encrypted(intact),
        "no dimensions": as_torch_file(
            program.MLP().state_dict() | {"layer_stack.3.bias": torch.tensor(1.0)}
        ),
        "empty pickle": with_garbage_pickle(intact, b""),
        "pickle without a stack": with_garbage_pickle(intact, b"."),
        "pickle of bytes": with_garbage_pickle(intact, b"\x80\x02\x8c\xff"),
        "other keys": as_torch_file({"weight": weight}),
        "a list": as_torch_file([1, 2, 3]),
        "too small for an image": as_torch_file(
            program.TinyVGG().state_dict() | {"classifier.1.weight": torch.ones(10, 5)}
        ),
        "no channels": as_torch_file(
            {
                "conv_block_1.0.weight": torch.zeros(0, 1, 3, 3),
                "classifier.1.weight": torch.zeros(9, 0),
            }
        ),
        "checkpoint": as_torch_file({"epoch": 3, "model_state_dict": state, "loss": 0.4}),
        "numbered": as_torch_file({0: weight}),
        "half precision": as_torch_file({name: t.half() for name, t in state.items()}),
        "before zip files": as_torch_file(state, _use_new_zipfile_serialization=False),
        "whole model": as_torch_file(Tutorial()),
        "TorchScript": as_torchscript(nn.Linear(2, 2)),
        "other network": as_torch_file(nn.Linear(2, 2).state_dict()),
        "a page of the web": b"<!DOCTYPE html><html>",
        "one key missing": as_torch_file(dict(list(state.items())[:-1])),
        "one key too many": as_torch_file(state | {"more": weight}),
    } | {
        name: as_torch_file(state | {"conv_block_2.0.weight": value})
        for name, value in changed.items()
    }


FOUND = {
    "checkpoint": "a dict in which 'epoch' is of type int",
    "half precision": r"conv_block_1.0.weight is torch.float16",
    "before zip files": "no intact zip file, as torch.save has written since version 1.6",
    "whole model": "torch.load refuses",
    "TorchScript": "torch.load refuses",
    "other network": "keys .'weight', 'bias'",
    "a page of the web": "no intact zip file",
    "a list": "a list",
    "other shapes": "size mismatch for conv_block_2.0.weight",
    "NaN": "conv_block_2.0.weight is not finite",
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.filterwarnings("ignore:.torch.(jit|load)")
def test_a_bad_model_file_is_rejected_and_neither_executed_nor_unpacked(tmp_path: Path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, content in bad_models(tmp_path).items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content)
        with pytest.raises(
            program.UserError,
            match=rf"^\S.*{name}.pth is not a float32 state dict of MLP or TinyVGG or ResNet.*; "
            r"found: \S.+; nothing in it was executed$",
        ):
            program.load_model(path)
    assert not (tmp_path / "executed").exists()
    for name, found in FOUND.items():
        with pytest.raises(program.UserError, match=f"found: .*{found}"):
            program.load_model(tmp_path / f"{name}.pth")
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000
    )  # kilobytes; the bomb's file is in it


def test_a_bug_in_a_network_keeps_its_traceback(monkeypatch):
    def build(sizes: program.NetworkConfig) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(program.TinyVGG, "build", build)
    with pytest.raises(TypeError, match="a bug"):
        program.load_model(MODEL)


def test_files_are_replaced_all_or_none(tmp_path: Path):
    first, second = tmp_path / "a", tmp_path / "new folder" / "b"
    program.write_files({first: b"old a", second: b"old b"})
    (tmp_path / "file").write_text("in the way of a folder")
    with pytest.raises(OSError, match="cannot write"):
        program.write_files({first: b"new a", tmp_path / "file" / "c": b"new c"})
    assert first.read_bytes() == b"old a"
    program.write_files({first: b"new a", second: b"new b"})
    assert (first.read_bytes(), second.read_bytes()) == (b"new a", b"new b")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "file", "new folder"]


@pytest.mark.parametrize("name", ["features.0.0.weight", "features.0.1.running_mean"])
def test_only_the_counters_of_batch_normalization_may_be_integers(tmp_path: Path, name: str):
    state = program.ResNet(hidden_units=2).state_dict()
    torch.save(state, tmp_path / "network.pth")
    assert isinstance(program.load_model(tmp_path / "network.pth"), program.ResNet)
    torch.save(state | {name: state[name].long()}, tmp_path / "network.pth")
    with pytest.raises(program.UserError, match=f"{name} is torch.int64"):
        program.load_model(tmp_path / "network.pth")


class BusyFiles:
    """Windows, on which a virus scanner has files of a name open for so many attempts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, attempts: float) -> None:
        self.attempts = attempts
        self.waited = 0.0
        replace = os.replace

        def refuse(source: Path, target: Path) -> None:
            if Path(target).name == name and self.attempts > 0:
                self.attempts -= 1
                raise PermissionError(13, "Access is denied")
            replace(source, target)

        def wait(seconds: float) -> None:
            self.waited += seconds

        monkeypatch.setattr(os, "replace", refuse)
        monkeypatch.setattr(time, "sleep", wait)


@pytest.mark.parametrize("attempts", [1, 4])
def test_a_file_that_is_open_for_a_moment_is_replaced(tmp_path: Path, monkeypatch, attempts: int):
    busy = BusyFiles(monkeypatch, "a", attempts)
    (tmp_path / "a").write_bytes(b"old")
    program.write_files({tmp_path / "a": b"new"})
    assert (tmp_path / "a").read_bytes() == b"new"
    assert 0 < busy.waited < 5


def test_a_file_that_stays_open_is_named_and_left_as_it_is(tmp_path: Path, monkeypatch):
    BusyFiles(monkeypatch, "a", 5)
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(PermissionError, match=r"cannot write .*a: Access is denied; no file was"):
        program.write_files({tmp_path / "a": b"new"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


QUICK = ["--images", "lamps", "--image-size", "12", "--epochs", "2", "--no-plots"]
BOTH = ["--networks", "mlp", "tinyvgg"]


def test_a_network_whose_file_is_open_is_written_at_the_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_lamps(tmp_path / "lamps", 20)
    BusyFiles(monkeypatch, "MLP_model.pth", 5)
    assert program.main([*QUICK, *BOTH]) == 0
    err = capsys.readouterr().err
    assert "cannot write models/lamps/MLP_model.pth: Access is denied" in err
    assert "it is tried again at the end" in err
    report = json.loads(Path("assets/lamps/results.json").read_text())
    description = json.loads(Path("models/lamps/MLP_model.json").read_text())
    assert description["test_accuracy"] == report["models"][0]["test_accuracy"]
    assert isinstance(program.load_model("models/lamps/MLP_model.pth"), program.MLP)


def test_a_network_that_cannot_be_written_at_all_ends_the_run_when_the_rest_is_done(
    tmp_path, monkeypatch, capsys
):
    """The next network is trained and saved, the earlier one has its name again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "INTERVAL", 0)
    save_lamps(tmp_path / "lamps", 20)
    assert program.main([*QUICK, "--networks", "mlp", "--seed", "1"]) == 0
    earlier = Path("models/lamps/MLP_model.pth").read_bytes()
    capsys.readouterr()
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if ".fashion_mnist_cnn-" in str(source) and Path(target).name == "MLP_model.pth":
            raise PermissionError(13, "Access is denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert program.main([*QUICK, *BOTH]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].endswith("no file was left half written")
    assert sum("is again models/lamps/MLP_model.pth" in line for line in lines) == 1
    assert Path("models/lamps/MLP_model.pth").read_bytes() == earlier
    assert isinstance(program.load_model("models/lamps/CNN_model.pth"), program.TinyVGG)
    assert len(json.loads(Path("assets/lamps/results.json").read_text())["models"]) == 2
    assert Path("models/lamps/checkpoint.pth").exists()
    monkeypatch.setattr(os, "replace", replace)
    assert program.main([*QUICK, *BOTH, "--resume"]) == 0
    assert "  epoch " not in capsys.readouterr().out, "all was trained"
    assert Path("models/lamps/MLP_model.pth").read_bytes() != earlier


@pytest.mark.parametrize("name", ["MLP_model.pth", "MLP_model.json"])
def test_an_earlier_network_that_cannot_be_renamed_does_not_end_the_run(
    tmp_path, monkeypatch, capsys, name: str
):
    """It is open elsewhere until the end; then both are there."""
    monkeypatch.chdir(tmp_path)
    save_lamps(tmp_path / "lamps", 20)
    assert program.main([*QUICK, "--networks", "mlp", "--seed", "1"]) == 0
    earlier = Path("models/lamps/MLP_model.pth").read_bytes()
    replace, refusals = os.replace, [5]

    def refuse(source: Path, target: Path) -> None:
        if Path(source).name == name and refusals[0] > 0:
            refusals[0] -= 1
            raise PermissionError(13, "Access is denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert program.main([*QUICK, *BOTH]) == 0
    out, err = capsys.readouterr()
    assert "it is tried again at the end" in err
    assert out.count("MLP_model.pth, of an earlier run, is now") == 1
    (kept,) = Path("models/lamps").glob("MLP_model-*.pth")
    assert kept.read_bytes() == earlier and kept.with_suffix(".json").exists()
    assert Path("models/lamps/MLP_model.pth").read_bytes() != earlier
    assert isinstance(program.load_model("models/lamps/CNN_model.pth"), program.TinyVGG)


def test_what_is_set_aside_is_said_though_the_first_run_diverged(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_lamps(tmp_path / "lamps", 20)
    assert program.main([*QUICK, "--networks", "mlp"]) == 0
    train = program.train

    def diverge_first(*sets, seed, learning_rate, **options):
        rate = 1e30 if seed == 1 else learning_rate
        return train(*sets, seed=seed, learning_rate=rate, **options)

    monkeypatch.setattr(program, "train", diverge_first)
    capsys.readouterr()
    assert program.main([*QUICK, "--networks", "mlp", "--seed", "1", "--runs", "3"]) == 0
    assert capsys.readouterr().out.count("MLP_model.pth, of an earlier run, is now") == 1
