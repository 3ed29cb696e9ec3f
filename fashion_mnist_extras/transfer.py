"""Transfer learning: EfficientNet-Lite0, pretrained on ImageNet, with a new last layer.

Its 1,280 features of each of your own images are computed once; what is trained is a linear layer.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

import fashion_mnist_cnn as program
from fashion_mnist_extras.image_folders import (
    Images,
    describe_dataset,
    divide_rows,
)

FEATURES = 1280
IMAGE_SIZE = 224  # of training on ImageNet: fewer pixels recognize less, more take longer
# 98 tensors in half precision; made by benchmarks/efficientnet.py, which names their sources.
PRETRAINED = Path(__file__).with_name("efficientnet_lite0.pth")
# Of each stage: expansion, kernel size, stride, channels in and out, blocks.
STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


class EfficientNet(nn.Module):
    """EfficientNet-Lite0, pretrained on ImageNet, with a new last layer.

    EfficientNet: Tan and Le 2019, arXiv:1905.11946; Lite, without what small devices lack: Google
    2020. Takes float32 (N, C, H, W) in [0, 1], RGB or grey, H and W multiples of 32, or the
    features of such images, (N, 1280, 1, 1); returns logits (N, num_classes). Only the classifier
    is trained. The state dict has it and a digest of PRETRAINED, where the other weights come from;
    of these it has only what somebody has changed. mirror_averaging: in eval mode the features are
    the mean over the image and its mirror image. Raises UserError if PRETRAINED cannot be read.
    """

    model_file = "EfficientNet_model.pth"
    default_hidden_units = FEATURES
    learning_rates: ClassVar[dict[str, float]] = {"muon": 0.0075, "adam": 0.003, "sgd": 0.03}
    mirror_averaging: Tensor | None

    def __init__(self, num_classes: int = 10, mirror_averaging: bool = False) -> None:
        super().__init__()
        self.register_buffer("mirror_averaging", torch.ones(1) if mirror_averaging else None)
        self.features = load_pretrained().requires_grad_(False)
        self.pretrained = [weights.clone() for weights in self.features.parameters()]
        self.digest = compute_digest(self.pretrained)
        output_layer = nn.Linear(FEATURES, num_classes)
        program.initialize_weights(output_layer, output_layer)
        self.classifier: nn.Module = output_layer
        self.to(memory_format=torch.channels_last)
        self.register_state_dict_post_hook(leave_out_pretrained)
        self.register_load_state_dict_pre_hook(fill_in_pretrained)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] == FEATURES:
            return self.classifier(images.flatten(1))
        if self.training or self.mirror_averaging is None:
            return self.classifier(self.compute_features(images).flatten(1))
        both = self.compute_features(torch.cat([images, images.flip(3)]))
        return self.classifier(both.unflatten(0, (2, -1)).mean(dim=0).flatten(1))

    def compute_features(self, images: Tensor) -> Tensor:
        """Return the features (N, 1280, 1, 1) of float32 images (N, C, H, W) in [0, 1]."""
        rgb = program.to_float(images).expand(-1, 3, -1, -1)  # bytes would overflow
        return self.features((255 * rgb - 127) / 128)  # normalized as in training on ImageNet

    def get_extra_state(self) -> Tensor:
        """Return what the state dict says of PRETRAINED."""
        return self.digest

    def set_extra_state(self, digest: Tensor) -> None:
        """Raise UserError if the network was trained with another PRETRAINED."""
        if not digest.cpu().equal(self.digest):
            raise program.UserError(f"the network was trained with other weights than {PRETRAINED}")

    @classmethod
    def build(cls, config: program.NetworkConfig) -> EfficientNet:
        return cls(config.num_classes, config.mirror_averaging)

    @classmethod
    def read_config(cls, state: Mapping[str, Tensor]) -> program.NetworkConfig:
        """Return the config of the network with these weights; KeyError if it is another one."""
        state["_extra_state"]
        num_classes, features = state["classifier.weight"].shape
        mirror_averaging = "mirror_averaging" in state
        return program.NetworkConfig(3, IMAGE_SIZE, features, num_classes, mirror_averaging)


program.NETWORKS["efficientnet"] = EfficientNet


def leave_out_pretrained(
    network: EfficientNet, state: dict[str, Tensor], prefix: str, _: object
) -> None:
    """Leave the weights of PRETRAINED out of a state dict, but those that have changed."""
    parameters = network.features.named_parameters()
    for (name, weights), pretrained in zip(parameters, network.pretrained, strict=True):
        if weights.cpu().equal(pretrained):
            del state[f"{prefix}features.{name}"]


def fill_in_pretrained(
    network: EfficientNet, state: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """Add to a state dict what was left out."""
    parameters = network.features.named_parameters()
    for (name, _weights), pretrained in zip(parameters, network.pretrained, strict=True):
        state.setdefault(f"{prefix}features.{name}", pretrained.clone())


def load_pretrained() -> nn.Sequential:
    """Return the layers with the weights of PRETRAINED, in float32. Raises UserError."""
    hint = "it comes with the program"
    with torch.device("meta"):  # shapes alone: the weights are assigned
        features = build_features()
    try:
        features.load_state_dict(program.load_safely(PRETRAINED), assign=True)  # type: ignore[arg-type]
    except OSError as error:
        message = f"{PRETRAINED} cannot be read: {error.strerror}; {hint}"
        raise program.UserError(message) from error
    except (ValueError, TypeError, RuntimeError) as error:  # no dict; other names or shapes
        found = textwrap.shorten(str(error), 150)
        message = f"{PRETRAINED} is no state dict of EfficientNet-Lite0: {found}; {hint}"
        raise program.UserError(message) from error
    return features.float()


def compute_digest(tensors: Iterable[Tensor]) -> Tensor:
    """Return a digest of the weights: eight 16-bit integers, as float32 (8,).

    load_model reads state dicts in which all is float32.
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy().tobytes())
    numbers = [int.from_bytes(digest.digest()[i : i + 2], "big") for i in range(0, 16, 2)]
    return torch.tensor(numbers, dtype=torch.float32, device="cpu")


