"""What assets/explorer.html is given: images, weights from the whole of training, predictions.

The page computes MLP and TinyVGG by itself; of other networks it shows what was predicted here.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAGE = Path(__file__).with_name("explorer.html")
Predict = Callable[..., Tensor]  # of a network and uint8 images (N, C, H, W): logits (N, classes)


@dataclass(frozen=True)
class Explored:
    """A trained network."""

    network: nn.Module
    test_logits: Tensor  # float32 (N, classes), on the CPU
    confusion_matrix: Tensor  # int64 (classes, classes); row: true class, column: predicted class
    macs: int  # multiply-accumulates for one image
    snapshots: Sequence[Mapping[str, Any]]  # see add_snapshot
    shift_accuracy: Sequence[float]  # on test images shifted by 0, 1, ... pixels
    shifted_images: int  # how many of them


def is_computed_by_page(network: nn.Module) -> bool:
    return bool({"conv_block_1.0.weight", "layer_stack.1.weight"} & network.state_dict().keys())


def add_snapshot(
    snapshots: list[dict[str, Any]], network: nn.Module, epoch: float, accuracy: float
) -> None:
    """Add the weights, as int8 and a scale for each row of them, if the page shows the network."""
    if not is_computed_by_page(network):
        return
    weights = []
    scales = []
    for tensor in network.state_dict().values():
        rows = tensor.flatten(1) if tensor.dim() > 1 else tensor.reshape(1, -1)
        scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        weights.append((rows / scale).round().char().flatten())
        scales.append(scale.flatten())
    snapshot = {
        "epoch": epoch,
        "accuracy": accuracy,
        "weights": torch.cat(weights).cpu(),
        "scales": torch.cat(scales).cpu(),
    }
    snapshots.append(snapshot)
    drop_snapshots(snapshots, most=16)


def drop_snapshots(snapshots: list[Any], most: int) -> None:
    """Drop those with the nearest neighbours, so that more are left of the beginning."""
    while len(snapshots) > most:
        gaps = []  # the ratio of the epochs after and before each
        for before, after in zip(snapshots[1:], snapshots[3:], strict=False):
            gaps.append(after["epoch"] / before["epoch"])
        del snapshots[2 + gaps.index(min(gaps))]


def build_page(
    trained: Mapping[str, Explored],
    dataset: str,
    class_names: Sequence[str],
    images: Tensor,
    labels: Tensor,
    predict_logits: Predict,
) -> dict[str, bytes]:
    """Return the page and its data under the names of their files.

    images are the test images, uint8 (N, C, H, W), on the networks' device, labels int64 (N,).
    """
    labels = labels.cpu()
    explored = {name: each for name, each in trained.items() if is_computed_by_page(each.network)}
    # A page of few megabytes, which a browser opens at once: so much of weights and of images.
    weights = 0
    for each in explored.values():
        weights += sum(parameter.numel() for parameter in each.network.parameters())
    most_moments = max(3, min(16, 1_200_000 // max(1, weights)))
    most_images = max(10, min(220, 1_000_000 // images[0].numel()))
    typical = choose_typical(trained, labels)[:most_images]
    mistakes = choose_mistakes(explored, labels, most_images - len(typical))
    sample = torch.tensor(typical + mistakes)
    sample_images = images[sample.to(images.device)]
    step = max(1, round(images.shape[2] / 28))
    epochs = find_common_epochs(explored.values())
    data: dict[str, Any] = {
        "dataset": dataset,
        "classes": class_names,
        "shape": images.shape[1:],
        "labels": labels[sample].tolist(),
        "images": encode(sample_images),
        "typical": len(typical),
        "shiftStep": step,
        "networks": {},
        "others": {},
    }
    for name, each in trained.items():
        if name in explored:
            predictions = each.test_logits.argmax(dim=1)[sample]
            data["networks"][name] = describe_training(each, epochs, most_moments)
            data["networks"][name]["confusion"] = each.confusion_matrix.tolist()
            data["networks"][name]["predictions"] = predictions.tolist()
            data["networks"][name]["shiftAccuracy"] = list(each.shift_accuracy)
            data["networks"][name]["shiftedImages"] = each.shifted_images
            # For the page to see whether it computes what this network does.
            data["networks"][name]["logits"] = each.test_logits[typical[:10]].tolist()
        else:
            affordable = 60_000_000_000 // (
                225 * each.macs
            )  # in a few seconds, at each of 225 shifts
            count = max(1, min(10, len(typical), affordable))
            shifted = predict_shifted(each.network, sample_images[:count], step, predict_logits)
            data["others"][name] = shifted
    script = f"window.explorerData = {json.dumps(data)};\n"
    return {"explorer_data.js": script.encode(), PAGE.name: PAGE.read_bytes()}


def find_common_epochs(explored: Iterable[Explored]) -> set[float]:
    """Return when all networks were evaluated: large ones are evaluated less often."""
    epochs = [{snapshot["epoch"] for snapshot in each.snapshots} for each in explored]
    return set.intersection(*epochs) if epochs else set()


def choose_typical(trained: Mapping[str, Explored], labels: Tensor) -> list[int]:
    """Return, for each class, the first of the test images that most networks get right."""
    right = torch.stack([each.test_logits.argmax(dim=1) == labels for each in trained.values()])
    order = right.sum(dim=0).argsort(descending=True, stable=True)
    return [int(order[labels[order] == label][0]) for label in labels.unique()]


def choose_mistakes(explored: Mapping[str, Explored], labels: Tensor, most: int) -> list[int]:
    """Return the first mistakes of each cell of each confusion matrix, up to six of each."""
    found = []
    for each in explored.values():
        in_cell: Counter[tuple[int, int]] = Counter()
        predictions = each.test_logits.argmax(dim=1)
        for index in (predictions != labels).nonzero().flatten().tolist():
            cell = (int(labels[index]), int(predictions[index]))
            in_cell[cell] += 1
            if in_cell[cell] <= 6:
                found.append((in_cell[cell], index))
    return list(dict.fromkeys(index for _, index in sorted(found)))[:most]


def describe_training(each: Explored, epochs: set[float], most_moments: int) -> dict[str, Any]:
    """Return the weights after some of these epochs; the last ones exactly."""
    state = each.network.state_dict()
    snapshots = [snapshot for snapshot in each.snapshots if snapshot["epoch"] in epochs]
    drop_snapshots(snapshots, most_moments)
    return {
        "shapes": {key: tensor.shape for key, tensor in state.items()},
        "last": encode(torch.cat([tensor.flatten() for tensor in state.values()])),
        "epochs": [snapshot["epoch"] for snapshot in snapshots],
        "accuracies": [snapshot["accuracy"] for snapshot in snapshots],
        "weights": [encode(snapshot["weights"]) for snapshot in snapshots],
        "scales": [encode(snapshot["scales"]) for snapshot in snapshots],
    }


def predict_shifted(
    network: nn.Module, images: Tensor, step: int, predict_logits: Predict
) -> list[list[int]]:
    """Return the labels predicted for uint8 images (N, C, H, W) at each of 15 x 15 shifts."""
    predictions = []
    for down, right in itertools.product(range(-7 * step, 8 * step, step), repeat=2):
        shifted = F.pad(images, (right, -right, down, -down))
        predictions.append(predict_logits(network, shifted).argmax(dim=1).tolist())
    return predictions


def encode(tensor: Tensor) -> str:
    """Return the tensor's bytes, row by row, as base64."""
    return base64.b64encode(tensor.numpy(force=True).tobytes()).decode()
