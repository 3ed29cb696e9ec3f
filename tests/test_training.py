import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fashion_mnist_cnn as program
from fashion_mnist_extras.augmentation import Augmentation

OPTIONS = {"epochs": 2, "batch_size": 50, "learning_rate": 0.01, "seed": 3}


def tiny_network(seed: int = 0) -> program.TinyVGG:
    torch.manual_seed(seed)
    return program.TinyVGG(hidden_units=2, num_classes=4)


def train_tiny(random_set: program.ImageSet, **changes: object) -> bytes:
    """The weights of a network trained with OPTIONS, but for what is changed."""
    network = tiny_network()
    program.train(network, random_set, random_set, **(OPTIONS | changes))
    return program.serialize_network(network)


def test_the_same_seed_gives_the_same_bytes(random_set):
    assert train_tiny(random_set) == train_tiny(random_set)


def test_the_seed_decides_the_order_of_the_images(random_set):
    assert train_tiny(random_set) != train_tiny(random_set, seed=4)


def test_optimizer_and_augmentation_change_the_result(random_set):
    results = {
        train_tiny(random_set),
        train_tiny(random_set, optimizer_name="adam"),
        train_tiny(random_set, optimizer_name="sgd"),
        train_tiny(random_set, augment=Augmentation()),
    }
    assert len(results) == 4


def test_wider_networks_get_lower_learning_rates():
    peaks = {
        program.MLP: {"muon": 0.1, "adam": 0.02, "sgd": 0.06},
        program.TinyVGG: {"muon": 0.04, "adam": 0.02, "sgd": 0.06},
        program.ResNet: {"muon": 0.03, "adam": 0.008, "sgd": 0.024},
    }
    for network in peaks:
        for name in program.OPTIMIZERS:
            widths = [round(factor * network.default_hidden_units) for factor in (0.1, 1, 4, 100)]
            rates = [program.peak_learning_rate(network, width, name) for width in widths]
            highest = peaks[network][name]
            assert rates == pytest.approx([highest * factor for factor in (1, 1, 0.5, 0.1)])


@pytest.mark.parametrize("epochs", [1, 4])
def test_augment_is_given_the_progress_of_training(epochs: int):
    values = []
    augment = Augmentation()

    def augment_and_note(images, generator, progress):
        values.append(progress)
        return augment(images, generator, progress)

    images = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8)
    image_set = program.ImageSet(images, torch.arange(20) % 2, ("a", "b"))
    program.train(
        program.TinyVGG(1, 2, 2, 8),
        image_set,
        image_set,
        epochs=epochs,
        batch_size=5,
        learning_rate=0.01,
        seed=0,
        augment=augment_and_note,
    )
    assert values == [step / (4 * epochs) for step in range(4 * epochs)]


