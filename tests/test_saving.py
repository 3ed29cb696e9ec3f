import io
import os
import pickle
from pathlib import Path

import pytest
import torch

import fashion_mnist_cnn as program


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.pth"
    path.write_bytes(program.serialize_model(program.TinyVGG()))
    return path


@pytest.mark.parametrize("sizes", [(1, 10, 10, 28), (3, 5, 4, 64), (1, 3, 2, 30)])
def test_a_model_comes_back_with_its_sizes_and_answers(tmp_path: Path, sizes):
    model = program.TinyVGG(*sizes)
    (tmp_path / "model.pth").write_bytes(program.serialize_model(model))
    loaded = program.load_model(tmp_path / "model.pth")
    images = torch.rand(9, sizes[0], sizes[3], sizes[3])
    assert torch.equal(loaded(images), model(images))
    assert not loaded.training


def test_the_file_is_a_bare_state_dict_of_contiguous_floats(saved: Path):
    state = torch.load(saved, weights_only=True)
    assert type(state).__name__ in ("dict", "OrderedDict")
    assert all(t.is_contiguous() and t.dtype == torch.float32 and t.device.type == "cpu" for t in state.values())


class Command:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


def as_torch_file(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_a_file_that_is_no_model_is_refused_and_not_executed(saved: Path, tmp_path: Path):
    whole = saved.read_bytes()
    trace = tmp_path / "executed"
    contents = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "random": os.urandom(20_000),
        "pickle": pickle.dumps(Command(trace)),
        "pickle in a zip": as_torch_file(Command(trace)),
        "other keys": as_torch_file(program.MLP().state_dict()),
        "a list": as_torch_file([1, 2, 3]),
        "other shapes": as_torch_file(program.TinyVGG().state_dict() | {"conv_block_2.0.weight": torch.rand(3, 3)}),
        "one key less": as_torch_file(dict(list(program.TinyVGG().state_dict().items())[:-1])),
    }
    for name, content in contents.items():
        saved.write_bytes(content)
        with pytest.raises(program.UserError, match=r"model\.pth is") as error:
            program.load_model(saved)
        assert "\n" not in str(error.value), name
    assert not trace.exists()


def test_a_model_that_is_not_there_is_told(tmp_path: Path):
    with pytest.raises(program.UserError, match="does not exist"):
        program.load_model(tmp_path / "none.pth")


def test_files_are_replaced_all_or_none(tmp_path: Path):
    first, second = tmp_path / "a", tmp_path / "b"
    program.write_files({first: b"old a", second: b"old b"})
    with pytest.raises(program.UserError, match="missing"):
        program.write_files({first: b"new a", tmp_path / "missing" / "c": b"new c"})
    assert first.read_bytes() == b"old a"
    program.write_files({first: b"new a", second: b"new b"})
    assert (first.read_bytes(), second.read_bytes()) == (b"new a", b"new b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
