import io

import matplotlib.image
import matplotlib.pyplot as plt
import pytest
import torch

import fashion_mnist_cnn as program

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def accuracy_figure():
    return program.plot_accuracy(["MLP", "TinyVGG"], ["Adam"] * 2, [[0.8412], [0.9063]], [[2.1], [15.0]], "title")


def several_runs_figure():
    return program.plot_accuracy(
        ["MLP", "TinyVGG"], ["Adam"] * 2, [[0.84, 0.85, 0.83], [0.9, 0.91, 0.92]], [[2, 3, 1], [9, 10, 11]], "title"
    )


NAMES, OPTIMIZERS = ["MLP", "TinyVGG"] * 2, ["Adam", "Adam", "SGD", "SGD"]


def optimizers_figure():
    return program.plot_accuracy(NAMES, OPTIMIZERS, [[0.84, 0.85], [0.9, 0.91]] * 2, [[2, 3], [9, 10]] * 2, "title")


def curves_figure():
    epochs = [program.Epoch(1 / n, 1 - 0.3 / n, 1.1 / n, 0.9 - 0.3 / n, 5.0) for n in (1, 2, 3)]
    better = [program.Epoch(e.train_loss, e.train_accuracy, e.test_loss, e.test_accuracy + 0.1, 5.0) for e in epochs]
    return program.plot_learning_curves(NAMES, OPTIMIZERS, [[epochs, better]] * 4, "title")


def confusion_figure():
    return program.plot_confusion_matrix(torch.randint(0, 1001, (10, 10)), CLASSES, "title")


def predictions_figure():
    images = torch.randint(256, (9, 1, 28, 28), dtype=torch.uint8)
    return program.plot_predictions(images, [0] * 9, [0] * 8 + [9], CLASSES, "title")


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


DRAWN = [accuracy_figure, several_runs_figure, optimizers_figure, curves_figure, confusion_figure, predictions_figure]


@pytest.mark.parametrize("draw", DRAWN)
def test_nothing_is_cut_off_and_pyplot_keeps_nothing(draw):
    figure = draw()
    picture = matplotlib.image.imread(io.BytesIO(program.render_png(figure)), format="png")
    assert picture.shape[1] >= 800, "too narrow for a README"
    drawn, page = figure.get_tightbbox(), figure.bbox_inches
    assert drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= page.x1 and drawn.y1 <= page.y1
    assert plt.get_fignums() == []


def test_the_bars_carry_their_values():
    shown = texts(accuracy_figure())
    assert {"84.12 %", "90.63 %", "2.1 s", "15.0 s"} <= set(shown)


def test_several_runs_get_error_bars_and_a_dot_each():
    figure = several_runs_figure()
    assert {"84.00 %\n± 1.00", "91.00 %\n± 1.00", "10.0 s\n± 1.0"} <= set(texts(figure))
    dots = [
        len(cloud.get_offsets()) for axes in figure.axes for cloud in axes.collections if len(cloud.get_offsets()) > 1
    ]
    assert dots == [3, 3, 3, 3]
    assert not accuracy_figure().axes[0].collections


def test_bars_of_several_optimizers_stand_side_by_side():
    axes = optimizers_figure().axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["MLP", "TinyVGG"]
    left = [bar.get_x() for bar in axes.patches]
    width = axes.patches[0].get_width()
    assert left[2] - left[0] == pytest.approx(width) and left[3] - left[1] == pytest.approx(width)
    assert [bar.get_hatch() for bar in axes.patches] == ["", "", "///", "///"]


def test_learning_curves_show_means_with_bars_over_the_runs():
    loss, accuracy = curves_figure().axes
    test_line = accuracy.containers[1]
    assert test_line.get_label() == "MLP, Adam, test"
    assert test_line.lines[0].get_ydata().tolist() == pytest.approx([65, 80, 85])
    heights = [y1 - y0 for (_, y0), (_, y1) in test_line.lines[2][0].get_segments()]
    assert heights == pytest.approx([2 * 100 * 0.1 / 2**0.5] * 3)  # the deviation of two values 0.1 apart, both ways
    assert loss.containers[0].lines[0].get_ydata().tolist() == pytest.approx([1, 1 / 2, 1 / 3])


def test_fewer_than_nine_examples_are_drawn_too():
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    figure = program.plot_predictions(images, [0, 1], [0, 1], CLASSES, "title")
    assert [axes.get_visible() for axes in figure.axes] == [True] * 2 + [False] * 7


def test_the_matrix_has_counts_shares_and_all_names():
    matrix = torch.eye(10, dtype=torch.int64) * 900
    matrix[6, 0] = 100
    figure = program.plot_confusion_matrix(matrix, CLASSES, "title")
    shown = texts(figure)
    assert "100\n(0.10)" in shown and "900\n(0.90)" in shown
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == list(CLASSES)


def test_right_and_wrong_differ_by_more_than_colour():
    titles = [axes.get_title() for axes in predictions_figure().axes]
    assert titles[0] == "✓ predicted: T-shirt/top\ntrue: T-shirt/top"
    assert titles[8] == "✗ predicted: Ankle boot\ntrue: T-shirt/top"
