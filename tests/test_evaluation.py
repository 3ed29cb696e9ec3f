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
    # Of the softmax, one per image.
    sums = [exp(2) + 2, exp(3) + 2, exp(4) + 1 + exp(1), exp(5) + 2]
    expected = sum(log(total) - true for total, true in zip(sums, (2, 3, 1, 5), strict=True)) / 4
    assert metrics.loss == pytest.approx(expected, rel=1e-6)


def test_the_diagonal_is_the_accuracy(fashion_mnist):
    torch.manual_seed(0)
    network = program.MLP()
    test_set = fashion_mnist[1]
    metrics = program.evaluate(network, test_set)
    assert metrics.confusion_matrix.sum() == len(test_set)
    assert metrics.confusion_matrix.sum(dim=1).tolist() == [1000] * 10
    predictions = program.predict_logits(network, test_set.images).argmax(dim=1)
    correct = (predictions == test_set.labels).sum().item()
    assert metrics.confusion_matrix.trace() == correct
    assert metrics.accuracy == correct / len(test_set)


def test_a_short_last_batch_counts_no_more_than_its_images(random_set):
    torch.manual_seed(0)
    network = program.TinyVGG(num_classes=4)
    logits = program.predict_logits(network, random_set.images, batch_size=50)
    at_once = network(program.to_float(random_set.images))
    expected = F.cross_entropy(at_once, random_set.labels).item()
    metrics = program.compute_metrics(logits, random_set.labels)
    assert metrics.loss == pytest.approx(expected, rel=1e-5)
    assert logits.shape == (203, 4)
    assert not network.training
    assert not logits.requires_grad


def draw_pairs(classes: int) -> st.SearchStrategy:
    """The number of classes, and pairs of a label and a prediction."""
    label = st.integers(0, classes - 1)
    return st.tuples(st.just(classes), st.lists(st.tuples(label, label), min_size=1))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 12).flatmap(draw_pairs))
def test_metrics_equal_counting_by_hand(drawn):
    classes, pairs = drawn
    labels, predictions = zip(*pairs, strict=True)
    logits = F.one_hot(torch.tensor(predictions), classes).float()
    metrics = program.compute_metrics(logits, torch.tensor(labels))
    counted = [
        [pairs.count((label, prediction)) for prediction in range(classes)]
        for label in range(classes)
    ]
    assert metrics.confusion_matrix.tolist() == counted
    assert metrics.accuracy == sum(label == prediction for label, prediction in pairs) / len(pairs)


def test_macs_are_outputs_times_the_weights_each_sees():
    image = torch.zeros(1, 3, 12, 12, dtype=torch.uint8)
    convolutions = 12 * 12 * 4 * 9 * (3 + 4) + 2 * 6 * 6 * 4 * 9 * 4
    output_layer = 3 * 3 * 4 * 5
    assert program.count_macs(program.TinyVGG(3, 4, 5, 12), image) == convolutions + output_layer
    assert program.count_macs(program.MLP(432, 6, 5), image) == 432 * 6 + 6 * 5
    averaging = program.ResNet(3, 4, mirror_averaging=True)  # computes the mirror image too
    single = program.count_macs(program.ResNet(3, 4), image)
    assert program.count_macs(averaging, image) == 2 * single > 0


def test_the_committed_resnet_averages_over_the_mirror_image():
    assert program.load_model(MODEL.with_name("ResNet_model.pth")).mirror_averaging is not None


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
    assert not is_at_chance(8, 10, 2)
    assert is_at_chance(5, 10, 2)


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
    network = program.load_model(MODEL.with_name(f"{name}.pth"))
    accuracy = program.evaluate(network, fashion_mnist[1]).accuracy
    # Processors round differently.
    assert accuracy == pytest.approx(metadata["test_accuracy"], abs=2e-4)


@pytest.mark.parametrize(
    ("matrix", "is_at_chance"),
    [
        ([[185, 5], [0, 10]], False),  # 97 % right, all of the rare class found
        ([[190, 0], [10, 0]], True),  # always the largest class
        ([[0, 190], [0, 10]], True),  # always the rare one
        ([[181, 9], [9, 1]], True),  # by their shares
        ([[600, 10, 0], [4, 6, 0], [5, 0, 5]], False),
        ([[610, 0, 0], [10, 0, 0], [10, 0, 0]], True),
        ([[40, 0, 0], [4, 0, 0], [3, 0, 9]], False),  # 88 % right, though one class is never found
    ],
)
def test_of_unequal_classes_each_counts_as_much(matrix, is_at_chance):
    assert program.Metrics(1.0, torch.tensor(matrix)).at_chance == is_at_chance
