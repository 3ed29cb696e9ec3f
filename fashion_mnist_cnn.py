"""Train an MLP and a TinyVGG CNN on FashionMNIST, compare them, and save both.

    python fashion_mnist_cnn.py                 # train both, compare, draw, save (about a minute)
    python fashion_mnist_cnn.py --images DIR    # train on your own images, one folder per class
    python fashion_mnist_cnn.py --networks resnet --epochs 20 --augment   # the best (18 minutes)
    python fashion_mnist_cnn.py --predict FILE  # classify an image with the best network saved
    python fashion_mnist_cnn.py --help          # every option with its default

The CNN's weights are written to models/CNN_model.pth, figures and results.json to assets/. Open
assets/explorer.html in a browser to look into the networks just trained. Other code loads the CNN
with `from fashion_mnist_cnn import load_model; network = load_model()`.

Read from the top: networks, data, evaluation, training and the comparison are the lesson; saving,
figures and the command line follow. What goes beyond that (your own images, prediction, resuming,
the explorer, torchrun) is in fashion_mnist_extras/; without that folder the rest works as it is.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import io
import itertools
import json
import math
import os
import pickle
import platform
import socket
import struct
import sys
import tempfile
import textwrap
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import mean, stdev
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol

if sys.platform == "linux":
    PROCESSORS = os.sched_getaffinity(0)  # before OpenMP pins this thread to one of them
else:
    PROCESSORS = None
if __name__ == "__main__" and not {"torch", "IPython"} & sys.modules.keys():
    # Run as a program, not in a notebook.
    os.environ["MPLBACKEND"] = "Agg"  # figures are saved, never shown
    if sys.platform == "linux" and not any(
        name.startswith(("OMP_", "GOMP_")) for name in os.environ
    ):
        # Threads spin briefly, each pinned to a core: otherwise another busy program makes training
        # 50 times slower (benchmarks/README.md, "Beside another program").
        os.environ.update(GOMP_SPINCOUNT="10000", OMP_PROC_BIND="true")

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, distributed, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import FashionMNIST
from torchvision.datasets.utils import check_integrity
from tqdm import tqdm

if TYPE_CHECKING:  # imported where it is used, as torchmetrics and mlxtend: together they take 2 s
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROGRAM = sys.modules.get(__name__)  # normally this module: see find_extras


class UserError(ValueError):
    """Something the user can fix: the message says in one line what is wrong and what to do."""


# ---- Networks ------------------------------------------------------------------------------------
class TinyVGG(nn.Module):
    """The CNN of CNN Explainer (Wang et al. 2020, arXiv:2004.15004): four convolutions.

    Takes float32 (N, in_channels, image_size, image_size) in [0, 1], returns logits
    (N, num_classes). Raises ValueError if image_size is under 4: each block halves the image.
    """

    model_file = "CNN_model.pth"
    default_hidden_units = 10
    learning_rates: ClassVar[dict[str, float]] = {}  # override an optimizer's peak

    def __init__(
        self,
        in_channels: int = 1,
        hidden_units: int = default_hidden_units,
        num_classes: int = 10,
        image_size: int = 28,
    ) -> None:
        super().__init__()
        if image_size < 4:
            raise ValueError(f"image_size must be at least 4, not {image_size}")
        self.conv_block_1 = self.conv_block(in_channels, hidden_units)
        self.conv_block_2 = self.conv_block(hidden_units, hidden_units)
        output_layer = nn.Linear(hidden_units * (image_size // 4) ** 2, num_classes)
        self.classifier = nn.Sequential(nn.Flatten(), output_layer)
        initialize_weights(self, output_layer)
        # Channels last in memory: convolutions on CPUs run about twice as fast.
        self.to(memory_format=torch.channels_last)

    @staticmethod
    def conv_block(in_channels: int, hidden_units: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(in_channels, hidden_units, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden_units, hidden_units, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.conv_block_2(self.conv_block_1(images)))

    @classmethod
    def build(cls, config: NetworkConfig) -> TinyVGG:
        return cls(config.in_channels, config.hidden_units, config.num_classes, config.image_size)

    @classmethod
    def read_config(cls, state: Mapping[str, Tensor]) -> NetworkConfig:
        """Return the config of the network with these weights; KeyError if it is another one."""
        hidden_units, in_channels, _, _ = state["conv_block_1.0.weight"].shape
        num_classes, features = state["classifier.1.weight"].shape
        image_size = 4 * math.isqrt(features // hidden_units)
        return NetworkConfig(in_channels, image_size, hidden_units, num_classes)


class MLP(nn.Module):
    """Two fully connected layers. Flattening the image loses which pixels are neighbours.

    Takes float32 (N, C, H, W) in [0, 1], returns logits (N, num_classes); in_features = C * H * W.
    The ReLU after the last layer is part of the textbook exercise: no logit can be negative.
    """

    model_file = "MLP_model.pth"
    default_hidden_units = 10
    learning_rates: ClassVar[dict[str, float]] = {"muon": 0.1}

    def __init__(
        self,
        in_features: int = 784,
        hidden_units: int = default_hidden_units,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        hidden = nn.Linear(in_features, hidden_units)
        output = nn.Linear(hidden_units, num_classes)
        self.layer_stack = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), output, nn.ReLU())
        initialize_weights(self, output)
        # If the last ReLU zeroes a class's logit for all of its images, the class gets no gradient
        # and never recovers. Output-layer biases of one keep every class alive at the start.
        nn.init.ones_(output.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer_stack(images)

    @classmethod
    def build(cls, config: NetworkConfig) -> MLP:
        in_features = config.in_channels * config.image_size**2
        return cls(in_features, config.hidden_units, config.num_classes)

    @classmethod
    def read_config(cls, state: Mapping[str, Tensor]) -> NetworkConfig:
        """Return the config of the network with these weights; KeyError if it is another one."""
        hidden_units, in_features = state["layer_stack.1.weight"].shape
        in_channels = 1 if math.isqrt(in_features) ** 2 == in_features else 3  # of a square image
        image_size = math.isqrt(in_features // in_channels)
        num_classes, _ = state["layer_stack.3.weight"].shape
        return NetworkConfig(in_channels, image_size, hidden_units, num_classes)


class Residual(nn.Sequential):
    """Layers with a shortcut around them: they need to learn only what to add to their input."""

    def forward(self, activations: Tensor) -> Tensor:
        return activations + super().forward(activations)


class ResNet(nn.Module):
    """A small residual network (He et al. 2015, arXiv:1512.03385) of ten convolutions.

    The first convolution has hidden_units channels, the last six times as many; six of them are in
    residual blocks. Takes float32 (N, in_channels, H, W) in [0, 1], H and W at least 4, returns
    logits (N, num_classes). Global max pooling keeps each channel's largest activation, not its
    position: shifting a garment hardly changes the logits. mirror_averaging is test-time
    augmentation for networks trained on mirrored images: in eval mode the logits are the mean over
    the image and its mirror image.
    """

    model_file = "ResNet_model.pth"
    default_hidden_units = 16
    learning_rates: ClassVar[dict[str, float]] = {"adam": 0.008, "sgd": 0.024, "muon": 0.03}
    mirror_averaging: Tensor | None

    def __init__(
        self,
        in_channels: int = 1,
        hidden_units: int = default_hidden_units,
        num_classes: int = 10,
        mirror_averaging: bool = False,
    ) -> None:
        super().__init__()
        # A buffer is part of the state dict, so a loaded network averages too.
        self.register_buffer("mirror_averaging", torch.ones(1) if mirror_averaging else None)
        self.features = nn.Sequential(
            self.conv_block(in_channels, hidden_units),
            self.conv_block(hidden_units, 2 * hidden_units),
            nn.MaxPool2d(kernel_size=2),
            self.residual_block(2 * hidden_units),
            self.conv_block(2 * hidden_units, 4 * hidden_units),
            nn.MaxPool2d(kernel_size=2),
            self.residual_block(4 * hidden_units),
            self.conv_block(4 * hidden_units, 6 * hidden_units),
            self.residual_block(6 * hidden_units),
        )
        self.classifier = nn.Linear(6 * hidden_units, num_classes)
        initialize_weights(self, self.classifier)
        self.to(memory_format=torch.channels_last)

    @staticmethod
    def conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            # Batch normalization (Ioffe and Szegedy 2015, arXiv:1502.03167) adds a bias of its own.
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    @classmethod
    def residual_block(cls, channels: int) -> Residual:
        return Residual(cls.conv_block(channels, channels), cls.conv_block(channels, channels))

    def forward(self, images: Tensor) -> Tensor:
        if self.training or self.mirror_averaging is None:
            return self.compute_logits(images)
        both = self.compute_logits(torch.cat([images, images.flip(3)]))
        logits, mirror_logits = both.unflatten(0, (2, -1))  # exported, it takes any batch size
        return (logits + mirror_logits) / 2

    def compute_logits(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).amax(dim=(2, 3)))

    @classmethod
    def build(cls, config: NetworkConfig) -> ResNet:
        return cls(
            config.in_channels, config.hidden_units, config.num_classes, config.mirror_averaging
        )

    @classmethod
    def read_config(cls, state: Mapping[str, Tensor]) -> NetworkConfig:
        """Return the config of the network with these weights; KeyError if it is another one."""
        hidden_units, in_channels, _, _ = state["features.0.0.weight"].shape
        image_size = 28  # FashionMNIST's: the weights fit any
        num_classes, _ = state["classifier.weight"].shape
        mirror_averaging = "mirror_averaging" in state
        return NetworkConfig(in_channels, image_size, hidden_units, num_classes, mirror_averaging)


def initialize_weights(network: nn.Module, output_layer: nn.Linear) -> None:
    """Initialize for ReLU (He et al. 2015, arXiv:1502.01852), so that small networks learn."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    output_layer.weight.data *= 0.1  # no class is favoured at the start


