"""What a saved network predicts for image files: --predict."""

from __future__ import annotations

import copy
import glob
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.datasets import FashionMNIST
from torchvision.transforms.functional import pil_to_tensor

from fashion_mnist_extras import FileError, set_aside
from fashion_mnist_extras.image_files import (
    is_image_name,
    list_visible,
    prepare_garment,
    read_image,
    read_square,
)


@dataclass(frozen=True)
class ModelMetadata:
    """The JSON file beside a saved network."""

    classes: Sequence[str]
    image_size: int
    channels: int
    hidden_units: int
    dataset: str = ""
    test_accuracy: float | None = None
    white_value: float = 65535  # of files of more than 8 bits


def print_predictions(
    paths: Iterable[str],
    network: nn.Module,
    metadata: ModelMetadata,
    predict_logits: Callable[[nn.Module, Tensor], Tensor],
    as_json: bool,
    report_error: Callable[[str], None],
) -> int:
    """Print a line for each image; return 1 if one is unreadable, else 0.

    predict_logits(network, images) returns logits (N, classes) for uint8 images (N, C, H, W).
    """
    device = next(network.parameters()).device
    name = type(network).__name__
    exit_code = 0
    for path in expand_paths(paths):
        try:
            image, preparation = prepare_image(path, metadata)
        except FileError as error:
            report_error(str(error))
            exit_code = 1
            continue
        logits = predict_logits(network, image.unsqueeze(0).to(device))
        probabilities, labels = logits.softmax(dim=1)[0].topk(2)
        predicted = metadata.classes[int(labels[0])]
        runner_up = metadata.classes[int(labels[1])]
        probability, runner_up_probability = probabilities.tolist()
        if as_json:
            prediction = {
                "image": path,
                "class": predicted,
                "probability": probability,
                "runner_up": runner_up,
                "runner_up_probability": runner_up_probability,
                "prepared": preparation,
                "model": name,
            }
            print(json.dumps(prediction))
        else:
            answer = f"{predicted} {probability:.2%}, then {runner_up} {runner_up_probability:.2%}"
            print(f"{path}: {answer} ({name}, {preparation})")
    return exit_code


def prepare_image(path: str, metadata: ModelMetadata) -> tuple[Tensor, str]:
    """Return an image as the network takes it, uint8 (C, H, W), and how it was prepared.

    Raises FileError.
    """
    size = metadata.image_size
    if (metadata.dataset, metadata.channels, size) != ("FashionMNIST", 1, 28):
        mode = "L" if metadata.channels == 1 else "RGB"
        return read_square(path, mode, size, metadata.white_value), f"resized to {size} x {size}"
    image = read_image(path, "RGB")
    pixels = pil_to_tensor(image)
    is_grey = bool((pixels == pixels[:1]).all())
    if image.size == (28, 28) and is_grey and pixels[:, 0, 0].max() < 128:  # the dataset's own
        return pil_to_tensor(image.convert("L")), "as it is"
    garment = prepare_garment(image)
    if not garment.any():
        raise FileError(f"{path} shows nothing before its background")
    return garment, "prepared like FashionMNIST's images"


def expand_paths(paths: Iterable[str]) -> Iterator[str]:
    """Yield each file itself, and all images in folders and in what no shell has expanded."""
    for path in paths:
        if os.path.isfile(path):
            yield path
            continue
        found: dict[Path, str] = {}  # in order, each file once, whatever links there are
        for match in [path] if os.path.isdir(path) else sorted(glob.glob(path, recursive=True)):
            if "__MACOSX" in match and "__MACOSX" not in path:  # glob leaves out .hidden ones only
                continue
            inside = list_visible(Path(match)) if os.path.isdir(match) else [Path(match)]
            for image in inside:
                if image.is_file() and is_image_name(image):
                    found.setdefault(image.resolve(), str(image))
        yield from found.values() or [path]  # where there is none, that is reported


def find_best_model(
    folders: Sequence[Path], names: Sequence[str], report_error: Callable[[str], None]
) -> Path:
    """Return the network of the highest test accuracy in the first folder that has any of names.

    One without a description counts as 0; a description that cannot be read is reported.
    """
    for folder in folders:
        saved = [folder / name for name in names if (folder / name).exists()]
        if saved:
            return max(saved, key=partial(read_test_accuracy, report_error=report_error))
    return folders[0] / "CNN_model.pth"  # which is reported as missing


def read_test_accuracy(path: Path, report_error: Callable[[str], None]) -> float:
    """Return what the JSON file beside a saved network says, or 0 if it does not."""
    json_path = path.with_suffix(".json")
    try:
        accuracy = float(read_json(json_path)["test_accuracy"])
        if not 0 <= accuracy <= 1:
            raise ValueError(f"it is {accuracy}")
        return accuracy
    except FileNotFoundError:
        return 0.0
    except (OSError, ValueError, LookupError, TypeError) as error:
        report_error(f"{json_path} does not say how accurate its network is: {error!r}")
        return 0.0


