import io
import itertools
from dataclasses import replace

import matplotlib
import matplotlib.image
import matplotlib.pyplot as plt
import numpy
import pytest
import torch
from torchvision.datasets import FashionMNIST

import fashion_mnist_cnn as program
from conftest import make_result
from fashion_mnist_extras import analysis

MLP = program.MLP()
CNN = program.TinyVGG()
RESNET = program.ResNet()
CLASSES = tuple(FashionMNIST.classes)


def make_history(better: float = 0.0) -> list[program.Record]:
    history = []
    for epoch in (1, 2, 3):
        record = program.Record(
            epoch=epoch,
            train_loss=1 / epoch,
            train_accuracy=1 - 0.3 / epoch,
            test_loss=1.1 / epoch,
            test_accuracy=0.9 - 0.3 / epoch + better,
            training_seconds=5.0 * epoch,
        )
        history.append(record)
    return history


def accuracy_figure():
    results = [make_result(accuracy=0.8412, seconds=2.1), make_result(CNN, 0.9063, 15.0)]
    return program.plot_accuracy(results, "title")


def several_seeds_figure():
    results = [make_result(diverged=True)]
    for accuracy, seconds in ((0.84, 2), (0.85, 3), (0.83, 1)):
        results.append(make_result(accuracy=accuracy, seconds=seconds))
    for accuracy, seconds in ((0.9, 9), (0.91, 10), (0.92, 11)):
        results.append(make_result(CNN, accuracy, seconds))
    return program.plot_accuracy(results, "title")


def several_optimizers() -> list[program.TrainedNetwork]:
    results = []
    for better in (0.0, 0.1):
        for optimizer in ("Adam", "SGD"):
            for network, accuracy in ((MLP, 0.84), (CNN, 0.9), (RESNET, 0.93)):
                history = make_history(better)
                results.append(make_result(network, accuracy, optimizer=optimizer, history=history))
    return results


def optimizers_figure():
    return program.plot_accuracy(several_optimizers(), "title")


def curves_figure():
    return program.plot_learning_curves(several_optimizers(), "title")


def result_with(logits: torch.Tensor, labels: torch.Tensor) -> program.TrainedNetwork:
    return replace(make_result(CNN), test_logits=logits, test_labels=labels)


def confusion_figure(classes: int = 10):
    labels = torch.arange(1000) % classes
    result = result_with(torch.rand(1000, classes), labels)
    return program.plot_confusion_matrix(result, "TinyVGG", CLASSES[:classes])


def predictions_figure(count: int = 9, channels: int = 1, size: int = 28):
    images = torch.randint(256, (count, channels, size, size), dtype=torch.uint8)
    labels = torch.tensor([0] * (count - 1) + [9])
    logits = torch.zeros(count, 10)
    logits[:, 0] = 0.001
    image_set = program.ImageSet(images, labels, CLASSES)
    result = result_with(logits, labels)
    return program.plot_predictions(result, image_set, torch.arange(count), "title")


def shift_figure():
    shift_accuracy = {"MLP": [0.8, 0.5, 0.2], "TinyVGG": [0.9, 0.88, 0.6]}
    return analysis.plot_shifts(shift_accuracy, "title")


def feature_maps_figure(
    hidden_units: int = 10, dead=((3,), (), (0, 9), ()), channels: int = 1, size: int = 28
):
    torch.manual_seed(0)
    images = torch.randint(256, (3, channels, size, size), dtype=torch.uint8)
    image_set = program.ImageSet(images, torch.tensor([0, 1, 2]), CLASSES)
    network = program.TinyVGG(channels, hidden_units, 10, size)
    return analysis.plot_feature_maps(network, image_set, dead)


def texts(figure) -> list[str]:
    """All that is written in the figure."""
    figure.draw_without_rendering()
    artists = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return [artist.get_text() for artist in artists if artist.get_text()]


def pixels(figure) -> numpy.ndarray:
    """The figure as it is saved."""
    return matplotlib.image.imread(io.BytesIO(program.render(figure)), format="png")


