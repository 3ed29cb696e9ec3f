"""What the networks see, and what they do not: shifted images, feature maps, dead channels.

In all functions images are uint8 (N, C, H, W) on the network's device, and predict_logits(network,
images, batch_size) returns the logits (N, classes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.utils import make_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Predict = Callable[..., Tensor]


def analyze_networks(
    networks: Mapping[str, nn.Module],
    shown: nn.Module,
    images: Tensor,
    labels: Tensor,
    predict_logits: Predict,
) -> dict[str, Any]:
    """Return what results.json calls evidence.

    That is the accuracy of each network on shifted images, and the dead channels of the one shown.
    """
    subset = slice(1000)  # every network predicts them 28 times
    shift_accuracy = {}
    for name, network in networks.items():
        shift_accuracy[name] = measure_shifts(
            network, images[subset], labels[subset], predict_logits
        )
    return {
        "images": len(images[subset]),
        "shift_accuracy": shift_accuracy,
        "dead_channels": find_dead_channels(shown, images, predict_logits),
    }


def measure_shifts(
    network: nn.Module, images: Tensor, labels: Tensor, predict_logits: Predict, max_shift: int = 6
) -> list[float]:
    """Return the accuracy on images shifted by 0, 1, ... max_shift pixels, mean of 4 directions."""
    accuracies = []
    for pixels in range(max_shift + 1):
        correct = 0
        directions = (pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels)
        for down, right in directions:
            shifted = F.pad(images, (right, -right, down, -down))
            predictions = predict_logits(network, shifted).argmax(dim=1)
            correct += int((predictions == labels).sum())
        accuracies.append(correct / (len(directions) * len(images)))
    return accuracies


def compute_feature_maps(
    network: nn.Module, images: Tensor, predict_logits: Predict
) -> list[Tensor]:
    """Return the activations of each ReLU after a convolution, float32 (N, channels, h, w)."""
    activations: list[Tensor] = []
    hooks = []
    for layer in network.modules():
        if isinstance(layer, nn.ReLU):
            hook = layer.register_forward_hook(
                # Of a batch to which mirror images were added, those of the images.
                lambda _relu, _inputs, output: activations.append(output[: len(images)])
            )
            hooks.append(hook)
    predict_logits(network, images, batch_size=len(images))
    for hook in hooks:
        hook.remove()
    return [feature_maps for feature_maps in activations if feature_maps.dim() == 4]


def find_dead_channels(
    network: nn.Module, images: Tensor, predict_logits: Predict
) -> list[list[int]]:
    """Return, for each convolution, the channels whose ReLU is zero on all the images."""
    dead: dict[int, Tensor] = {}
    for batch in images.split(100):
        for layer, feature_maps in enumerate(compute_feature_maps(network, batch, predict_logits)):
            is_zero = feature_maps.amax(dim=(0, 2, 3)) == 0
            dead[layer] = is_zero & dead.get(layer, is_zero)
    return [channels.nonzero().flatten().tolist() for channels in dead.values()]


def draw_shifts(
    axes: Axes, shift_accuracy: Mapping[str, Sequence[float]], colors: Sequence[str]
) -> None:
    """Draw one line per network: its accuracy on images shifted by 0, 1, 2, ... pixels."""
    for color, (name, accuracies) in zip(colors, shift_accuracy.items(), strict=False):
        axes.plot(accuracies, color=color, marker="o", label=name)
    axes.set(xlabel="shift (pixels)", ylabel="test accuracy", ylim=(0, 1))
    axes.set_yticks(torch.arange(0, 1.05, 0.1).tolist())
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)


def draw_feature_maps(
    grid: Sequence[Axes],
    network: nn.Module,
    images: Tensor,
    names: Sequence[str],
    dead_channels: Sequence[Sequence[int]],
    predict_logits: Predict,
    show_image: Callable[..., None],
) -> None:
    """Draw each image and its activations in up to ten channels of each convolution, after ReLU.

    One column per layer, as in CNN Explainer (Wang et al. 2020, arXiv:2004.15004), and one scale;
    above it stands how many of all channels are dead. names are those of the images' classes;
    show_image(axes, image, title, largest) shows an image or the activations of a channel.
    """
    layers = compute_feature_maps(network, images, predict_logits)
    remaining = iter(grid)
    for index, image in enumerate(images):
        show_image(next(remaining), image.permute(1, 2, 0), f"{names[index]}\ninput")
        for number, dead in enumerate(dead_channels):
            channels = layers[number][:, :10]
            text = f"conv {number + 1}\n{len(dead)} dead" if dead else f"conv {number + 1}"
            column = make_grid(channels[index].unsqueeze(1), nrow=1, pad_value=math.nan)
            show_image(next(remaining), column[0], text, channels.max().item())