@dataclass(frozen=True)
class NetworkConfig:
    """What a network is built for; each class uses the fields it needs."""

    in_channels: int
    image_size: int  # height and width in pixels
    hidden_units: int
    num_classes: int
    mirror_averaging: bool = False


class Network(Protocol):
    """What the classes in NETWORKS must define, besides the layers of an nn.Module.

    The names of its file and of its weights must be its own: load_model recognizes a network by the
    latter (rename_weights).
    """

    model_file: str
    default_hidden_units: int
    learning_rates: ClassVar[dict[str, float]]

    @classmethod
    def build(cls, config: NetworkConfig) -> nn.Module: ...

    @classmethod
    def read_config(cls, state: Mapping[str, Tensor]) -> NetworkConfig: ...


# The choices of --networks. Table, figures and files follow from each class.
NETWORKS: dict[str, type[Network]] = {
    "mlp": MLP,
    "tinyvgg": TinyVGG,
    "resnet": ResNet,
}


# ---- Data ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ImageSet:
    """Labelled images in the memory of one device: a mini-batch is an index into them.

    Thumbnails stay on the CPU.
    """

    # uint8 (N, C, H, W) in [0, 255]: bytes take a quarter of the memory of floats. Or, where a part
    # of the network is computed once for all, its output: float32 (N, C, H, W).
    images: Tensor
    labels: Tensor  # int64 (N,), each an index into class_names
    class_names: tuple[str, ...]
    thumbnails: Tensor | None = None  # uint8 (N, C, h, w), for figures; None: they show the images

    @property
    def pictures(self) -> Tensor:
        """What figures show: uint8 (N, C, H, W)."""
        return self.images if self.thumbnails is None else self.thumbnails

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str | torch.device) -> ImageSet:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, indices: Tensor | slice) -> ImageSet:
        thumbnails = None if self.thumbnails is None else self.thumbnails[indices]
        return replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            thumbnails=thumbnails,
        )


@dataclass(frozen=True)
class Dataset:
    """What the networks are trained and tested on."""

    name: str
    train_set: ImageSet
    test_set: ImageSet
    subfolder: str = ""  # of both output folders; your own images have one, FashionMNIST has none
    unreadable_files: int = 0  # how many image files were left out
    notes: Mapping[str, Any] = field(default_factory=dict)  # added to each network's JSON file
    figure_settings: Mapping[str, Any] = field(default_factory=dict)  # on top of matplotlib's
    input_shape: tuple[int, ...] = ()  # see image_shape

    @property
    def image_shape(self) -> tuple[int, ...]:
        """What the networks take, (C, H, W): normally the shape of the images."""
        return self.input_shape or tuple(self.train_set.images.shape[1:])

    def to(self, device: str) -> Dataset:
        train_set, test_set = self.train_set.to(device), self.test_set.to(device)
        return replace(self, train_set=train_set, test_set=test_set)


def to_float(images: Tensor) -> Tensor:
    """Scale uint8 images of any shape to float32 in [0, 1], exactly as torchvision's ToTensor.

    What is float already is returned as it is.
    """
    return images if images.is_floating_point() else images.float().div(255)


def load_fashion_mnist(root: str | Path) -> tuple[ImageSet, ImageSet]:
    """Return FashionMNIST's training set (60,000 images) and test set (10,000), on the CPU.

    They are read from the four official archives in root/FashionMNIST/raw or in root itself, here
    or beside the script. If one is missing or corrupt, they are downloaded to
    root/FashionMNIST/raw. Raises UserError if that fails.
    """
    folder = Path(root, "FashionMNIST", "raw")
    names = [name for name, _ in FashionMNIST.resources]
    try:
        place = find_archives(Path(root)) or download_archives(folder)
        contents = [read_archive(place / name) for name in names]
    except (OSError, RuntimeError) as error:  # RuntimeError: torchvision found no intact archive
        hint = f"put {', '.join(names)} there or into {root}, or name a folder with --data-dir"
        raise UserError(f"FashionMNIST cannot be read from {folder}: {error}; {hint}") from error
    train_images, train_labels, test_images, test_labels = contents
    class_names = tuple(FashionMNIST.classes)
    train_set = ImageSet(train_images.view(-1, 1, 28, 28), train_labels.long(), class_names)
    test_set = ImageSet(test_images.view(-1, 1, 28, 28), test_labels.long(), class_names)
    return train_set, test_set


def find_archives(root: Path) -> Path | None:
    """Return the folder, here or beside the script, in which all four archives are intact.

    Raises UserError if they are another dataset's.
    """
    for place in (root / "FashionMNIST" / "raw", root):
        for folder in (place, Path(__file__).parent / place):
            intact = [check_integrity(folder / name, md5) for name, md5 in FashionMNIST.resources]
            if all(intact):
                return folder
            # One corrupt archive is replaced; several belong to another dataset, such as MNIST.
            present = [path for path in folder.glob("*-ubyte.gz") if path.is_file()]
            if not any(intact) and sum(path.stat().st_size > 0 for path in present) > 1:
                hint = "move them away, or name another folder with --data-dir"
                raise UserError(f"the archives in {folder} are not FashionMNIST's: {hint}")
    return None


def read_archive(path: Path) -> Tensor:
    """Return the values in a compressed IDX file: uint8 (values,)."""
    with gzip.open(path) as file:
        content = bytearray(file.read())
    dimensions = content[3]
    header_size = 4 + 4 * dimensions  # four bytes say what follows, four the size of a dimension
    return torch.frombuffer(content, dtype=torch.uint8, offset=header_size)


TEMPORARY_PREFIX = ".fashion_mnist_cnn-"  # of files and folders not in their final place yet


def download_archives(folder: Path) -> Path:
    """Let torchvision download the archives; they are moved into folder when all are intact."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(15)  # seconds; torchvision would wait forever for an answer
    try:
        parent = existing_folder(folder)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=parent) as root:
            downloaded = FashionMNIST(root, download=True).raw_folder
            folder.mkdir(parents=True, exist_ok=True)
            for name, _ in FashionMNIST.resources:
                os.replace(Path(downloaded, name), folder / name)
    finally:
        socket.setdefaulttimeout(timeout)
    return folder


def existing_folder(folder: Path) -> Path:
    """Return folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


# ---- Evaluation ----------------------------------------------------------------------------------
@torch.inference_mode()
def predict_logits(network: nn.Module, images: Tensor, batch_size: int = 100) -> Tensor:
    """Return float32 logits (N, classes) for the images of an ImageSet; sets eval mode.

    Images and network must be on the same device.
    """
    network.eval()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # or a GPU rounds to 10 bits
        return torch.cat([network(to_float(batch)) for batch in images.split(batch_size)])


@dataclass(frozen=True)
class Metrics:
    """Loss and confusion matrix of predictions, and what follows from them."""

    loss: float  # mean cross-entropy
    confusion_matrix: Tensor  # int64 (classes, classes); row: true class, column: predicted class

    @property
    def accuracy(self) -> float:
        """Correct / all images, in [0, 1]."""
        return self.confusion_matrix.trace().item() / self.confusion_matrix.sum().item()

    @property
    def precision(self) -> Tensor:
        """Of the images predicted as a class, the share that belongs to it: float32 (classes,)."""
        return self.confusion_matrix.diag() / self.confusion_matrix.sum(dim=0).clamp(min=1)

    @property
    def recall(self) -> Tensor:
        """Of the images of a class, the share that is predicted as it: float32 (classes,)."""
        return self.confusion_matrix.diag() / self.confusion_matrix.sum(dim=1).clamp(min=1)

    @property
    def at_chance(self) -> bool:
        """Whether the network is no better than guessing, within sampling noise.

        Always predicting the largest class has its share of the images as accuracy; any guess has,
        on average, a mean recall of 1 / classes.
        """
        images_per_class = self.confusion_matrix.sum(dim=1)
        images_per_class = images_per_class[images_per_class > 0]
        largest_share = (images_per_class.max() / images_per_class.sum()).item()
        variance = largest_share * (1 - largest_share) / images_per_class.sum().item()
        beats_largest_class = is_above_chance(self.accuracy, largest_share, math.sqrt(variance))

        classes = len(images_per_class)
        chance = 1 / classes
        mean_recall = self.recall.sum().item() / classes
        variance = chance * (1 - chance) * (1 / images_per_class).sum().item() / classes**2
        beats_guessing = is_above_chance(mean_recall, chance, math.sqrt(variance))
        return not (beats_largest_class or beats_guessing)


