import io

import matplotlib.image
import matplotlib.pyplot as plt
import pytest
import torch

import fashion_mnist_cnn as program

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def accuracy_figure():
    return program.plot_accuracy(["MLP", "TinyVGG"], [[0.8412], [0.9063]], [[2.1], [15.0]], "title")


def several_runs_figure():
    return program.plot_accuracy(
        ["MLP", "TinyVGG"], [[0.84, 0.85, 0.83], [0.9, 0.91, 0.92]], [[2, 3, 1], [9, 10, 11]], "title"
    )


def confusion_figure():
    return program.plot_confusion_matrix(torch.randint(0, 1001, (10, 10)), CLASSES, "title")


def predictions_figure():
    images = torch.randint(256, (9, 1, 28, 28), dtype=torch.uint8)
    return program.plot_predictions(images, [0] * 9, [0] * 8 + [9], CLASSES, "title")


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


@pytest.mark.parametrize("draw", [accuracy_figure, several_runs_figure, confusion_figure, predictions_figure])
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
    assert {"84.00 ± 1.00 %", "91.00 ± 1.00 %", "10.0 ± 1.0 s"} <= set(texts(figure))
    dots = [
        len(cloud.get_offsets()) for axes in figure.axes for cloud in axes.collections if len(cloud.get_offsets()) > 1
    ]
    assert dots == [3, 3, 3, 3]
    assert not accuracy_figure().axes[0].collections


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