# ---- Layers --------------------------------------------------------------------------------------
def build_features(norm_layer: type[nn.Module] | None = None) -> nn.Sequential:
    """Return all but the last layer: normalized images (N, 3, H, W) -> features (N, 1280, 1, 1).

    The weights of PRETRAINED are those of convolutions into which batch normalization was folded;
    with norm_layer it is a layer of its own.
    """
    convolve = partial(build_convolution, norm_layer=norm_layer)
    layers: list[nn.Module] = [convolve(3, 32, kernel=3, stride=2)]
    for expansion, kernel, stride, in_channels, out_channels, blocks in STAGES:
        for _ in range(blocks):
            width = expansion * in_channels
            block = [convolve(width, width, kernel, stride, groups=width)]  # each channel by itself
            if expansion > 1:
                block.insert(0, convolve(in_channels, width))
            block.append(convolve(width, out_channels, activation=None))
            is_residual = stride == 1 and in_channels == out_channels
            layers.append(program.Residual(*block) if is_residual else nn.Sequential(*block))
            in_channels, stride = out_channels, 1
    layers += [convolve(in_channels, FEATURES), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers)


def build_convolution(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU6,
    norm_layer: type[nn.Module] | None = None,
) -> nn.Sequential:
    """Return a convolution that is padded as in TensorFlow, and what follows it.

    With a stride of 2 TensorFlow pads an image less at the left and above: with PyTorch's padding
    every window would be a pixel off.
    """
    before, after = (kernel - 2) // 2, (kernel - 1) // 2
    convolution = Conv2dNormActivation(
        in_channels,
        out_channels,
        kernel,
        stride,
        padding=0 if stride == 2 else None,  # None: as much as keeps the size
        groups=groups,
        norm_layer=norm_layer,
        activation_layer=activation,
    )
    if stride == 2:
        return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), convolution)
    return convolution


# ---- Features of one's own images ----------------------------------------------------------------
# Chosen on held-out photographs of clothes, with 5, 20 and 245 training images per class.
BATCH_SIZE = 64
STEPS = 300
STEPS_OF_MANY = 480  # with a thousand images or more
IMAGES_AT_ONCE = 16  # larger batches are slower: their activations do not fit into the cache