def read_json(path: Path) -> Any:  # noqa: ANN401 (what others have written)
    """Return what is in a JSON file, which editors of Windows begin with a byte-order mark."""
    return json.loads(path.read_text(encoding="utf-8-sig"))


def set_aside_others(
    folder: Path,
    names: Sequence[str],
    class_names: Sequence[str],
    replaced: str,
    content: bytes,
    accuracy: float | None,
) -> list[str]:
    """Rename networks in folder that would be lost or mixed up; return a line for each.

    Those are the ones of other classes among names and, if an accuracy is given, the one that
    content replaces unless it was less accurate, or is the same. Their descriptions go with them;
    --predict looks at neither.
    """
    lines = []
    for path in (folder / name for name in names):
        if not path.exists():
            continue
        json_path = path.with_suffix(".json")
        description: Any = None
        with suppress(OSError, ValueError):
            description = read_json(json_path)
        if not isinstance(description, dict):
            description = {}
        reason = ""
        if description.get("classes", list(class_names)) != list(class_names):
            reason = "of other classes"
        elif path.name == replaced and accuracy is not None and path.read_bytes() != content:
            earlier = description.get("test_accuracy")
            if not isinstance(earlier, int | float) or not 0 <= earlier <= 1:
                reason = "of unknown accuracy"
            elif earlier >= accuracy:
                reason = f"of {earlier:.2%}"
        if reason:
            kept = set_aside(path)
            if json_path.exists():
                json_path.rename(kept.with_suffix(".json"))
            lines.append(f"{path}, {reason}, is now {kept}")
    return lines


def load_described(
    path: Path,
    load: Callable[[Path], tuple[nn.Module, Mapping[str, int]]],
    report_error: Callable[[str], None],
) -> tuple[nn.Module, ModelMetadata]:
    """Return the network in path and its description; report what of it is assumed.

    load returns the network and its config. Raises FileError, and what load raises.
    """
    with warnings.catch_warnings(record=True, action="always") as assumptions:
        network, config = load(path)
    for assumption in assumptions:
        report_error(str(assumption.message))
    return network, read_metadata(path, network, config, report_error)


def read_metadata(
    path: Path,
    network: nn.Module,
    config: Mapping[str, int],
    report_error: Callable[[str], None],
) -> ModelMetadata:
    """Return what the JSON file beside the network's file says, or without one its weights.

    config has the in_channels, image_size, hidden_units and num_classes read off the weights.
    Without a JSON file, ten classes of 1 x 28 x 28 images are taken for FashionMNIST's, which is
    reported. Raises FileError if network and description do not agree, or if it cannot classify
    images.
    """
    json_path = path.with_suffix(".json")
    if json_path.exists():
        metadata = parse_metadata(json_path, path, network, config)
    else:
        metadata = ModelMetadata(
            classes=[f"class {label}" for label in range(config["num_classes"])],
            image_size=config["image_size"],
            channels=config["in_channels"],
            hidden_units=config["hidden_units"],
        )
        if (metadata.channels, metadata.image_size, len(metadata.classes)) == (1, 28, 10):
            metadata = replace(metadata, classes=FashionMNIST.classes, dataset="FashionMNIST")
            report_error(f"{json_path} is missing: {path} is taken for FashionMNIST's")
    if len(metadata.classes) < 2 or metadata.channels not in (1, 3):
        reason = f"{len(metadata.classes)} classes, {metadata.channels} channels"
        raise FileError(f"{path} cannot classify images, grey or in colour: it has {reason}")
    return metadata


def parse_metadata(
    json_path: Path, path: Path, network: nn.Module, config: Mapping[str, int]
) -> ModelMetadata:
    """Return what the JSON file says. Raises FileError unless it describes the network in path."""
    try:
        described = read_json(json_path)
        known = {each.name for each in fields(ModelMetadata)}
        metadata = ModelMetadata(**{name: described[name] for name in described if name in known})
        if not isinstance(metadata.classes, list) or metadata.image_size < 4:
            raise ValueError("its classes are no list, or its images too small")
        if not metadata.white_value > 0:
            raise ValueError(f"its white_value is {metadata.white_value}")
        # Shapes alone: nothing is computed.
        shape = (1, metadata.channels, metadata.image_size, metadata.image_size)
        outputs = copy.deepcopy(network).to("meta")(torch.empty(shape, device="meta")).shape[1]
        if (metadata.hidden_units, len(metadata.classes)) != (config["hidden_units"], outputs):
            raise ValueError(f"it has {config['hidden_units']} hidden units, {outputs} classes")
    except (OSError, TypeError, ValueError, RuntimeError) as error:  # RuntimeError: other shapes
        raise FileError(f"{json_path} does not describe the network in {path}: {error}") from error
    return metadata
