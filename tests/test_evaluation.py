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
