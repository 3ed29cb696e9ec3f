import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fashion_mnist_cnn as program

OPTIONS = {"epochs": 2, "batch_size": 50, "learning_rate": 0.01, "seed": 3}


def tiny_network(seed: int = 0) -> program.TinyVGG:
    torch.manual_seed(seed)
    return program.TinyVGG(hidden_units=2, num_classes=4)


def test_the_same_seed_gives_the_same_bytes(random_set):
    runs = []
    for _ in range(2):
        network = tiny_network()
        program.train(network, random_set, random_set, **OPTIONS)
        runs.append(program.serialize_network(network))
    assert runs[0] == runs[1]


def test_optimizer_and_augmentation_change_the_result(random_set):
    runs = {}
    for optimizer, augmented in (("adam", False), ("sgd", False), ("adam", True)):
        network = tiny_network()
        program.train(
            network,
            random_set,
            random_set,
            **OPTIONS,
            optimizer_name=optimizer,
            augmented=augmented,
        )
        runs[optimizer, augmented] = program.serialize_network(network)
    assert len(set(runs.values())) == 3


def test_wider_networks_get_lower_learning_rates():
    for network in program.NETWORKS.values():
        for name, config in program.OPTIMIZERS.items():
            widths = [round(factor * network.default_hidden_units) for factor in (0.1, 1, 4, 100)]
            rates = [program.peak_learning_rate(network, width, name) for width in widths]
            highest = config.learning_rate * network.learning_rate_scale
            assert rates == pytest.approx([highest * factor for factor in (1, 1, 0.5, 0.1)])


def shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """The image (C, H, W) shifted by hand: row by row, and column by column."""
    result = torch.zeros_like(image)
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                result[:, y, x] = image[:, y - down, x - right]
    return result


def test_augmented_images_are_mirrored_and_shifted_originals_and_nothing_else():
    images = torch.randint(1, 256, (1, 2, 5, 6), dtype=torch.uint8).expand(2000, 2, 5, 6)
    augmented = program.augment(
        images, program.Augmentation(shift=0.4, patch=0), torch.Generator().manual_seed(0)
    )
    possible = {
        bytes(shifted(image, down, right).numpy())
        for image in (images[0], images[0].flip(-1))
        for down in range(-2, 3)
        for right in range(-2, 3)
    }
    assert augmented.shape == images.shape and augmented.dtype == torch.uint8
    assert {bytes(image.contiguous().numpy()) for image in augmented} == possible and len(
        possible
    ) == 50


PHOTOGRAPHS = program.Augmentation(
    shift=0.1, zoom=0.2, rotation=10, color=0.2, patch=0.5, padding="reflection"
)


def test_every_image_of_a_batch_is_changed_in_a_way_of_its_own():
    image = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    augmented = program.augment(image.expand(50, 3, 32, 32), PHOTOGRAPHS, generator)
    assert augmented.shape == (50, 3, 32, 32) and augmented.dtype == torch.uint8
    assert len({bytes(each.numpy()) for each in augmented}) == 50
    again = program.augment(
        image.expand(50, 3, 32, 32), PHOTOGRAPHS, torch.Generator().manual_seed(0)
    )
    assert torch.equal(again, augmented)


def test_each_change_is_as_large_as_it_says():
    images = torch.full((1000, 3, 32, 32), 100, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    none = program.Augmentation(mirror=False, shift=0, patch=0)
    assert torch.equal(program.augment(images, none, generator), images)
    brighter = program.augment(images, replace(none, color=0.2), generator)
    assert (brighter == brighter[:, :1, :1, :1]).all(), "of one colour before and after"
    assert 80 <= brighter.min() < 82 and 118 < brighter.max() <= 120
    patched = program.augment(images, replace(none, patch=0.5), generator) != 100
    assert 0.4 < patched.any(dim=3).any(dim=2).any(dim=1).float().mean() < 0.55
    assert 3 / 7 * 32 - 1 < patched[:, 0].sum(dim=1).amax(dim=1).max() <= 3 / 7 * 32 + 1
    patched = [
        program.augment(images, replace(none, patch=0.5), generator, progress)
        for progress in (0.79, 0.8)
    ]
    assert [torch.equal(each, images) for each in patched] == [False, True], "whole at the end"
    bar = torch.zeros(1000, 1, 32, 32, dtype=torch.uint8)
    bar[:, :, :, 16:] = 255  # the right half
    zoomed = program.augment(bar, replace(none, rotation=10, padding="border"), generator)
    edges = 32 - (zoomed > 127).sum(dim=3).float()  # of each row
    slopes = (edges[:, 0, -1] - edges[:, 0, 0]).abs() / 31
    assert math.tan(math.radians(9)) < slopes.max() < math.tan(math.radians(11))


@pytest.mark.parametrize("epochs", [1, 4])
def test_augment_is_given_the_progress_of_training(monkeypatch, epochs: int):
    values = []
    augment = program.augment
    monkeypatch.setattr(program, "augment", lambda *a: values.append(a[3]) or augment(*a))
    images = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8)
    image_set = program.ImageSet(images, torch.arange(20) % 2, ("a", "b"))
    options = {"batch_size": 5, "learning_rate": 0.01, "seed": 0, "augmented": True}
    program.train(program.TinyVGG(1, 2, 2, 8), image_set, image_set, epochs=epochs, **options)
    assert values == [step / (4 * epochs) for step in range(4 * epochs)]


def test_colour_images_keep_their_colours_apart_and_grey_ones_stay_grey():
    grey = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    assert program.augment(grey, PHOTOGRAPHS, generator).shape == grey.shape
    same = grey.expand(20, 3, 28, 28)
    changed = program.augment(same, PHOTOGRAPHS, generator)
    assert (changed.int() - changed[:, :1].int()).abs().max() <= 1


