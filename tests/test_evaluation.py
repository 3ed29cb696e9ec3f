import json
from math import exp, log

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import fashion_mnist_cnn as program
from conftest import MODEL


def test_metrics_of_a_hand_made_case():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [4.0, 0.0, 1.0], [0.0, 0.0, 5.0]])
    metrics = program.compute_metrics(logits, torch.tensor([0, 1, 2, 2]))
    assert metrics.accuracy == 0.75
    assert metrics.confusion_matrix.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    sums = [
        exp(2) + 2,
        exp(3) + 2,
        exp(4) + 1 + exp(1),
        exp(5) + 2,
    ]  # of the softmax, one per image
    expected = sum(log(total) - true for total, true in zip(sums, (2, 3, 1, 5), strict=True)) / 4
    assert metrics.loss == pytest.approx(expected, rel=1e-6)


def test_the_diagonal_is_the_accuracy(fashion_mnist):
    torch.manual_seed(0)
    network, test_set = program.TinyVGG(), fashion_mnist[1]
    metrics = program.evaluate(network, test_set)
    assert metrics.confusion_matrix.sum() == len(test_set)
    assert metrics.confusion_matrix.sum(dim=1).tolist() == [1000] * 10
    correct = (
        (program.predict_logits(network, test_set.images).argmax(dim=1) == test_set.labels)
        .sum()
        .item()
    )
    assert (
        metrics.accuracy
        == metrics.confusion_matrix.trace().item() / len(test_set)
        == correct / len(test_set)
    )


def test_a_short_last_batch_counts_no_more_than_its_images(random_set):
    torch.manual_seed(0)
    network = program.TinyVGG(num_classes=4)
    logits = program.predict_logits(network, random_set.images, batch_size=50)
    expected = F.cross_entropy(
        network(program.to_float(random_set.images)), random_set.labels
    ).item()
    assert program.compute_metrics(logits, random_set.labels).loss == pytest.approx(
        expected, rel=1e-5
    )
    assert logits.shape == (203, 4) and not network.training and not logits.requires_grad


@settings(max_examples=50, deadline=None)
@given(
    st.integers(2, 12).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2), min_size=1)
        )
    )
)
def test_metrics_equal_counting_by_hand(drawn):
    classes, pairs = drawn
    labels, predictions = zip(*pairs, strict=True)
    logits = torch.nn.functional.one_hot(torch.tensor(predictions), classes).float()
    metrics = program.compute_metrics(logits, torch.tensor(labels))
    counted = [
        [pairs.count((label, prediction)) for prediction in range(classes)]
        for label in range(classes)
    ]
    assert metrics.confusion_matrix.tolist() == counted
    assert metrics.accuracy == sum(label == prediction for label, prediction in pairs) / len(pairs)


def test_macs_are_outputs_times_the_weights_each_sees():
    images = torch.zeros(2, 3, 12, 12, dtype=torch.uint8)
    convolutions = 12 * 12 * 4 * 9 * (3 + 4) + 2 * 6 * 6 * 4 * 9 * 4
    assert (
        program.count_macs(program.TinyVGG(3, 4, 5, 12), images[:1]) == convolutions + 3 * 3 * 4 * 5
    )
    assert program.count_macs(program.MLP(432, 6, 5), images[:1]) == 432 * 6 + 6 * 5
    averaging = program.ResNet(3, 4, mirror_averaging=True)  # computes the mirror image too
    single = program.count_macs(program.ResNet(3, 4), images[:1])
    assert program.count_macs(averaging, images[:1]) == 2 * single > 0


def test_the_feature_maps_of_an_averaging_resnet_are_those_of_the_image_alone():
    images = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8)
    network = program.ResNet(hidden_units=2, mirror_averaging=True)
    averaging = program.compute_feature_maps(network, images)
    dead = program.find_dead_channels(network, images)
    network.mirror_averaging = None
    alone = program.compute_feature_maps(network, images)
    assert len(averaging) == len(alone) == len(dead) == 10
    assert all(torch.equal(*maps) for maps in zip(averaging, alone, strict=True))


@pytest.mark.parametrize("name", ["ResNet_model.pth", "clothing/ResNet_model.pth"])
def test_the_committed_resnets_average_over_the_mirror_image(name: str):
    assert program.load_model(MODEL.parent / name).mirror_averaging is not None


