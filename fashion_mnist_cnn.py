"""Train an MLP and a TinyVGG CNN on FashionMNIST, compare them, and save both.

    python fashion_mnist_cnn.py                 # train both, compare, draw, save (about a minute)
    python fashion_mnist_cnn.py --images DIR    # train on your own images, one folder per class
    python fashion_mnist_cnn.py --networks resnet --epochs 20 --augment   # the best (7 minutes)
    python fashion_mnist_cnn.py --predict FILE  # classify an image with the best network saved
    python fashion_mnist_cnn.py --help          # every option with its default

The CNN's weights are written to models/CNN_model.pth, figures and results.json to assets/. Open
assets/explorer.html in a browser to look into the networks just trained. Other code loads the CNN
with `from fashion_mnist_cnn import load_model; network = load_model()`.
"""

import argparse
import base64
import copy
import glob
import gzip
import hashlib
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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property, partial
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

if sys.platform == "linux":
    PROCESSORS = os.sched_getaffinity(0)  # before OpenMP keeps this thread to one of them
if __name__ == "__main__" and not {"torch", "IPython"} & sys.modules.keys():
    # In a process of its own, which only saves figures: no backend that shows them is needed.
    os.environ["MPLBACKEND"] = "Agg"
    chosen_by_user = [name for name in os.environ if name.startswith(("OMP_", "GOMP_"))]
    if sys.platform == "linux" and not chosen_by_user:
        # After each operation a thread spins until the others are done. If another program has
        # taken the processor of one of them, that is long: training is 50 times slower. So spin
        # briefly, and keep each thread to a processor of its own, so that all run at one time.
        os.environ["GOMP_SPINCOUNT"] = "10000"
        os.environ["OMP_PROC_BIND"] = "true"

import torch
import torch.nn.functional as F
import torchvision
from PIL import Image, ImageFile, ImageFilter, ImageOps
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import FashionMNIST
from torchvision.datasets.utils import check_integrity
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid
from tqdm import tqdm

if TYPE_CHECKING:  # imported where it is used, as torchmetrics and mlxtend: together they take 2 s
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class UserError(ValueError):
    """Something the user can fix: the message says in one line what is wrong and what to do."""


# ---- Networks ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class NetworkSizes:
    in_channels: int
    image_size: int  # height and width in pixels
    hidden_units: int
    num_classes: int
    mirror_averaging: bool = False  # see ResNet


class Network(nn.Module):
    """A subclass is a network, and all that the rest of the program knows of it; see NETWORKS."""

    model_file: ClassVar[str]
    default_hidden_units: ClassVar[int] = 10
    learning_rate_scale: ClassVar[float] = 1.0  # of the optimizer's peak learning rate
    in_explorer: ClassVar[bool] = False  # whether assets/explorer.html can compute it

    @classmethod
    def build(cls, sizes: NetworkSizes) -> "Network":
        raise NotImplementedError

    @classmethod
    def read_sizes(cls, state: Mapping[str, Tensor]) -> NetworkSizes:
        raise NotImplementedError  # KeyError if the state dict is another network's


class TinyVGG(Network):
    """The CNN of CNN Explainer (Wang et al. 2020, arXiv:2004.15004): four convolutions.

    Takes float32 (N, in_channels, image_size, image_size) in [0, 1], returns logits
    (N, num_classes). Raises ValueError if image_size is under 4: each block halves the image.
    """

    model_file = "CNN_model.pth"
    in_explorer = True

    def __init__(
        self,
        in_channels: int = 1,
        hidden_units: int = 10,
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
        # The channels of a pixel side by side in memory: CPU convolutions run about twice as fast.
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
    def build(cls, sizes: NetworkSizes) -> "TinyVGG":
        return cls(sizes.in_channels, sizes.hidden_units, sizes.num_classes, sizes.image_size)

    @classmethod
    def read_sizes(cls, state: Mapping[str, Tensor]) -> NetworkSizes:
        hidden_units, in_channels, _, _ = state["conv_block_1.0.weight"].shape
        num_classes, features = state["classifier.1.weight"].shape
        image_size = 4 * math.isqrt(features // hidden_units)
        return NetworkSizes(in_channels, image_size, hidden_units, num_classes)


class MLP(Network):
    """Two fully connected layers. The image is flattened: which pixels are neighbours is lost.

    Takes float32 (N, C, H, W) in [0, 1], returns logits (N, num_classes); in_features = C * H * W.
    The ReLU after the last layer is part of the textbook exercise: no logit can be negative.
    """

    model_file = "MLP_model.pth"
    in_explorer = True

    def __init__(
        self, in_features: int = 784, hidden_units: int = 10, num_classes: int = 10
    ) -> None:
        super().__init__()
        hidden = nn.Linear(in_features, hidden_units)
        output = nn.Linear(hidden_units, num_classes)
        self.layer_stack = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), output, nn.ReLU())
        initialize_weights(self, output)
        # A class whose logit the last ReLU holds at zero for all of its images gets no gradient and
        # is lost for good. Output-layer biases of one keep every class alive at the start.
        nn.init.ones_(output.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer_stack(images)

    @classmethod
    def build(cls, sizes: NetworkSizes) -> "MLP":
        return cls(sizes.in_channels * sizes.image_size**2, sizes.hidden_units, sizes.num_classes)

    @classmethod
    def read_sizes(cls, state: Mapping[str, Tensor]) -> NetworkSizes:
        hidden_units, in_features = state["layer_stack.1.weight"].shape
        in_channels = 1 if math.isqrt(in_features) ** 2 == in_features else 3
        image_size = math.isqrt(in_features // in_channels)
        num_classes, _ = state["layer_stack.3.weight"].shape
        return NetworkSizes(in_channels, image_size, hidden_units, num_classes)


class Residual(nn.Sequential):
    """Layers with a shortcut around them: they need to learn only what to add to their input."""

    def forward(self, activations: Tensor) -> Tensor:
        return activations + super().forward(activations)


class ResNet(Network):
    """A small residual network (He et al. 2015, arXiv:1512.03385) of ten convolutions.

    The first convolution has hidden_units channels, the last six times as many; six of them stand
    beside a shortcut. Takes float32 (N, in_channels, H, W) in [0, 1], H and W at least 4, returns
    logits (N, num_classes). Global pooling keeps the largest activation of each channel, not its
    position: shifting a garment hardly changes the logits. With mirror_averaging it uses test-time
    augmentation: in eval mode the logits are the mean over the image and its mirror image, so both
    get the same. It is meant for a network trained on mirrored images.
    """

    model_file = "ResNet_model.pth"
    default_hidden_units = 16
    learning_rate_scale = 0.4
    mirror_averaging: Tensor | None

    def __init__(
        self,
        in_channels: int = 1,
        hidden_units: int = 16,
        num_classes: int = 10,
        mirror_averaging: bool = False,
    ) -> None:
        super().__init__()
        # A buffer, so that the state dict says it, and load_model averages too.
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
        logits, mirror_logits = self.compute_logits(torch.cat([images, images.flip(3)])).chunk(2)
        return (logits + mirror_logits) / 2

    def compute_logits(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).amax(dim=(2, 3)))

    @classmethod
    def build(cls, sizes: NetworkSizes) -> "ResNet":
        return cls(sizes.in_channels, sizes.hidden_units, sizes.num_classes, sizes.mirror_averaging)

    @classmethod
    def read_sizes(cls, state: Mapping[str, Tensor]) -> NetworkSizes:
        hidden_units, in_channels, _, _ = state["features.0.0.weight"].shape
        image_size = 28  # FashionMNIST's: the weights fit any
        num_classes, _ = state["classifier.weight"].shape
        mirror_averaging = "mirror_averaging" in state
        return NetworkSizes(in_channels, image_size, hidden_units, num_classes, mirror_averaging)


def initialize_weights(network: nn.Module, output_layer: nn.Linear) -> None:
    """Initialize for ReLU (He et al. 2015, arXiv:1502.01852), so that small networks learn."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    output_layer.weight.data *= 0.1  # no class is favoured at the start


# What --networks takes; the table, the figures and the files follow from a network's class.
NETWORKS: dict[str, type[Network]] = {"mlp": MLP, "tinyvgg": TinyVGG, "resnet": ResNet}


# ---- Data ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ImageSet:
    """Labelled images in the memory of one device: a mini-batch is an index into them."""

    images: Tensor  # uint8 (N, C, H, W) in [0, 255]: bytes take a quarter of the memory of floats
    labels: Tensor  # int64 (N,), each an index into class_names
    class_names: tuple[str, ...]
    white_value: float = 65535  # of files of more than 8 bits
    unreadable: int = 0  # files that were left out

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str | torch.device) -> "ImageSet":
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, indices: Tensor | slice) -> "ImageSet":
        return replace(self, images=self.images[indices], labels=self.labels[indices])


def to_float(images: Tensor) -> Tensor:
    """Scale uint8 images of any shape to float32 in [0, 1], exactly as torchvision's ToTensor."""
    return images.float().div(255)


def load_fashion_mnist(root: str | Path) -> tuple[ImageSet, ImageSet]:
    """Return FashionMNIST's training set (60,000 images) and test set (10,000), on the CPU.

    They are read from the four official archives in root/FashionMNIST/raw or in root itself, here
    or beside the script. If one is missing or corrupt, they are downloaded to
    root/FashionMNIST/raw. Raises UserError if that fails.
    """
    archives = dict(FashionMNIST.resources)
    folder = Path(root, "FashionMNIST", "raw")
    try:
        beside = Path(__file__).parent
        for candidate in (folder, Path(root), beside / folder, beside / root):
            if all(check_integrity(candidate / name, md5) for name, md5 in archives.items()):
                break
        else:
            candidate = download_archives(folder)
        contents = [read_archive(candidate / name) for name in archives]
    except (OSError, RuntimeError) as error:  # RuntimeError: torchvision found no intact archive
        hint = f"put {', '.join(archives)} there or into {root}, or name a folder with --data-dir"
        raise UserError(f"FashionMNIST cannot be read from {folder}: {error}; {hint}") from error
    train_images, train_labels, test_images, test_labels = contents
    class_names = tuple(FashionMNIST.classes)
    train_set = ImageSet(train_images.view(-1, 1, 28, 28), train_labels.long(), class_names)
    test_set = ImageSet(test_images.view(-1, 1, 28, 28), test_labels.long(), class_names)
    return train_set, test_set


def locate(path: str | Path) -> Path:
    """Return path, or if there is nothing, what stands there beside the script."""
    beside = Path(__file__).parent / path
    return beside if beside.exists() and not Path(path).exists() else Path(path)


def read_archive(path: Path) -> Tensor:
    """Return the values in a compressed IDX file: uint8 (values,)."""
    with gzip.open(path) as file:
        content = bytearray(file.read())
    dimensions = content[3]
    header_size = 4 + 4 * dimensions  # four bytes say what follows, four the size of a dimension
    return torch.frombuffer(content, dtype=torch.uint8, offset=header_size)


TEMPORARY_PREFIX = ".fashion_mnist_cnn-"  # of files and folders not in their final place yet


def download_archives(folder: Path) -> Path:
    """Let torchvision download the archives; they are moved into folder when all are whole."""
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
        """Whether always predicting the most frequent class does as well, give or take luck."""
        count = self.confusion_matrix.sum().item()
        share = self.confusion_matrix.sum(dim=1).max().item() / count
        luck = 3 * math.sqrt(share * (1 - share) / count)  # three standard deviations of a guess
        # Of a handful of images that would be more than a good network can reach.
        return self.accuracy <= share + min(luck, (1 - share) / 2)


def compute_metrics(logits: Tensor, labels: Tensor) -> Metrics:
    """Compare float logits (N, classes) with int64 labels (N,)."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    predictions = logits.argmax(dim=1)
    confusion_matrix = multiclass_confusion_matrix(predictions, labels, logits.shape[1])
    return Metrics(F.cross_entropy(logits, labels).item(), confusion_matrix)


@torch.inference_mode()
def predict_logits(network: nn.Module, images: Tensor, batch_size: int = 100) -> Tensor:
    """Return float32 logits (N, classes) for uint8 images (N, C, H, W); sets eval mode.

    Images and network must be on the same device.
    """
    network.eval()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # or a GPU rounds to 10 bits
        return torch.cat([network(to_float(batch)) for batch in images.split(batch_size)])


def evaluate(network: nn.Module, image_set: ImageSet) -> Metrics:
    """Return the network's metrics on all images of image_set; both must be on the same device."""
    return compute_metrics(predict_logits(network, image_set.images), image_set.labels)


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, image: Tensor) -> int:
    """Return the multiply-accumulates (MACs) for one image: uint8 (1, C, H, W), on its device."""
    with FlopCounterMode(display=False) as counter:
        predict_logits(network, image)
    return counter.get_total_flops() // 2


