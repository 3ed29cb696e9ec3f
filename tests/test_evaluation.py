from math import exp, log

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import fashion_mnist_cnn as program


def test_scores_of_a_hand_made_case():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [4.0, 0.0, 1.0], [0.0, 0.0, 5.0]])
    scores = program.score(logits, torch.tensor([0, 1, 2, 2]))
    assert scores.accuracy == 0.75
    assert scores.confusion_matrix.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert program.score_classes(logits, torch.tensor([0, 1, 2, 2])) == ([0.5, 1.0, 1.0], [1.0, 1.0, 0.5])
    sums = [exp(2) + 2, exp(3) + 2, exp(4) + 1 + exp(1), exp(5) + 2]  # of the softmax, an image each
    expected = sum(log(total) - true for total, true in zip(sums, (2, 3, 1, 5), strict=True)) / 4
    assert scores.loss == pytest.approx(expected, rel=1e-6)


def test_the_diagonal_is_the_accuracy(fashion_mnist):
    torch.manual_seed(0)
    model, test_set = program.TinyVGG(), fashion_mnist[1]
    scores = program.evaluate(model, test_set)
    assert scores.confusion_matrix.sum() == len(test_set)
    assert scores.confusion_matrix.sum(dim=1).tolist() == [1000] * 10
    correct = (program.predict_logits(model, test_set.images).argmax(dim=1) == test_set.labels).sum().item()
    assert scores.accuracy == scores.confusion_matrix.trace().item() / len(test_set) == correct / len(test_set)


def test_a_short_last_batch_counts_no_more_than_its_images(random_set):
    torch.manual_seed(0)
    model = program.TinyVGG(num_classes=4)
    logits = program.predict_logits(model, random_set.images, batch_size=50)
    expected = F.cross_entropy(model(program.to_float(random_set.images)), random_set.labels).item()
    assert program.score(logits, random_set.labels).loss == pytest.approx(expected, rel=1e-5)
    assert logits.shape == (203, 4) and not model.training and not logits.requires_grad


@settings(max_examples=50, deadline=None)
@given(
    st.integers(2, 12).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2), min_size=1))
    )
)
def test_scores_equal_a_count_by_hand(drawn):
    classes, pairs = drawn
    labels, predictions = zip(*pairs, strict=True)
    logits = torch.nn.functional.one_hot(torch.tensor(predictions), classes).float()
    scores = program.score(logits, torch.tensor(labels))
    counted = [[pairs.count((label, prediction)) for prediction in range(classes)] for label in range(classes)]
    assert scores.confusion_matrix.tolist() == counted
    assert scores.accuracy == sum(label == prediction for label, prediction in pairs) / len(pairs)


def test_multiply_adds_are_outputs_times_weights_each_sees():
    images = torch.zeros(2, 3, 12, 12, dtype=torch.uint8)
    convolutions = 12 * 12 * 4 * 9 * (3 + 4) + 2 * 6 * 6 * 4 * 9 * 4
    assert program.count_multiply_adds(program.TinyVGG(3, 4, 5, 12), images) == convolutions + 3 * 3 * 4 * 5
    assert program.count_multiply_adds(program.MLP(432, 6, 5), images) == 432 * 6 + 6 * 5


class BrightestColumn(torch.nn.Module):
    """Names the column that is brightest, so that only moves sideways make it wrong."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.sum(dim=(1, 2))


def test_shifts_are_the_mean_over_four_directions_with_black_coming_in():
    images = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3])
    images[labels, 0, 1, labels] = 200  # one bright pixel in the second of four rows
    accuracies = program.measure_shifts(BrightestColumn(), program.ImageSet(images, labels, tuple("abcd")), 2)
    # By one: up and down right; left, what was in column 0 is lost and black is named 0. By two: up, all is lost.
    assert accuracies[0] == 1.0
    assert accuracies[1] == pytest.approx((1 + 1 + 1 / 4 + 0) / 4)
    assert accuracies[2] == pytest.approx((1 / 4 + 1 + 1 / 4 + 0) / 4)


def test_feature_maps_are_those_the_model_computes_and_dead_channels_are_found():
    torch.manual_seed(0)
    model, images = program.TinyVGG(hidden_units=4), torch.randint(256, (300, 1, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        model.conv_block_1[0].bias[2] = -100
        model.conv_block_2[2].bias[0] = -100
    feature_maps = list(program.compute_feature_maps(model, images[:2]))
    assert [tuple(maps.shape) for maps in feature_maps] == [(2, 4, 28, 28)] * 2 + [(2, 4, 14, 14)] * 2
    logits = model.classifier(F.max_pool2d(feature_maps[-1], 2))
    assert torch.allclose(logits, program.predict_logits(model, images[:2]), atol=1e-6)
    dead = program.find_dead_channels(model, images)
    strongest = [maps.amax(dim=(0, 2, 3)) for maps in program.compute_feature_maps(model, images)]
    assert dead == [(channels == 0).nonzero().flatten().tolist() for channels in strongest]
    assert 2 in dead[0] and 0 in dead[3]
