"""What a saved network predicts for image files: --predict."""

from __future__ import annotations

import argparse
import copy
import glob
import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.datasets import FashionMNIST
from torchvision.transforms.functional import pil_to_tensor

import fashion_mnist_cnn as program
from fashion_mnist_extras import set_aside
from fashion_mnist_extras.image_files import (
    Tones,
    cut_frame,
    has_light_border,
    is_hidden,
    is_image_name,
    list_visible,
    name_subfolder,
    prepare_garment,
    prepare_ink,
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
    white_value: float = 65535  # see Tones
    black_value: float = 0
    page: str | None = None
    folder: str = ""  # see identify_folder
    ink_size: float = 0  # see prepare_ink; 0: pictures are not turned light on dark

    @property
    def tones(self) -> Tones:
        return Tones(self.black_value, self.white_value, self.page)


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


def load_described(path: Path, device: str) -> tuple[nn.Module, ModelMetadata]:
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
    tones = metadata.tones
    if metadata.ink_size:
        tones = replace(tones, page="best")
        image = cut_frame(read_image(path, "RGB", tones))
        if has_light_border(image):
            ink = prepare_ink(image, size, metadata.ink_size)
            if not ink.any():
                hint = "if it is framed, crop it"
                raise program.UserError(f"{path} shows no ink on a light page; {hint}")
            return ink, f"trimmed, turned light on dark, resized to {size} x {size}"
    if (metadata.dataset, metadata.channels, size) != ("FashionMNIST", 1, 28):
        mode = "L" if metadata.channels == 1 else "RGB"
        return read_square(path, mode, size, tones), f"resized to {size} x {size}"
    image = read_image(path, "RGB", Tones(page="best"))
    pixels = pil_to_tensor(image)
    is_grey = bool((pixels == pixels[:1]).all())
    if image.size == (28, 28) and is_grey and pixels[:, 0, 0].max() < 128:  # the dataset's own
        return pil_to_tensor(image.convert("L")), "as it is"
    inside = cut_frame(image)
    garment = prepare_garment(inside)
    if not garment.any():
        raise program.UserError(f"{path} shows nothing before its background")
    without_frame = ", without its frame" if inside.size != image.size else ""
    return garment, f"prepared like FashionMNIST's images{without_frame}"


def expand_paths(paths: Iterable[str]) -> Iterator[str]:
    """Yield each file itself, and all images in folders and unexpanded patterns."""
    for path in paths:
        if os.path.isfile(path):
            yield path
            continue
        found: dict[Path, str] = {}  # in order, each file once, whatever links there are
        for match in [path] if os.path.isdir(path) else sorted(glob.glob(path, recursive=True)):
            if any(is_hidden(part) and part not in path for part in Path(match).parts):
                continue  # glob leaves out only those that begin with a dot
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


# ---- Networks of earlier runs --------------------------------------------------------------------
def identify_folder(folder: str | Path, models_dir: str | Path) -> str:
    """Return a digest of where a folder is, so that networks say what they were trained on.

    It is the way from models_dir to there, which stays the same if both are moved.
    """
    place = os.path.realpath(folder)
    with suppress(ValueError):  # on another drive of Windows
        place = os.path.relpath(place, os.path.realpath(models_dir))
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:16]


def choose_subfolder(folder: str | Path, models_dir: Path) -> str:
    """Return the name of the folders for what is trained on the images in folder.

    It is the folder's own name, after that of its parent if models_dir has networks of another
    folder of this name, such as fold1/data and fold2/data.
    """
    real = Path(os.path.realpath(folder))
    name = name_subfolder(real)
    identity = identify_folder(real, models_dir)
    for parent in real.parents:
        if not is_of_another_folder(models_dir / name, identity):
            break
        longer = f"{parent.name}-{name}"
        print(f"{models_dir / name} has networks of another folder: these go to {longer}")
        name = longer
    return name


def is_of_another_folder(models_dir: Path, identity: str) -> bool:
    """Whether the description of a network in models_dir names another folder of images."""
    for path in sorted(models_dir.glob("*.json")):
        with suppress(OSError, ValueError):
            description = read_json(path)
            if isinstance(description, dict) and description.get("folder", identity) != identity:
                return True
    return False


class SetAside(NamedTuple):
    """A network of an earlier run under its new name."""

    path: Path
    kept: Path
    reason: str

    def put_back(self) -> None:
        for suffix in (".pth", ".json"):
            if self.kept.with_suffix(suffix).exists():
                program.replace_file(self.kept.with_suffix(suffix), self.path.with_suffix(suffix))


def set_aside_others(
    folder: Path, result: program.TrainedNetwork, dataset: program.Dataset
) -> list[SetAside]:
    """Rename networks in folder that would be lost or mixed up with result; return them.

    These have other classes or, for your own images, are what result is about to replace, unless
    identical. Their JSON files are renamed too; --predict uses neither.
    """
    class_names = list(dataset.test_set.class_names)
    others = []
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
        is_replaced = path.name == result.kind.model_file and dataset.subfolder
        if description.get("classes", class_names) != class_names:
            reason = "of other classes"
        elif is_replaced and path.read_bytes() != program.serialize_network(result.network):
            reason = "of an earlier run"
        else:
            continue
        other = SetAside(path, set_aside(path), reason)
        others.append(other)
        if json_path.exists():
            try:
                program.replace_file(json_path, other.kept.with_suffix(".json"))
            except PermissionError:
                for each in others:
                    each.put_back()
                raise
    return others


# ---- The description of a network ----------------------------------------------------------------
def read_metadata(path: Path, network: nn.Module) -> ModelMetadata:
    """Return what the JSON file beside the network's file says, or without one its weights.

    Without a JSON file, ten classes of 1 x 28 x 28 images are taken for FashionMNIST's, which is
    reported. Raises UserError if network and description do not agree, or if it cannot classify
    images.
    """
    json_path = path.with_suffix(".json")
    _, config = program.recognize_network(network.state_dict())
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


def parse_metadata(json_path: Path, path: Path, network: nn.Module) -> ModelMetadata:
    """Return what the JSON file says. Raises UserError unless it describes the network in path."""
    _, config = program.recognize_network(network.state_dict())
    try:
        described = read_json(json_path)
        known = {each.name for each in fields(ModelMetadata)}
        metadata = ModelMetadata(**{name: described[name] for name in described if name in known})
        if not isinstance(metadata.classes, list) or metadata.image_size < 4:
            raise ValueError("its classes are no list, or its images too small")
        if not metadata.white_value > metadata.black_value:
            values = f"{metadata.white_value}, its black_value {metadata.black_value}"
            raise ValueError(f"its white_value is {values}")
        if not 0 <= metadata.ink_size <= 1:
            raise ValueError(f"its ink_size is {metadata.ink_size}")
        if metadata.page not in ("white", "black", None):
            raise ValueError(f"its page is {metadata.page!r}")
        # Shapes alone: nothing is computed.
        shape = (1, metadata.channels, metadata.image_size, metadata.image_size)
        outputs = copy.deepcopy(network).to("meta")(torch.empty(shape, device="meta")).shape[1]
        if (metadata.hidden_units, len(metadata.classes)) != (config.hidden_units, outputs):
            raise ValueError(f"it has {config.hidden_units} hidden units, {outputs} classes")
    except (OSError, TypeError, ValueError, RuntimeError) as error:  # RuntimeError: other shapes
        message = f"{json_path} does not describe the network in {path}: {error}"
        raise program.UserError(message) from error
    return metadata
