from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fashion_mnist_cnn as program

RECIPE = {"epochs": 2, "batch_size": 50, "learning_rate": 0.01, "seed": 3}


def tiny_model(seed: int = 0) -> program.TinyVGG:
    torch.manual_seed(seed)
    return program.TinyVGG(hidden_units=2, num_classes=4)


def test_the_same_seed_gives_the_same_bytes(random_set):
    runs = []
    for _ in range(2):
        model = tiny_model()
        program.train(model, random_set, random_set, **RECIPE)
        runs.append(program.serialize_model(model))
    assert runs[0] == runs[1]


def test_each_optimizer_has_a_recipe_of_its_own(random_set):
    runs = {}
    for optimizer, augmented in (("adam", False), ("sgd", False), ("adam", True)):
        model = tiny_model()
        program.train(model, random_set, random_set, **RECIPE, optimizer=optimizer, augmented=augmented)
        runs[optimizer, augmented] = program.serialize_model(model)
    assert len(set(runs.values())) == 3


def test_wider_networks_take_smaller_steps():
    for recipe in program.RECIPES.values():
        rates = [recipe.scaled_learning_rate(hidden_units) for hidden_units in (1, 10, 40, 1000)]
        assert rates == pytest.approx([recipe.learning_rate * factor for factor in (1, 1, 0.5, 0.1)])


def shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """The image (C, H, W) moved by hand: row by row, and column by column."""
    moved = torch.zeros_like(image)
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                moved[:, y, x] = image[:, y - down, x - right]
    return moved


def test_augmented_images_are_flips_and_shifts_of_the_originals_and_nothing_else():
    images = torch.randint(1, 256, (1, 2, 5, 6), dtype=torch.uint8).expand(2000, 2, 5, 6)
    augmented = program.augment(images, torch.Generator().manual_seed(0))
    possible = {
        bytes(shifted(image, down, right).numpy())
        for image in (images[0], images[0].flip(-1))
        for down in range(-2, 3)
        for right in range(-2, 3)
    }
    assert augmented.shape == images.shape and augmented.dtype == torch.uint8
    assert {bytes(image.contiguous().numpy()) for image in augmented} == possible and len(possible) == 50


def test_another_seed_shuffles_otherwise(random_set):
    models = [tiny_model(), tiny_model()]
    program.train(models[0], random_set, random_set, **RECIPE)
    program.train(models[1], random_set, random_set, **(RECIPE | {"seed": 4}))
    assert program.serialize_model(models[0]) != program.serialize_model(models[1])


def test_training_leaves_the_global_random_state_alone(random_set):
    model = tiny_model()
    before = torch.get_rng_state()
    program.train(model, random_set, random_set, **RECIPE)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_learns_images_by_heart(random_set):
    few = replace(random_set, images=random_set.images[:20], labels=random_set.labels[:20])
    torch.manual_seed(0)
    model = program.TinyVGG(hidden_units=8, num_classes=4)
    history = program.train(model, few, few, epochs=60, batch_size=10, learning_rate=0.01, seed=0)
    assert history[-1].test_accuracy == 1.0
    assert history[-1].train_loss < history[0].train_loss / 10


def test_every_epoch_is_reported(random_set):
    reported = []
    history = program.train(
        tiny_model(),
        random_set,
        random_set,
        **RECIPE,
        on_epoch_end=lambda number, epoch: reported.append((number, epoch)),
    )
    assert reported == list(enumerate(history, start=1)) and len(history) == 2
    assert all(epoch.seconds > 0 for epoch in history)


@pytest.mark.parametrize("batch_size", [1, 64, 203, 1000])
def test_each_image_is_trained_on_once_an_epoch(random_set, batch_size, monkeypatch):
    seen = []
    monkeypatch.setattr(program, "to_float", lambda images: seen.append(images) or images.float().div(255))
    program.train(tiny_model(), random_set, random_set, epochs=1, batch_size=batch_size, learning_rate=0.01, seed=0)
    trained = torch.cat(seen)[: len(random_set)]
    assert sorted(map(hash, map(bytes, trained.numpy()))) == sorted(map(hash, map(bytes, random_set.images.numpy())))


def test_a_loss_that_is_not_finite_is_told(random_set):
    with pytest.raises(program.UserError, match=r"training diverged.*below 1e\+30"):
        program.train(tiny_model(), random_set, random_set, **(RECIPE | {"learning_rate": 1e30}))


def test_bfloat16_is_for_processors_that_have_it(monkeypatch):
    cpu = torch.device("cpu")
    for capabilities, precision in (({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert program.training_precision(cpu) == precision
        assert program.training_precision(torch.device("cuda")) == torch.float32


class Witness(nn.Module):
    """A model that writes down which images it is trained on, each known by its one pixel of two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.seen = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            high, low = (images.flatten(1) * 255).round().long().unbind(dim=1)
            self.seen.append((256 * high + low).tolist())
        return self.linear(images.flatten(1))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 600), batch_size=st.integers(1, 700), epochs=st.integers(1, 2), seed=st.integers(0, 2**32))
def test_each_image_is_seen_once_an_epoch(count, batch_size, epochs, seed):
    numbers = torch.arange(count)
    images = torch.stack([numbers // 256, numbers % 256], dim=1).to(torch.uint8).view(count, 2, 1, 1)
    images = program.ImageSet(images, numbers % 2, ("even", "odd"))
    batch_size = max(batch_size, count // 20)  # a step an image takes long
    model = Witness()
    program.train(model, images, images, epochs=epochs, batch_size=batch_size, learning_rate=1e-4, seed=seed)
    steps = -(-count // batch_size)
    assert len(model.seen) == epochs * steps and all(len(batch) <= batch_size for batch in model.seen)
    for epoch in range(epochs):
        batches = model.seen[epoch * steps : (epoch + 1) * steps]
        assert sorted(number for batch in batches for number in batch) == numbers.tolist()