DRAWN = [
    accuracy_figure,
    several_seeds_figure,
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
    assert pixels(figure).shape[1] >= 800, "too narrow for a README"
    drawn = figure.get_tightbbox()
    page = figure.bbox_inches
    assert drawn.x0 >= 0
    assert drawn.y0 >= 0
    assert drawn.x1 <= page.x1
    assert drawn.y1 <= page.y1
    assert plt.get_fignums() == []


def test_bars_carry_their_values():
    written = set(texts(accuracy_figure()))
    assert {"84.12%", "90.63%", "2.1 s", "15.0 s", "MLP", "TinyVGG"} <= written


def test_of_several_seeds_the_mean_is_drawn_with_an_error_bar_and_without_those_that_diverged():
    figure = several_seeds_figure()
    assert {"84.00%", "91.00%", "2.0 s", "10.0 s"} <= set(texts(figure))
    (bars,) = figure.axes[0].collections
    ends = [[y for _, y in bar] for bar in bars.get_segments()]
    assert ends == [pytest.approx([0.83, 0.85]), pytest.approx([0.90, 0.92])]
    assert not accuracy_figure().axes[0].collections


def test_each_network_and_optimizer_has_a_bar_and_a_colour_of_its_own():
    axes = optimizers_figure().axes[0]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    names = ("MLP", "TinyVGG", "ResNet")
    assert labels == [f"{name}\n{optimizer}" for optimizer in ("Adam", "SGD") for name in names]
    assert len({bar.get_facecolor() for bar in axes.patches}) == len(axes.patches) == 6


def test_the_optimizer_is_named_only_where_several_are_compared_also_if_one_diverged():
    one = [make_result(history=make_history()), make_result(CNN, history=make_history())]
    other = make_result(diverged=True, optimizer="SGD")
    for results, names in (
        (one, ["MLP", "TinyVGG"]),
        ([*one, other], ["MLP Adam", "TinyVGG Adam"]),
    ):
        bars = program.plot_accuracy(results, "title").axes[0].get_xticklabels()
        assert [label.get_text().replace("\n", " ") for label in bars] == names
        legend = program.plot_learning_curves(results, "title").legends[0].get_texts()
        assert [text.get_text() for text in legend][:2] == names
    assert set(program.group_results([*one, other])) == {"MLP Adam", "TinyVGG Adam", "MLP SGD"}


@pytest.mark.parametrize(("other", "label"), [("Adam", "TinyVGG"), ("SGD", "TinyVGG Adam")])
def test_titles_name_the_optimizer_of_the_network_drawn(monkeypatch, other: str, label: str):
    titles = []

    def record(title: str, *arguments: object, **options: object):
        titles.append(title)
        return new_figure(title, *arguments, **options)

    new_figure = program.new_figure
    monkeypatch.setattr(program, "new_figure", record)
    shown = result_with(torch.eye(10), torch.arange(10))
    images = torch.zeros(10, 1, 28, 28, dtype=torch.uint8)
    image_set = program.ImageSet(images, torch.arange(10), CLASSES)
    dataset = program.Dataset("ten", image_set, image_set)
    program.draw_figures([shown, make_result(optimizer=other)], shown, dataset)
    assert titles[2:] == [
        f"{label}: 100.00% of 10 test images correct",
        f"{label} on random test images",
        f"The most confident mistakes of {label}",
    ]


@pytest.mark.parametrize(("several", "label"), [(False, "TinyVGG"), (True, "TinyVGG Adam")])
def test_the_legend_of_shifts_names_the_optimizers_compared(monkeypatch, several: bool, label: str):
    legends = []

    def record(shift_accuracy: dict[str, list[float]], title: str):
        legends.append(list(shift_accuracy))
        return plot_shifts(shift_accuracy, title)

    plot_shifts = analysis.plot_shifts
    monkeypatch.setattr(analysis, "plot_shifts", record)
    result = result_with(torch.eye(10), torch.arange(10))
    images = torch.zeros(10, 1, 28, 28, dtype=torch.uint8)
    image_set = program.ImageSet(images, torch.arange(10), CLASSES)
    chosen = {"TinyVGG": result}
    evidence = analysis.analyze_networks(chosen, image_set)
    analysis.draw_figures(evidence, chosen, program.Dataset("ten", image_set, image_set), several)
    assert legends == [[label]]


def test_every_training_has_its_learning_curves_solid_on_test_images():
    figure = curves_figure()
    loss, accuracy = figure.axes
    drawn = [line for line in accuracy.lines if len(line.get_xdata())]
    assert len(drawn) == 2 * 12
    assert [line.get_linestyle() for line in drawn[:2]] == ["--", "-"]
    assert list(drawn[0].get_ydata()) == pytest.approx([0.7, 0.85, 0.9])
    assert list(drawn[1].get_ydata()) == pytest.approx([0.6, 0.75, 0.8])
    assert list(loss.lines[0].get_ydata()) == pytest.approx([1, 1 / 2, 1 / 3])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:2] == ["MLP Adam", "TinyVGG Adam"]
    assert legend[-2:] == ["test images", "training images"]
    assert len(legend) == 6 + 2


