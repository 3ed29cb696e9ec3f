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
    images, probabilities = torch.randint(256, (9, 1, 28, 28), dtype=torch.uint8), torch.full((9, 10), 0.1)
    return program.plot_predictions(images, [0] * 9, [0] * 8 + [9], probabilities, CLASSES, "title")


def shift_figure():
    return program.plot_shift_robustness({"MLP": [0.8, 0.5, 0.2], "TinyVGG": [0.9, 0.88, 0.6]}, "title")


def feature_maps_figure(hidden_units: int = 10, dead=((3,), (), (0, 9), ())):
    torch.manual_seed(0)
    images = torch.randint(256, (3, 1, 28, 28), dtype=torch.uint8)
    return program.plot_feature_maps(images, CLASSES[:3], program.TinyVGG(hidden_units=hidden_units), dead)


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


DRAWN = [
    accuracy_figure,
    several_runs_figure,
    optimizers_figure,
    curves_figure,
    confusion_figure,
    predictions_figure,
    shift_figure,
    feature_maps_figure,
]


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


def test_learning_curves_show_means_with_a_band_over_the_runs():
    loss, accuracy = curves_figure().axes
    line = next(line for line in accuracy.lines if line.get_label() == "MLP, Adam, test")
    assert line.get_ydata().tolist() == pytest.approx([65, 80, 85])
    band = accuracy.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((65 - 10 / 2**0.5, 85 + 10 / 2**0.5))  # two values 10 points apart
    assert loss.lines[0].get_ydata().tolist() == pytest.approx([1, 1 / 2, 1 / 3])


def test_learning_curves_begin_within_the_first_epoch():
    points = [program.Point(0.5, 3.0, 0.1, 2.5, 0.2), program.Point(1.0, 2.0, 0.3, 1.9, 0.35)]
    epochs = [program.Epoch(2.5, 0.2, 1.8, 0.4, 5.0, points), program.Epoch(1.5, 0.5, 1.4, 0.6, 5.0)]
    figure = program.plot_learning_curves(["MLP"], ["Adam"], [[epochs]], "title")
    train, test = figure.axes[0].lines
    assert train.get_xdata().tolist() == test.get_xdata().tolist() == [0.5, 1, 2]
    assert train.get_ydata().tolist() == [3.0, 2.0, 1.5] and test.get_ydata().tolist() == [2.5, 1.8, 1.4]


def test_shifts_are_drawn_in_the_colours_of_the_models_with_their_values():
    figure = shift_figure()
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert {name: line.get_color() for name, line in lines.items()} == program.MODEL_COLORS
    assert lines["TinyVGG"].get_ydata().tolist() == pytest.approx([90, 88, 60])
    assert {"50", "88"} <= set(texts(figure))


def test_feature_maps_of_a_layer_share_a_scale_and_dead_channels_are_marked():
    figure = feature_maps_figure()
    assert len(figure.axes) == 15
    for layer in range(1, 5):
        limits = {figure.axes[5 * number + layer].images[0].get_clim() for number in range(3)}
        assert len(limits) == 1
    assert texts(figure).count("dead") == 3 * 3
    assert texts(feature_maps_figure(hidden_units=4)).count("dead") == 2 * 3


def test_feature_maps_of_small_pictures_in_colour_are_drawn_whole():
    images = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    figure = program.plot_feature_maps(images, ["a", "b"], program.TinyVGG(3, 10, 2, 4), [[]] * 4)
    heights = [axes.images[0].get_array().shape[0] for axes in figure.axes[:5]]
    assert heights == [4, 10 * 4 + 9, 10 * 4 + 9, 10 * 2 + 9, 10 * 2 + 9]


def test_fewer_than_nine_examples_are_drawn_too():
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    figure = program.plot_predictions(images, [0, 1], [0, 1], torch.zeros(2, 10), CLASSES, "title")
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
    assert titles[0] == "✓ predicted: T-shirt/top, 10.0%\ntrue: T-shirt/top, 10.0%"
    assert titles[8] == "✗ predicted: Ankle boot, 10.0%\ntrue: T-shirt/top, 10.0%"