def test_training_leaves_the_global_random_state_alone(random_set):
    network = tiny_network()
    before = torch.get_rng_state()
    program.train(network, random_set, random_set, **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_can_memorize_a_few_images(random_set):
    subset = random_set.subset(slice(20))
    torch.manual_seed(0)
    network = program.TinyVGG(hidden_units=8, num_classes=4)
    history = program.train(
        network, subset, subset, epochs=60, batch_size=10, learning_rate=0.01, seed=0
    )
    assert history[-1].test_accuracy == 1.0
    assert history[-1].train_loss < history[1].train_loss / 10


def test_learning_curves_are_one_flat_list_of_records(random_set):
    network = tiny_network()
    reported = []

    def after_evaluation(state: program.TrainingState) -> None:
        assert state.network is network
        assert not network.training
        reported.append(state.history[-1])

    options = OPTIONS | {"batch_size": 2, "after_evaluation": after_evaluation}
    history = program.train(network, random_set, random_set, **options)
    steps = [2, 4, 7, 13, 26, 51]  # of 102: rounded up, a half, a quarter and so on
    assert [record.epoch for record in history] == [0, *(2 * step / 203 for step in steps), 1, 2]
    assert [record.ends_epoch for record in history] == [False] * 7 + [True, True]
    assert reported == history
    seconds = [record.training_seconds for record in history]
    assert seconds[0] == 0 < seconds[1]
    assert seconds == sorted(seconds)


def test_the_first_record_is_from_before_the_first_step(random_set):
    untrained = program.evaluate(tiny_network(), random_set)
    first, *others = program.train(tiny_network(), random_set, random_set, **OPTIONS)
    assert (first.train_loss, first.train_accuracy) == (None, None)
    assert (first.test_loss, first.test_accuracy) == (untrained.loss, untrained.accuracy)
    assert all(record.train_loss is not None for record in others)


def test_where_an_evaluation_takes_long_there_are_few_in_the_first_epoch(fashion_mnist):
    small, large = (fashion_mnist[1].subset(slice(count)) for count in (500, 10_000))
    for network, test_set, expected in (
        (program.TinyVGG(), large, {8, 15, 30, 59, 118, 235, 469}),
        (program.ResNet(), small, {8, 15, 30, 59, 118, 235, 469}),
        (program.ResNet(), large, {118, 235, 469}),
    ):
        assert program.choose_evaluation_steps(469, network, test_set) == expected
    assert program.choose_evaluation_steps(1, program.ResNet(), large) == {1}


def test_training_metrics_are_those_of_the_batches_since_the_record_before(random_set, monkeypatch):
    seen = []
    compute_metrics = program.compute_metrics

    def compute_and_note(logits, labels):
        seen.append(len(labels))
        return compute_metrics(logits, labels)

    monkeypatch.setattr(program, "compute_metrics", compute_and_note)
    images = torch.zeros(700, 1, 28, 28, dtype=torch.uint8)
    test_set = program.ImageSet(images, torch.arange(700) % 4, random_set.class_names)
    program.train(tiny_network(), random_set, test_set, **(OPTIONS | {"batch_size": 100}))
    assert seen[1::2] == [100, 100, 3, 203], "of the mini-batches"
    assert seen[::2] == [700] * 5, "of all test images, every time"


@pytest.mark.parametrize("optimizer_name", program.OPTIMIZERS)
@pytest.mark.parametrize("batch_size", [203, 150])
def test_a_run_of_one_or_two_steps_trains(random_set, optimizer_name: str, batch_size: int):
    network = tiny_network()
    before = [parameter.clone() for parameter in network.parameters()]
    options = OPTIONS | {"epochs": 1, "batch_size": batch_size, "learning_rate": 0.05}
    program.train(network, random_set, random_set, **options, optimizer_name=optimizer_name)
    largest_change = 0.0
    for new, old in zip(network.parameters(), before, strict=True):
        largest_change = max(largest_change, (new - old).abs().max().item())
    assert largest_change > 1e-4  # at the end of the cycle it would be under 1e-6


def test_training_minimizes_the_smoothed_loss_and_reports_the_plain_one(random_set, monkeypatch):
    monkeypatch.setattr(program, "training_precision", lambda network: torch.float32)
    network = tiny_network()
    logits = network(program.to_float(random_set.images))
    smoothed = F.cross_entropy(logits, random_set.labels, label_smoothing=0.05)
    gradients = torch.autograd.grad(smoothed, network.parameters(), retain_graph=True)
    options = OPTIONS | {"epochs": 1, "batch_size": 203}
    history = program.train(network, random_set, random_set, **options)
    plain = F.cross_entropy(logits, random_set.labels).item()
    assert history[1].train_loss == pytest.approx(plain, rel=1e-5)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_training_ends_with_the_epoch_in_which_the_loss_is_no_longer_finite(random_set):
    options = OPTIONS | {"learning_rate": 1e30}
    history = program.train(tiny_network(), random_set, random_set, **options)
    assert history[-1].epoch == 1
    assert not math.isfinite(history[-1].train_loss)


def test_bfloat16_is_used_for_convolutions_on_processors_that_support_it(monkeypatch):
    networks = {program.MLP: False, program.TinyVGG: True, program.ResNet: True}
    for capabilities, is_native in (({"avx512_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False
        )
        for kind, has_convolutions in networks.items():
            expected = torch.bfloat16 if is_native and has_convolutions else torch.float32
            assert program.training_precision(kind()) == expected
        assert program.convolution_precision(torch.device("cuda")) == torch.float32


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
    pixels = torch.stack([indices // 256, indices % 256], dim=1).to(torch.uint8)
    image_set = program.ImageSet(pixels.view(count, 2, 1, 1), indices % 2, ("even", "odd"))
    batch_size = max(batch_size, count // 20)  # a step per image takes long
    network = Witness()
    program.train(
        network,
        image_set,
        image_set,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=1e-4,
        seed=seed,
    )
    steps = math.ceil(count / batch_size)
    assert len(network.seen) == epochs * steps
    assert all(len(batch) <= batch_size for batch in network.seen)
    for epoch in range(epochs):
        batches = network.seen[epoch * steps : (epoch + 1) * steps]
        assert sorted(index for batch in batches for index in batch) == indices.tolist()


def test_orthogonalized_matrices_keep_their_directions_and_have_equal_strengths():
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((10, 9), (10, 90), (32, 288), (96, 864), (40, 20)):
        matrix = torch.randn(rows, columns, generator=generator)
        found = program.orthogonalize(matrix)
        assert found.shape == matrix.shape
        left, strengths, right = torch.linalg.svd(matrix, full_matrices=False)
        within = left.T @ found @ right.T  # diagonal, if the directions are the same
        diagonal = within.diag()
        torch.testing.assert_close(within, diagonal.diag(), rtol=0, atol=1e-3)
        large = strengths > 0.1 * strengths.max()
        assert diagonal[large].min() > 0.3 and diagonal.max() < 1.3
    zero = torch.zeros(4, 5)
    assert torch.equal(program.orthogonalize(zero), zero), "a gradient of zero changes nothing"


def test_muon_trains_hidden_layers_and_adam_the_rest_and_only_weights_decay():
    torch.manual_seed(0)
    network = program.ResNet(hidden_units=2)
    muon = program.Muon(network.parameters(), lr=0.04)
    hidden, others = muon.param_groups
    assert all(parameter.dim() == 4 for parameter in hidden["params"])
    assert [id(p) for p in others["params"] if p.dim() > 1] == [id(network.classifier.weight)]
    counts = [len(group["params"]) for group in (hidden, others)]
    assert counts == [10, 22], "all parameters, each in one group"
    assert [hidden["lr"], others["lr"]] == pytest.approx([0.04, 0.016])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    muon.step()  # nothing but decay
    after = network.state_dict()
    weight = "features.0.0.weight"
    torch.testing.assert_close(after[weight], before[weight] * (1 - 0.05 * 0.04))
    weight = "classifier.weight"
    torch.testing.assert_close(after[weight], before[weight] * (1 - 0.05 * 0.016))
    for name in ("classifier.bias", "features.0.1.weight", "features.0.1.bias"):
        assert torch.equal(after[name], before[name])


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_a_step_of_muon_is_that_of_its_definition(memory_format):
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 30, 3), nn.Conv2d(30, 30, (1, 2))
    network = nn.Sequential(first, nn.Tanh(), second, nn.Flatten(), nn.Linear(60, 4))
    network.to(memory_format=memory_format)
    muon = program.Muon(network.parameters(), lr=0.04)
    weights = [first.weight, second.weight]
    momenta = [torch.zeros(30, weight[0].numel()) for weight in weights]
    expected = [weight.detach().flatten(1) for weight in weights]
    for _ in range(3):
        network(torch.rand(5, 2, 3, 5)).square().sum().backward()
        for k, weight in enumerate(weights):
            gradient = weight.grad.flatten(1).clone()
            momenta[k] = 0.9 * momenta[k] + gradient
            update = program.orthogonalize(gradient + 0.9 * momenta[k])
            scale = math.sqrt(max(1, 30 / weight[0].numel()))
            expected[k] = expected[k] * (1 - 0.05 * 0.04) - 0.04 * scale * update
        muon.step()
        muon.zero_grad()
        for weight, matrix in zip(weights, expected, strict=True):
            torch.testing.assert_close(weight.detach().flatten(1), matrix, rtol=1e-3, atol=1e-5)


def test_muon_leaves_frozen_parameters_alone():
    network = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 2))
    network[0].requires_grad_(False)
    network[2].weight.requires_grad_(False)
    muon = program.Muon(network.parameters(), lr=0.04)
    hidden, others = muon.param_groups
    assert hidden["params"] == [], "the last that learns is the output layer"
    assert [id(p) for p in others["params"]] == [
        id(p) for p in (network[1].weight, network[1].bias, network[2].bias)
    ]
    before = network[0].weight.clone()
    network(torch.rand(6, 3)).square().sum().backward()
    muon.step()
    assert torch.equal(network[0].weight, before)


class KeepsItsFirstMask(nn.Module):
    """A network of someone else that computes a mask once, in its first call."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 4)
        self.mask = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.mask is None:
            self.mask = torch.ones(784) / 2
        return self.linear(images.flatten(1) * self.mask)


def test_what_a_module_keeps_of_its_first_call_can_be_trained_with(random_set):
    history = program.train(KeepsItsFirstMask(), random_set, random_set, **OPTIONS)
    assert history[-1].epoch == 2


def test_muon_trains_networks_without_hidden_layers_and_with_unused_ones(random_set):
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 4))
    before = network[1].weight.clone()
    history = program.train(network, random_set, random_set, **OPTIONS)
    assert math.isfinite(history[-1].train_loss)
    assert not torch.allclose(network[1].weight, before, atol=1e-3)
    network = tiny_network()
    network.unused = nn.Conv2d(2, 2, 3)
    before = network.unused.weight.clone()
    history = program.train(network, random_set, random_set, **OPTIONS)
    assert math.isfinite(history[-1].train_loss)
    assert torch.equal(network.unused.weight, before)