def test_every_network_with_every_optimizer_has_a_colour_and_a_curve():
    results = []
    for optimizer in program.OPTIMIZERS:
        for network in (MLP, CNN, RESNET):
            results.append(make_result(network, optimizer=optimizer, history=make_history()))
    figure = program.plot_learning_curves(results, "title")
    drawn = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert len(drawn) == 2 * len(results)
    assert len({line.get_color() for line in drawn}) == len(results)


def test_learning_curves_begin_within_the_first_epoch_and_leave_out_what_diverged():
    before = program.Record(0.0, None, None, 2.8, 0.1, 0.0)
    history = [before, program.Record(0.5, 3.0, 0.1, 2.5, 0.2, 1.0), *make_history()]
    results = [make_result(history=history), make_result(CNN, diverged=True)]
    figure = program.plot_learning_curves(results, "title")
    train, test = (line for line in figure.axes[0].lines if len(line.get_xdata()))
    assert list(train.get_xdata()) == [0.5, 1, 2, 3]
    assert list(test.get_xdata()) == [0, 0.5, 1, 2, 3], "also before the first step"
    assert list(train.get_ydata()) == pytest.approx([3.0, 1, 1 / 2, 1 / 3])
    assert list(test.get_ydata())[:2] == [2.8, 2.5]


def test_shifts_are_drawn_in_the_colours_of_the_networks():
    lines = {line.get_label(): line for line in shift_figure().axes[0].lines}
    colors = {name: line.get_color() for name, line in lines.items()}
    assert colors == {"MLP": "#E69F00", "TinyVGG": "#0072B2"}
    assert list(lines["TinyVGG"].get_ydata()) == [0.9, 0.88, 0.6]


def test_each_channel_has_a_scale_of_its_own_and_dead_channels_are_counted():
    figure = feature_maps_figure()
    assert len(figure.axes) == 15
    for layer in range(1, 5):
        images = [figure.axes[5 * index + layer].images[0] for index in range(3)]
        assert all(image.get_clim() == (0, 1) for image in images)
        maps = numpy.stack([image.get_array().filled(numpy.nan) for image in images])
        channels = [maps[:, 30 * k : 30 * k + 28] for k in range(10)]
        largest = [channel.max() for channel in channels]
        assert all(value == pytest.approx(1) or value == 0 for value in largest)
        assert numpy.isnan(maps[:, 28:30]).all()
    written = texts(figure)
    assert written.count("conv 1\n1 dead") == 3
    assert written.count("conv 2") == 3
    assert written.count("conv 3\n2 dead") == 3


