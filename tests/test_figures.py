import io

import matplotlib.image
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_rgba

import fashion_mnist_cnn as program

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def records(better: float = 0.0) -> list[program.Record]:
    return [program.Record(n, 1 / n, 1 - 0.3 / n, 1.1 / n, 0.9 - 0.3 / n + better, 5.0 * n) for n in (1, 2, 3)]


def make_result(name, accuracy, seconds=2.0, optimizer="Adam", failed=None, epochs=None) -> program.Result:
    epochs = records() if epochs is None else epochs
    return program.Result(name, optimizer, 0.02, 0, 10, 7960, 7940, accuracy, 0.5, seconds, epochs, [], [], [], failed)


def accuracy_figure():
    return program.plot_accuracy([make_result("MLP", 0.8412, 2.1), make_result("TinyVGG", 0.9063, 15.0)], "title")


def several_runs_figure():
    mlp = [make_result("MLP", accuracy, seconds) for accuracy, seconds in ((0.84, 2), (0.85, 3), (0.83, 1))]
    cnn = [make_result("TinyVGG", accuracy, seconds) for accuracy, seconds in ((0.9, 9), (0.91, 10), (0.92, 11))]
    return program.plot_accuracy([*mlp, *cnn], "title")


def optimizers_results():
    return [
        make_result(name, accuracy, optimizer=optimizer, epochs=records(better))
        for better in (0.0, 0.1)
        for optimizer in ("Adam", "SGD")
        for name, accuracy in (("MLP", 0.84 + better / 10), ("TinyVGG", 0.9 + better / 10))
    ]


def optimizers_figure():
    return program.plot_accuracy(optimizers_results(), "title")


def failed_runs_figure():
    mlp = [make_result("MLP", 0.84), make_result("MLP", 0.1, failed="at chance"), make_result("MLP", 0.86)]
    return program.plot_accuracy([*mlp, *[make_result("TinyVGG", 0.1, failed="diverged", epochs=[])] * 3], "title")


def curves_figure():
    return program.plot_learning_curves(optimizers_results(), "title")


def confusion_figure():
    return program.plot_confusion_matrix(torch.randint(0, 1001, (10, 10)), CLASSES, "title")


def predictions_figure(count: int = 9, channels: int = 1, size: int = 28):
    images = torch.randint(256, (count, channels, size, size), dtype=torch.uint8)
    labels = torch.tensor([0] * (count - 1) + [9])
    logits = torch.zeros(count, 10)
    logits[:, 0] = 0.001
    image_set = program.ImageSet(images, labels, CLASSES)
    return program.plot_predictions(image_set, logits, torch.arange(count), "title")


def shift_figure():
    return program.plot_shifts({"MLP": [0.8, 0.5, 0.2], "TinyVGG": [0.9, 0.88, 0.6]}, "title")


def feature_maps_figure(hidden_units: int = 10, dead=((3,), (), (0, 9), ()), channels: int = 1, size: int = 28):
    torch.manual_seed(0)
    images = torch.randint(256, (3, channels, size, size), dtype=torch.uint8)
    image_set = program.ImageSet(images, torch.tensor([0, 1, 2]), CLASSES)
    return program.plot_feature_maps(program.TinyVGG(channels, hidden_units, 10, size), image_set, dead)


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


DRAWN = [
    accuracy_figure,
    several_runs_figure,
    optimizers_figure,
    failed_runs_figure,
    curves_figure,
    confusion_figure,
    predictions_figure,
    shift_figure,
    feature_maps_figure,
]


@pytest.mark.parametrize("draw", DRAWN)
def test_nothing_is_cut_off_and_pyplot_keeps_nothing(draw):
    figure = draw()
    figure.savefig(buffer := io.BytesIO(), dpi=120)
    buffer.seek(0)
    assert matplotlib.image.imread(buffer, format="png").shape[1] >= 800, "too narrow for a README"
    drawn, page = figure.get_tightbbox(), figure.bbox_inches
    assert drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= page.x1 and drawn.y1 <= page.y1
    assert plt.get_fignums() == []


def test_bars_carry_their_values():
    assert {"84.12 %", "90.63 %", "2.1 s", "15.0 s"} <= set(texts(accuracy_figure()))


def test_several_runs_get_error_bars_and_a_dot_each():
    figure = several_runs_figure()
    assert {"84.00 %\n± 1.00", "91.00 %\n± 1.00", "10.0 s\n± 1.0"} <= set(texts(figure))
    clouds = [cloud for axes in figure.axes for cloud in axes.collections if len(cloud.get_offsets()) > 1]
    assert [len(cloud.get_offsets()) for cloud in clouds] == [3, 3, 3, 3]
    assert not accuracy_figure().axes[0].collections


def test_failed_runs_are_counted_above_the_bar_and_left_out_of_the_mean():
    assert {"85.00 %\n± 1.41\n1 of 3 failed", "0.00 %\n3 of 3 failed"} <= set(texts(failed_runs_figure()))


