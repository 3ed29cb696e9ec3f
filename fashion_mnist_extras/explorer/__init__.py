"""assets/explorer.html: a page that looks into the networks of a run.

It is one file, made of the sources in this folder and of its data: images, weights from the whole
of training, predictions. It runs MLP and TinyVGG itself; for other networks it shows predictions
computed here.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

import fashion_mnist_cnn as program
from fashion_mnist_extras.analysis import Evidence, predict_shifted

SOURCES = Path(__file__).parent
SCRIPTS = (
    "network.js",
    "photograph.js",
    "sentences.js",
    "data.js",
    "state.js",
    "images.js",
    "files.js",
    "paint.js",
    "curves.js",
    "explain.js",
    "player.js",
    "maps.js",
    "everything.js",
    "answers.js",
    "way.js",
    "chapters.js",
    "stages.js",
    "print.js",
    "main.js",
)
NO_CNN = "<main><p>The last run trained no TinyVGG, and this page shows nothing else.</p></main>"
# The page has few megabytes, so that a browser opens it at once.
MOST_WEIGHTS = 1_200_000  # of all networks at all moments of their training
MOST_PIXELS = 1_000_000  # of all images
MOST_MACS = 60_000_000_000  # to predict shifted images here: a few seconds


class Snapshot(TypedDict):
    """A network at a moment of its training: each row of weights as int8 and a float32 scale."""

    epoch: float
    accuracy: float
    weights: Tensor
    scales: Tensor


def is_computed_by_page(network: nn.Module) -> bool:
    return bool({"conv_block_1.0.weight", "layer_stack.1.weight"} & network.state_dict().keys())


def add_snapshot(
    snapshots: list[Snapshot], network: nn.Module, epoch: float, accuracy: float
) -> None:
    """Add a snapshot of the network, if the page computes it."""
    if not is_computed_by_page(network):
        return
    weights = []
    scales = []
    for tensor in network.state_dict().values():
        rows = tensor.flatten(1) if tensor.dim() > 1 else tensor.reshape(1, -1)
        scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        weights.append((rows / scale).round().char().flatten())
        scales.append(scale.flatten())
    snapshot: Snapshot = {
        "epoch": epoch,
        "accuracy": accuracy,
        "weights": torch.cat(weights).cpu(),
        "scales": torch.cat(scales).cpu(),
    }
    snapshots.append(snapshot)
    drop_snapshots(snapshots, most=16)


def drop_snapshots(snapshots: list[Snapshot], most: int) -> None:
    """Drop the most closely spaced ones, so that more early ones are left."""
    while len(snapshots) > most:
        epochs = [snapshot["epoch"] for snapshot in snapshots]
        gaps = []
        for index in range(2, len(epochs) - 1):  # the first two and the last stay
            gaps.append((epochs[index + 1] / epochs[index - 1], index))
        _, densest = min(gaps)
        del snapshots[densest]


def build_page(
    chosen: Mapping[str, program.TrainedNetwork],
    dataset: program.Dataset,
    snapshots: Mapping[nn.Module, Sequence[Snapshot]],
    evidence: Evidence,
) -> dict[str, bytes]:
    """Return the page under the name of its file."""
    test_set = dataset.test_set
    computed = {}  # by the page
    for name, result in chosen.items():
        if is_computed_by_page(result.network):
            computed[name] = result
    moments = choose_snapshots(computed, snapshots)
    most_images = max(10, min(220, MOST_PIXELS // test_set.images[0].numel()))
    typical = choose_typical(chosen.values())[:most_images]
    mistakes = choose_mistakes(computed.values(), most_images - len(typical))
    sample = torch.tensor(typical + mistakes)
    shown = test_set.to("cpu").subset(sample)
    step = max(1, round(shown.images.shape[2] / 28))  # of the shifts, in pixels
    data: dict[str, Any] = {
        "dataset": dataset.name,
        "classes": test_set.class_names,
        "shape": shown.images.shape[1:],
        "page": dataset.notes.get("page"),  # under transparent images
        "inkSize": dataset.notes.get("ink_size", 0),  # see prepare_ink
        "labels": shown.labels.tolist(),
        "images": encode(shown.images),
        "typical": len(typical),
        "shiftStep": step,
        "networks": {},
        "others": {},
    }
    for name, result in chosen.items():
        if name in computed:
            data["networks"][name] = {
                **describe_training(result.network, moments[name]),
                **describe_curves(result.history, moments[name]),
                "confusion": result.metrics.confusion_matrix.tolist(),
                "predictions": result.test_logits.argmax(dim=1)[sample].tolist(),
                "fixedByMirroring": find_fixed_by_mirroring(result, test_set.images, sample),
                "shiftAccuracy": evidence["shift_accuracy"][name],
                "shiftedImages": evidence["images"],
                # So that the page can verify its own computation.
                "logits": result.test_logits[typical[:10]].tolist(),
            }
        else:
            images = test_set.images[typical]
            data["others"][name] = predict_all_shifts(result.network, images, step)
    return {"explorer.html": join_sources(data)}


def join_sources(data: Mapping[str, Any]) -> bytes:
    """Return the page of this data, in UTF-8."""
    frame = read_source("page.html")
    if "TinyVGG" not in data["networks"]:
        head, _, _ = frame.partition("<body>")
        return f"{head}<body>{NO_CNN}</body></html>\n".encode()
    # A class named "</script>" does not end the data.
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    style = f"<style>\n{read_source('style.css')}</style>"
    scripts = f'<script id="data" type="application/json">{text}</script>\n'
    scripts += f"<script>\n{join_scripts()}</script>"
    page = frame.replace("<!-- style -->", style).replace("<!-- scripts -->", scripts)
    return page.encode()


def join_scripts() -> str:
    parts = ['"use strict";\n']
    parts += [read_source(name) for name in SCRIPTS]
    return "\n".join(parts)


def read_source(name: str) -> str:
    return (SOURCES / name).read_text(encoding="utf-8")


def choose_snapshots(
    computed: Mapping[str, program.TrainedNetwork],
    snapshots: Mapping[nn.Module, Sequence[Snapshot]],
) -> dict[str, list[Snapshot]]:
    """Return each network's snapshots for the page: from the same epochs for all networks.

    A large network was evaluated less often, and the more weights, the fewer snapshots fit.
    """
    epochs = []
    weights = 0
    for result in computed.values():
        epochs.append({snapshot["epoch"] for snapshot in snapshots[result.network]})
        weights += program.count_parameters(result.network)
    most = max(3, min(16, MOST_WEIGHTS // max(1, weights)))
    chosen = {}
    for name, result in computed.items():
        common = [
            snapshot
            for snapshot in snapshots[result.network]
            if all(snapshot["epoch"] in others for others in epochs)
        ]
        drop_snapshots(common, most)
        chosen[name] = common
    return chosen


def choose_typical(results: Iterable[program.TrainedNetwork]) -> list[int]:
    """Return, for each class, the first of the test images that most networks get right."""
    right = []
    for result in results:
        labels = result.test_labels
        right.append(result.test_logits.argmax(dim=1) == labels)
    order = torch.stack(right).sum(dim=0).argsort(descending=True, stable=True)
    return [int(order[labels[order] == label][0]) for label in labels.unique()]


def choose_mistakes(results: Iterable[program.TrainedNetwork], most: int) -> list[int]:
    """Return the first mistakes of each cell of each confusion matrix, up to six of each."""
    found = []
    for result in results:
        in_cell: Counter[tuple[int, int]] = Counter()
        predictions = result.test_logits.argmax(dim=1)
        for index in (predictions != result.test_labels).nonzero().flatten().tolist():
            cell = (int(result.test_labels[index]), int(predictions[index]))
            in_cell[cell] += 1
            if in_cell[cell] <= 6:
                found.append((in_cell[cell], index))
    return list(dict.fromkeys(index for _, index in sorted(found)))[:most]


def describe_curves(
    history: Sequence[program.Record], snapshots: Sequence[Snapshot]
) -> dict[str, list[float | None]]:
    """Return losses, and accuracies on training images, at these moments."""
    records = {record.epoch: record for record in history}
    curves: dict[str, list[float | None]] = {"losses": [], "trainLosses": [], "trainAccuracies": []}
    for snapshot in snapshots:
        record = records.get(snapshot["epoch"])  # of a hundred epochs and more not all are kept
        curves["losses"].append(record.test_loss if record else None)
        curves["trainLosses"].append(record.train_loss if record else None)
        curves["trainAccuracies"].append(record.train_accuracy if record else None)
    return curves


def describe_training(network: nn.Module, snapshots: Sequence[Snapshot]) -> dict[str, Any]:
    """Return the weights at these moments; the last ones exactly."""
    state = network.state_dict()
    return {
        "shapes": {key: tensor.shape for key, tensor in state.items()},
        "last": encode(torch.cat([tensor.flatten() for tensor in state.values()])),
        "epochs": [snapshot["epoch"] for snapshot in snapshots],
        "accuracies": [snapshot["accuracy"] for snapshot in snapshots],
        "weights": [encode(snapshot["weights"]) for snapshot in snapshots],
        "scales": [encode(snapshot["scales"]) for snapshot in snapshots],
    }


def find_fixed_by_mirroring(
    result: program.TrainedNetwork, images: Tensor, sample: Tensor
) -> list[int]:
    """Return which of the sample's mistakes mirroring fixes, the clearest first."""
    labels = result.test_labels[sample]
    logits = program.predict_logits(result.network, images[sample].flip(-1)).to(labels.device)
    is_fixed = (result.test_logits[sample].argmax(dim=1) != labels) & (
        logits.argmax(dim=1) == labels
    )
    shares = logits.softmax(dim=1)[torch.arange(len(labels)), labels]
    fixed = is_fixed.nonzero().flatten()
    return fixed[shares[fixed].argsort(descending=True)].tolist()


def predict_all_shifts(network: nn.Module, images: Tensor, step: int) -> list[list[int]]:
    """Return the labels predicted for up to ten images at each of 15 x 15 shifts."""
    affordable = MOST_MACS // (225 * program.count_macs(network, images[:1]))
    images = images[: max(1, min(10, affordable))]
    predictions = []
    for down, right in itertools.product(range(-7 * step, 8 * step, step), repeat=2):
        predictions.append(predict_shifted(network, images, down, right).tolist())
    return predictions


def encode(tensor: Tensor) -> str:
    """Return the tensor's bytes, row by row, as base64."""
    return base64.b64encode(tensor.numpy(force=True).tobytes()).decode()