@pytest.mark.parametrize(
    ("channels", "size", "units"), [(1, 28, 10), (3, 4, 10), (3, 65, 10), (1, 28, 4)]
)
def test_rows_of_feature_maps_are_aligned_and_fill_the_figure(channels, size, units):
    figure = feature_maps_figure(units, dead=[[]] * 4, channels=channels, size=size)
    figure.draw_without_rendering()
    image, *columns = (axes.get_window_extent() for axes in figure.axes[:5])
    gap = max(1, size // 14)
    for axes, box in zip(figure.axes[1:5], columns, strict=True):
        assert axes.images[0].get_array().shape == (units * (size + gap) - gap, size)
        assert (box.y0, box.y1) == pytest.approx((columns[0].y0, image.y1), abs=1)
        assert box.width == pytest.approx(image.width, abs=1), "as wide as the image"
    assert columns[0].y0 < 0.15 * figure.dpi, "less than 0.15 inches are empty below"


def test_fewer_than_nine_examples_are_drawn_too():
    figure = predictions_figure(2, channels=3, size=64)
    assert [axes.get_visible() for axes in figure.axes] == [True] * 2 + [False] * 7


def test_the_confusion_matrix_has_counts_shares_and_all_names():
    labels = torch.arange(10).repeat_interleave(1000)
    logits = torch.nn.functional.one_hot(labels, 10).float()
    logits[6000:6100] = logits[0]  # a tenth of the shirts are predicted as T-shirts
    figure = program.plot_confusion_matrix(result_with(logits, labels), "TinyVGG", CLASSES)
    shown = texts(figure)
    assert "100\n(0.10)" in shown
    assert "900\n(0.90)" in shown
    assert "TinyVGG: 99.00% of 10,000 test images correct" in shown
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == list(CLASSES)


def test_correct_and_wrong_differ_by_more_than_colour():
    axes = predictions_figure().axes
    assert axes[0].get_title() == "✓ predicted: T-shirt/top, 10.0%\ntrue: T-shirt/top"
    assert axes[8].get_title() == "✗ predicted: T-shirt/top, 10.0%\ntrue: Ankle boot"
    assert axes[0].title.get_color() != axes[8].title.get_color()


@pytest.mark.parametrize("classes", [50, 200])
def test_the_confusion_matrix_of_many_classes_has_colours_and_no_numbers(classes: int):
    labels = torch.arange(1000) % classes
    result = result_with(torch.nn.functional.one_hot(labels, classes).float(), labels)
    names = [f"class {label}" for label in range(classes)]
    figure = program.plot_confusion_matrix(result, "TinyVGG", names)
    assert max(pixels(figure).shape) <= 2000
    assert not figure.axes[0].texts
    assert len(figure.axes[0].get_xticklabels()) == classes


@pytest.mark.parametrize(
    ("name", "length", "expected"),
    [("Ankle boot", 11, "Ankle boot"), ("abcdefghijk", 10, "abcde…hijk"), ("abcdef", 5, "ab…ef")],
)
def test_long_names_keep_their_beginning_and_their_end(name: str, length: int, expected: str):
    assert program.shorten(name, length) == expected


def test_long_names_of_classes_do_not_lie_over_each_other():
    kinds = ("cooperii", "gentilis", "nisus")
    start = "02912_Animalia_Chordata_Aves_Accipitriformes_Accipitridae_Accipiter"
    names = tuple(f"{start}_{kind}" for kind in kinds)
    images = torch.randint(256, (9, 1, 28, 28), dtype=torch.uint8)
    labels = torch.arange(9) % 3
    image_set = program.ImageSet(images, labels, names)
    result = result_with(torch.rand(9, 3), labels)
    figure = program.plot_predictions(result, image_set, torch.arange(9), "title")
    figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    for left, right in itertools.combinations(boxes, 2):
        assert not left.overlaps(right)
    matrix = program.plot_confusion_matrix(result, "TinyVGG", names)
    assert {f"{names[0][:16]}…{names[0][-15:]}"} < set(texts(matrix))


SETTINGS = {  # of users, in their matplotlibrc
    "text.usetex": True,  # there may be no TeX
    "image.origin": "lower",
    "text.parse_math": True,
    "savefig.bbox": "tight",
    "figure.dpi": 20,
    "axes.facecolor": "black",
}


def test_a_users_settings_do_not_change_the_figures():
    torch.manual_seed(0)
    images = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8)
    image_set = program.ImageSet(images, torch.arange(20) % 2, ("$a", "b$"))
    result = result_with(torch.rand(20, 2), image_set.labels)
    dataset = program.Dataset(
        "two", image_set, image_set, figure_settings={"text.parse_math": False}
    )
    chosen = {"TinyVGG": result}
    evidence = analysis.analyze_networks(chosen, image_set)

    def draw() -> dict[str, bytes]:
        figures = program.draw_figures([result], result, dataset)
        return figures | analysis.draw_figures(evidence, chosen, dataset, False)

    expected = draw()
    with matplotlib.rc_context(SETTINGS):
        assert draw() == expected
    assert len(expected) == 7