def is_above_chance(value: float, chance: float, deviation: float) -> bool:
    """Whether value is more than three standard deviations above chance.

    With few images even a perfect network may not be: then halfway to 1 is enough.
    """
    return value > chance + min(3 * deviation, (1 - chance) / 2)


def compute_metrics(logits: Tensor, labels: Tensor) -> Metrics:
    """Compare float logits (N, classes) with int64 labels (N,)."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    predictions = logits.argmax(dim=1)
    confusion_matrix = multiclass_confusion_matrix(predictions, labels, logits.shape[1])
    return Metrics(F.cross_entropy(logits, labels).item(), confusion_matrix)


def evaluate(network: nn.Module, image_set: ImageSet) -> Metrics:
    """Return the network's metrics on all images of image_set; both must be on the same device."""
    return compute_metrics(predict_logits(network, image_set.images), image_set.labels)


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, images: Tensor) -> int:
    """Return the multiply-accumulates (MACs) for images, uint8 (N, C, H, W), on their device."""
    with FlopCounterMode(display=False) as counter:
        predict_logits(network, images)
    return counter.get_total_flops() // 2


# ---- Training ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its peak learning rate, chosen on held-out images."""

    name: str
    learning_rate: float  # peak, unless the network overrides it
    build: Callable[..., torch.optim.Optimizer]


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal, for all layers but the last one (Jordan et al. 2024).

    https://kellerjordan.github.io/posts/muon/. The momentum of a layer's weights, seen as a matrix,
    has a few strong directions, and Adam's step follows them. Orthogonalized, it moves the weights
    equally far in every direction, the rare ones too. As published, Adam trains biases, batch
    normalization and the output layer (the last parameter of two or more dimensions), here at 0.4
    of the learning rate. Weights, not biases, decay by 0.05 of it. Frozen parameters are left out.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        weights = [parameter for parameter in trainable if parameter.dim() > 1]
        biases = [parameter for parameter in trainable if parameter.dim() <= 1]
        groups = [
            {"params": weights[:-1], "lr": lr},
            {"params": weights[-1:] + biases, "lr": 0.4 * lr},
        ]
        super().__init__(groups, {})
        self.adam = torch.optim.Adam(self.param_groups[1:], betas=(0.9, 0.99), fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change all weights by their gradients."""
        hidden, others = self.param_groups
        for weights in hidden["params"]:
            if weights.grad is None:
                continue
            state = self.state[weights]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(weights)
            momentum = state["momentum_buffer"].mul_(0.9).add_(weights.grad)
            update = weights.grad.add(momentum, alpha=0.9).flatten(1)  # Nesterov: a step ahead
            direction = orthogonalize(update).view_as(weights)
            rows, columns = update.shape  # the more rows, the less each output would change
            weights.mul_(1 - 0.05 * hidden["lr"])
            weights.sub_(direction, alpha=hidden["lr"] * math.sqrt(max(1, rows / columns)))
        for parameter in others["params"]:
            if parameter.dim() > 1 and parameter.grad is not None:
                parameter.mul_(1 - 0.05 * others["lr"])
        # At every step: load_state_dict has given this optimizer other groups and another state.
        self.adam.param_groups = [others]
        self.adam.state = self.state
        self.adam.step()


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return a matrix (rows, columns) of the same singular vectors, its singular values near 1.

    A step of Newton and Schulz's iteration takes each singular value x to
    3.4445 x - 4.7750 x^3 + 2.0315 x^5, the coefficients of Muon's source. Three or four steps bring
    all but the smallest to between about 0.3 and 1.2.
    """
    rows, columns = matrix.shape
    if rows > columns:
        return orthogonalize(matrix.mT).mT
    x = matrix / matrix.norm().clamp(min=1e-7)
    for _ in range(3 if rows <= 32 else 4):
        gram = x @ x.mT
        polynomial = torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.addmm(x, polynomial, x, beta=3.4445)
    return x


# fused: all weights in one operation, which Adam and SGD can do.
adam = partial(torch.optim.Adam, betas=(0.9, 0.99), fused=True)
sgd = partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=True)
OPTIMIZERS = {
    "muon": OptimizerConfig("Muon", 0.04, Muon),
    "adam": OptimizerConfig("Adam", 0.02, adam),
    "sgd": OptimizerConfig("SGD", 0.06, sgd),
}


@dataclass(frozen=True)
class Record:
    """A point of the learning curves: losses are mean cross-entropy, accuracies in [0, 1]."""

    epoch: float  # passes over the training set so far
    train_loss: float | None  # on the mini-batches since the last record; None before training
    train_accuracy: float | None  # on the same mini-batches
    test_loss: float  # on all test images
    test_accuracy: float
    training_seconds: float  # spent in training steps so far, without evaluation

    @property
    def ends_epoch(self) -> bool:
        return self.epoch > 0 and self.epoch.is_integer()

    def is_shown(self, epochs: int) -> bool:
        """Whether it is printed, drawn and written: of many epochs about a hundred are."""
        return self.epoch <= 1 or self.epoch == epochs or self.epoch % math.ceil(epochs / 100) == 0


Augment = Callable[[Tensor, torch.Generator, float], Tensor]  # see train


def train(
    network: nn.Module,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    optimizer_name: str = "muon",
    augment: Augment | None = None,
    after_evaluation: Callable[[TrainingState], None] | None = None,
    resume_from: Mapping[str, Any] | None = None,
) -> list[Record]:
    """Train network in place and return its learning curves.

    There is one record before training, up to seven in the first epoch, when most is learned, and
    one after each later epoch. Network and sets must be on one device. optimizer_name is a key of
    OPTIMIZERS; the learning rate rises to learning_rate and falls to almost zero (one-cycle policy,
    Smith and Topin 2018, arXiv:1708.07120). augment(images, generator, progress) returns randomly
    augmented uint8 images (N, C, H, W); progress is the share of training that is done, in [0, 1].
    seed decides the image order and the augmentation, nothing else. Training stops if a weight is
    not finite at the end of an epoch. after_evaluation is called after each new record.
    resume_from, a TrainingState.state_dict() from the end of an epoch, continues that training.
    """
    device = train_set.images.device
    steps_per_epoch = math.ceil(len(train_set) / batch_size)
    optimizer = OPTIMIZERS[optimizer_name].build(network.parameters(), lr=learning_rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=max(2, epochs * steps_per_epoch),  # a cycle's last step is at a rate near zero
        anneal_strategy="linear",
        cycle_momentum=False,
    )
    state = TrainingState(network, optimizer, scheduler, torch.Generator().manual_seed(seed))
    if resume_from:
        state.load_state_dict(resume_from)
    outputs: list[tuple[Tensor, Tensor]] = []  # logits and labels since the last evaluation

    def add_record(evaluated: nn.Module, epoch: float, seconds: float) -> None:
        state.history.append(make_record(evaluated, outputs, test_set, epoch, seconds))
        outputs.clear()
        if after_evaluation:
            after_evaluation(state)

    # A copy: what a module caches in its first call must not be an inference tensor.
    untrained = copy.deepcopy(network.eval())
    first_epoch_evaluations = choose_evaluation_steps(steps_per_epoch, untrained, test_set)
    if not state.history:
        add_record(untrained, epoch=0.0, seconds=0.0)
    mixed_precision = training_precision(network) == torch.bfloat16
    epochs_done = int(state.history[-1].epoch)
    training_seconds = state.history[-1].training_seconds
    start = time.perf_counter()
    for epoch in range(epochs_done + 1, epochs + 1):
        if not are_finite(network.parameters()):
            break
        evaluation_steps = first_epoch_evaluations if epoch == 1 else {steps_per_epoch}
        order = torch.randperm(len(train_set), generator=state.order_generator).to(device)
        # Reseeded each epoch: a resumed training need not replay the draws of earlier epochs.
        augment_generator = torch.Generator(device).manual_seed(seed + 1000 * epoch)
        batches = progress_bar(order.split(batch_size), f"epoch {epoch}/{epochs}", steps_per_epoch)
        for step, indices in enumerate(batches, start=1):
            network.train()  # evaluation has left it in eval mode
            images = train_set.images.index_select(0, indices)  # on CPUs faster than [indices]
            labels = train_set.labels[indices]
            if augment:
                progress = scheduler.last_epoch / scheduler.total_steps
                images = augment(images, augment_generator, progress)
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
                logits = network(to_float(images))
            # Label smoothing (Szegedy et al. 2016, arXiv:1512.00567): be right, but not certain.
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()

            outputs.append((logits.detach(), labels))  # metrics of every step would make a GPU wait
            if step in evaluation_steps:
                training_seconds += seconds_since(start, device)
                share_of_epoch = min(1.0, step * batch_size / len(train_set))
                add_record(network, epoch - 1 + share_of_epoch, training_seconds)
                start = time.perf_counter()
    return state.history


