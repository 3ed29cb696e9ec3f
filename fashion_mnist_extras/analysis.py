"""What the networks see, and what they do not: shifted images, feature maps, dead channels.

In all functions images are uint8 (N, C, H, W) on the network's device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fashion_mnist_cnn as program

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Evidence(TypedDict):
    """What results.json says under this name."""

    images: int  # how many test images were shifted
    shift_accuracy: dict[str, list[float]]  # of each network, on images shifted by 0, 1, ... pixels
    dead_channels: list[list[int]]  # of each convolution of the last network


def analyze_networks(
    chosen: Mapping[str, program.TrainedNetwork], test_set: program.ImageSet
) -> Evidence:
    """Shift the test images for every network, and find the dead channels of the last one."""
    shifted = test_set.subset(slice(1000))  # every network predicts them 28 times
    shift_accuracy = {}
    for name, result in chosen.items():
        shift_accuracy[name] = measure_shifts(result.network, shifted.images, shifted.labels)
    last = list(chosen.values())[-1]
    return {
        "images": len(shifted),
        "shift_accuracy": shift_accuracy,
        "dead_channels": find_dead_channels(last.network, test_set.images),
    }


def measure_shifts(
    network: nn.Module, images: Tensor, labels: Tensor, max_shift: int = 6
) -> list[float]:
    """Return the accuracy on images shifted by 0, 1, ... max_shift pixels, mean of 4 directions."""
    return [measure_shift(network, images, labels, pixels) for pixels in range(max_shift + 1)]


def measure_shift(network: nn.Module, images: Tensor, labels: Tensor, pixels: int) -> float:
    """Return the accuracy on images shifted up, down, left and right; the mean of the four."""
    correct = 0
    directions = (pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels)
    for down, right in directions:
        predictions = predict_shifted(network, images, down, right)
        correct += int((predictions == labels).sum())
    return correct / (len(directions) * len(images))


def predict_shifted(network: nn.Module, images: Tensor, down: int, right: int) -> Tensor:
    """Return the labels (N,) predicted for shifted images; the uncovered border is black."""
    shifted = F.pad(images, (right, -right, down, -down))
    return program.predict_logits(network, shifted).argmax(dim=1)


def compute_feature_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the activations of each ReLU after a convolution, float32 (N, channels, h, w)."""
    activations: list[Tensor] = []
    hooks = []
    for layer in network.modules():
        if isinstance(layer, nn.ReLU):
            hook = layer.register_forward_hook(
                # Without the mirror images that ResNet may have added.
                lambda _relu, _inputs, output: activations.append(output[: len(images)])
            )
            hooks.append(hook)
    program.predict_logits(network, images, batch_size=len(images))
    for hook in hooks:
        hook.remove()
    return [feature_maps for feature_maps in activations if feature_maps.dim() == 4]


def find_dead_channels(network: nn.Module, images: Tensor) -> list[list[int]]:
    """Return, for each convolution, the channels whose ReLU is zero on all the images."""
    dead: dict[int, Tensor] = {}
    for batch in images.split(100):
        for layer, feature_maps in enumerate(compute_feature_maps(network, batch)):
            is_zero = feature_maps.amax(dim=(0, 2, 3)) == 0
            dead[layer] = is_zero & dead.get(layer, is_zero)
    return [channels.nonzero().flatten().tolist() for channels in dead.values()]


# ---- Figures -------------------------------------------------------------------------------------
def draw_figures(
    evidence: Evidence,
    chosen: Mapping[str, program.TrainedNetwork],
    dataset: program.Dataset,
    several_optimizers: bool,
) -> dict[str, bytes]:
    """Return the figures as PNG files under their names; feature maps are the last network's.

    The legend names the optimizers only if several were compared.
    """
    title = f"{evidence['images']:,} test images, shifted in four directions"
    shift_accuracy = evidence["shift_accuracy"]
    if several_optimizers:
        shift_accuracy = {
            f"{name} {result.optimizer}": shift_accuracy[name] for name, result in chosen.items()
        }
    last = list(chosen.values())[-1]
    with program.figure_style(dataset):
        figures = {"shift_robustness.png": plot_shifts(shift_accuracy, title)}
        if evidence["dead_channels"]:  # it has convolutions
            figures["feature_maps.png"] = plot_feature_maps(
                last.network, dataset.test_set.subset(slice(3)), evidence["dead_channels"]
            )
        return {name: program.render(figure) for name, figure in figures.items()}


def plot_shifts(shift_accuracy: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Draw one line per network: its accuracy on images shifted by 0, 1, 2, ... pixels."""
    figure, (axes,) = program.new_figure(title, (8, 4))
    for color, (name, accuracies) in zip(program.COLORS, shift_accuracy.items(), strict=False):
        axes.plot(accuracies, color=color, marker="o", label=name)
    axes.set(xlabel="shift (pixels)", ylabel="test accuracy", ylim=(0, 1))
    axes.set_yticks(torch.arange(0, 1.05, 0.1).tolist())
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    return figure


def plot_feature_maps(
    network: nn.Module, image_set: program.ImageSet, dead_channels: Sequence[Sequence[int]]
) -> Figure:
    """Draw each image and its activations in up to ten channels of each convolution, after ReLU.

    One column per layer, as in CNN Explainer (Wang et al. 2020, arXiv:2004.15004), one row per
    channel, each on a scale of its own; above a column stands how many of all channels are dead.
    The images must be square.
    """
    layers = compute_feature_maps(network, image_set.images)
    side = image_set.images.shape[-1]
    stacks = [stack_channels(maps[:, :10], side) for maps in layers]
    columns = (1 + len(layers)) * len(image_set)
    width = max(8, 0.7 * columns)  # inches
    column_width = width / columns - 0.08  # less the gap between columns
    height = 0.75 + column_width * max(stack.shape[1] for stack in stacks) / side  # and titles
    title = "Activations after each ReLU; dark: zero, bright: the channel's largest in these images"
    figure, grid = program.new_figure(title, (width, height), columns=columns)
    remaining = iter(grid)
    for index, label in enumerate(image_set.labels.tolist()):
        image = image_set.images[index].permute(1, 2, 0)
        name = program.shorten(image_set.class_names[label], 11)
        program.show_image(next(remaining), image, f"{name}\ninput")
        for number, (stack, dead) in enumerate(zip(stacks, dead_channels, strict=True), start=1):
            text = f"conv {number}\n{len(dead)} dead" if dead else f"conv {number}"
            program.show_image(next(remaining), stack[index], text, largest=1)
    return figure


def stack_channels(maps: Tensor, side: int) -> Tensor:
    """Return the channels of each image one below the other, with gaps of NaN between them.

    maps are activations of a layer, float32 (N, channels, h, w). Each channel is divided by its
    largest activation and enlarged to side x side: float32 (N, height, side) in [0, 1].
    """
    largest = maps.amax(dim=(0, 2, 3), keepdim=True).clamp(min=1e-7)  # dead channels stay zero
    enlarged = F.interpolate(maps / largest, size=side)
    gap = max(1, side // 14)
    return F.pad(enlarged, (0, 0, 0, gap), value=math.nan).flatten(1, 2)[:, :-gap]
