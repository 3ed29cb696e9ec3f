import io
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fashion_mnist_cnn as program


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.pth"
    path.write_bytes(program.serialize_model(program.TinyVGG()))
    return path


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12), st.integers(4, 40))
def test_a_model_of_any_size_comes_back_with_its_answers(in_channels, hidden_units, num_classes, image_size):
    model = program.TinyVGG(in_channels, hidden_units, num_classes, image_size)
    random_state = torch.get_rng_state()
    loaded = program.read_model(io.BytesIO(program.serialize_model(model)))
    assert torch.equal(random_state, torch.get_rng_state()) and not loaded.training
    images = torch.rand(3, in_channels, image_size, image_size)
    assert torch.equal(loaded(images), model(images))


def test_the_file_is_a_bare_state_dict_of_contiguous_floats(saved: Path):
    state = torch.load(saved, weights_only=True)
    assert type(state).__name__ in ("dict", "OrderedDict")
    assert all(t.is_contiguous() and t.dtype == torch.float32 and t.device.type == "cpu" for t in state.values())


def test_a_state_dict_saved_by_other_code_is_loaded(tmp_path: Path):
    model = program.TinyVGG(hidden_units=3)
    torch.save(model.state_dict(), tmp_path / "other.pth")  # an OrderedDict with metadata, channels_last
    images = torch.rand(9, 1, 28, 28)
    assert torch.equal(program.load_model(tmp_path / "other.pth")(images), model(images))


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


def card_of(model: program.TinyVGG) -> dict[str, object]:
    return {
        "dataset": "pets",
        "classes": ["cat", "dog", "größer"],
        "image_size": 31,  # of which the two poolings leave 7, as of 28
        "channels": 3,
        "hidden_units": 5,
        "test_accuracy": 0.75,
    }


@pytest.fixture
def described(tmp_path: Path) -> tuple[Path, program.TinyVGG]:
    path, model = tmp_path / "CNN_model.pth", program.TinyVGG(3, 5, 3, 31)
    path.with_suffix(".json").write_bytes(program.as_json(card_of(model)))
    return path, model


def test_what_is_written_beside_a_model_comes_back(described):
    path, model = described
    assert vars(program.read_card(path, model)) == card_of(model)
    path.with_suffix(".json").unlink()
    assert program.read_card(path, model) is None


@pytest.mark.parametrize(
    "change",
    [{"classes": ["cat"]}, {"image_size": 64}, {"channels": 1}, {"hidden_units": 10}],
    ids=lambda c: next(iter(c)),
)
def test_a_description_of_another_model_is_told(described, change):
    path, model = described
    path.with_suffix(".json").write_bytes(program.as_json(card_of(model) | change))
    with pytest.raises(program.UserError, match="describes another model"):
        program.read_card(path, model)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"{}", b'{"dataset": 1}', b"\xff\xfe", b"null"])
def test_a_description_that_is_none_is_told(described, content):
    path, model = described
    path.with_suffix(".json").write_bytes(content)
    with pytest.raises(program.UserError, match=r"CNN_model\.json does not describe a model"):
        program.read_card(path, model)