def test_the_seed_decides_the_order_of_the_images(random_set):
    networks = [tiny_network(), tiny_network()]
    program.train(networks[0], random_set, random_set, **OPTIONS)
    program.train(networks[1], random_set, random_set, **(OPTIONS | {"seed": 4}))
    assert program.serialize_network(networks[0]) != program.serialize_network(networks[1])


def test_training_leaves_the_global_random_state_alone(random_set):
    network = tiny_network()
    before = torch.get_rng_state()
    program.train(network, random_set, random_set, **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_can_memorize_a_few_images(random_set):
    few = random_set.subset(slice(20))
    torch.manual_seed(0)
    network = program.TinyVGG(hidden_units=8, num_classes=4)
    history = program.train(network, few, few, epochs=60, batch_size=10, learning_rate=0.01, seed=0)
    assert history[-1].test_accuracy == 1.0
    assert history[-1].train_loss < history[0].train_loss / 10


def test_learning_curves_are_one_flat_list_of_records(random_set):
    network, reported = tiny_network(), []

    def after_evaluation(state: program.TrainingState) -> None:
        assert state.network is network and not network.training
        reported.append(state.history[-1])

    options = OPTIONS | {"batch_size": 2, "after_evaluation": after_evaluation}
    history = program.train(network, random_set, random_set, **options)
    assert [record.epoch for record in history] == [*(12 * k / 203 for k in range(1, 17)), 1, 2]
    assert reported == history
    seconds = [record.training_seconds for record in history]
    assert seconds[0] > 0 and seconds == sorted(seconds)


def test_training_metrics_are_those_of_the_batches_since_the_record_before(random_set, monkeypatch):
    seen = []
    compute = program.compute_metrics
    monkeypatch.setattr(
        program, "compute_metrics", lambda *data: seen.append(len(data[1])) or compute(*data)
    )
    program.train(tiny_network(), random_set, random_set, **(OPTIONS | {"batch_size": 100}))
    assert seen[::2] == [100, 100, 3, 203], "of the mini-batches"
    assert seen[1::2] == [203] * 4, "of the test images: fewer than 500, so all"


@pytest.mark.parametrize("optimizer_name", program.OPTIMIZERS)
@pytest.mark.parametrize("batch_size", [203, 150])
def test_a_run_of_one_or_two_steps_trains(random_set, optimizer_name: str, batch_size: int):
    network = tiny_network()
    before = [parameter.clone() for parameter in network.parameters()]
    options = OPTIONS | {"epochs": 1, "batch_size": batch_size, "learning_rate": 0.05}
    program.train(network, random_set, random_set, **options, optimizer_name=optimizer_name)
    changes = [
        (new - old).abs().max() for new, old in zip(network.parameters(), before, strict=True)
    ]
    assert max(changes) > 1e-4  # at the end of the cycle it would be under 1e-6


def test_training_minimizes_the_smoothed_loss_and_reports_the_plain_one(random_set, monkeypatch):
    monkeypatch.setattr(program, "training_precision", lambda device: torch.float32)
    network, options = (
        tiny_network(),
        {"epochs": 1, "batch_size": 203, "learning_rate": 0.01, "seed": 3},
    )
    logits = network(program.to_float(random_set.images))
    smoothed = F.cross_entropy(logits, random_set.labels, label_smoothing=0.05)
    gradients = torch.autograd.grad(smoothed, network.parameters(), retain_graph=True)
    history = program.train(network, random_set, random_set, **options)
    assert history[0].train_loss == pytest.approx(
        F.cross_entropy(logits, random_set.labels).item(), rel=1e-5
    )
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_training_ends_with_the_epoch_in_which_the_loss_is_no_longer_finite(random_set):
    history = program.train(
        tiny_network(), random_set, random_set, **(OPTIONS | {"learning_rate": 1e30})
    )
    assert history[-1].epoch == 1 and not math.isfinite(history[-1].train_loss)


def test_bfloat16_is_used_on_processors_that_support_it(monkeypatch):
    cpu = torch.device("cpu")
    for capabilities, precision in (
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False
        )
        assert program.training_precision(cpu) == precision
        assert program.training_precision(torch.device("cuda")) == torch.float32


class Witness(nn.Module):
    """A network that records which images it is trained on.

    Each is known by its one pixel of two channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.seen = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            high, low = (images.flatten(1) * 255).round().long().unbind(dim=1)
            self.seen.append((256 * high + low).tolist())
        return self.linear(images.flatten(1))


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(2, 600),
    batch_size=st.integers(1, 700),
    epochs=st.integers(1, 2),
    seed=st.integers(0, 2**32),
)
def test_each_image_is_seen_once_per_epoch(count, batch_size, epochs, seed):
    indices = torch.arange(count)
    images = (
        torch.stack([indices // 256, indices % 256], dim=1).to(torch.uint8).view(count, 2, 1, 1)
    )
    images = program.ImageSet(images, indices % 2, ("even", "odd"))
    batch_size = max(batch_size, count // 20)  # a step per image takes long
    network = Witness()
    program.train(
        network, images, images, epochs=epochs, batch_size=batch_size, learning_rate=1e-4, seed=seed
    )
    steps = -(-count // batch_size)
    assert len(network.seen) == epochs * steps and all(
        len(batch) <= batch_size for batch in network.seen
    )
    for epoch in range(epochs):
        batches = network.seen[epoch * steps : (epoch + 1) * steps]
        assert sorted(index for batch in batches for index in batch) == indices.tolist()