def test_bars_of_several_optimizers_stand_side_by_side():
    figure = optimizers_figure()
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["MLP", "TinyVGG"]
    left = [bar.get_x() for bar in axes.patches]
    width = axes.patches[0].get_width()
    assert left[2] - left[0] == pytest.approx(width) and left[3] - left[1] == pytest.approx(width)
    hatches = {}
    for container in axes.containers:
        if hasattr(container, "patches"):
            hatches.setdefault(container.get_label(), set()).add(container.patches[0].get_hatch())
    assert hatches == {"Adam": {""}, "SGD": {"///"}}
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["Adam", "SGD"]
    assert [handle.get_hatch() for handle in legend.get_patches()] == ["", "///"]
    assert {handle.get_facecolor() for handle in legend.get_patches()} == {to_rgba("gray")}, "not a network's colour"


def test_learning_curves_show_means_with_a_band_over_the_runs():
    loss, accuracy = curves_figure().axes
    line = next(line for line in accuracy.lines if line.get_label() == "MLP, Adam, test")
    assert line.get_ydata().tolist() == pytest.approx([65, 80, 85])
    band = accuracy.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((65 - 10 / 2**0.5, 85 + 10 / 2**0.5))  # two values 10 points apart
    assert loss.lines[0].get_ydata().tolist() == pytest.approx([1, 1 / 2, 1 / 3])


def test_learning_curves_begin_within_the_first_epoch_and_leave_failed_runs_out():
    epochs = [program.Record(0.5, 3.0, 0.1, 2.5, 0.2, 1.0), *records()]
    results = [make_result("MLP", 0.8, epochs=epochs), make_result("TinyVGG", 0.1, failed="diverged", epochs=[])]
    train, test = program.plot_learning_curves(results, "title").axes[0].lines
    assert train.get_xdata().tolist() == test.get_xdata().tolist() == [0.5, 1, 2, 3]
    assert train.get_ydata().tolist() == pytest.approx([3.0, 1, 1 / 2, 1 / 3])
    assert test.get_ydata()[0] == 2.5 and test.get_markevery() == [False, True, True, True]


def test_shifts_are_drawn_in_the_colours_of_the_networks_with_their_values():
    figure = shift_figure()
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert {name: line.get_color() for name, line in lines.items()} == {"MLP": "#E69F00", "TinyVGG": "#0072B2"}
    assert lines["TinyVGG"].get_ydata() == pytest.approx([90, 88, 60])
    assert {"50", "88"} <= set(texts(figure))


def test_of_three_lines_the_one_between_has_no_numbers():
    figure = program.plot_shifts({"MLP": [0.81, 0.2], "TinyVGG": [0.91, 0.6], "ResNet": [0.94, 0.93]}, "title")
    assert {"81", "94", "ResNet"} <= set(texts(figure)) and "91" not in texts(figure)


def test_feature_maps_of_a_layer_share_a_scale_and_dead_channels_are_marked():
    figure = feature_maps_figure()
    assert len(figure.axes) == 15
    for layer in range(1, 5):
        assert len({figure.axes[5 * index + layer].images[0].get_clim() for index in range(3)}) == 1
    assert texts(figure).count("dead") == 3 * 3
    assert texts(feature_maps_figure(hidden_units=4)).count("dead") == 2 * 3


def test_feature_maps_of_small_colour_images_are_drawn_in_full():
    figure = feature_maps_figure(dead=[[]] * 4, channels=3, size=4)
    heights = [axes.images[0].get_array().shape[0] for axes in figure.axes[:5]]
    assert heights == [4, 10 * 4 + 9, 10 * 4 + 9, 10 * 2 + 9, 10 * 2 + 9]


def test_fewer_than_nine_examples_are_drawn_too():
    figure = predictions_figure(2, channels=3, size=64)
    assert [axes.get_visible() for axes in figure.axes] == [True] * 2 + [False] * 7


def test_the_confusion_matrix_has_counts_shares_and_all_names():
    matrix = torch.eye(10, dtype=torch.int64) * 900
    matrix[6, 0] = 100
    figure = program.plot_confusion_matrix(matrix, CLASSES, "title")
    shown = texts(figure)
    assert "100\n(0.10)" in shown and "900\n(0.90)" in shown
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == list(CLASSES)


def test_correct_and_wrong_differ_by_more_than_colour():
    axes = predictions_figure().axes
    assert axes[0].get_title() == "✓ predicted: T-shirt/top, 10.0%\ntrue: T-shirt/top, 10.0%"
    assert axes[8].get_title() == "✗ predicted: T-shirt/top, 10.0%\ntrue: Ankle boot, 10.0%"
    assert [axes[k].spines["top"].get_linestyle() for k in (0, 8)] == ["-", "--"]