def load_features(
    source: Images, image_size: int, mirror: bool, device: str
) -> tuple[program.Dataset, float]:
    """Return a dataset of features, on the CPU, and the seconds in which they were computed.

    Of the images themselves only thumbnails are kept. Raises UserError.
    """
    keep_freed_memory()
    # Training images as they are, test images as the trained network will see them.
    networks = {True: EfficientNet(), False: EfficientNet(mirror_averaging=mirror)}
    for network in networks.values():
        network.classifier = nn.Identity()
        network.to(device)
    is_readable = torch.zeros(len(source.labels), dtype=torch.bool)
    features = torch.empty(len(source.labels), FEATURES, 1, 1)
    # Of a training image only as much as the search for copies needs. Allocated at once: many small
    # tensors between the large ones of a network would keep memory from being used again.
    count = int(source.is_train.sum())  # training images come first
    train_thumbnails = torch.empty(count, 3, 16, 16, dtype=torch.uint8)
    test_thumbnails = torch.empty(len(source.labels) - count, 3, 64, 64, dtype=torch.uint8)
    seconds = 0.0
    for rows, images in read_batches(source, image_size):
        is_train = bool(source.is_train[rows[0]])
        start = time.perf_counter()
        computed = program.predict_logits(networks[is_train], images.to(device))
        features[rows, :, 0, 0] = computed.cpu()
        seconds += time.perf_counter() - start
        is_readable[rows] = True
        if is_train:
            train_thumbnails[rows] = shrink(images, 16)
        else:
            test_thumbnails[torch.tensor(rows) - count] = shrink(images, 64)
    train_rows, test_rows = divide_rows(source, is_readable)
    train_set = program.ImageSet(
        images=features[train_rows],
        labels=source.labels[train_rows],
        class_names=source.class_names,
        thumbnails=train_thumbnails[train_rows],
    )
    test_set = program.ImageSet(
        images=features[test_rows],
        labels=source.labels[test_rows],
        class_names=source.class_names,
        thumbnails=test_thumbnails[test_rows - count],
    )
    averaged = ", of test images the mean with their mirror images" if mirror else ""
    print(f"features of {len(train_set) + len(test_set):,} images{averaged}: {seconds:.1f} s")
    dataset = describe_dataset(source, train_set, test_set, (3, image_size, image_size))
    return dataset, seconds


def keep_freed_memory() -> None:
    """Let the C library reuse the memory of one batch's activations for the next batch.

    By default glibc returns it to the system and fetches it anew for each batch, zeroed page by
    page: that was a third of the time.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)


def shrink(images: Tensor, side: int) -> Tensor:
    """Return uint8 images (N, C, H, W) as uint8 (N, C, side, side)."""
    return F.interpolate(images.float(), (side, side), mode="area").round().byte()


def read_batches(source: Images, image_size: int) -> Iterator[tuple[list[int], Tensor]]:
    """Yield a few images at once, all of one split: their rows and pixels, uint8 (n, 3, H, W)."""
    batch: dict[int, Tensor] = {}
    # Training images come first.
    last_rows = (int(source.is_train.sum()) - 1, len(source.labels) - 1)
    for row, image in enumerate(source.read(image_size)):
        if image is not None:
            batch[row] = image.expand(3, -1, -1)
        if batch and (len(batch) == IMAGES_AT_ONCE or row in last_rows):
            yield list(batch), torch.stack(list(batch.values()))
            batch = {}


def recommend_recipe(count: int, batch_size: int | None, mirror: bool) -> program.Recipe:
    """Return how the last layer is best trained on the features of count images."""
    batch_size = batch_size or min(BATCH_SIZE, count)
    steps = STEPS if count < 1000 else STEPS_OF_MANY
    steps_per_epoch = math.ceil(count / batch_size)
    return program.Recipe(
        networks=("efficientnet",),
        epochs=max(3, round(steps / steps_per_epoch)),
        batch_size=batch_size,
        is_mirrored=mirror,
    )


def add_feature_time(
    trained: Iterable[program.TrainedNetwork], seconds: float
) -> Iterator[program.TrainedNetwork]:
    """Yield the networks; the time spent on features counts as training time."""
    for result in trained:
        for index, record in enumerate(result.history):
            total = record.training_seconds + seconds
            result.history[index] = replace(record, training_seconds=total)
        yield result