class OneReLU(torch.nn.Module):
    """Uses one ReLU after both of its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 2, 3)
        self.second = torch.nn.Conv2d(2, 3, 3)
        self.relu = torch.nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.relu(self.second(self.relu(self.first(images)))).amax(dim=(2, 3))


def test_a_relu_used_twice_gives_two_feature_maps():
    images = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8)
    feature_maps = program.compute_feature_maps(OneReLU(), images)
    assert [tuple(maps.shape) for maps in feature_maps] == [(4, 2, 6, 6), (4, 3, 4, 4)]


class BrightestColumn(torch.nn.Module):
    """Predicts the brightest column, so that only horizontal shifts make it wrong."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.sum(dim=(1, 2))


def test_shifts_are_the_mean_over_four_directions_with_black_coming_in():
    images = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3])
    images[labels, 0, 1, labels] = 200  # one bright pixel in the second of four rows
    accuracies = program.measure_shifts(
        BrightestColumn(), program.ImageSet(images, labels, tuple("abcd")), 2
    )
    # By one: up and down correct; left, column 0 is lost, and black is predicted as 0.
    # By two: up, all is lost.
    assert accuracies[0] == 1.0
    assert accuracies[1] == pytest.approx((1 + 1 + 1 / 4 + 0) / 4)
    assert accuracies[2] == pytest.approx((1 / 4 + 1 + 1 / 4 + 0) / 4)


def test_feature_maps_are_those_the_model_computes_and_dead_channels_are_found():
    torch.manual_seed(0)
    network, images = (
        program.TinyVGG(hidden_units=4),
        torch.randint(256, (300, 1, 28, 28), dtype=torch.uint8),
    )
    with torch.no_grad():
        network.conv_block_1[0].bias[2] = -100
        network.conv_block_2[2].bias[0] = -100
    feature_maps = program.compute_feature_maps(network, images[:2])
    assert [tuple(maps.shape) for maps in feature_maps] == [(2, 4, 28, 28)] * 2 + [
        (2, 4, 14, 14)
    ] * 2
    assert program.compute_feature_maps(program.MLP(), images[:2]) == []
    logits = network.classifier(F.max_pool2d(feature_maps[-1], 2))
    assert torch.allclose(logits, program.predict_logits(network, images[:2]), atol=1e-6)
    dead = program.find_dead_channels(network, images)
    strongest = [maps.amax(dim=(0, 2, 3)) for maps in program.compute_feature_maps(network, images)]
    assert dead == [(channels == 0).nonzero().flatten().tolist() for channels in strongest]
    assert 2 in dead[0] and 0 in dead[3]


def is_at_chance(correct: int, count: int, classes: int) -> bool:
    """Of as many images of each class, all correct ones in the first classes."""
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    for label in range(classes):
        hits = min(count // classes, max(0, correct - label * (count // classes)))
        matrix[label, label] = hits
        matrix[label, (label + 1) % classes] = count // classes - hits
    assert matrix.trace() == correct
    return program.Metrics(1.0, matrix).at_chance


def test_a_network_at_chance_is_recognized():
    # Guessing gets 10 %, and with 10,000 images one guess in a thousand gets more than 10.9 %.
    assert not is_at_chance(1100, 10_000, 10)
    assert all(is_at_chance(correct, 10_000, 10) for correct in (0, 1000, 1080))


def test_a_few_test_images_do_not_fail_a_good_network():
    assert not is_at_chance(8, 10, 2) and is_at_chance(5, 10, 2)


def test_a_perfect_network_is_never_at_chance():
    assert not program.Metrics(0.1, torch.tensor([[95, 0], [0, 5]])).at_chance
    assert program.Metrics(0.1, torch.tensor([[95, 0], [5, 0]])).at_chance


def test_precision_and_recall_of_a_class_never_predicted_or_never_there_are_zero():
    metrics = program.Metrics(1.0, torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))
    assert metrics.precision.tolist() == pytest.approx([3 / 5, 4 / 5, 0])
    assert metrics.recall.tolist() == pytest.approx([3 / 4, 4 / 6, 0])


@pytest.mark.parametrize("name", ["CNN_model", "ResNet_model"])
def test_the_committed_networks_reach_their_committed_accuracy(name: str, fashion_mnist):
    metadata = json.loads(MODEL.with_name(f"{name}.json").read_text())
    accuracy = program.evaluate(
        program.load_model(MODEL.with_name(f"{name}.pth")), fashion_mnist[1]
    ).accuracy
    assert accuracy == pytest.approx(
        metadata["test_accuracy"], abs=2e-4
    )  # processors round differently