@dataclass(frozen=True)
class TrainingState:
    """Everything that training needs in order to continue."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    order_generator: torch.Generator
    history: list[Record] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy as plain data, which does not change as training continues."""
        return {
            "network": copy.deepcopy(self.network.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "scheduler": copy.deepcopy(self.scheduler.state_dict()),
            "order_generator": self.order_generator.get_state(),
            "history": [vars(record) for record in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        # A copy: otherwise training would continue in the saved tensors.
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.scheduler.load_state_dict(state["scheduler"])
        self.order_generator.set_state(state["order_generator"])
        self.history[:] = [Record(**record) for record in state["history"]]


def choose_evaluation_steps(steps: int, network: nn.Module, test_set: ImageSet) -> set[int]:
    """Return the steps of the first epoch to evaluate after: the last, half of it, a quarter, ...

    Evaluate at three steps if one evaluation takes seconds on a CPU, at up to seven otherwise.
    """
    macs = count_macs(network, test_set.images[:1]) * len(test_set)
    count = 7 if macs < 50e9 else 3
    return {math.ceil(steps / 2**k) for k in range(count)}


def seconds_since(start: float, device: torch.device) -> float:
    """Return the seconds since start, a time.perf_counter(), once the device's work is done."""
    getattr(torch, device.type).synchronize()  # a GPU may still be at work
    return time.perf_counter() - start


def make_record(
    network: nn.Module,
    outputs: Sequence[tuple[Tensor, Tensor]],
    test_set: ImageSet,
    epoch: float,
    training_seconds: float,
) -> Record:
    """Evaluate the network; outputs are logits (N, classes) and labels (N,) of mini-batches."""
    train_metrics = None
    if outputs:
        logits, labels = (torch.cat(tensors) for tensors in zip(*outputs, strict=True))
        train_metrics = compute_metrics(logits.float(), labels)
    test_metrics = evaluate(network, test_set)
    return Record(
        epoch=epoch,
        train_loss=train_metrics.loss if train_metrics else None,
        train_accuracy=train_metrics.accuracy if train_metrics else None,
        test_loss=test_metrics.loss,
        test_accuracy=test_metrics.accuracy,
        training_seconds=training_seconds,
    )


def are_finite(tensors: Iterable[Tensor]) -> bool:
    return all(tensor.isfinite().all() for tensor in tensors)


def training_precision(network: nn.Module) -> torch.dtype:
    """Return the precision in which the network is trained, on the device that it is on.

    It is float32 if no convolution is trained: for fully connected layers this small, converting
    weights and inputs takes longer than the faster multiplication saves.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.requires_grad:
            return convolution_precision(layer.weight.device)
    return torch.float32


def convolution_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 on CPUs that multiply it natively, else float32.

    It is slow if emulated, and a GPU gains nothing from it with networks this small.
    """
    capabilities = cpu_capabilities()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if device.type == "cpu" and native else torch.float32


def cpu_capabilities() -> Mapping[str, str | bool]:
    if hasattr(torch.cpu, "get_capabilities"):  # older versions lack it
        return torch.cpu.get_capabilities()
    return {}


def progress_bar(items: Iterable[Any], description: str, total: int) -> tqdm[Any]:
    """Wrap items in a progress bar, which only a terminal or a notebook shows."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()  # None where it is closed
    is_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    is_first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    is_shown = is_first and (is_terminal or is_notebook)
    return tqdm(items, description, total, leave=False, disable=not is_shown)


# ---- Comparison ----------------------------------------------------------------------------------
def compare_networks(
    recipe: Recipe, dataset: Dataset, callback: Callback
) -> Iterator[TrainedNetwork]:
    """Train every network with every optimizer from every seed; evaluate and yield each.

    The dataset must be on the device to train on.
    """
    train_set, test_set = dataset.train_set, dataset.test_set
    for seed, optimizer_name, network_name in itertools.product(
        recipe.seeds, recipe.optimizers, recipe.networks
    ):
        torch.manual_seed(seed)  # decides the initial weights
        kind = NETWORKS[network_name]
        config = recipe.configure(kind, dataset)
        network = kind.build(config).to(train_set.images.device)
        optimizer = OPTIMIZERS[optimizer_name].name
        parameters = f"{count_parameters(network):,} parameters"
        tqdm.write(f"{kind.__name__}: {parameters}, {optimizer}, seed {seed}")
        learning_rate = recipe.choose_learning_rate(kind, config.hidden_units, optimizer_name)
        key = f"{network_name} {optimizer_name} {seed}"
        history = train(
            network,
            train_set,
            test_set,
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            learning_rate=learning_rate,
            seed=seed,
            optimizer_name=optimizer_name,
            augment=recipe.augment,
            after_evaluation=partial(report_evaluation, callback, key, recipe.epochs),
            resume_from=callback.state_to_resume(key, network),
        )
        yield TrainedNetwork(
            kind=kind,
            network=network,
            config=config,
            optimizer=optimizer,
            learning_rate=learning_rate,
            seed=seed,
            history=[record for record in history if record.is_shown(recipe.epochs)],
            test_logits=predict_logits(network, test_set.images).cpu(),
            test_labels=test_set.labels.cpu(),
        )


def report_evaluation(callback: Callback, key: str, epochs: int, state: TrainingState) -> None:
    """Call the callback; at the end of an epoch, print the metrics and the time that is left."""
    callback.after_evaluation(key, state)
    record = state.history[-1]
    if not record.ends_epoch or not record.is_shown(epochs):
        return
    on_train = f"train loss {record.train_loss:.4f}, accuracy {record.train_accuracy:.2%}"
    on_test = f"test loss {record.test_loss:.4f}, accuracy {record.test_accuracy:.2%}"
    seconds = f"{record.training_seconds:.1f} s"
    tqdm.write(f"  epoch {record.epoch:.0f}: {on_train}   {on_test}   {seconds}")
    minutes_left = round(record.training_seconds * (epochs - 1) / 60)
    if record.epoch == 1 and minutes_left:
        tqdm.write(f"  about {minutes_left} min left of this training")


class Callback:
    """Hooks that a run calls as it goes. They only add to it; these here do nothing."""

    resumed_from: Mapping[str, Any] | None = None  # the environment of the run that was interrupted

    def state_to_resume(self, key: str, network: nn.Module) -> Mapping[str, Any] | None:
        """Called before each network is trained; key names the network, optimizer and seed.

        Returns the TrainingState.state_dict() to resume from, or None to start anew.
        """
        return None

    def after_evaluation(self, key: str, state: TrainingState) -> None:
        """Called after each evaluation, before the line of an epoch is printed."""

    def before_saving(self, result: TrainedNetwork) -> None:
        """Called before a network is written to its file.

        Must not print: a closed output pipe would end the run before the network is written.
        """

    def after_training(self, result: TrainedNetwork) -> None:
        """Called for each network after it was saved, or after its failure was reported."""

    def saving_failed(self, result: TrainedNetwork) -> None:
        """Called if a network could not be written at the end either."""

    def after_outputs(
        self, chosen: Mapping[str, TrainedNetwork], report: Mapping[str, Any]
    ) -> None:
        """Called once networks, results.json and figures are written; not if nothing was saved.

        chosen are the saved networks under their names, report is the content of results.json.
        """


@dataclass(frozen=True)
class Recipe:
    """How all networks of a comparison are trained."""

    networks: Sequence[str] = ("mlp", "tinyvgg")
    optimizers: Sequence[str] = ("muon",)
    seeds: Sequence[int] = (42,)
    epochs: int = 3
    batch_size: int = 128
    hidden_units: int | None = None  # None: each network's own
    learning_rate: float | None = None  # peak; None: see peak_learning_rate
    learning_rate_scale: float = 1.0  # of the default: lower for small batches
    augment: Augment | None = None
    is_mirrored: bool = False  # whether networks average over mirror images, if they can

    def configure(self, kind: type[Network], dataset: Dataset) -> NetworkConfig:
        """Return what a network of this kind is built for."""
        in_channels, _, image_size = dataset.image_shape
        return NetworkConfig(
            in_channels=in_channels,
            image_size=image_size,
            hidden_units=self.hidden_units or kind.default_hidden_units,
            num_classes=len(dataset.train_set.class_names),
            mirror_averaging=self.is_mirrored,
        )

    def choose_learning_rate(self, kind: type[Network], width: int, optimizer_name: str) -> float:
        """Return the peak learning rate for a network of this kind with width hidden units."""
        default = peak_learning_rate(kind, width, optimizer_name) * self.learning_rate_scale
        return self.learning_rate or default


def peak_learning_rate(network: type[Network], hidden_units: int, optimizer_name: str) -> float:
    """Return the default peak, which falls as 1 / sqrt(width) above the default width."""
    rate = network.learning_rates.get(optimizer_name, OPTIMIZERS[optimizer_name].learning_rate)
    return rate * min(1.0, math.sqrt(network.default_hidden_units / hidden_units))


@dataclass(eq=False)
class TrainedNetwork:
    """A network after training: how it was trained, and its logits for the test images."""

    kind: type[Network]
    network: nn.Module
    config: NetworkConfig
    optimizer: str
    learning_rate: float  # peak
    seed: int
    history: list[Record]
    test_logits: Tensor  # float32 (N, classes), on the CPU
    test_labels: Tensor  # int64 (N,), on the CPU

    @property
    def name(self) -> str:
        return self.kind.__name__

    @property
    def training_seconds(self) -> float:
        return self.history[-1].training_seconds

    @cached_property
    def metrics(self) -> Metrics:
        return compute_metrics(self.test_logits, self.test_labels)

    @cached_property
    def diverged(self) -> bool:
        """Whether a loss or a weight is not finite: then the network is of no use."""
        losses = [record.test_loss for record in self.history]
        losses += [record.train_loss for record in self.history if record.train_loss is not None]
        weights = self.network.state_dict().values()
        return not are_finite([self.test_logits, torch.tensor(losses), *weights])


def group_results(results: Sequence[TrainedNetwork]) -> dict[str, list[TrainedNetwork]]:
    """Return the results of each network and optimizer under their label, in their order."""
    groups: dict[str, list[TrainedNetwork]] = {}
    for result in results:
        groups.setdefault(label_result(result, results), []).append(result)
    return groups


def label_result(result: TrainedNetwork, results: Iterable[TrainedNetwork]) -> str:
    """Return the network's name, and its optimizer's only if the results are of several."""
    if len({each.optimizer for each in results}) == 1:
        return result.name
    return f"{result.name} {result.optimizer}"


def group_converged(results: Sequence[TrainedNetwork]) -> dict[str, list[TrainedNetwork]]:
    """Group the results that did not diverge, as group_results does."""
    converged = {}
    for label, group in group_results(results).items():
        remaining = [result for result in group if not result.diverged]
        if remaining:
            converged[label] = remaining
    return converged


def choose_results(results: Sequence[TrainedNetwork]) -> dict[str, TrainedNetwork]:
    """Return, by network name, the result of each network that is saved, in their order.

    It is the first that is not at chance, or else the first; those that diverged never count.
    """
    chosen = {}
    for name in dict.fromkeys(result.name for result in results):
        candidates = [result for result in results if result.name == name and not result.diverged]
        if candidates:  # False, not at chance, is less than True
            chosen[name] = min(candidates, key=lambda result: result.metrics.at_chance)
    return chosen


def print_table(results: Sequence[TrainedNetwork]) -> None:
    """Print one line for each network and optimizer: the mean over its seeds, and their spread.

    Those that diverged are counted, and left out of the mean of the others.
    """
    groups = group_results(results)
    several = len(results) > len(groups)
    width = max(len("network"), *(len(result.name) for result in results)) + 2
    header = f"{'network':<{width}}optimizer  parameters  accuracy    loss  training time"
    if several:
        header += "  accuracy: sd  runs  diverged"
    print(f"\n{header}")
    for group in groups.values():
        converged = [result for result in group if not result.diverged]
        measured = converged or group
        accuracies = [result.metrics.accuracy for result in measured]
        loss = mean(result.metrics.loss for result in measured)
        seconds = mean(result.training_seconds for result in measured)
        row = f"{group[0].name:<{width}}{group[0].optimizer:<9}"
        row += f"{count_parameters(group[0].network):>12,}"
        row += f"{mean(accuracies):>10.2%} {loss:>7.4f}{seconds:>13.1f} s"
        if several:
            spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
            row += f"{spread:>14.2%}{len(group):>6}"
            row += f"{sum(result.diverged for result in group):>10}"
        if not converged:
            row += "  diverged"
        elif any(result.metrics.at_chance for result in converged):
            row += "  at chance"
        print(row)


# ---- Saving and loading --------------------------------------------------------------------------
def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write each content to its path atomically: at any time a file is the old or the new one.

    Raises OSError, whose message says which file could not be written.
    """
    temporaries = {}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
            temporaries[path] = temporary
            temporary.write_bytes(content)
        for path, temporary in temporaries.items():
            replace_file(temporary, path)
    except OSError as error:
        hint = "no file was left half written"
        raise type(error)(f"cannot write {path}: {error.strerror}; {hint}") from error
    finally:
        with suppress(PermissionError):
            for temporary in temporaries.values():
                temporary.unlink(missing_ok=True)


def replace_file(source: Path, target: Path) -> None:
    """Move source to target in one step. Raises OSError.

    On Windows that is refused while another program, such as a virus scanner, has a file open.
    """
    for delay in (0.1, 0.3, 1.0, 3.0):
        with suppress(PermissionError):
            return os.replace(source, target)
        time.sleep(delay)
    return os.replace(source, target)


def check_writable(folder: Path, flag: str) -> None:
    """Raise UserError, naming the flag, unless a megabyte can be written to folder.

    A folder that does not exist is not made: its nearest parent is tried.
    """
    try:
        with tempfile.TemporaryFile(dir=existing_folder(folder)) as file:
            file.write(bytes(2**20))
    except OSError as error:
        reason = f"cannot write to the folder {folder}: {error.strerror}"
        raise UserError(f"{flag}: {reason}") from error


def encode_json(content: object) -> bytes:
    """Return content as JSON; in names of files what is not UTF-8 is escaped."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode(errors="backslashreplace")


def serialize_network(network: nn.Module) -> bytes:
    """Return the network's state dict as torch.save writes it, as contiguous CPU tensors."""
    buffer = io.BytesIO()
    torch.save({name: t.cpu().contiguous() for name, t in network.state_dict().items()}, buffer)
    return buffer.getvalue()


def save_network(result: TrainedNetwork, dataset: Dataset, folder: Path) -> None:
    """Write the weights to folder and, beside them as JSON, what they are. Raises OSError."""
    description = {
        "classes": dataset.test_set.class_names,
        "image_size": result.config.image_size,
        "channels": result.config.in_channels,
        "hidden_units": result.config.hidden_units,
        "dataset": dataset.name,
        "test_accuracy": result.metrics.accuracy,
        **dataset.notes,
    }
    path = folder / result.kind.model_file
    contents = {path: serialize_network(result.network)}
    contents[path.with_suffix(".json")] = encode_json(description)
    write_files(contents)


def load_model(
    path: str | Path = "models/CNN_model.pth", device: str | torch.device = "cpu"
) -> nn.Module:
    """Return the network saved at path, here or beside the script, in eval mode on device.

    Which of NETWORKS it is, and its sizes, are read off its weights. Nothing in the file is
    executed. Raises UserError, a ValueError, unless it is a finite float32 state dict of one.

    It takes float32 images in [0, 1]. Weights do not say whether other code normalized its images,
    padded them or ended its MLP with a ReLU, nor how large the images were. Warns which image size
    is assumed if no JSON file beside path states it and it is not FashionMNIST's.
    """
    try:
        path = locate(path)
        state = rename_weights(read_state_dict(path))
        kind, config = recognize_network(state)
        network = fill_network(kind, config, state)
    except OSError as error:
        hint = ""
        if isinstance(error, FileNotFoundError):
            hint = "; train first (your own: --images)"
        raise UserError(f"{path} cannot be read: {error.strerror}{hint}") from error
    except UserError:  # a network of the folder lacks a file of its own
        raise
    except (ValueError, RuntimeError) as error:  # RuntimeError: the shapes do not fit
        names = " or ".join(kind.__name__ for kind in NETWORKS.values())
        found = f"found: {textwrap.shorten(str(error), 250)}; nothing in it was executed"
        raise UserError(f"{path} is not a float32 state dict of {names}; {found}") from error
    is_described = path.with_suffix(".json").exists()
    if not is_described and (config.in_channels, config.image_size) != (1, 28):
        size = f"{config.in_channels} x {config.image_size} x {config.image_size}"
        assumed = f"images of {size} and padding of 1 are assumed"
        warnings.warn(f"{path} has no JSON file beside it: {assumed}", stacklevel=2)
    return network.to(device).to(memory_format=torch.channels_last).eval()


def locate(path: str | Path) -> Path:
    """Return path, or if there is nothing, what stands there beside the script."""
    beside = Path(__file__).parent / path
    return beside if beside.exists() and not Path(path).exists() else Path(path)


# What torch.load, which executes nothing, was seen to raise for files torch.save did not write.
MALFORMED = (
    RuntimeError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    EOFError,
    MemoryError,
    pickle.UnpicklingError,
    struct.error,
)


def load_safely(path: Path) -> object:
    """Return what torch.save wrote to path, if it is intact, without executing anything in it.

    Raises OSError, or a ValueError that says what was found instead.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.save does not compress: what unpacks to more is a zip bomb.
            unpacked = sum(entry.file_size for entry in archive.infolist())
            is_intact = unpacked <= os.path.getsize(path) and not archive.testzip()
    except (zipfile.BadZipFile, zlib.error, RuntimeError):  # RuntimeError: it is encrypted
        is_intact = False
    if not is_intact:
        raise ValueError("no intact zip file, as torch.save has written since version 1.6")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except MALFORMED as error:
        raise ValueError(f"a zip file that torch.load refuses ({type(error).__name__})") from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the finite float32 state dict in a file; raises as load_safely does."""
    state = load_safely(path)
    if not isinstance(state, dict):
        raise ValueError(f"a {type(state).__name__}")
    for name, weights in state.items():
        if not (isinstance(name, str) and isinstance(weights, Tensor)):
            raise ValueError(f"a dict in which {name!r} is of type {type(weights).__name__}")
        is_counter = name.endswith("num_batches_tracked")  # of batch normalization, int64
        if weights.dtype != torch.float32 and not is_counter:
            raise ValueError(f"{name} is {weights.dtype}")
        if weights.nbytes > os.path.getsize(path):
            raise ValueError(f"{name} claims to be larger than the file")
        if not are_finite([weights]):
            raise ValueError(f"{name} is not finite")
    return state


def rename_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under our names. Raises ValueError if two get the same name.

    DataParallel and torch.compile add a prefix; block_1 and block_2 are the names in the well-known
    tutorial that trains this network on FashionMNIST.
    """
    renamed = {}
    for name, weights in state.items():
        our_name = name.replace("module.", "").replace("_orig_mod.", "")
        if our_name.startswith("block_"):
            our_name = f"conv_{our_name}"
        renamed[our_name] = weights
    if len(renamed) < len(state):
        raise ValueError(f"several weights of the same name among {list(state)[:3]} ...")
    return renamed


def recognize_network(state: Mapping[str, Tensor]) -> tuple[type[Network], NetworkConfig]:
    """Return the network whose keys these are, and its config. Raises ValueError."""
    for kind in NETWORKS.values():
        try:
            return kind, kind.read_config(state)
        except (KeyError, ValueError, ArithmeticError):  # other names, dimensions, or sizes of zero
            continue
    known = len(NETWORKS)
    hint = "" if find_extras() else "; more networks need the folder fashion_mnist_extras"
    if len(NETWORKS) > known:  # the folder has added its own
        return recognize_network(state)
    raise ValueError(f"a state dict with the keys {list(state)[:3]} ...{hint}")


def fill_network(
    kind: type[Network], config: NetworkConfig, state: Mapping[str, Tensor]
) -> nn.Module:
    """Return a network with the weights in state. Raises RuntimeError if they do not fit."""
    with torch.device("meta"):  # shapes alone: no memory is allocated, no random number drawn
        network = kind.build(config)
    network.load_state_dict(state, assign=True)
    return network


# ---- Figures -------------------------------------------------------------------------------------
# Okabe and Ito's colours and a grey, which the colour-blind can tell apart too.
COLORS = (
    *("#E69F00", "#0072B2", "#CC79A7", "#56B4E9", "#009E73"),
    *("#D55E00", "#F0E442", "#000000", "#999999"),
)


def draw_figures(
    results: Sequence[TrainedNetwork], shown: TrainedNetwork, dataset: Dataset
) -> dict[str, bytes]:
    """Return the figures as PNG files under their names.

    shown is the network whose predictions are drawn.
    """
    test_set = dataset.test_set
    examples, mistakes = choose_examples(shown, results[0].seed)
    label = label_result(shown, results)
    title = f"{dataset.name}, {len(test_set):,} test images"
    with figure_style(dataset):
        figures = {
            "accuracy_model_graph.png": plot_accuracy(results, title),
            "learning_curves.png": plot_learning_curves(
                results, f"Learning curves on {dataset.name}"
            ),
            "confusion_matrix.png": plot_confusion_matrix(shown, label, test_set.class_names),
            "prediction_examples.png": plot_predictions(
                shown, test_set, examples, f"{label} on random test images"
            ),
            "mistakes.png": plot_predictions(
                shown, test_set, mistakes, f"The most confident mistakes of {label}"
            ),
        }
        return {name: render(figure) for name, figure in figures.items()}


def figure_style(dataset: Dataset) -> AbstractContextManager[None]:
    """Return a context in which matplotlib has its own defaults, and the dataset's settings.

    A user's own settings would change the figures, or end the run after the training.
    """
    from matplotlib import style

    return style.context(["default", dict(dataset.figure_settings)])


def render(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def choose_examples(result: TrainedNetwork, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of nine random test images, and of the nine most confident mistakes."""
    generator = torch.Generator().manual_seed(seed)
    examples = torch.randperm(len(result.test_labels), generator=generator)[:9]
    confidences, predictions = result.test_logits.softmax(dim=1).max(dim=1)
    mistakes = (predictions != result.test_labels).nonzero().flatten()
    order = confidences[mistakes].argsort(descending=True)
    return examples, mistakes[order[:9]]


def new_figure(
    title: str, size: tuple[float, float], rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """Return a figure of size inches and its axes, row by row; it needs no screen and no pyplot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid


def show_image(axes: Axes, image: Tensor, title: str, largest: float = 255) -> None:
    """Show an image (H, W, C), or activations (H, W), without ticks, below a title."""
    colors = "gray" if image.dim() == 3 else "viridis"
    axes.imshow(image.numpy(force=True), cmap=colors, vmin=0, vmax=largest)
    axes.set_title(title, fontsize=9)
    axes.set(xticks=[], yticks=[], anchor="N")
    axes.spines[:].set_visible(False)


def shorten(name: str, length: int) -> str:
    """Return a name of at most length characters: the beginning and the end of a longer one."""
    if len(name) <= length:
        return name
    end = (length - 1) // 2
    return f"{name[: length - 1 - end]}…{name[-end:]}"


def plot_accuracy(results: Sequence[TrainedNetwork], title: str) -> Figure:
    """Draw test accuracy (left) and training time (right): a bar for each network and optimizer.

    With several seeds: the mean, and an error bar of one standard deviation.
    """
    groups = group_converged(results)
    figure, (accuracy_axes, time_axes) = new_figure(title, (8, 3.8), columns=2)
    accuracies = {}
    seconds = {}
    for label, group in groups.items():
        accuracies[label] = [result.metrics.accuracy for result in group]
        seconds[label] = [result.training_seconds for result in group]
    draw_bars(accuracy_axes, accuracies, "{:.2%}")
    draw_bars(time_axes, seconds, "{:.1f} s")
    accuracy_axes.set(ylabel="test accuracy", ylim=(0, 1.1))
    accuracy_axes.yaxis.set_major_formatter("{x:.0%}")
    time_axes.set(ylabel="training time (s)")
    return figure


def draw_bars(axes: Axes, values: Mapping[str, Sequence[float]], text_format: str) -> None:
    names = [label.replace(" ", "\n") for label in values]
    means = [mean(group) for group in values.values()]
    spreads = [stdev(group) if len(group) > 1 else 0.0 for group in values.values()]
    errors = spreads if any(spreads) else None
    bars = axes.bar(names, means, width=0.6, yerr=errors, capsize=8, color=COLORS)
    axes.bar_label(bars, fmt=text_format, padding=4)


def plot_learning_curves(results: Sequence[TrainedNetwork], title: str) -> Figure:
    """Draw loss (left) and accuracy (right) over the epochs: a line for each training.

    Solid: test images; dashed: training images. Runs that diverged are left out.
    """
    figure, (loss_axes, accuracy_axes) = new_figure(title, (8, 4), columns=2)
    groups = group_converged(results)
    for color, (label, group) in zip(COLORS, groups.items(), strict=False):
        for result in group:
            draw_curves(loss_axes, result, "loss", color)
            draw_curves(accuracy_axes, result, "accuracy", color)
        loss_axes.plot([], color=color, label=label)  # once in the legend, however many seeds
    loss_axes.plot([], "k-", label="test images")
    loss_axes.plot([], "k--", label="training images")
    loss_axes.set(xlabel="epoch", ylabel="loss")
    accuracy_axes.set(xlabel="epoch", ylabel="accuracy")
    accuracy_axes.yaxis.set_major_formatter("{x:.0%}")
    for axes in (loss_axes, accuracy_axes):
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y", alpha=0.3)
    handles, labels = loss_axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def draw_curves(axes: Axes, result: TrainedNetwork, measure: str, color: str) -> None:
    for images, line in (("train", "--"), ("test", "-")):
        epochs = []
        values = []
        for record in result.history:
            value = getattr(record, f"{images}_{measure}")
            if value is not None:  # before the first step there is none of training images
                epochs.append(record.epoch)
                values.append(value)
        axes.plot(epochs, values, line, color=color, marker=".", markersize=3, linewidth=1)


def plot_confusion_matrix(result: TrainedNetwork, label: str, class_names: Sequence[str]) -> Figure:
    """Draw the confusion matrix, rows the true class, as counts and shares of each row."""
    import matplotlib.pyplot as plt
    from mlxtend.plotting import plot_confusion_matrix as draw_confusion_matrix

    matrix = result.metrics.confusion_matrix.numpy(force=True)
    side = min(16, max(9, 0.9 * len(class_names)))  # inches
    title = f"{label}: {result.metrics.accuracy:.2%} of {matrix.sum():,} test images correct"
    figure, (axes,) = new_figure(title, (side, side))
    if len(class_names) > 25:  # no room for numbers
        axes.imshow(matrix / matrix.sum(axis=1, keepdims=True).clip(min=1), cmap="Blues")
        axes.tick_params(labelsize=min(8, 700 / len(class_names)))
    else:
        with plt.ioff():
            unused = plt.figure()  # mlxtend labels pyplot's current axes, which may be a user's
            draw_confusion_matrix(matrix, show_normed=True, figure=figure, axis=axes)
            plt.close(unused)
    axes.set(xlabel="predicted class", ylabel="true class")
    names = [shorten(name, 32) for name in class_names]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    return figure


def plot_predictions(
    result: TrainedNetwork, test_set: ImageSet, indices: Tensor, title: str
) -> Figure:
    """Draw up to nine test images, chosen by indices (n,), with predicted and true class."""
    names = [shorten(name, 14) for name in test_set.class_names]
    figure, grid = new_figure(title, (7.5, 8.5), rows=3, columns=3)
    for axes in grid[len(indices) :]:
        axes.set_visible(False)
    for axes, index in zip(grid, indices.tolist(), strict=False):
        probability, prediction = result.test_logits[index].softmax(dim=0).max(dim=0)
        label = result.test_labels[index]
        mark, color = ("✓", "#009E73") if prediction == label else ("✗", "#D55E00")
        predicted_class = f"{names[int(prediction)]}, {probability:.1%}"
        text = f"{mark} predicted: {predicted_class}\ntrue: {names[int(label)]}"
        show_image(axes, test_set.pictures[index].permute(1, 2, 0), text)
        axes.title.set_color(color)
    return figure


# ---- Command line --------------------------------------------------------------------------------
MORE_FLAGS = "more flags need the folder fashion_mnist_extras beside the script"


class ArgumentParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """End the program as argparse does, but in one line."""
        print_error(f"{message} (see --help)")
        sys.exit(2)


def build_parser() -> ArgumentParser:
    """Return the parser of the command line: every flag with its default and what it is for."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.set_defaults(start=run)  # what main calls; with the folder beside it another function
    positive = partial(parse_number, kind=int, least=1)
    rate = partial(parse_number, kind=float, least=1e-9)
    seed = partial(parse_number, kind=int, least=0)
    add = parser.add_argument
    add(
        "--networks",
        nargs="+",
        choices=NETWORKS,
        help="to compare (default: mlp tinyvgg; chosen for --images)",
    )
    add(
        "--optimizer",
        nargs="+",
        choices=OPTIMIZERS,
        default=("muon",),
        help="one, or several to compare (default: muon)",
    )
    add(
        "--epochs",
        type=positive,
        metavar="N",
        help="passes over the training set (default: 3; chosen for --images)",
    )
    add(
        "--batch-size",
        type=positive,
        metavar="N",
        help="images per training step (default: 128; chosen for --images)",
    )
    add(
        "--learning-rate",
        type=rate,
        metavar="RATE",
        help="peak (default: chosen for each network and optimizer)",
    )
    add(
        "--hidden-units",
        type=positive,
        metavar="N",
        help="width of the networks (default: each one's own)",
    )
    add(
        "--seed",
        type=seed,
        default=42,
        metavar="N",
        help="decides initial weights, image order and examples (default: %(default)s)",
    )
    add(
        "--runs",
        type=positive,
        default=1,
        metavar="N",
        help="train all networks N times: seed, seed + 1, ... (default: %(default)s)",
    )
    add(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="auto is a GPU if there is one (default: %(default)s)",
    )
    add("--no-plots", action="store_true", help="write no figures and no explorer")
    add(
        "--data-dir",
        type=parse_text,
        default="data_1",
        metavar="DIR",
        help="where FashionMNIST is, here or beside the script (default: %(default)s)",
    )
    add(
        "--models-dir",
        type=parse_text,
        default="models",
        metavar="DIR",
        help="where the networks are written (default: %(default)s)",
    )
    add(
        "--assets-dir",
        type=parse_text,
        default="assets",
        metavar="DIR",
        help="where figures and results.json are written (default: %(default)s)",
    )
    extras = find_extras()
    if extras:
        extras.extend(parser)
    else:
        parser.epilog = MORE_FLAGS
        if distributed.is_torchelastic_launched():  # each process would write the same files
            parser.error("torchrun needs the folder fashion_mnist_extras beside the script")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; an invalid one ends the program with one line and exit code 2."""
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        hint = f"; {MORE_FLAGS}" if args.start is run else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    args.device = choose_device(parser, args.device)
    return args


def choose_device(parser: argparse.ArgumentParser, name: str) -> str:
    """Return the device of this name, or for auto a GPU that works, or the CPU."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name != "auto":
        if not available.get(name, True):
            parser.error(f"argument --device: there is no {name} on this machine")
        if fault := find_fault(name):
            parser.error(f"argument --device: {fault}")
        return name
    for device in available:
        if available[device]:
            fault = find_fault(device)
            if not fault:
                return device
            print_error(f"{fault}; --device cpu avoids it")
    return "cpu"


def find_fault(device: str) -> str:
    """Return why nothing can be computed on the device, or nothing.

    A GPU may be too old for this version of torch, or have no memory left.
    """
    try:
        torch.ones(1, device=device).add(1).item()
    except RuntimeError as error:
        return f"{device} does not work: {str(error).partition(chr(10))[0]}"
    return ""


def parse_number(text: str, kind: type[int] | type[float], least: float) -> float:
    """Return a number from least on. Raises ArgumentTypeError."""
    try:
        value = kind(text)
    except ValueError as error:
        shown = text[:30]
        expected = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{shown!r} is not {expected}") from error
    if not least <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not between {least} and 2**32")
    return value


def parse_text(text: str) -> str:
    """Return text that is not empty. Raises ArgumentTypeError."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def choose_recipe(args: argparse.Namespace, recipe: Recipe) -> Recipe:
    """Return the recipe, its values overridden by the flags."""
    return replace(
        recipe,
        # Each once: a training is known by its network, optimizer and seed.
        networks=tuple(dict.fromkeys(args.networks or recipe.networks)),
        optimizers=tuple(dict.fromkeys(args.optimizer)),
        seeds=range(args.seed, args.seed + args.runs),
        epochs=args.epochs or recipe.epochs,
        batch_size=args.batch_size or recipe.batch_size,
        hidden_units=args.hidden_units,
        learning_rate=args.learning_rate,
    )


def run(
    args: argparse.Namespace,
    dataset: Dataset | None = None,
    recipe: Recipe | None = None,
    callback: Callback | None = None,
    trained: Iterable[TrainedNetwork] | None = None,
) -> int:
    """Train, compare, save and draw; return the exit code. Raises UserError or OSError.

    By default the dataset is FashionMNIST, the recipe is what the flags choose, and the networks
    are those that compare_networks trains. Finished work is written at once: nothing that comes
    later can lose it.
    """
    if args.start is run:
        without = "no figures of shifted images and feature maps, no explorer, no checkpoints"
        print(f"fashion_mnist_extras is not beside the script: {without}")
    models_dir, assets_dir = find_output_folders(args, dataset.subfolder if dataset else "")
    dataset = (dataset or load_dataset(args)).to(args.device)
    recipe = recipe or choose_recipe(args, Recipe())
    callback = callback or Callback()
    if trained is None:
        trained = compare_networks(recipe, dataset, callback)
    print_dataset(dataset, recipe)
    results: list[TrainedNetwork] = []
    refused: list[TrainedNetwork] = []
    try:
        for result in trained:
            results.append(result)
            if choose_results(results).get(result.name) is result:
                error = try_to_save(result, dataset, models_dir, callback)
                if error:
                    print_error(f"{error}; it is tried again at the end")
                    refused.append(result)
            print_failure(result, recipe.is_mirrored)
            callback.after_training(result)
    except KeyboardInterrupt:
        if results:
            print_table(results)
        raise
    print_table(results)
    chosen = choose_results(results)
    if not chosen:
        print_error("every run diverged, and nothing was saved; try a lower --learning-rate")
        return 1
    failure = None
    for result in refused:
        is_chosen = chosen[result.name] is result
        if is_chosen and (error := try_to_save(result, dataset, models_dir, callback)):
            callback.saving_failed(result)
            failure = error
    report = describe_run(args, recipe, dataset, results, callback.resumed_from)
    write_files({assets_dir / "results.json": encode_json(report)})
    if not args.no_plots:
        shown = list(chosen.values())[-1]
        write_and_print(draw_figures(results, shown, dataset), assets_dir)
    callback.after_outputs(chosen, report)
    print(assets_dir / "results.json")
    if failure:
        raise failure
    saved = [label_result(result, results) for result in chosen.values()]
    print(f"{' and '.join(saved)}: in {models_dir}{os.sep}")
    return print_omissions(results, chosen, dataset)


def print_omissions(
    results: Iterable[TrainedNetwork], chosen: Mapping[str, TrainedNetwork], dataset: Dataset
) -> int:
    """Print what was left out of a run; return its exit code, 1 if a network was not saved."""
    if dataset.unreadable_files:
        print_error(f"{dataset.unreadable_files} unreadable files were left out")
    unsaved = sorted({result.name for result in results} - chosen.keys())
    if unsaved:
        print_error(f"every run of {' and '.join(unsaved)} diverged, and none was saved")
        return 1
    return 0


def try_to_save(
    result: TrainedNetwork, dataset: Dataset, folder: Path, callback: Callback
) -> PermissionError | None:
    """Write a network to folder; return the error if another program has one of the files open."""
    try:
        callback.before_saving(result)
        save_network(result, dataset, folder)
    except PermissionError as error:
        return error
    return None


def find_output_folders(args: argparse.Namespace, subfolder: str) -> tuple[Path, Path]:
    """Return the folders of the networks and of the figures. Raises UserError if one is unusable.

    Your own images have a subfolder in both, so that FashionMNIST's networks are not overwritten.
    """
    models_dir = Path(args.models_dir, subfolder)
    assets_dir = Path(args.assets_dir, subfolder)
    check_writable(models_dir, "--models-dir")
    check_writable(assets_dir, "--assets-dir")
    return models_dir, assets_dir


def load_dataset(args: argparse.Namespace) -> Dataset:
    """Return FashionMNIST, on the CPU. Raises UserError."""
    train_set, test_set = load_fashion_mnist(args.data_dir)
    notes = {"white_value": 65535}  # for --predict: the images have 8 bits
    return Dataset("FashionMNIST", train_set, test_set, notes=notes)


def print_dataset(dataset: Dataset, recipe: Recipe) -> None:
    """Print what is trained on and, for your own images, what was chosen."""
    train_set = dataset.train_set
    counts = f"{len(train_set):,} training, {len(dataset.test_set):,} test images"
    print(f"{dataset.name}: {counts}")
    if not dataset.subfolder:
        return
    print(f"{len(train_set.class_names)} classes: {', '.join(train_set.class_names[:10])}")
    changed = "not changed"
    if recipe.augment:
        mirrored = "mirrored too" if recipe.is_mirrored else "not mirrored"
        changed = f"changed at random, {mirrored}"
    sides = " x ".join(str(side) for side in dataset.image_shape)
    steps = math.ceil(len(train_set) / recipe.batch_size)
    training = f"{recipe.epochs} epochs of {steps} steps of {recipe.batch_size} images"
    print(f"images of {sides}, {changed}; {' and '.join(recipe.networks)}: {training}")


def print_failure(result: TrainedNetwork, is_mirrored: bool) -> None:
    """Print what to do if training diverged, or if the network is no better than a guess."""
    name = f"{result.name} with {result.optimizer}, seed {result.seed}"
    if result.diverged:
        hint = f"a learning rate below {result.learning_rate:g} may help"
        print_error(f"{name} diverged and is not saved; {hint}")
    elif result.metrics.at_chance:
        hint = "more epochs or another learning rate may help"
        if is_mirrored:
            hint += ", or --no-mirror if classes are each other's mirror image"
        print_error(f"{name} is at chance, as if it always predicted one class; {hint}")


def write_and_print(contents: Mapping[str, bytes], folder: Path) -> None:
    """Write each content to its name in folder, and print the paths. Raises OSError."""
    write_files({folder / name: content for name, content in contents.items()})
    for name in contents:
        print(folder / name)


def describe_run(
    args: argparse.Namespace,
    recipe: Recipe,
    dataset: Dataset,
    results: Iterable[TrainedNetwork],
    resumed_from: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the content of results.json."""
    image = dataset.test_set.images.new_zeros(1, *dataset.image_shape)
    return {
        "dataset": {
            "name": dataset.name,
            "train_images": len(dataset.train_set),
            "test_images": len(dataset.test_set),
            "image_shape": list(dataset.image_shape),
            "class_names": dataset.test_set.class_names,
            "unreadable_files": dataset.unreadable_files,
        },
        "environment": describe_environment(torch.device(args.device)),
        "resumed_from": resumed_from,
        "settings": describe_settings(args, recipe),
        "models": [describe_result(result, image) for result in results],
        "evidence": None,  # measured with the folder fashion_mnist_extras
    }


def describe_settings(args: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """Return the flags, completed with the recipe's values."""
    settings = {name: value for name, value in vars(args).items() if name != "start"}
    return settings | {  # of flags whose default is None, what was chosen
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "networks": recipe.networks,
        "augment": vars(recipe.augment) if recipe.augment else False,
        "learning_rate_scale": recipe.learning_rate_scale,
    }


def describe_result(result: TrainedNetwork, image: Tensor) -> dict[str, object]:
    """Return what results.json says of a trained network; every number in it is finite."""
    diverged = result.diverged
    return {
        "name": result.name,
        "optimizer": result.optimizer,
        "learning_rate": result.learning_rate,
        "seed": result.seed,
        "hidden_units": result.config.hidden_units,
        "parameters": count_parameters(result.network),
        "multiply_adds": count_macs(result.network, image),
        "test_accuracy": result.metrics.accuracy,
        "test_loss": None if diverged else result.metrics.loss,
        "training_seconds": result.training_seconds,
        "training_precision": dtype_name(training_precision(result.network)),
        "epochs": [] if diverged else [asdict(record) for record in result.history],
        "confusion_matrix": result.metrics.confusion_matrix.tolist(),
        "precision": result.metrics.precision.tolist(),
        "recall": result.metrics.recall.tolist(),
        "failed": "diverged" if diverged else None,
        "at_chance": result.metrics.at_chance,
    }


def describe_environment(device: torch.device) -> dict[str, object]:
    """Return what training time depends on, besides the program."""
    device_name = cpu_capabilities().get("cpu_name") or platform.processor()
    if device.type == "cuda":
        device_name = torch.cuda.get_device_name(device)
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": torchvision.__version__,
        "device": device.type,
        "device_name": device_name,
        "threads": torch.get_num_threads(),
        "precision": dtype_name(convolution_precision(device)),
    }


def dtype_name(dtype: torch.dtype) -> str:
    """Return bfloat16 for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def print_error(message: str) -> None:
    """Print message as one line to stderr."""
    tqdm.write(f"fashion_mnist_cnn.py: {' '.join(message.split())}", file=sys.stderr)


def find_extras() -> ModuleType | None:
    """Return fashion_mnist_extras.command_line, or None if the folder is not beside the script."""
    folder = Path(__file__).resolve().parent
    if not (folder / "fashion_mnist_extras" / "command_line.py").exists():
        return None
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # `python -P` and runpy leave it out
    # The folder's modules import this module by name, but a script is called __main__: without the
    # alias they would load a second copy. Modules that use an earlier copy are unloaded, as after
    # an edit in a notebook. (Under a profiler __main__ is not this module.)
    if PROGRAM is not None and vars(PROGRAM) is globals():
        is_renamed = sys.modules.get("fashion_mnist_cnn") is not PROGRAM
        loaded = sys.modules.get("fashion_mnist_extras.command_line")
        if is_renamed or (loaded and not issubclass(loaded.Extras, Callback)):
            for name in list(sys.modules):
                if name.partition(".")[0] == "fashion_mnist_extras":
                    del sys.modules[name]
        sys.modules["fashion_mnist_cnn"] = PROGRAM
    from fashion_mnist_extras import command_line

    return command_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code: 0, 1 for an error, 130 for Ctrl-C.

    An invalid command line exits with 2.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # not in a notebook, nor where it is closed
        # Flush after each line, and escape characters of names that the encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    args = parse_args(argv)
    try:
        return args.start(args)
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough, as in `... | head -1`
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # so that flushing at exit does not fail
    except (UserError, OSError) as error:
        print_error(str(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        hint = "a smaller --batch-size or --hidden-units needs less, and --device cpu may have more"
        print_error(f"out of memory; {hint}")
    return 1


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether memory is what was missing: on some devices torch says it in words only."""
    words = ("out of memory", "enforce fail at alloc_cpu")
    return isinstance(error, MemoryError) or any(each in str(error) for each in words)


if __name__ == "__main__":
    sys.exit(main())
