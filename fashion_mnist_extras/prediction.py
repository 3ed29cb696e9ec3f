"""What a saved network predicts for image files: --predict."""

from __future__ import annotations

import argparse
import copy
import glob
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.datasets import FashionMNIST
from torchvision.transforms.functional import pil_to_tensor

import fashion_mnist_cnn as program
from fashion_mnist_extras import set_aside
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


def predict(args: argparse.Namespace) -> int:
    """Print a saved network's prediction for each image; return 1 if one is unreadable, else 0.

    Raises UserError.
    """
    network, metadata = load_described(choose_model(args), args.device)
    exit_code = 0
    for path in expand_paths(args.predict):
        try:
            image, preparation = prepare_image(path, metadata)
        except program.UserError as error:
            program.print_error(str(error))
            exit_code = 1
            continue
        logits = program.predict_logits(network, image.unsqueeze(0).to(args.device))
        probabilities, labels = logits.softmax(dim=1)[0].topk(2)
        predicted = metadata.classes[int(labels[0])]
        runner_up = metadata.classes[int(labels[1])]
        probability, runner_up_probability = probabilities.tolist()
        name = type(network).__name__
        if args.json:
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


def choose_model(args: argparse.Namespace) -> Path:
    """Return the network's file that --model names, or the best one saved."""
    if args.model:
        return program.locate(args.model)
    folder = Path(args.models_dir)
    return find_best_model([folder, Path(program.__file__).parent / folder])


def load_described(path: Path, device: str) -> tuple[program.Network, ModelMetadata]:
    """Return the network in path and its description; print what of it is assumed.

    Raises UserError.
    """
    with warnings.catch_warnings(record=True, action="always") as assumptions:
        network = program.load_model(path, device)
    for assumption in assumptions:
        program.print_error(str(assumption.message))
    return network, read_metadata(path, network)


def prepare_image(path: str, metadata: ModelMetadata) -> tuple[Tensor, str]:
    """Return an image as the network takes it, uint8 (C, H, W), and how it was prepared.

    Raises UserError.
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
        raise program.UserError(f"{path} shows nothing before its background")
    return garment, "prepared like FashionMNIST's images"


def expand_paths(paths: Iterable[str]) -> Iterator[str]:
    """Yield each file itself, and all images in folders and unexpanded patterns."""
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


def find_best_model(folders: Sequence[Path]) -> Path:
    """Return the network of the highest test accuracy in the first folder that has any.

    One without a description counts as 0; a description that cannot be read is reported.
    """
    for folder in folders:
        paths = [folder / kind.model_file for kind in program.NETWORKS.values()]
        saved = [path for path in paths if path.exists()]
        if saved:
            return max(saved, key=read_test_accuracy)
    return folders[0] / program.TinyVGG.model_file  # which is reported as missing


def read_test_accuracy(path: Path) -> float:
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
        message = f"{json_path} does not say how accurate its network is: {error!r}"
        program.print_error(message)
        return 0.0


def read_json(path: Path) -> Any:  # noqa: ANN401 (what others have written)
    """Return what is in a JSON file, which editors of Windows begin with a byte-order mark."""
    return json.loads(path.read_text(encoding="utf-8-sig"))


def set_aside_others(
    folder: Path, result: program.TrainedNetwork, dataset: program.Dataset
) -> list[str]:
    """Rename networks in folder that would be lost or mixed up with result; return a line for each.

    These have other classes or, for your own images, are what result is about to replace, unless
    identical. Their JSON files are renamed too; --predict uses neither.
    """
    class_names = list(dataset.test_set.class_names)
    lines = []
    for kind in program.NETWORKS.values():
        path = folder / kind.model_file
        if not path.exists():
            continue
        json_path = path.with_suffix(".json")
        description: Any = None
        with suppress(OSError, ValueError):
            description = read_json(json_path)
        if not isinstance(description, dict):
            description = {}
        is_replaced = path.name == result.network.model_file and dataset.subfolder
        if description.get("classes", class_names) != class_names:
            reason = "of other classes"
        elif is_replaced and path.read_bytes() != program.serialize_network(result.network):
            reason = "of an earlier run"
        else:
            continue
        kept = set_aside(path)
        if json_path.exists():
            json_path.rename(kept.with_suffix(".json"))
        lines.append(f"{path}, {reason}, is now {kept}")
    return lines


def read_metadata(path: Path, network: program.Network) -> ModelMetadata:
    """Return what the JSON file beside the network's file says, or without one its weights.

    Without a JSON file, ten classes of 1 x 28 x 28 images are taken for FashionMNIST's, which is
    reported. Raises UserError if network and description do not agree, or if it cannot classify
    images.
    """
    json_path = path.with_suffix(".json")
    config = network.read_config(network.state_dict())
    if json_path.exists():
        metadata = parse_metadata(json_path, path, network)
    else:
        metadata = ModelMetadata(
            classes=[f"class {label}" for label in range(config.num_classes)],
            image_size=config.image_size,
            channels=config.in_channels,
            hidden_units=config.hidden_units,
        )
        if (metadata.channels, metadata.image_size, len(metadata.classes)) == (1, 28, 10):
            metadata = replace(metadata, classes=FashionMNIST.classes, dataset="FashionMNIST")
            program.print_error(f"{json_path} is missing: {path} is taken for FashionMNIST's")
    if len(metadata.classes) < 2 or metadata.channels not in (1, 3):
        reason = f"{len(metadata.classes)} classes, {metadata.channels} channels"
        raise program.UserError(
            f"{path} cannot classify images, grey or in colour: it has {reason}"
        )
    return metadata


def parse_metadata(json_path: Path, path: Path, network: program.Network) -> ModelMetadata:
    """Return what the JSON file says. Raises UserError unless it describes the network in path."""
    hidden_units = network.read_config(network.state_dict()).hidden_units
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
        if (metadata.hidden_units, len(metadata.classes)) != (hidden_units, outputs):
            raise ValueError(f"it has {hidden_units} hidden units, {outputs} classes")
    except (OSError, TypeError, ValueError, RuntimeError) as error:  # RuntimeError: other shapes
        message = f"{json_path} does not describe the network in {path}: {error}"
        raise program.UserError(message) from error
    return metadata