# ---- Training ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its peak learning rate, chosen on held-out images for MLP and TinyVGG."""

    name: str
    learning_rate: float
    build: Callable[..., torch.optim.Optimizer]


adam = partial(torch.optim.Adam, betas=(0.9, 0.99), fused=True)
sgd = partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=True)
OPTIMIZERS = {
    "adam": OptimizerConfig("Adam", 0.02, adam),
    "sgd": OptimizerConfig("SGD", 0.06, sgd),
}


def peak_learning_rate(network: type[Network], hidden_units: int, optimizer_name: str) -> float:
    """Return the default: beyond a network's own width it falls with the root of the width."""
    rate = OPTIMIZERS[optimizer_name].learning_rate * network.learning_rate_scale
    return rate * min(1.0, math.sqrt(network.default_hidden_units / hidden_units))


@dataclass(frozen=True)
class Record:
    """A point of the learning curves: losses are mean cross-entropy, accuracies in [0, 1]."""

    epoch: float  # passes over the training set so far
    train_loss: float  # of the mini-batches since the record before, like the accuracy
    train_accuracy: float
    test_loss: float  # within the first epoch of 500 test images, like the accuracy
    test_accuracy: float
    training_seconds: float  # so far, in training steps alone


@dataclass(frozen=True)
class TrainingState:
    """What training holds: all that decides how it goes on."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    order_generator: torch.Generator
    history: list[Record] = field(default_factory=list)

    @property
    def last_record(self) -> Record:
        return self.history[-1] if self.history else Record(0, 0, 0, 0, 0, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy, which stays as it is while training goes on."""
        return {
            "network": copy.deepcopy(self.network.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "scheduler": copy.deepcopy(self.scheduler.state_dict()),
            "order_generator": self.order_generator.get_state(),
            "history": list(self.history),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # it would go on in it
        self.scheduler.load_state_dict(state["scheduler"])
        self.order_generator.set_state(state["order_generator"])
        self.history[:] = state["history"]


def train(
    network: nn.Module,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    optimizer_name: str = "adam",
    augmented: "bool | Augmentation" = False,
    after_evaluation: Callable[[TrainingState], None] | None = None,
    resume_from: Mapping[str, Any] | None = None,
) -> list[Record]:
    """Train network in place and return its learning curves.

    They have up to 20 records of the first epoch, and one of each later one. Network and sets must
    be on one device. optimizer_name is a key of OPTIMIZERS; the learning rate rises to
    learning_rate and falls to almost zero (one-cycle policy, Smith and Topin 2018,
    arXiv:1708.07120). augmented: change the images at random, True as Augmentation() says. seed
    decides the order of the images, how they are augmented, and nothing else. If a weight is not
    finite at the end of an epoch, training ends. after_evaluation is called with each new record;
    resume_from, a TrainingState's state_dict() at the end of an epoch, is where to go on. Under
    torchrun each process has its own train_set, and batch_size is that of all together.
    """
    device = train_set.images.device
    rank, processes = process_rank()
    batch_size = max(1, batch_size // processes)  # of this process
    steps_per_epoch = math.ceil(len(train_set) / batch_size)
    model = DistributedDataParallel(network) if processes > 1 else network  # averages gradients
    optimizer = OPTIMIZERS[optimizer_name].build(network.parameters(), lr=learning_rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=learning_rate,
        total_steps=max(2, epochs * steps_per_epoch),  # the last step of a cycle hardly trains
        anneal_strategy="linear",
        cycle_momentum=False,
    )
    order_generator = torch.Generator().manual_seed(seed)
    state = TrainingState(network, optimizer, scheduler, order_generator)
    if resume_from:
        state.load_state_dict(resume_from)
    mixed_precision = training_precision(device) == torch.bfloat16
    recent: list[tuple[Tensor, Tensor]] = []  # logits and labels since the last evaluation
    start = time.perf_counter() - state.last_record.training_seconds
    for epoch in range(int(state.last_record.epoch) + 1, epochs + 1):
        if not are_finite(network.parameters()):  # on which all processes agree
            break
        # Seeded anew: after an interruption no process needs the numbers drawn before.
        augment_seed = seed + 1000 * (epoch * processes + rank)
        augment_generator = torch.Generator(device).manual_seed(augment_seed)
        evaluation_interval = math.ceil(steps_per_epoch / 20) if epoch == 1 else steps_per_epoch
        order = torch.randperm(len(train_set), generator=order_generator).to(device)
        batches = progress_bar(order.split(batch_size), f"epoch {epoch}/{epochs}", steps_per_epoch)
        for step, indices in enumerate(batches, start=1):
            network.train()  # evaluation has left it in eval mode
            images, labels = train_set.images[indices], train_set.labels[indices]
            if augmented:
                progress = scheduler.last_epoch / scheduler.total_steps
                images = augment(images, augmented, augment_generator, progress)
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
                logits = model(to_float(images))
            # Label smoothing (Szegedy et al. 2016, arXiv:1512.00567): be right, but not certain.
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            recent.append((logits.detach(), labels))  # metrics of every step would make a GPU wait
            if step % evaluation_interval == 0 or step == steps_per_epoch:
                getattr(torch, device.type).synchronize()  # a GPU may still be at work
                paused = time.perf_counter()
                logits, labels = (torch.cat(tensors) for tensors in zip(*recent, strict=True))
                train_metrics = compute_metrics(logits.float(), labels)
                # In the first epoch, when most is learned, up to 20 times, on 500 images.
                test_metrics = evaluate(
                    network, test_set if step == steps_per_epoch else test_set.subset(slice(500))
                )
                state.history.append(
                    Record(
                        epoch=epoch - 1 + min(1.0, step * batch_size / len(train_set)),
                        train_loss=train_metrics.loss,
                        train_accuracy=train_metrics.accuracy,
                        test_loss=test_metrics.loss,
                        test_accuracy=test_metrics.accuracy,
                        training_seconds=paused - start,
                    )
                )
                if after_evaluation:
                    after_evaluation(state)
                recent.clear()
                start += time.perf_counter() - paused
    return state.history


@dataclass(frozen=True)
class Augmentation:
    """How much each training image is changed at random; by default as FashionMNIST's are."""

    mirror: bool = True  # half of the images
    shift: float = 1 / 14  # at most, as a share of the side: 2 of 28 pixels
    zoom: float = 0.0  # at most, larger or smaller by this share
    rotation: float = 0.0  # at most, in degrees
    color: float = 0.0  # brightness, contrast and colour at most, up or down by this share
    patch: float = 0.5  # the share of images that get a rectangle in a random grey
    patch_until: float = 0.8  # of training: at its end images are whole, as in use
    padding: str = "zeros"  # what is around: black, or "reflection" of the image


def augment(
    images: Tensor,
    augmented: bool | Augmentation,
    generator: torch.Generator | None,
    progress: float = 0.0,
) -> Tensor:
    """Return uint8 images (N, C, H, W), each changed at random in a way of its own.

    progress is the share of training that is done, in [0, 1].
    """
    how = augmented if isinstance(augmented, Augmentation) else Augmentation()
    changed = move(images.float(), how, generator)
    if how.color:
        changed = recolor(changed, how.color, generator)
    if how.patch and progress < how.patch_until:
        changed = add_patches(changed, how.patch, generator)
    return changed.clamp(0, 255).round().byte()


def draw_numbers(images: Tensor, most: float, generator: torch.Generator | None) -> Tensor:
    """Return a random number from -most to most for each image: float32 (N, 1, 1, 1)."""
    shape = (len(images), 1, 1, 1)
    return most * (2 * torch.rand(shape, generator=generator, device=images.device) - 1)


def move(images: Tensor, how: Augmentation, generator: torch.Generator | None) -> Tensor:
    """Mirror, rotate, zoom and shift each of the float images (N, C, H, W)."""
    count, _, height, width = images.shape
    device = images.device
    angle = draw_numbers(images, math.radians(how.rotation), generator).flatten()
    zoom = 1 + draw_numbers(images, how.zoom, generator).flatten()
    mirrored = torch.randint(2, (count,), generator=generator, device=device)
    direction = 1 - 2 * mirrored * how.mirror
    # A map from the pixels of the result to those of the image, both from -1 to 1.
    maps = torch.zeros(count, 2, 3, device=device)
    maps[:, 0, 0] = angle.cos() / zoom * direction
    maps[:, 0, 1] = -angle.sin() / zoom
    maps[:, 1, 0] = angle.sin() / zoom * direction
    maps[:, 1, 1] = angle.cos() / zoom
    for axis, side in enumerate((width, height)):
        most = round(how.shift * side)  # whole pixels leave the image as sharp as it is
        pixels = torch.randint(-most, most + 1, (count,), generator=generator, device=device)
        maps[:, axis, 2] = 2 * pixels / side
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=how.padding, align_corners=False)


def recolor(images: Tensor, most: float, generator: torch.Generator | None) -> Tensor:
    """Change brightness, contrast and colour of each of the float images (N, C, H, W)."""
    images = images * (1 + draw_numbers(images, most, generator))
    average = images.mean(dim=(1, 2, 3), keepdim=True)
    images = average + (images - average) * (1 + draw_numbers(images, most, generator))
    grey = images.mean(dim=1, keepdim=True)
    return grey + (images - grey) * (1 + draw_numbers(images, most, generator))


def add_patches(images: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Put a rectangle in a random grey on a share of the float images (N, C, H, W).

    No single part may decide the class (random erasing, Zhong et al. 2017, arXiv:1708.04896).
    """
    is_inside = draw_numbers(images, 0.5, generator) + 0.5 < share
    for dim in (2, 3):
        shape = [1, 1, 1, 1]
        shape[dim] = images.shape[dim]
        places = torch.linspace(-1, 1, images.shape[dim], device=images.device).view(shape)
        middle = draw_numbers(images, 1, generator)
        half_size = (2 + draw_numbers(images, 1, generator)) / 7  # of a side from -1 to 1
        is_inside = is_inside & ((places - middle).abs() < half_size)
    return torch.where(is_inside, 127.5 + draw_numbers(images, 127.5, generator), images)


def are_finite(tensors: Iterable[Tensor]) -> bool:
    return all(tensor.isfinite().all() for tensor in tensors)


def training_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 on CPUs that multiply it natively, else float32.

    Emulated it is slow, and a GPU gains nothing from it with networks this small.
    """
    capabilities = cpu_capabilities()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if device.type == "cpu" and native else torch.float32


def cpu_capabilities() -> Mapping[str, str | bool]:
    return getattr(torch.cpu, "get_capabilities", dict[str, bool])()  # older versions lack it


def process_rank() -> tuple[int, int]:
    """Return the number of this process, and how many train together: (0, 1) without torchrun."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def shard(train_set: ImageSet) -> ImageSet:
    """Return the images that this process trains on: all processes have equally many."""
    rank, processes = process_rank()
    rounded_up = math.ceil(len(train_set) / processes) * processes
    return train_set.subset(torch.arange(rank, rounded_up, processes) % len(train_set))


T = TypeVar("T")


def progress_bar(items: Iterable[T], description: str, total: int) -> "tqdm[T]":
    """Return items behind a bar, gone at the end, which a terminal or a notebook shows."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()  # None where it is closed
    is_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    is_shown = process_rank()[0] == 0 and (is_terminal or is_notebook)
    return tqdm(items, description, total, leave=False, disable=not is_shown)


# ---- Trained networks ----------------------------------------------------------------------------
@dataclass
class TrainedNetwork:
    """A network after training: how it was trained, and its logits for the test images."""

    network: Network
    sizes: NetworkSizes
    optimizer: str
    learning_rate: float  # peak
    seed: int
    history: list[Record]
    test_logits: Tensor  # float32 (N, classes)
    test_labels: Tensor  # int64 (N,)
    snapshots: list[dict[str, Any]] = field(default_factory=list)  # see add_snapshot

    @property
    def name(self) -> str:
        return type(self.network).__name__

    @property
    def label(self) -> str:
        return f"{self.name} {self.optimizer}"

    @property
    def training_seconds(self) -> float:
        return self.history[-1].training_seconds

    @cached_property
    def metrics(self) -> Metrics:
        return compute_metrics(self.test_logits, self.test_labels)

    @cached_property
    def diverged(self) -> bool:
        """Whether a loss or a weight is not finite: then the network is of no use."""
        losses = [[record.train_loss, record.test_loss] for record in self.history]
        logits = self.test_logits
        return not are_finite([logits, torch.tensor(losses), *self.network.state_dict().values()])

    def summarize(self, image: Tensor) -> dict[str, object]:
        """Return its entry in results.json, in which every number is finite."""
        return {
            "name": self.name,
            "optimizer": self.optimizer,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "hidden_units": self.sizes.hidden_units,
            "parameters": count_parameters(self.network),
            "multiply_adds": count_macs(self.network, image),
            "test_accuracy": self.metrics.accuracy,
            "test_loss": None if self.diverged else self.metrics.loss,
            "training_seconds": self.training_seconds,
            "epochs": [] if self.diverged else [asdict(record) for record in self.history],
            "confusion_matrix": self.metrics.confusion_matrix.tolist(),
            "precision": self.metrics.precision.tolist(),
            "recall": self.metrics.recall.tolist(),
            "failed": "diverged" if self.diverged else None,
            "at_chance": self.metrics.at_chance,
        }


def group_runs(trained: Iterable[TrainedNetwork]) -> dict[str, list[TrainedNetwork]]:
    """Return the runs of each network and optimizer under their label, in the order of training."""
    groups: dict[str, list[TrainedNetwork]] = {}
    for run in trained:
        groups.setdefault(run.label, []).append(run)
    return groups


def choose_runs(trained: Iterable[TrainedNetwork]) -> dict[str, TrainedNetwork]:
    """Return the run of each network that is saved, under the network's name.

    It is the first that did not diverge; one at chance only if there is no other.
    """
    chosen: dict[str, TrainedNetwork] = {}
    for run in trained:
        earlier = chosen.get(run.name)
        is_better = earlier is None or (earlier.metrics.at_chance and not run.metrics.at_chance)
        if is_better and not run.diverged:
            chosen[run.name] = run
    return chosen


def print_table(trained: Sequence[TrainedNetwork]) -> None:
    """Print one line for each network and optimizer: the mean of its runs, and their spread.

    Runs that diverged are counted, and left out of the mean of the others.
    """
    groups = group_runs(trained)
    several = len(trained) > len(groups)
    width = max(len("network"), *(len(run.name) for run in trained)) + 2
    header = f"{'network':<{width}}optimizer  parameters  accuracy    loss  training time"
    if several:
        header += "  accuracy: sd  runs  diverged"
    print(f"\n{header}")
    for runs in groups.values():
        converged = [run for run in runs if not run.diverged] or runs
        accuracies = [run.metrics.accuracy for run in converged]
        loss = mean(run.metrics.loss for run in converged)
        seconds = mean(run.training_seconds for run in converged)
        row = f"{runs[0].name:<{width}}{runs[0].optimizer:<9}"
        row += f"{count_parameters(runs[0].network):>12,}"
        row += f"{mean(accuracies):>10.2%}{loss:>8.4f}{seconds:>13.1f} s"
        if several:
            spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
            row += f"{spread:>14.2%}{len(runs):>6}{sum(run.diverged for run in runs):>10}"
        if any(run.metrics.at_chance for run in converged):
            row += "  at chance"
        print(row)


# ---- Analysis: what the networks see, and what they do not ---------------------------------------
@dataclass(frozen=True)
class Analysis:
    """What results.json calls evidence."""

    images: int  # that were shifted
    shift_accuracy: dict[str, list[float]]  # of each network, on images shifted by 0, 1, ... pixels
    dead_channels: list[list[int]]  # in each convolution of the network in the figures


def analyze(
    chosen: Mapping[str, TrainedNetwork], shown: TrainedNetwork, test_set: ImageSet
) -> Analysis:
    """Shift the test images for every network, and find the dead channels of the one shown."""
    subset = test_set.subset(slice(1000))  # every network predicts them 28 times
    shift_accuracy = {name: measure_shifts(run.network, subset) for name, run in chosen.items()}
    dead_channels = find_dead_channels(shown.network, test_set.images)
    return Analysis(len(subset), shift_accuracy, dead_channels)


def measure_shifts(network: nn.Module, image_set: ImageSet, max_shift: int = 6) -> list[float]:
    """Return the accuracy on images shifted by 0, 1, ... max_shift pixels, mean of 4 directions."""
    accuracies = []
    for pixels in range(max_shift + 1):
        correct = 0
        directions = (pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels)
        for down, right in directions:
            shifted = F.pad(image_set.images, (right, -right, down, -down))
            predictions = predict_logits(network, shifted).argmax(dim=1)
            correct += int((predictions == image_set.labels).sum())
        accuracies.append(correct / (len(directions) * len(image_set)))
    return accuracies


def compute_feature_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the activations of each ReLU after a convolution, float32 (N, channels, h, w).

    images are uint8 (N, C, H, W) on the network's device.
    """
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


def find_dead_channels(network: nn.Module, images: Tensor) -> list[list[int]]:
    """Return, for each convolution, the channels whose ReLU is zero everywhere on all the images.

    images are uint8 (N, C, H, W) on the network's device.
    """
    dead: dict[int, Tensor] = {}
    for batch in images.split(100):
        for layer, feature_maps in enumerate(compute_feature_maps(network, batch)):
            is_zero = feature_maps.amax(dim=(0, 2, 3)) == 0
            dead[layer] = is_zero & dead.get(layer, is_zero)
    return [channels.nonzero().flatten().tolist() for channels in dead.values()]


# ---- Saving and loading --------------------------------------------------------------------------
def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write each content to its path in one step: at any time a file is the old or the new one.

    Raises UserError.
    """
    temporaries = {}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
            temporaries[path] = temporary
            temporary.write_bytes(content)
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except OSError as error:
        hint = "no file was left half written"
        raise UserError(f"cannot write {path}: {error.strerror}; {hint}") from error
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def check_writable(folder: Path, option: str) -> None:
    """Raise UserError, naming the option, unless a megabyte can be written to folder.

    A folder that does not exist is not made: its nearest parent is tried.
    """
    try:
        with tempfile.TemporaryFile(dir=existing_folder(folder)) as file:
            file.write(bytes(2**20))
    except OSError as error:
        reason = f"cannot write to the folder {folder}: {error.strerror}"
        raise UserError(f"{option}: {reason}") from error


def encode_json(content: object) -> bytes:
    """Return content as JSON; in names of files what is not UTF-8 is escaped."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode(errors="backslashreplace")


def serialize_network(network: nn.Module) -> bytes:
    """Return the network's state dict as torch.save writes it, as contiguous CPU tensors."""
    return to_bytes({name: t.cpu().contiguous() for name, t in network.state_dict().items()})


def to_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


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


def save_network(run: TrainedNetwork, dataset: str, test_set: ImageSet, folder: Path) -> None:
    """Write the weights to folder and, beside them, what they are. Raises UserError."""
    metadata = ModelMetadata(
        classes=test_set.class_names,
        image_size=run.sizes.image_size,
        channels=run.sizes.in_channels,
        hidden_units=run.sizes.hidden_units,
        dataset=dataset,
        test_accuracy=run.metrics.accuracy,
        white_value=test_set.white_value,
    )
    path = folder / run.network.model_file
    description = encode_json(asdict(metadata))
    write_files({path: serialize_network(run.network), path.with_suffix(".json"): description})


def load_model(
    path: str | Path = "models/CNN_model.pth", device: str | torch.device = "cpu"
) -> Network:
    """Return the network saved at path, here or beside the script, in eval mode on device.

    Which of NETWORKS it is, and its sizes, are read off its weights. Nothing in the file is
    executed. Raises UserError, a ValueError, unless it is a finite float32 state dict of one.

    It takes float32 images in [0, 1]. That other code normalized its images, did not pad them or
    did not end its MLP with a ReLU, and how large its images were, cannot be read off the weights.
    Warns of the size assumed if it is not FashionMNIST's and no JSON file beside path states it.
    """
    path = locate(path)
    try:
        state = rename_weights(read_state_dict(path))
        kind, sizes = recognize_network(state)
        network = fill_network(kind, sizes, state)
    except OSError as error:
        hint = ""
        if isinstance(error, FileNotFoundError):
            hint = "; train first (your own: --images)"
        raise UserError(f"{path} cannot be read: {error.strerror}{hint}") from error
    except (ValueError, RuntimeError) as error:
        names = " or ".join(kind.__name__ for kind in NETWORKS.values())
        found = f"found: {textwrap.shorten(str(error), 250)}; nothing in it was executed"
        raise UserError(f"{path} is not a float32 state dict of {names}; {found}") from error
    is_described = path.with_suffix(".json").exists()
    if not is_described and (sizes.in_channels, sizes.image_size) != (1, 28):
        size = f"{sizes.in_channels} x {sizes.image_size} x {sizes.image_size}"
        assumed = f"images of {size} and padding of 1 are assumed"
        warnings.warn(f"{path} has no JSON file beside it: {assumed}", stacklevel=2)
    return network.to(device).to(memory_format=torch.channels_last).eval()


# What torch.load, which executes nothing, was seen to raise for files torch.save did not write.
MALFORMED = (
    *(RuntimeError, TypeError, LookupError, AttributeError, AssertionError, EOFError, MemoryError),
    *(pickle.UnpicklingError, struct.error),
)


def load_safely(path: Path) -> object:
    """Return what torch.save wrote to path, if that is intact and nothing in it is to be executed.

    Raises OSError, or ValueError, whose text is what was found instead.
    """
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            start = f"a file that begins with {file.read(16)!r}"
        raise ValueError(f"{start}, no zip file, as torch.save has written since version 1.6")
    size = os.path.getsize(path)
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.save does not compress: what unpacks to more was made to fill the memory.
            unpacked = sum(entry.file_size for entry in archive.infolist())
            is_intact = unpacked <= size and not archive.testzip()
    except (zipfile.BadZipFile, zlib.error, RuntimeError):  # RuntimeError: it is encrypted
        is_intact = False
    if not is_intact:
        raise ValueError("a corrupt file")
    try:
        objects = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        if objects:
            raise ValueError(f"Python objects of {', '.join(sorted(objects))}")
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
            content = f"{name!r} is of type {type(weights).__name__}"
            raise ValueError(f"a dict with the keys {list(state)[:3]} ..., where {content}")
        is_counter = name.endswith("num_batches_tracked")  # of batch normalization, int64
        if weights.dtype != torch.float32 and not is_counter:
            raise ValueError(f"one whose {name} is {weights.dtype}")
        if weights.nbytes > os.path.getsize(path):
            raise ValueError(f"one whose {name} claims to be larger than the file")
        if not are_finite([weights]):
            raise ValueError(f"one whose {name} is not finite")
    return state


def rename_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under our names. Raises ValueError if two have the same.

    DataParallel and torch.compile put something before them; block_1 and block_2 are those of the
    well-known tutorial that trains this network on FashionMNIST.
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


def recognize_network(state: Mapping[str, Tensor]) -> tuple[type[Network], NetworkSizes]:
    """Return the network whose keys these are, and its sizes. Raises ValueError."""
    for kind in NETWORKS.values():
        with suppress(KeyError, ValueError, ArithmeticError):
            return kind, kind.read_sizes(state)
    raise ValueError(f"a state dict with the keys {list(state)[:3]} ...")


def fill_network(kind: type[Network], sizes: NetworkSizes, state: Mapping[str, Tensor]) -> Network:
    """Return a network with the weights in state. Raises RuntimeError if they do not fit."""
    with torch.device("meta"):  # shapes alone: no memory is allocated, no random number drawn
        network = kind.build(sizes)
    network.load_state_dict(state, assign=True)
    return network


def read_metadata(path: Path, network: Network) -> ModelMetadata:
    """Return what the JSON file beside the network's file says, or without one its weights.

    Without one, ten classes of 1 x 28 x 28 images are taken for FashionMNIST's, with a warning.
    Raises UserError if the two do not agree.
    """
    state = network.state_dict()
    json_path = locate(path).with_suffix(".json")
    if not json_path.exists():
        sizes = network.read_sizes(state)
        classes = [f"class {label}" for label in range(sizes.num_classes)]
        dataset = ""
        if (sizes.in_channels, sizes.image_size, sizes.num_classes) == (1, 28, 10):
            classes = FashionMNIST.classes
            dataset = "FashionMNIST"
            warnings.warn(f"{json_path} is missing: {path} is taken for {dataset}'s", stacklevel=2)
        return ModelMetadata(
            classes, sizes.image_size, sizes.in_channels, sizes.hidden_units, dataset
        )
    try:
        found = ModelMetadata(**json.loads(json_path.read_text(encoding="utf-8")))
        if not isinstance(found.classes, list) or found.image_size < 4:
            raise ValueError("its classes are no list, or its images too small")
        sizes = NetworkSizes(
            found.channels,
            found.image_size,
            found.hidden_units,
            len(found.classes),
            network.read_sizes(state).mirror_averaging,
        )
        fill_network(type(network), sizes, state)
    except (OSError, TypeError, ValueError, RuntimeError) as error:  # RuntimeError: other shapes
        raise UserError(f"{json_path} does not describe the network in {path}: {error}") from error
    return found


class Checkpoint:
    """A file from which an interrupted run goes on: the state of each training it has begun.

    conditions decide the result: they must be the same to go on. environment may be another.
    """

    def __init__(
        self, path: Path, interval: float, conditions: dict[str, Any], environment: object
    ) -> None:
        self.path = path
        self.interval = interval  # seconds from one writing of the file to the next
        self.conditions = conditions
        self.environment = environment
        self.resumed_from: object = None  # the environment in which the file was written
        self.states: dict[str, Any] = {}
        self.is_own = False  # whether the file, if there is one, is of this run
        self.last_written = time.monotonic()

    def read(self) -> None:
        """Go on from the file. Raises UserError."""
        try:
            content = load_safely(self.path)
            names = {"conditions", "environment", "states"}
            if not (isinstance(content, dict) and content.keys() == names):
                raise ValueError("this program did not write it")
        except OSError as error:
            hint = "the run may have ended, or come to no checkpoint"
            raise UserError(f"{self.path} cannot be read: {error.strerror}; {hint}") from error
        except ValueError as error:
            raise UserError(f"{self.path} is no checkpoint to go on from: {error}") from error
        conditions = content["conditions"]
        others = [name for name in conditions if conditions[name] != self.conditions.get(name)]
        if others:
            raise UserError(f"{self.path} is of a run with other {', '.join(others)}")
        for key, state in content["states"].items():
            history = [Record(**record) for record in state["history"]]
            self.states[key] = state | {"history": history}
        self.resumed_from = content["environment"]
        if self.resumed_from != self.environment:
            print(f"{self.path} was written in another environment: {self.resumed_from}")
        self.is_own = True

    def update(self, key: str, state: dict[str, Any]) -> None:
        """Keep the state of one training; if interval seconds have passed, write all of them."""
        self.states[key] = state
        if time.monotonic() - self.last_written >= self.interval:
            try:
                self.write()
            except (UserError, OSError) as error:  # training can go on without
                print_error(str(error))

    def write(self) -> None:
        """Write the file in one step; another run's is kept under another name."""
        self.last_written = time.monotonic()
        if self.path.exists() and not self.is_own:
            kept = self.path.with_name(f"checkpoint-{time.strftime('%Y-%m-%d-%H%M%S')}.pth")
            self.path.rename(kept)
            tqdm.write(f"{self.path} of the run before is now {kept}")
        states = {}
        for key, state in self.states.items():
            history = [asdict(record) for record in state["history"]]
            states[key] = state | {"history": history}
        content = {
            "conditions": self.conditions,
            "environment": self.environment,
            "states": states,
        }
        write_files({self.path: to_bytes(content)})
        self.is_own = True

    def remove(self) -> None:
        if self.is_own:
            self.path.unlink(missing_ok=True)


# ---- Figures -------------------------------------------------------------------------------------
# Fonts of Linux, Windows and macOS for other alphabets and emoji.
FONTS = ("Noto Sans CJK JP", "Noto Emoji", "Yu Gothic", "Segoe UI Emoji", "Hiragino Sans")
# Okabe and Ito's colours, which the colour-blind can tell apart too.
COLORS = ("#E69F00", "#0072B2", "#CC79A7", "#56B4E9", "#009E73", "#D55E00", "#F0E442", "#000000")


def draw_figures(
    trained: Sequence[TrainedNetwork],
    shown: TrainedNetwork,
    test_set: ImageSet,
    analysis: Analysis,
    dataset: str,
) -> dict[str, bytes]:
    """Return the figures as PNG files under their names.

    shown is the network whose predictions and activations are drawn.
    """
    import matplotlib

    examples, mistakes = choose_examples(shown, trained[0].seed)
    count = f"{len(test_set):,} test images"
    shifted = f"{analysis.images:,} test images, shifted in four directions"
    # Names of classes and folders are text, in whatever alphabet, even with two dollar signs in it.
    with (
        matplotlib.rc_context({"text.parse_math": False, "font.family": find_fonts()}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")
        figures = {
            "accuracy_model_graph.png": plot_accuracy(trained, f"{dataset}, {count}"),
            "learning_curves.png": plot_learning_curves(trained, f"Learning curves on {dataset}"),
            "confusion_matrix.png": plot_confusion_matrix(shown, test_set.class_names),
            "prediction_examples.png": plot_predictions(
                shown, test_set, examples, f"{shown.name} on random test images"
            ),
            "mistakes.png": plot_predictions(
                shown, test_set, mistakes, f"The most confident mistakes of {shown.name}"
            ),
            "shift_robustness.png": plot_shifts(analysis.shift_accuracy, shifted),
        }
        if analysis.dead_channels:
            images = test_set.subset(slice(3))
            figures["feature_maps.png"] = plot_feature_maps(
                shown.network, images, analysis.dead_channels
            )
        return {name: render(figure) for name, figure in figures.items()}


def find_fonts() -> list[str]:
    """Return the installed fonts of FONTS after matplotlib's own, which lacks their characters."""
    from matplotlib.font_manager import get_font_names

    installed = set(get_font_names())
    return ["DejaVu Sans", *(name for name in FONTS if name in installed)]


def write_figures(figures: Mapping[str, bytes], folder: Path) -> None:
    """Write the figures to folder and print their paths. Raises UserError."""
    write_files({folder / name: content for name, content in figures.items()})
    for name in figures:
        print(folder / name)


def render(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def choose_examples(run: TrainedNetwork, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of nine random test images, and of the nine most confident mistakes."""
    generator = torch.Generator().manual_seed(seed)
    examples = torch.randperm(len(run.test_labels), generator=generator)[:9]
    confidences, predictions = run.test_logits.softmax(dim=1).max(dim=1)
    mistakes = (predictions != run.test_labels).nonzero().flatten()
    order = confidences[mistakes].argsort(descending=True)
    return examples, mistakes[order[:9]]


def new_figure(
    title: str, size: tuple[float, float], rows: int = 1, columns: int = 1
) -> tuple["Figure", list["Axes"]]:
    """Return a figure of size inches and its axes, row by row; it needs no screen and no pyplot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid


def show_image(axes: "Axes", image: Tensor, title: str, largest: float = 255) -> None:
    """Show an image (H, W, C), or activations (H, W), without ticks, below a title."""
    colors = "gray" if image.dim() == 3 else "viridis"
    axes.imshow(image.numpy(force=True), cmap=colors, vmin=0, vmax=largest)
    axes.set_title(title, fontsize=9)
    axes.set(xticks=[], yticks=[], anchor="N")
    axes.spines[:].set_visible(False)


def plot_accuracy(trained: Sequence[TrainedNetwork], title: str) -> "Figure":
    """Draw test accuracy (left) and training time (right): a bar for each network and optimizer.

    Of several runs: the mean, and an error bar of one standard deviation.
    """
    groups = group_runs(run for run in trained if not run.diverged)
    figure, (accuracy_axes, time_axes) = new_figure(title, (8, 3.8), columns=2)
    accuracies = {}
    seconds = {}
    for label, runs in groups.items():
        accuracies[label] = [run.metrics.accuracy for run in runs]
        seconds[label] = [run.training_seconds for run in runs]
    draw_bars(accuracy_axes, accuracies, "{:.2%}")
    draw_bars(time_axes, seconds, "{:.1f} s")
    accuracy_axes.set(ylabel="test accuracy", ylim=(0, 1.1))
    accuracy_axes.yaxis.set_major_formatter("{x:.0%}")
    time_axes.set(ylabel="training time (s)")
    return figure


def draw_bars(axes: "Axes", values: Mapping[str, Sequence[float]], text_format: str) -> None:
    names = [label.replace(" ", "\n") for label in values]
    means = [mean(runs) for runs in values.values()]
    spreads = [stdev(runs) if len(runs) > 1 else 0.0 for runs in values.values()]
    errors = spreads if any(spreads) else None
    bars = axes.bar(names, means, width=0.6, yerr=errors, capsize=8, color=COLORS)
    axes.bar_label(bars, fmt=text_format, padding=4)


def plot_learning_curves(trained: Sequence[TrainedNetwork], title: str) -> "Figure":
    """Draw loss (left) and accuracy (right) over the epochs: a line for each run.

    Solid on the test images, dashed on the training images. Runs that diverged are left out.
    """
    figure, (loss_axes, accuracy_axes) = new_figure(title, (8, 4), columns=2)
    groups = group_runs(run for run in trained if not run.diverged)
    for color, (label, runs) in zip(COLORS, groups.items(), strict=False):
        for run in runs:
            draw_curves(loss_axes, run, "loss", color)
            draw_curves(accuracy_axes, run, "accuracy", color)
        loss_axes.plot([], color=color, label=label)  # once in the legend, however many runs
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


def draw_curves(axes: "Axes", run: TrainedNetwork, measure: str, color: str) -> None:
    epochs = [record.epoch for record in run.history]
    on_train = [getattr(record, f"train_{measure}") for record in run.history]
    on_test = [getattr(record, f"test_{measure}") for record in run.history]
    axes.plot(epochs, on_train, "--", color=color, marker=".", markersize=3, linewidth=1)
    axes.plot(epochs, on_test, "-", color=color, marker=".", markersize=3, linewidth=1)


def plot_confusion_matrix(run: TrainedNetwork, class_names: Sequence[str]) -> "Figure":
    """Draw the confusion matrix, rows the true class, as counts and shares of each row."""
    import matplotlib.pyplot as plt
    from mlxtend.plotting import plot_confusion_matrix

    matrix = run.metrics.confusion_matrix.numpy(force=True)
    side = min(16, max(9, 0.9 * len(class_names)))  # inches
    title = f"{run.name}: {run.metrics.accuracy:.2%} of {matrix.sum():,} test images correct"
    figure, (axes,) = new_figure(title, (side, side))
    if len(class_names) > 25:  # no room for numbers
        axes.imshow(matrix / matrix.sum(axis=1, keepdims=True).clip(min=1), cmap="Blues")
        axes.tick_params(labelsize=min(8, 700 / len(class_names)))
    else:
        with plt.ioff():
            unused = plt.figure()  # mlxtend labels pyplot's current axes, which may be a user's
            plot_confusion_matrix(matrix, show_normed=True, figure=figure, axis=axes)
            plt.close(unused)
    axes.set(xlabel="predicted class", ylabel="true class")
    ticks = range(len(class_names))
    axes.set_xticks(ticks, class_names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, class_names)
    return figure


def plot_predictions(
    run: TrainedNetwork, test_set: ImageSet, indices: Tensor, title: str
) -> "Figure":
    """Draw up to nine test images, chosen by indices (n,), with predicted and true class."""
    figure, grid = new_figure(title, (7.5, 8.5), rows=3, columns=3)
    for axes in grid[len(indices) :]:
        axes.set_visible(False)
    for axes, index in zip(grid, indices.tolist(), strict=False):
        probability, prediction = run.test_logits[index].softmax(dim=0).max(dim=0)
        label = run.test_labels[index]
        mark, color = ("✓", "#009E73") if prediction == label else ("✗", "#D55E00")
        predicted_class = f"{test_set.class_names[int(prediction)]}, {probability:.1%}"
        true_class = test_set.class_names[int(label)]
        text = f"{mark} predicted: {predicted_class}\ntrue: {true_class}"
        show_image(axes, test_set.images[index].permute(1, 2, 0), text)
        axes.title.set_color(color)
    return figure


def plot_shifts(shift_accuracy: Mapping[str, Sequence[float]], title: str) -> "Figure":
    """Draw one line per network: its accuracy on images shifted by 0, 1, 2, ... pixels."""
    figure, (axes,) = new_figure(title, (8, 4))
    for color, (name, accuracies) in zip(COLORS, shift_accuracy.items(), strict=False):
        axes.plot(accuracies, color=color, marker="o", label=name)
    axes.set(xlabel="shift (pixels)", ylabel="test accuracy", ylim=(0, 1))
    axes.set_yticks(torch.arange(0, 1.05, 0.1).tolist())
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    return figure


def plot_feature_maps(
    network: nn.Module, image_set: ImageSet, dead_channels: Sequence[Sequence[int]]
) -> "Figure":
    """Draw each image and its activations in up to ten channels of each convolution, after ReLU.

    One column per layer, as in CNN Explainer (Wang et al. 2020, arXiv:2004.15004), and one scale;
    above it stands how many of all channels are dead.
    """
    layers = compute_feature_maps(network, image_set.images)
    columns = (1 + len(layers)) * len(image_set)
    title = "Activations after each convolution; dark: zero, bright: the largest shown of the layer"
    figure, grid = new_figure(title, (max(8, 0.7 * columns), 7.4), columns=columns)
    remaining = iter(grid)
    for index, image in enumerate(image_set.images):
        name = image_set.class_names[int(image_set.labels[index])]
        show_image(next(remaining), image.permute(1, 2, 0), f"{name}\ninput")
        for number, dead in enumerate(dead_channels):
            channels = layers[number][:, :10]
            text = f"conv {number + 1}\n{len(dead)} dead" if dead else f"conv {number + 1}"
            column = make_grid(channels[index].unsqueeze(1), nrow=1, pad_value=math.nan)
            show_image(next(remaining), column[0], text, channels.max().item())
    return figure


# ---- Explorer: what assets/explorer.html is given ------------------------------------------------
def add_snapshot(
    snapshots: list[dict[str, Any]], network: nn.Module, epoch: float, accuracy: float | None
) -> None:
    """Add the weights, as int8 and a scale for each row of them, if the page shows the network."""
    if not (isinstance(network, Network) and network.in_explorer):
        return
    weights = []
    scales = []
    for tensor in network.state_dict().values():
        rows = tensor.flatten(1) if tensor.dim() > 1 else tensor[None]
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


def drop_snapshots(snapshots: list[dict[str, Any]], most: int) -> None:
    """Drop those with the nearest neighbours, so that more are left of the beginning."""
    while len(snapshots) > most:
        gaps = []  # the ratio of the epochs after and before each
        for before, after in zip(snapshots[1:], snapshots[3:], strict=False):
            gaps.append(after["epoch"] / before["epoch"])
        del snapshots[2 + gaps.index(min(gaps))]


def write_explorer(
    chosen: Mapping[str, TrainedNetwork], dataset: str, test_set: ImageSet, folder: Path
) -> None:
    """Write the page and its data to folder: images, weights while training. Raises UserError."""
    explored = {name: run for name, run in chosen.items() if run.network.in_explorer}
    labels = test_set.labels.cpu()
    # A page of few megabytes, which a browser opens at once: so much of weights and of images.
    weight_bytes = sum(count_parameters(run.network) for run in explored.values())
    most_moments = max(3, min(16, 1_200_000 // max(1, weight_bytes)))
    most_images = max(10, min(220, 1_000_000 // test_set.images[0].numel()))
    typical = choose_typical(chosen, labels)[:most_images]
    mistakes = choose_mistakes(explored, labels, most_images - len(typical))
    sample = test_set.subset(torch.tensor(typical + mistakes, device=test_set.labels.device))
    step = max(1, round(test_set.images.shape[2] / 28))
    data: dict[str, Any] = {
        "dataset": dataset,
        "classes": test_set.class_names,
        "shape": test_set.images.shape[1:],
        "labels": sample.labels.tolist(),
        "images": encode(sample.images),
        "typical": len(typical),
        "shiftStep": step,
        "networks": {},
        "others": {},
    }
    for name, run in chosen.items():
        if name in explored:
            predictions = run.test_logits.argmax(dim=1)[typical + mistakes]
            data["networks"][name] = describe_training(run, most_moments)
            data["networks"][name]["confusion"] = run.metrics.confusion_matrix.tolist()
            data["networks"][name]["predictions"] = predictions.tolist()
            # For the page to see whether it computes what this network does.
            data["networks"][name]["logits"] = run.test_logits[typical[:10]].tolist()
        else:
            macs = 225 * count_macs(run.network, sample.images[:1])  # for one image
            count = max(1, min(10, len(typical), 60_000_000_000 // macs))  # a few seconds
            data["others"][name] = predict_shifted(run.network, sample.images[:count], step)
    script = f"window.explorerData = {json.dumps(data)};\n"
    files = {folder / "explorer_data.js": script.encode()}
    page = Path(__file__).parent / "assets" / "explorer.html"
    if page.exists():  # not where the script alone was copied
        files[folder / page.name] = page.read_bytes()
    write_files(files)
    for path in files:
        print(path)


def choose_typical(chosen: Mapping[str, TrainedNetwork], labels: Tensor) -> list[int]:
    """Return, for each class, the first of the test images that most networks get right."""
    right = torch.stack([run.test_logits.argmax(dim=1) == labels for run in chosen.values()])
    order = right.sum(dim=0).argsort(descending=True, stable=True)
    return [int(order[labels[order] == label][0]) for label in labels.unique()]


def choose_mistakes(explored: Mapping[str, TrainedNetwork], labels: Tensor, most: int) -> list[int]:
    """Return the first mistakes of each cell of each confusion matrix, up to six of each."""
    found = []
    for run in explored.values():
        in_cell: Counter[tuple[int, int]] = Counter()
        predictions = run.test_logits.argmax(dim=1)
        for index in (predictions != labels).nonzero().flatten().tolist():
            cell = (int(labels[index]), int(predictions[index]))
            in_cell[cell] += 1
            if in_cell[cell] <= 6:
                found.append((in_cell[cell], index))
    return list(dict.fromkeys(index for _, index in sorted(found)))[:most]


def describe_training(run: TrainedNetwork, most_moments: int) -> dict[str, Any]:
    """Return the weights at some moments of training; the last ones exactly."""
    state = run.network.state_dict()
    snapshots = list(run.snapshots)
    drop_snapshots(snapshots, most_moments)
    return {
        "shapes": {key: tensor.shape for key, tensor in state.items()},
        "last": encode(torch.cat([tensor.flatten() for tensor in state.values()])),
        "epochs": [snapshot["epoch"] for snapshot in snapshots],
        "accuracies": [snapshot["accuracy"] for snapshot in snapshots],
        "weights": [encode(snapshot["weights"]) for snapshot in snapshots],
        "scales": [encode(snapshot["scales"]) for snapshot in snapshots],
    }


def predict_shifted(network: nn.Module, images: Tensor, step: int) -> list[list[int]]:
    """Return the labels predicted for uint8 images (N, C, H, W) at each of 15 x 15 shifts."""
    predictions = []
    for down, right in itertools.product(range(-7 * step, 8 * step, step), repeat=2):
        shifted = F.pad(images, (right, -right, down, -down))
        predictions.append(predict_logits(network, shifted).argmax(dim=1).tolist())
    return predictions


def encode(tensor: Tensor) -> str:
    """Return the tensor's bytes, row by row, as base64."""
    return base64.b64encode(tensor.numpy(force=True).tobytes()).decode()


# ---- Your own images -----------------------------------------------------------------------------
Files = dict[str, list[Path]]  # of each class, in the order of their names
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= {"val": "validation", "valid": "validation", "validation": "validation"}


def load_image_folder(folder: Path, image_size: int | None, seed: int) -> tuple[ImageSet, ImageSet]:
    """Return the training set and the test set of a folder of images, on the CPU.

    For its layouts see find_splits; without a test folder one image in five of each class, chosen
    by seed, is for testing. The images get one channel if all are grey, else three, and a side of
    image_size pixels; None is 28 if all are 28 x 28, else 64. A few unreadable files are left out.
    Raises UserError, naming the file or folder, for what is missing or not understood.
    """
    generator = torch.Generator().manual_seed(seed)
    train_folder, test_folder = find_splits(folder)
    taken: set[Path] = set()
    train_files = find_images(train_folder, taken)
    if test_folder:
        test_files = find_images(test_folder, taken)
        if different := sorted(train_files.keys() ^ test_files.keys()):
            names = f"{train_folder.name} and {test_folder.name}"
            raise UserError(f"{folder}: only one of {names} has {', '.join(different)}")
    else:
        train_files, test_files = hold_out(train_files, generator)
    paths = [*itertools.chain(*train_files.values(), *test_files.values())]
    images, white_value = read_images(paths, image_size)
    labels = torch.cat([label_files(train_files), label_files(test_files)])
    is_train = torch.arange(len(paths)) < sum(len(files) for files in train_files.values())
    is_readable = torch.tensor([image is not None for image in images])
    pixels = torch.stack([image for image in images if image is not None])
    if (pixels == pixels[:, :1]).all():  # grey
        pixels = pixels[:, :1]
    class_names = tuple(printable(name) for name in train_files)
    unreadable = len(images) - len(pixels)
    both = ImageSet(pixels, labels[is_readable], class_names, white_value, unreadable)
    train_set = both.subset(is_train[is_readable])
    test_set = both.subset(~is_train[is_readable])
    for image_set in (train_set, test_set):
        counts = image_set.labels.bincount(minlength=len(class_names)).tolist()
        if 0 in counts:
            raise UserError(f"{folder}: no file of {class_names[counts.index(0)]} can be read")
    # Shuffled, since the first ones serve as a sample.
    return train_set, test_set.subset(torch.randperm(len(test_set), generator=generator))


def find_splits(folder: Path) -> tuple[Path, Path | None]:
    """Return the folders to train and to test on, each with a folder per class; None: hold out.

    A split holds class folders and is called train or training, test or testing, val, valid or
    validation, perhaps with a word and "_" before it. Raises UserError if that is ambiguous.
    """
    root = unwrap(folder)
    splits: dict[str, list[Path]] = {"class": []}
    for child in class_folders(root):
        kind = SPLITS.get(child.name.lower().rpartition("_")[2], "class")
        inner = unwrap(child) if class_folders(unwrap(child)) else child
        if not class_folders(inner):  # a class may be called train
            kind = "class"
        splits.setdefault(kind, []).append(inner)
    if splits.keys() == {"class"}:
        return root, None
    unused = splits.pop("class")
    tested_on = splits.get("test") or splits.get("validation")
    is_ambiguous = any(len(found) > 1 for found in splits.values())
    if is_ambiguous or "train" not in splits or not tested_on:
        raise UserError(
            f"{folder} is neither DIR/<class>/ nor DIR/train/<class>/ with DIR/test/<class>/ "
            "or DIR/validation/<class>/"
        )
    if len(splits) == 3:
        unused += splits["validation"]
    for folder in unused:
        print(f"not used: {folder}")
    return splits["train"][0], tested_on[0]


def unwrap(folder: Path) -> Path:
    """Return the only folder in folder, or the only one in that, or folder itself."""
    for _ in range(2):
        inside = class_folders(folder)
        if len(inside) == 1 and not any(is_image_name(path) for path in folder.iterdir()):
            folder = inside[0]
    return folder


def class_folders(folder: Path) -> list[Path]:
    """Return the folders in folder but hidden ones and links in a circle. Raises UserError."""
    real = folder.resolve()
    folders = []
    try:
        for path in sorted(folder.iterdir()):
            is_visible = path.is_dir() and not is_hidden(path.name)
            if is_visible and not real.is_relative_to(path.resolve()):
                folders.append(path)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error
    return folders


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def find_images(folder: Path, taken: set[Path]) -> Files:
    """Return the image files of each class, which is a folder in folder. Raises UserError.

    Links to class folders and files are followed, but not to files that are taken already, which
    are added to: otherwise one image could be both trained and tested on.
    """
    classes = class_folders(folder)
    if len(classes) < 2:
        raise UserError(f"{folder} must have at least two folders of images, one per class")
    images: Files = {}
    skipped = [str(path) for path in folder.iterdir() if path not in classes]
    for class_folder in classes:
        images[class_folder.name] = []
        real = class_folder.resolve()
        for path in sorted(real.rglob("*")):
            if any(is_hidden(part) for part in path.relative_to(real).parts):
                continue
            if path.is_file() and is_image_name(path) and path.resolve() not in taken:
                images[class_folder.name].append(path)
                taken.add(path.resolve())
            elif path.is_symlink() or not path.is_dir():
                skipped.append(str(path))
    skipped = sorted(path for path in skipped if not is_hidden(Path(path).name))
    if skipped:
        shown = ", ".join(skipped[:5])
        if len(skipped) > 5:
            shown += ", ..."
        print(f"{len(skipped)} skipped, not images of a class, or again: {shown}")
    if empty := [name for name in images if not images[name]]:
        hint = ""
        for skipped_path in skipped:
            hint = hint or explain(skipped_path)
        raise UserError(f"{folder} has no image in {', '.join(empty)}{hint}")
    return images


def hold_out(files: Files, generator: torch.Generator) -> tuple[Files, Files]:
    """Return the files to train on and, one in five of each class, those to test on."""
    train_files = {}
    test_files = {}
    for name, paths in files.items():
        if len(paths) < 2:
            raise UserError(f"{paths[0].parent} has one image; a class needs one to test on too")
        shuffled = [paths[i] for i in torch.randperm(len(paths), generator=generator)]
        count = max(1, round(len(paths) / 5))
        test_files[name] = shuffled[:count]
        train_files[name] = shuffled[count:]
    return train_files, test_files


def read_images(paths: list[Path], image_size: int | None) -> tuple[list[Tensor | None], float]:
    """Return each image, uint8 (3, image_size, image_size), or None, and the value of white.

    That is one for all files of more than 8 bits. Raises UserError if more than ten files and more
    than one in a hundred are unreadable, or all.
    """
    headers = map_files(read_header, paths)
    sizes = {header.size for header in headers if isinstance(header, Image.Image)}
    image_size = image_size or (28 if sizes == {(28, 28)} else 64)
    is_deep = [isinstance(header, Image.Image) and header.mode[0] in "IF" for header in headers]
    largest = map_files(read_largest, list(itertools.compress(paths, is_deep)))
    white_value = find_white([value for value in largest if isinstance(value, float)])
    read = partial(read_square, mode="RGB", image_size=image_size, white_value=white_value)
    results = map_files(read, paths)
    errors = [result for result in results if isinstance(result, UserError)]
    for error in errors[:10]:
        print_error(f"left out: {error}")
    if len(errors) > max(10, len(paths) / 100) or len(errors) == len(paths):
        raise UserError(f"{len(errors)} of {len(paths)} files cannot be read as images")
    return [result if isinstance(result, Tensor) else None for result in results], white_value


def map_files(function: Callable[[Path], T], paths: list[Path]) -> list[T | UserError]:
    """Return function of each path, or its error, by one thread per processor."""

    def attempt(path: Path) -> T | UserError:
        try:
            return function(path)
        except UserError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count(), initializer=leave_processor) as pool:
        return list(progress_bar(pool.map(attempt, paths), "reading images", len(paths)))


def leave_processor() -> None:
    """Let this thread run on all processors: it has inherited the one that OpenMP gave to main."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, PROCESSORS)


def find_white(largest: list[float]) -> float:
    """Return the value of white in files of more than 8 bits from the largest value in each."""
    if not largest:
        return 65535
    white = max(largest)
    for usual in (1.0, 255, 4095, 65535):
        if white <= usual:
            white = usual
            break
    print(f"{len(largest)} images of more than 8 bits, values up to {max(largest):g}:", end=" ")
    print(f"{white:g} is white")
    return white


def label_files(files: Files) -> Tensor:
    """Return the index of its class for each file: int64 (N,)."""
    counts = torch.tensor([len(paths) for paths in files.values()])
    return torch.arange(len(files)).repeat_interleave(counts)


def printable(name: str) -> str:
    """Return a file's name with a question mark for what is not UTF-8 in it."""
    return name.encode(errors="replace").decode()


@cache
def image_suffixes() -> set[str]:
    """Return how the names of files end that Pillow can read, pixels and all."""
    with suppress(ImportError):  # of HEIC, if it is installed
        from pillow_heif import register_heif_opener

        register_heif_opener()
    suffixes = set()
    for suffix, name in Image.registered_extensions().items():
        reader = Image.OPEN[name][0] if name in Image.OPEN else ImageFile.StubImageFile
        is_stub = isinstance(reader, type) and issubclass(reader, ImageFile.StubImageFile)
        if not is_stub and name != "MPEG":  # of which Pillow reads the size alone
            suffixes.add(suffix)
    return suffixes


def is_image_name(path: str | Path) -> bool:
    """Whether a path ends like an image that Pillow reads, and is not hidden."""
    return Path(path).suffix.lower() in image_suffixes() and not is_hidden(Path(path).name)


# What Pillow raises for files that are no image, or only the beginning of one.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, RuntimeError, struct.error),
    Image.DecompressionBombError,
)


@contextmanager
def reading(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file; what Pillow raises while it is read becomes a UserError."""
    image_suffixes()  # registers a reader of HEIC
    try:
        with Image.open(path) as file:
            yield file
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read as an image: {error}{explain(path)}") from error


def read_header(path: Path) -> Image.Image:
    """Return an image of which mode and size are known, but no pixel. Raises UserError."""
    with reading(path) as file:
        return file


def read_largest(path: Path) -> float:
    """Return the largest value in an image of one channel. Raises UserError."""
    with reading(path) as file:
        extrema = file.getextrema()
        return max(float(value) for value in extrema if not isinstance(value, tuple))


def read_image(path: str | Path, mode: str, white_value: float = 65535) -> Image.Image:
    """Return an image in mode L or RGB, rotated by EXIF, visible where transparent.

    white_value is that of a file of more than 8 bits. Raises UserError.
    """
    with reading(path) as file:
        image = ImageOps.exif_transpose(file)  # cameras store the orientation beside the pixels
        if image.mode[0] in "IF":  # more than 8 bits
            values = image if image.mode == "F" else image.convert("I").convert("F")
            image = values.point(lambda value: value * (255 / white_value) + 0.5).convert("L")
        if image.has_transparency_data:
            image = put_on_page(image.convert("RGBA"))
        return image.convert(mode)


def explain(path: str | Path) -> str:
    """Return what to do about a file that is no image to Pillow, or nothing."""
    if Path(path).suffix.lower() in (".heic", ".heif"):
        return "; it is HEIC, which Pillow reads once pillow-heif is installed"
    if Path(path).is_file():  # a named pipe would be waited for
        with suppress(OSError), open(path, "rb") as file:
            if file.read(40).startswith(b"version https://git-lfs"):
                return "; it only points to the image: `git lfs pull` gets it"
    return ""


def put_on_page(image: Image.Image) -> Image.Image:
    """Return a transparent RGBA image on white, or on black if nothing would be seen on white."""
    on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if min(on_white.convert("L").tobytes()) < 200:
        return on_white
    return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)


def read_square(path: str | Path, mode: str, image_size: int, white_value: float) -> Tensor:
    """Return an image as uint8 (C, image_size, image_size): its middle, resized, antialiased."""
    image = read_image(path, mode, white_value)
    return pil_to_tensor(ImageOps.fit(image, (image_size, image_size), Image.Resampling.LANCZOS))


def prepare_garment(photograph: Image.Image) -> Tensor:
    """Convert an RGB photograph to FashionMNIST's format: uint8 (1, 28, 28), light on black.

    The dataset's authors trimmed a white border, resized, sharpened, padded, inverted and greyed
    (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747, section 2). Here the more a pixel differs from
    the background, the lighter it becomes, so that garment and background may have any colours,
    and the light on the background may vary a little.
    """
    small = photograph.copy()
    small.thumbnail((280, 280), reducing_gap=None)  # as assets/explorer.html does it
    without_noise = small.filter(ImageFilter.MedianFilter(3))
    pixels = pil_to_tensor(without_noise).float()[None]
    corners = F.interpolate(pixels, (32, 32), mode="area")[:, :, ::31, ::31]
    color = corners.flatten(2).median(dim=2).values[:, :, None, None]
    # From corner to corner light may vary by 12 of 255; what differs more is a garment there.
    corners = color + (corners - color).clamp(-12, 12)
    background = F.interpolate(corners, pixels.shape[2:], mode="bilinear", align_corners=True)
    difference = (pixels - background).abs().mean(dim=(0, 1))
    threshold = max(9, 0.1 * difference.max().item())  # below: shadows and noise
    is_garment = difference > threshold
    if not is_garment.any():
        return torch.zeros(1, 28, 28, dtype=torch.uint8)
    brightest = difference[is_garment].quantile(0.95)
    garment = to_pil_image(((difference - threshold) / (brightest - threshold)).clamp(0, 1))
    trimmed = garment.crop(garment.point(lambda value: 255 * (value > 0)).getbbox())
    scale = 28 / max(trimmed.width, trimmed.height)
    size = (max(1, round(scale * trimmed.width)), max(1, round(scale * trimmed.height)))
    resized = trimmed.resize(size, Image.Resampling.BICUBIC)
    sharpened = resized.filter(ImageFilter.UnsharpMask(radius=1, percent=80, threshold=0))
    return pil_to_tensor(ImageOps.pad(sharpened, (28, 28)))


# ---- Command line --------------------------------------------------------------------------------
def option(
    default: T, description: str, least: float = 0, needs: str = "", **argument: object
) -> T:
    """Return a setting: how argparse reads it, its least value, the option that it needs."""
    metadata = {"argument": argument, "help": description, "least": least, "needs": needs}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """The options of the command line."""

    epochs: int | None = option(
        None, "passes over the training set; by default 3, more on few --images", type=int, least=1
    )
    batch_size: int | None = option(
        None, "images per training step; by default 128, of --images 64 or fewer", type=int, least=1
    )
    learning_rate: float | None = option(
        None, "peak; by default the optimizer's own", type=float, least=1e-9
    )
    networks: Sequence[str] = option(
        (),
        "to compare; by default mlp tinyvgg, on --images tinyvgg resnet",
        choices=NETWORKS,
        nargs="+",
    )
    optimizer: Sequence[str] = option(
        ("adam",), "one, or several to compare", choices=OPTIMIZERS, nargs="+"
    )
    hidden_units: int | None = option(
        None, "width of the networks; by default each one's own", type=int, least=1
    )
    augment: bool | None = option(
        None,
        "change training images at random; by default only --images",
        action=argparse.BooleanOptionalAction,
    )
    mirror: bool | None = option(
        None,
        "mirror them too; by default unless --images are grey, as letters are",
        action=argparse.BooleanOptionalAction,
    )
    seed: int = option(42, "decides initial weights, image order and examples", type=int)
    runs: int = option(1, "train all networks N times: seed, seed + 1, ...", type=int, least=1)
    device: str = option(
        "auto", "auto is a GPU if there is one", choices=("auto", "cpu", "cuda", "mps")
    )
    no_plots: bool = option(False, "draw no figures, and write no explorer", action="store_true")
    images: str | None = option(
        None, "your own, in DIR/<class>/ or DIR/train/<class>/ and DIR/test/", metavar="DIR"
    )
    image_size: int | None = option(
        None, "of --images, in pixels; by default 28 or 64", type=int, least=8, needs="images"
    )
    data_dir: str = option(
        "data_1", "where FashionMNIST is, here or beside the script", metavar="DIR"
    )
    models_dir: str = option(
        "models", "for the networks; --predict also looks beside the script", metavar="DIR"
    )
    assets_dir: str = option(
        "assets", "where the figures and results.json are written", metavar="DIR"
    )
    predict: Sequence[str] = option(
        (), "train nothing; classify these images", nargs="+", metavar="FILE"
    )
    model: str | None = option(
        None, "for --predict; by default the best one saved", metavar="FILE", needs="predict"
    )
    resume: bool = option(
        False, "go on with the run that was interrupted, to the same result", action="store_true"
    )
    checkpoint_interval: float = option(
        60, "seconds between checkpoints, written at the end of an epoch", type=float, metavar="N"
    )
    json: bool = option(
        False, "print predictions as lines of JSON", action="store_true", needs="predict"
    )


class ArgumentParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """End the program as argparse does, but in one line."""
        print_error(f"{message} (see --help)")
        sys.exit(2)


def parse_args(argv: Sequence[str] | None = None) -> Settings:
    """Read the command line; an invalid one ends the program with one line and exit code 2."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    flags = {setting.name: f"--{setting.name.replace('_', '-')}" for setting in fields(Settings)}
    for setting in fields(Settings):
        description = setting.metadata["help"]
        if setting.default:
            default = setting.default
            shown = " ".join(default) if isinstance(default, tuple) else default
            description += f" (default: {shown})"
        argument = setting.metadata["argument"]
        parser.add_argument(
            flags[setting.name], default=setting.default, help=description, **argument
        )
    values = vars(parser.parse_args(argv))
    for setting in fields(Settings):
        flag, value = flags[setting.name], values[setting.name]
        least, needs = setting.metadata["least"], setting.metadata["needs"]
        if isinstance(value, int | float) and not least <= value < 2**32:
            parser.error(f"argument {flag}: {value} is not between {least} and 2**32")
        if value == "" or (isinstance(value, list) and "" in value):
            parser.error(f"argument {flag}: it is empty")
        if needs and value and not values[needs]:
            parser.error(f"argument {flag}: not allowed without --{needs}")
    if values["predict"] and values["images"]:
        parser.error("argument --images: not allowed with --predict; name a network with --model")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if values["device"] == "auto":
        values["device"] = next((device for device in available if available[device]), "cpu")
    elif not available.get(values["device"], True):
        parser.error(f"argument --device: there is no {values['device']} on this machine")
    return Settings(**values)


@dataclass(frozen=True)
class TrainingPlan:
    """What the settings leave to the images."""

    epochs: int
    batch_size: int
    networks: Sequence[str]
    augment: bool | Augmentation
    learning_rate_scale: float  # of the optimizer's peak learning rate


def plan_training(settings: Settings, train_set: ImageSet) -> TrainingPlan:
    """Return what the settings say or, where they do not, what was best on held-out images."""
    if not settings.images:
        return TrainingPlan(
            epochs=settings.epochs or 3,
            batch_size=settings.batch_size or 128,
            networks=settings.networks or ("mlp", "tinyvgg"),
            augment=bool(settings.augment) and Augmentation(mirror=settings.mirror is not False),
            learning_rate_scale=1.0,
        )
    count, channels, _, side = train_set.images.shape
    batch_size = settings.batch_size or min(64, max(8, count // 10))
    steps_per_epoch = math.ceil(count / batch_size)
    # As many steps for few images as for many, and no more than take some ten minutes.
    steps = 2300 * min(1.0, (64 / side) ** 2)
    augmentation = Augmentation(
        mirror=channels == 3 if settings.mirror is None else settings.mirror,
        shift=0.1,
        zoom=0.2,
        rotation=10,
        color=0.2,
        padding="reflection",
    )
    return TrainingPlan(
        epochs=settings.epochs or max(1, round(steps / steps_per_epoch)),
        batch_size=batch_size,
        networks=settings.networks or ("tinyvgg", "resnet"),
        augment=settings.augment is not False and augmentation,
        learning_rate_scale=min(1.0, batch_size / 128),
    )


@dataclass(frozen=True)
class Experiment:
    """What is trained, on which images, and where the results go."""

    settings: Settings
    plan: TrainingPlan
    dataset: str
    train_set: ImageSet
    test_set: ImageSet
    models_dir: Path
    assets_dir: Path
    checkpoint: Checkpoint

    def sizes(self, kind: type[Network]) -> NetworkSizes:
        """Return how a network of this kind is built here."""
        _, in_channels, _, image_size = self.train_set.images.shape
        hidden_units = self.settings.hidden_units or kind.default_hidden_units
        num_classes = len(self.train_set.class_names)
        how = self.plan.augment
        is_mirrored = isinstance(how, Augmentation) and how.mirror
        return NetworkSizes(in_channels, image_size, hidden_units, num_classes, is_mirrored)


def run(settings: Settings) -> int:
    """Train, compare, analyze, draw and save; return the exit code. Raises UserError.

    What is finished is written at once, so that nothing that comes later can lose it.
    """
    experiment = prepare(settings)
    checkpoint = experiment.checkpoint
    print_plan(experiment)
    try:
        trained = train_networks(experiment)
        if process_rank()[0]:  # the first process speaks for all
            return 0
        print_table(trained)
        exit_code = report(experiment, trained)
    except KeyboardInterrupt:
        if process_rank()[0] or not checkpoint.states:
            raise
        checkpoint.write()
        print_error(f"interrupted; add --resume to go on from {checkpoint.path}")
        return 130
    checkpoint.remove()
    return exit_code


def prepare(settings: Settings) -> Experiment:
    """Check the folders, read the images, choose what the settings leave open. Raises UserError."""
    # Your own images get folders of their own: FashionMNIST's networks are not overwritten.
    subfolder = Path(settings.images).resolve().name or "root" if settings.images else ""
    models_dir = Path(settings.models_dir, subfolder)
    assets_dir = Path(settings.assets_dir, subfolder)
    check_writable(models_dir, "--models-dir")
    check_writable(assets_dir, "--assets-dir")
    train_set, test_set = load_images(settings)
    plan = plan_training(settings, train_set)
    return Experiment(
        settings=settings,
        plan=plan,
        dataset=printable(subfolder) or "FashionMNIST",
        train_set=train_set,
        test_set=test_set,
        models_dir=models_dir,
        assets_dir=assets_dir,
        checkpoint=open_checkpoint(settings, plan, train_set, test_set, models_dir),
    )


def open_checkpoint(
    settings: Settings,
    plan: TrainingPlan,
    train_set: ImageSet,
    test_set: ImageSet,
    models_dir: Path,
) -> Checkpoint:
    """Return where the run keeps what it has come to; with --resume, go on from there.

    So does a run that torchrun has started again because a process died. Raises UserError.
    """
    digest = hashlib.sha256(repr(train_set.class_names).encode())
    for tensor in (train_set.images, train_set.labels, test_set.images, test_set.labels):
        digest.update(tensor.cpu().numpy().tobytes())
    names = ("optimizer", "learning_rate", "hidden_units", "seed", "runs")
    conditions = asdict(plan) | {name: getattr(settings, name) for name in names}
    conditions["image shape"] = train_set.images.shape[1:]
    conditions["images"] = digest.hexdigest()
    conditions["number of processes"] = process_rank()[1]
    conditions = json.loads(json.dumps(conditions))  # which turns tuples into lists
    path = models_dir / "checkpoint.pth"
    environment = describe_environment(torch.device(settings.device))
    checkpoint = Checkpoint(path, settings.checkpoint_interval, conditions, environment)
    if settings.resume:
        checkpoint.read()
    elif os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        with suppress(UserError):  # it has written none yet
            checkpoint.read()
    elif path.exists():
        print(f"{path} is of a run that was interrupted: --resume would go on with it")
    return checkpoint


def load_images(settings: Settings) -> tuple[ImageSet, ImageSet]:
    """Return the training set and the test set on the device. Raises UserError."""
    if settings.images:
        folder = Path(settings.images)
        train_set, test_set = load_image_folder(folder, settings.image_size, settings.seed)
    else:
        train_set, test_set = load_fashion_mnist(settings.data_dir)
    return train_set.to(settings.device), test_set.to(settings.device)


def print_plan(experiment: Experiment) -> None:
    """Say what is trained on and, for your own images, what was chosen and how long it takes."""
    plan = experiment.plan
    train_set = experiment.train_set
    train_count = f"{len(train_set):,} training"
    print(f"{experiment.dataset}: {train_count}, {len(experiment.test_set):,} test images")
    if experiment.settings.images:
        minutes = max(1, round(estimate_seconds(experiment) / 60))
        changed = "not changed"
        if isinstance(plan.augment, Augmentation):
            mirrored = "mirrored too" if plan.augment.mirror else "not mirrored"
            changed = f"changed at random, {mirrored}"
        classes = ", ".join(train_set.class_names[:10])
        print(f"{len(train_set.class_names)} classes: {classes}")
        shape = " x ".join(str(side) for side in train_set.images.shape[1:])
        steps = math.ceil(len(train_set) / plan.batch_size)
        print(
            f"images of {shape}, {changed}; {' and '.join(plan.networks)}: {plan.epochs} epochs of "
            f"{steps} steps of {plan.batch_size} images, about {minutes} min"
        )


def estimate_seconds(experiment: Experiment) -> float:
    """Return about how long training will take here, from a few steps of each network."""
    plan = experiment.plan
    sample = experiment.train_set.subset(slice(3 * plan.batch_size))
    seconds = 0.0
    for network_name in plan.networks:
        kind = NETWORKS[network_name]
        history = train(
            kind.build(experiment.sizes(kind)).to(experiment.settings.device),
            shard(sample),
            sample.subset(slice(1)),
            epochs=2,
            batch_size=plan.batch_size,
            learning_rate=1e-9,
            seed=0,
            augmented=plan.augment,
        )
        seconds += history[-1].training_seconds - history[-2].training_seconds
    runs = experiment.settings.runs * len(experiment.settings.optimizer)
    return runs * seconds * plan.epochs * len(experiment.train_set) / len(sample)


def train_networks(experiment: Experiment) -> list[TrainedNetwork]:
    """Train every network with every optimizer and seed, and save each as soon as it is trained."""
    settings = experiment.settings
    plan = experiment.plan
    checkpoint = experiment.checkpoint
    test_set = experiment.test_set
    train_share = shard(experiment.train_set)
    seeds = range(settings.seed, settings.seed + settings.runs)
    trained: list[TrainedNetwork] = []
    try:
        for seed, optimizer_name, network_name in itertools.product(
            seeds, settings.optimizer, plan.networks
        ):
            torch.manual_seed(seed)
            kind = NETWORKS[network_name]
            optimizer = OPTIMIZERS[optimizer_name].name
            sizes = experiment.sizes(kind)
            network = kind.build(sizes).to(settings.device)
            parameters = f"{count_parameters(network):,} parameters"
            tqdm.write(f"{kind.__name__}: {parameters}, {optimizer}, seed {seed}")
            default_rate = peak_learning_rate(kind, sizes.hidden_units, optimizer_name)
            learning_rate = settings.learning_rate or default_rate * plan.learning_rate_scale
            key = f"{network_name} {optimizer_name} {seed}"
            resume_from = checkpoint.states.get(key)
            snapshots: list[dict[str, Any]] = []
            if resume_from:
                snapshots.extend(resume_from["snapshots"])
            else:
                add_snapshot(snapshots, network, epoch=0, accuracy=None)
            history = train(
                network,
                train_share,
                test_set,
                epochs=plan.epochs,
                batch_size=plan.batch_size,
                learning_rate=learning_rate,
                seed=seed,
                optimizer_name=optimizer_name,
                augmented=plan.augment,
                after_evaluation=partial(after_evaluation, checkpoint, key, snapshots),
                resume_from=resume_from,
            )
            logits = predict_logits(network, test_set.images).cpu()
            labels = test_set.labels.cpu()
            run = TrainedNetwork(
                network=network,
                sizes=sizes,
                optimizer=optimizer,
                learning_rate=learning_rate,
                seed=seed,
                history=history,
                test_logits=logits,
                test_labels=labels,
                snapshots=snapshots,
            )
            trained.append(run)
            if process_rank()[0] == 0:
                warn_of_failure(run)
                if choose_runs(trained).get(run.name) is run:
                    save_network(run, experiment.dataset, test_set, experiment.models_dir)
    except KeyboardInterrupt:
        if trained:
            print_table(trained)
        raise
    return trained


def after_evaluation(
    checkpoint: Checkpoint, key: str, snapshots: list[dict[str, Any]], state: TrainingState
) -> None:
    """Keep what training has come to, and print the last record if it ends an epoch."""
    record = state.history[-1]
    add_snapshot(snapshots, state.network, record.epoch, record.test_accuracy)
    if record.epoch.is_integer():
        if process_rank()[0] == 0:
            checkpoint.update(key, state.state_dict() | {"snapshots": list(snapshots)})
        on_train = f"train loss {record.train_loss:.4f}, accuracy {record.train_accuracy:.2%}"
        on_test = f"test loss {record.test_loss:.4f}, accuracy {record.test_accuracy:.2%}"
        seconds = f"{record.training_seconds:.1f} s"
        tqdm.write(f"  epoch {record.epoch:.0f}: {on_train}   {on_test}   {seconds}")


def warn_of_failure(run: TrainedNetwork) -> None:
    """Say what to do if a run diverged, or is no better than always predicting one class."""
    name = f"{run.name}, seed {run.seed}"
    if run.diverged:
        hint = f"a learning rate below {run.learning_rate:g} may help"
        print_error(f"{name} diverged and is not saved; {hint}")
    elif run.metrics.at_chance:
        hint = "more epochs or another learning rate may help"
        print_error(f"{name} is at chance, as if it always predicted the largest class; {hint}")


def report(experiment: Experiment, trained: Sequence[TrainedNetwork]) -> int:
    """Write results.json, the figures and the explorer; return 1 if a network has no run to save.

    Raises UserError.
    """
    chosen = choose_runs(trained)
    if not chosen:
        print_error("every run diverged, and nothing was saved; try a lower --learning-rate")
        return 1
    shown = list(chosen.values())[-1]
    test_set = experiment.test_set
    assets_dir = experiment.assets_dir
    analysis = analyze(chosen, shown, test_set)
    results = describe_results(experiment, trained, analysis)
    write_files({assets_dir / "results.json": encode_json(results)})
    if not experiment.settings.no_plots:
        figures = draw_figures(trained, shown, test_set, analysis, experiment.dataset)
        write_figures(figures, assets_dir)
        write_explorer(chosen, experiment.dataset, test_set, assets_dir)
    print(assets_dir / "results.json")
    print(f"{' and '.join(chosen)}: in {experiment.models_dir}{os.sep}")
    if experiment.train_set.unreadable:
        print_error(f"{experiment.train_set.unreadable} unreadable files were left out")
    unsaved = sorted({run.name for run in trained} - chosen.keys())
    if unsaved:
        print_error(f"every run of {' and '.join(unsaved)} diverged, and none was saved")
        return 1
    return 0


def describe_results(
    experiment: Experiment, trained: Sequence[TrainedNetwork], analysis: Analysis
) -> dict[str, object]:
    """Return what results.json says."""
    test_set = experiment.test_set
    return {
        "dataset": {
            "name": experiment.dataset,
            "train_images": len(experiment.train_set),
            "test_images": len(test_set),
            "image_shape": list(test_set.images.shape[1:]),
            "class_names": test_set.class_names,
            "unreadable_files": experiment.train_set.unreadable,
        },
        "environment": describe_environment(torch.device(experiment.settings.device)),
        "resumed_from": experiment.checkpoint.resumed_from,
        "settings": asdict(experiment.settings) | asdict(experiment.plan),
        "models": [run.summarize(test_set.images[:1]) for run in trained],
        "evidence": asdict(analysis),
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
        "precision": str(training_precision(device)).removeprefix("torch."),
    }


def predict(settings: Settings) -> int:
    """Print a saved network's prediction for each image; return 1 if one is unreadable, else 0.

    Raises UserError.
    """
    path = Path(settings.model) if settings.model else find_best_model(Path(settings.models_dir))
    network, metadata = load_described(path, settings.device)
    exit_code = 0
    for image_path in expand_paths(settings.predict):
        try:
            image, preparation = prepare_image(image_path, metadata)
        except UserError as error:
            print_error(str(error))
            exit_code = 1
            continue
        logits = predict_logits(network, image.unsqueeze(0).to(settings.device))
        probabilities, labels = logits.softmax(dim=1)[0].topk(2)
        predicted = metadata.classes[int(labels[0])]
        runner_up = metadata.classes[int(labels[1])]
        probability, runner_up_probability = probabilities.tolist()
        name = type(network).__name__
        if settings.json:
            prediction = {
                "image": image_path,
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
            print(f"{image_path}: {answer} ({name}, {preparation})")
    return exit_code


def load_described(path: Path, device: str) -> tuple[Network, ModelMetadata]:
    """Return a saved network and its description; print what of it is assumed. Raises UserError."""
    with warnings.catch_warnings(record=True, action="always") as assumptions:
        network = load_model(path, device)
        metadata = read_metadata(path, network)
    for assumption in assumptions:
        print_error(str(assumption.message))
    if len(metadata.classes) < 2 or metadata.channels not in (1, 3):
        reason = f"{len(metadata.classes)} classes, {metadata.channels} channels"
        raise UserError(f"{path} cannot classify images, grey or in colour: it has {reason}")
    return network, metadata


def expand_paths(paths: Iterable[str]) -> Iterator[str]:
    """Yield each file itself, the images in a folder, those that match what no shell expanded."""
    for path in paths:
        pattern = os.path.join(glob.escape(path), "*") if os.path.isdir(path) else path
        matches = [match for match in sorted(glob.glob(pattern)) if is_image_name(match)]
        yield from [path] if os.path.isfile(path) or not matches else matches


def find_best_model(folder: Path) -> Path:
    """Return the saved network, here or else beside the script, of the highest test accuracy."""
    for place in (folder, Path(__file__).parent / folder):
        paths = [place / kind.model_file for kind in NETWORKS.values()]
        saved = [path for path in paths if path.exists()]
        if saved:
            return max(saved, key=read_test_accuracy)
    return folder / "CNN_model.pth"  # which is reported as missing


def read_test_accuracy(path: Path) -> float:
    """Return what the JSON file beside a saved network says, or 0 if it does not."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        metadata = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return float(metadata["test_accuracy"])
    return 0.0


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
    if image.size == (28, 28) and pixels[:, 0, 0].max() < 128:  # one of the dataset's own
        return pil_to_tensor(image.convert("L")), "as it is"
    return prepare_garment(image), "prepared like FashionMNIST's images"


def print_error(message: str) -> None:
    """Print message as one line to stderr."""
    tqdm.write(f"fashion_mnist_cnn.py: {' '.join(message.split())}", file=sys.stderr)


def join_processes(device: str) -> None:
    """Join the processes that torchrun started; the first one speaks for all."""
    if device == "cuda":  # has run with one GPU only: no machine with several was at hand
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, processes = next(rendezvous("env://"))
    # After a restart torchrun's store still has the addresses of the processes that were ended.
    store = distributed.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    distributed.init_process_group(store=store, rank=rank, world_size=processes)
    if distributed.get_rank() > 0:
        sys.stdout = open(os.devnull, "w", errors="backslashreplace")  # noqa: SIM115


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code: 0, 1 for an error, 130 for Ctrl-C.

    An invalid command line exits with 2.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # elsewhere than in a notebook
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that its encoding lacks
    settings = parse_args(argv)
    out_of_memory = "out of memory; a smaller --batch-size or --hidden-units needs less"
    try:
        if distributed.is_torchelastic_launched():  # by torchrun: one of several processes
            join_processes(settings.device)
        return predict(settings) if settings.predict else run(settings)
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough, as in `... | head -1`
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # for what is written at exit
    except (MemoryError, torch.OutOfMemoryError):
        print_error(out_of_memory)
    except (UserError, OSError) as error:
        print_error(str(error))
    except RuntimeError as error:
        if not str(error).startswith("[enforce fail at alloc_cpu"):  # torch has no type for it
            raise
        print_error(out_of_memory)
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return 1


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # None where it is closed
        sys.stdout.reconfigure(line_buffering=True)
    sys.exit(main())
