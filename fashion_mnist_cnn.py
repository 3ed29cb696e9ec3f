"""Train an MLP and a TinyVGG CNN on FashionMNIST, compare them, and save the CNN.

    python fashion_mnist_cnn.py                  # train both, compare, draw, save (about a minute)
    python fashion_mnist_cnn.py --optimizer adam sgd --runs 5    # compare optimizers, over five seeds
    python fashion_mnist_cnn.py --images DIR     # train on your own images, one folder per class
    python fashion_mnist_cnn.py --networks resnet --epochs 20 --augment    # the most accurate (8 minutes)
    python fashion_mnist_cnn.py --predict FILE   # classify an image with the best network saved
    python fashion_mnist_cnn.py --help           # every option with its default

The figures and results.json are written to assets/, the CNN's weights to models/CNN_model.pth. Open
assets/explorer.html in a browser to look into the networks just trained.
Other code loads the CNN with `from fashion_mnist_cnn import load_model; network = load_model()`.
"""

import argparse
import base64
import hashlib
import io
import itertools
import json
import math
import os
import pickle
import platform
import shutil
import socket
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
import torchvision
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import FashionMNIST
from torchvision.datasets.folder import make_dataset
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

if TYPE_CHECKING:  # imported where it is used, like torchmetrics and mlxtend: together they take seconds
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class UserError(ValueError):
    """Something the user can fix; the message is one line that says what is wrong and what to do."""


# ---- Networks ------------------------------------------------------------------------------------
def initialize_weights(network: nn.Module, output_layer: nn.Linear) -> None:
    """Initialize for ReLU (He et al. 2015, arXiv:1502.01852): small networks may never learn otherwise."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    output_layer.weight.data *= 0.1  # no class is favoured at the start


class MLP(nn.Module):
    """Two fully connected layers. The image is flattened: which pixels are neighbours is lost.

    Takes float32 (N, C, H, W) in [0, 1] with C * H * W = in_features, returns logits (N, num_classes).
    The ReLU after the last layer is part of the textbook exercise: no logit can be negative.
    """

    def __init__(self, in_features: int = 784, hidden_units: int = 10, num_classes: int = 10) -> None:
        super().__init__()
        self.layer_stack = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_features, hidden_units),
            nn.ReLU(),
            nn.Linear(hidden_units, num_classes),
            nn.ReLU(),
        )
        initialize_weights(self, output_layer=self.layer_stack[3])
        # A class whose logit the last ReLU holds at zero for all of its images gets no gradient and is lost for good.
        # Output-layer biases of one, which the small weights cannot outweigh, keep every class alive at the start.
        nn.init.ones_(self.layer_stack[3].bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer_stack(images)


class TinyVGG(nn.Module):
    """The CNN of CNN Explainer (Wang et al. 2020, arXiv:2004.15004): two blocks of two convolutions.

    Takes float32 (N, in_channels, image_size, image_size) in [0, 1], returns logits (N, num_classes).
    Raises ValueError if image_size is under 4: each of the two blocks halves the image.
    """

    def __init__(
        self, in_channels: int = 1, hidden_units: int = 10, num_classes: int = 10, image_size: int = 28
    ) -> None:
        super().__init__()
        if image_size < 4:
            raise ValueError(f"image_size must be at least 4, not {image_size}")
        self.conv_block_1 = self.conv_block(in_channels, hidden_units)
        self.conv_block_2 = self.conv_block(hidden_units, hidden_units)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(hidden_units * (image_size // 4) ** 2, num_classes))
        initialize_weights(self, output_layer=self.classifier[1])
        # The channels of a pixel side by side in memory: convolutions on a CPU run about twice as fast.
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


class Residual(nn.Sequential):
    """Layers with a shortcut around them: they need to learn only what to add to their input."""

    def forward(self, activations: Tensor) -> Tensor:
        return activations + super().forward(activations)


class ResNet(nn.Module):
    """A small residual network (He et al. 2015, arXiv:1512.03385): ten convolutions, six of them beside a shortcut.

    The first convolution has hidden_units channels, the last six times as many.
    Takes float32 (N, in_channels, H, W) in [0, 1], H and W at least 4, returns logits (N, num_classes). Global pooling
    keeps the largest activation of each channel, not its position: shifting a garment hardly changes the logits.
    """

    def __init__(self, in_channels: int = 1, hidden_units: int = 16, num_classes: int = 10) -> None:
        super().__init__()
        h, conv = hidden_units, self.conv_block
        self.features = nn.Sequential(
            conv(in_channels, h),
            conv(h, 2 * h),
            nn.MaxPool2d(kernel_size=2),
            Residual(conv(2 * h, 2 * h), conv(2 * h, 2 * h)),
            conv(2 * h, 4 * h),
            nn.MaxPool2d(kernel_size=2),
            Residual(conv(4 * h, 4 * h), conv(4 * h, 4 * h)),
            conv(4 * h, 6 * h),
            Residual(conv(6 * h, 6 * h), conv(6 * h, 6 * h)),
        )
        self.classifier = nn.Linear(6 * h, num_classes)
        initialize_weights(self, output_layer=self.classifier)
        self.to(memory_format=torch.channels_last)

    @staticmethod
    def conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        # Batch normalization (Ioffe and Szegedy 2015, arXiv:1502.03167), which adds a bias of its own.
        return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).amax(dim=(2, 3)))


def read_mlp_sizes(state: Mapping[str, Tensor]) -> tuple[int, int, int, int]:
    hidden_units, in_features = state["layer_stack.1.weight"].shape
    in_channels = 1 if math.isqrt(in_features) ** 2 == in_features else 3
    return in_channels, hidden_units, len(state["layer_stack.3.bias"]), math.isqrt(in_features // in_channels)


def read_tinyvgg_sizes(state: Mapping[str, Tensor]) -> tuple[int, int, int, int]:
    hidden_units, in_channels, _, _ = state["conv_block_1.0.weight"].shape
    num_classes, features = state["classifier.1.weight"].shape
    return in_channels, hidden_units, num_classes, 4 * math.isqrt(features // hidden_units)


def read_resnet_sizes(state: Mapping[str, Tensor]) -> tuple[int, int, int, int]:
    hidden_units, in_channels, _, _ = state["features.0.0.weight"].shape
    return in_channels, hidden_units, len(state["classifier.bias"]), 28  # takes any image size; this is FashionMNIST's


@dataclass(frozen=True)
class NetworkConfig:
    """A network as the rest of the program knows it; its sizes are in_channels, hidden_units, classes, image_size."""

    name: str
    model_file: str
    build: Callable[[int, int, int, int], nn.Module]
    read_sizes: Callable[[Mapping[str, Tensor]], tuple[int, int, int, int]]  # KeyError: another network's state dict
    hidden_units: int = 10  # by default
    learning_rate_scale: float = 1.0  # of the optimizer's peak learning rate


NETWORKS = {
    "mlp": NetworkConfig("MLP", "MLP_model.pth", lambda c, h, n, s: MLP(c * s**2, h, n), read_mlp_sizes),
    "tinyvgg": NetworkConfig("TinyVGG", "CNN_model.pth", TinyVGG, read_tinyvgg_sizes),
    "resnet": NetworkConfig(
        "ResNet", "ResNet_model.pth", lambda c, h, n, s: ResNet(c, h, n), read_resnet_sizes, 16, learning_rate_scale=0.4
    ),
}


# ---- Data ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ImageSet:
    """Labelled images, held in memory on one device, so that a mini-batch is an index and not a copy from disk."""

    images: Tensor  # uint8 (N, C, H, W) in [0, 255]: bytes take a quarter of the memory of floats
    labels: Tensor  # int64 (N,), each an index into class_names
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str | torch.device) -> "ImageSet":
        return ImageSet(self.images.to(device), self.labels.to(device), self.class_names)

    def subset(self, indices: Tensor | slice) -> "ImageSet":
        return ImageSet(self.images[indices], self.labels[indices], self.class_names)


def to_float(images: Tensor) -> Tensor:
    """Scale uint8 images of any shape to float32 in [0, 1], exactly as torchvision's ToTensor does."""
    return images.float().div(255)


TEMPORARY_PREFIX = ".fashion_mnist_cnn-"  # prefix of files and folders that are not in their final place yet
# Of the four extracted files: torchvision checks only that they exist, and one may have been cut short.
EXTRACTED_SHA256 = "14410854cf7a289477dcfc7df3f8ec24741e281cdcc425ede0d9a748ca630214"


def load_fashion_mnist(root: str | Path) -> tuple[ImageSet, ImageSet]:
    """Return FashionMNIST's training set (60,000 images) and test set (10,000), on the CPU.

    Files missing or corrupt in root/FashionMNIST/raw are extracted or downloaded again. Raises UserError if that fails.
    """
    raw = Path(root, "FashionMNIST", "raw")
    files = [raw / archive.removesuffix(".gz") for archive, _ in FashionMNIST.resources]
    try:
        readable = all(path.is_file() and os.access(path, os.R_OK) for path in files)
        if not readable or hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest() != EXTRACTED_SHA256:
            extract_archives(raw)
        datasets = [FashionMNIST(str(root), train=train) for train in (True, False)]
    except (OSError, RuntimeError) as error:  # RuntimeError: torchvision could not download an archive
        hint = f"put {', '.join(dict(FashionMNIST.resources))} there, or name another folder with --data-dir"
        raise UserError(f"FashionMNIST cannot be read from {raw}: {error}; {hint}") from error
    train_set, test_set = (ImageSet(d.data.unsqueeze(1), d.targets, tuple(d.classes)) for d in datasets)
    return train_set, test_set


def extract_archives(raw: Path) -> None:
    """Have torchvision extract and download into a temporary folder: another run may be reading the files in raw."""
    raw.mkdir(parents=True, exist_ok=True)
    socket.setdefaulttimeout(15)  # seconds; torchvision would wait forever for a server that does not answer
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=raw) as root:
        extracted = Path(root, "FashionMNIST", "raw")
        shutil.copytree(raw, extracted, ignore=shutil.ignore_patterns("*-ubyte", f"{TEMPORARY_PREFIX}*"))
        FashionMNIST(root, download=True)
        for path in extracted.iterdir():
            os.replace(path, raw / path.name)


# ---- Training ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its peak learning rate, chosen on held-out images for MLP and TinyVGG."""

    name: str
    learning_rate: float
    build: Callable[..., torch.optim.Optimizer]

    def learning_rate_for(self, network: NetworkConfig, hidden_units: int) -> float:
        """Return the network's peak rate: beyond its default width it falls with the square root of the width."""
        rate = self.learning_rate * network.learning_rate_scale
        return rate * min(1.0, math.sqrt(network.hidden_units / hidden_units))


OPTIMIZERS = {
    "adam": OptimizerConfig("Adam", 0.02, partial(torch.optim.Adam, betas=(0.9, 0.99), fused=True)),
    "sgd": OptimizerConfig("SGD", 0.06, partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=True)),
}


@dataclass(frozen=True)
class Record:
    """A point of the learning curves: losses are mean cross-entropy (without label smoothing), accuracies in [0, 1]."""

    epoch: float  # passes over the training set so far
    train_loss: float  # of the mini-batches since the record before, like the accuracy
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    training_seconds: float  # so far, in training steps alone

    def print(self) -> None:
        train = f"train loss {self.train_loss:.4f}, accuracy {self.train_accuracy:.2%}"
        test = f"test loss {self.test_loss:.4f}, accuracy {self.test_accuracy:.2%}"
        tqdm.write(f"  epoch {self.epoch:.0f}: {train}   {test}   {self.training_seconds:.1f} s")


def process_rank() -> tuple[int, int]:
    """Return the number of this process, and how many train together: (0, 1), unless torchrun started several."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def own_share(count: int) -> list[int]:
    """Return which of count training images this process reads and trains on; all processes have equally many."""
    rank, processes = process_rank()
    return [index % count for index in range(rank, math.ceil(count / processes) * processes, processes)]


def train(
    network: nn.Module,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    optimizer: str = "adam",
    augmented: bool = False,
    on_epoch_end: Callable[[Record], object] = lambda record: None,
) -> list[Record]:
    """Train network in place and return its learning curves: up to 20 records in the first epoch, then one each.

    Network and sets must be on one device. optimizer is a key of OPTIMIZERS; its learning rate rises to
    learning_rate and falls to almost zero (one-cycle policy, Smith and Topin 2018, arXiv:1708.07120). augmented:
    mirror and shift the images at random. seed decides the order of the images, how they are augmented, and
    nothing else. If a weight is not finite at the end of an epoch, training ends with that record. Under torchrun
    each process has its own train_set, and batch_size is that of all together.
    """
    device, (rank, processes) = train_set.images.device, process_rank()
    batch_size = max(1, batch_size // processes)  # of this process
    model = DistributedDataParallel(network) if processes > 1 else network  # averages the gradients of all processes
    steps_per_epoch = math.ceil(len(train_set) / batch_size)
    optim = OPTIMIZERS[optimizer].build(network.parameters(), lr=learning_rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optim, learning_rate, epochs * steps_per_epoch, anneal_strategy="linear", cycle_momentum=False
    )
    shuffle_generator = torch.Generator().manual_seed(seed)
    augment_generator = torch.Generator(device).manual_seed(seed + rank)
    mixed_precision = training_precision(device) == torch.bfloat16
    history, seconds = [], 0.0
    for epoch in range(1, epochs + 1):
        # Most is learned within the first epoch, so it is evaluated 20 times, each time on 500 test images.
        evaluation_interval = math.ceil(steps_per_epoch / 20) if epoch == 1 else steps_per_epoch
        batches = torch.randperm(len(train_set), generator=shuffle_generator).to(device).split(batch_size)
        progress = tqdm(batches, f"epoch {epoch}/{epochs}", unit=" steps", leave=False, disable=rank > 0 or None)
        network.train()
        recent_logits, recent_labels, start = [], [], time.perf_counter()
        for step, indices in enumerate(progress, start=1):
            images, labels = train_set.images[indices], train_set.labels[indices]
            if augmented:
                images = augment(images, augment_generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
                logits = model(to_float(images))
            # Label smoothing (Szegedy et al. 2016, arXiv:1512.00567): rewards being right, but not being certain.
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.05)
            optim.zero_grad()
            loss.backward()
            optim.step()
            scheduler.step()
            recent_logits.append(logits.detach())  # metrics computed in every step would make a GPU wait
            recent_labels.append(labels)
            if step % evaluation_interval == 0 or step == steps_per_epoch:
                getattr(torch, device.type).synchronize()  # a GPU may still be at work
                seconds += time.perf_counter() - start
                train_metrics = compute_metrics(torch.cat(recent_logits).float(), torch.cat(recent_labels))
                test_metrics = evaluate(network, test_set if step == steps_per_epoch else test_set.subset(slice(500)))
                epochs_done = epoch - 1 + min(1.0, step * batch_size / len(train_set))
                values = train_metrics.loss, train_metrics.accuracy, test_metrics.loss, test_metrics.accuracy
                history.append(Record(epochs_done, *values, seconds))
                network.train()
                recent_logits, recent_labels, start = [], [], time.perf_counter()
        on_epoch_end(history[-1])
        if not all(weights.isfinite().all() for weights in network.parameters()):  # which all processes agree on
            break
    return history


def augment(images: Tensor, generator: torch.Generator, max_shift: int = 2) -> Tensor:
    """Return uint8 images (N, C, H, W), mirrored and shifted by up to max_shift pixels at random, black around."""
    count, _, height, width = images.shape
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    options = {"generator": generator, "device": images.device}
    mirrored = torch.randint(2, (count, 1), **options).bool()
    down, right = torch.randint(2 * max_shift + 1, (2, count, 1), **options)
    rows, columns = rows + down, torch.where(mirrored, columns.flip(0), columns) + right
    indices = torch.arange(count, device=images.device)[:, None, None]
    shifted = F.pad(images, (max_shift,) * 4)[indices, :, rows[:, :, None], columns[:, None, :]]
    return shifted.permute(0, 3, 1, 2)


def training_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 on CPUs that multiply it natively, else float32: emulation is slow, and a GPU gains nothing."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch do not have it
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if device.type == "cpu" and native else torch.float32


# ---- Evaluation ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Metrics:
    """Loss, accuracy and confusion matrix of predictions."""

    loss: float  # mean cross-entropy
    accuracy: float  # correct / all images, in [0, 1]
    confusion_matrix: Tensor  # int64 (classes, classes); row: true class, column: predicted class

    @property
    def is_at_chance(self) -> bool:
        """Whether always predicting the most frequent class would have done as well, give or take luck."""
        count = self.confusion_matrix.sum().item()
        share = self.confusion_matrix.sum(dim=1).max().item() / count
        # Three standard deviations of a guess, but a handful of images must not fail a good network.
        return self.accuracy <= share + min(0.05, (1 - share) / 2, 3 * math.sqrt(share * (1 - share) / count))


def compute_metrics(logits: Tensor, labels: Tensor) -> Metrics:
    """Compare float logits (N, classes) with int64 labels (N,)."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    confusion_matrix = multiclass_confusion_matrix(logits.argmax(dim=1), labels, num_classes=logits.shape[1])
    accuracy = confusion_matrix.trace().item() / len(labels)
    return Metrics(F.cross_entropy(logits, labels).item(), accuracy, confusion_matrix)


@torch.inference_mode()
def predict_logits(network: nn.Module, images: Tensor, batch_size: int = 100) -> Tensor:
    """Return float32 logits (N, classes) for uint8 images (N, C, H, W) on the network's device; sets eval mode."""
    network.eval()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # otherwise a GPU rounds to 10 bits
        return torch.cat([network(to_float(batch)) for batch in images.split(batch_size)])


def evaluate(network: nn.Module, image_set: ImageSet) -> Metrics:
    """Return the network's metrics on all images of image_set; both must be on the same device."""
    return compute_metrics(predict_logits(network, image_set.images), image_set.labels)


def count_macs(network: nn.Module, images: Tensor) -> int:
    """Return the multiply-accumulates (MACs) the network needs for one of the uint8 images (N, C, H, W)."""
    with FlopCounterMode(display=False) as counter:
        predict_logits(network, images[:1])
    return counter.get_total_flops() // 2


# ---- Analysis: what the networks see, and what they do not ---------------------------------------
def measure_shifts(network: nn.Module, image_set: ImageSet, max_shift: int = 6) -> list[float]:
    """Return the accuracy on images shifted by 0, 1, ... max_shift pixels, as the mean over four directions."""
    accuracies = []
    for pixels in range(max_shift + 1):
        correct = []
        for down, right in {(pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels)}:
            shifted = F.pad(image_set.images, (right, -right, down, -down))
            correct.append(predict_logits(network, shifted).argmax(dim=1) == image_set.labels)
        accuracies.append(torch.cat(correct).cpu().double().mean().item())
    return accuracies


def compute_feature_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the activations of each ReLU after a convolution: float32 (N, channels, h, w); images are uint8."""
    activations = []
    relus = [layer for layer in network.modules() if isinstance(layer, nn.ReLU)]
    hooks = [relu.register_forward_hook(lambda _relu, _inputs, output: activations.append(output)) for relu in relus]
    predict_logits(network, images, batch_size=len(images))
    for hook in hooks:
        hook.remove()
    return [activation for activation in activations if activation.dim() == 4]


def find_dead_channels(network: nn.Module, images: Tensor) -> list[list[int]]:
    """Return, for each convolution, the channels whose ReLU is zero everywhere on all the uint8 images."""
    batches = (compute_feature_maps(network, batch) for batch in images.split(100))
    maxima = [[feature_maps.amax(dim=(0, 2, 3)) for feature_maps in layers] for layers in batches]
    return [(torch.stack(layer).amax(dim=0) == 0).nonzero().flatten().tolist() for layer in zip(*maxima, strict=True)]


# ---- Saving and loading --------------------------------------------------------------------------
def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write each content to its path in one step: at any time a file is the old or the new one. Raises UserError."""
    temporaries = {path: path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}") for path in contents}
    try:
        for path, temporary in temporaries.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(contents[path])
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; no file was left half written") from error
    finally:
        for temporary in temporaries.values():
            with suppress(OSError):
                temporary.unlink()


def check_writable(folder: Path, option: str) -> None:
    """Raise UserError, naming the option, unless a megabyte can be written to folder or, if missing, its parent."""
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(2**20))
    except OSError as error:
        raise UserError(f"{option}: cannot write to the folder {folder}: {error.strerror}") from error


def serialize_network(network: nn.Module) -> bytes:
    """Return the network's state dict as torch.save writes it, as contiguous CPU tensors."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    torch.save(state, buffer := io.BytesIO())
    return buffer.getvalue()


def identify_network(state: Mapping[str, Tensor]) -> tuple[NetworkConfig, tuple[int, int, int, int]]:
    """Return the entry of NETWORKS whose keys this state dict has, and the sizes of its weights."""
    for config in NETWORKS.values():
        with suppress(KeyError, ValueError, ArithmeticError):
            return config, config.read_sizes(state)
    raise UserError(f"its keys are not those of {' or '.join(config.name for config in NETWORKS.values())}")


# What torch.load, which executes nothing, was seen to raise for files that torch.save did not write.
MALFORMED = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, EOFError, MemoryError)
MALFORMED += (pickle.UnpicklingError, struct.error, zipfile.BadZipFile)


def load_model(path: str | Path = "models/CNN_model.pth", device: str | torch.device = "cpu") -> nn.Module:
    """Return the network saved at path, in eval mode on device; its kind and sizes are read off its weights.

    Nothing in it is executed. Raises UserError, a ValueError, unless it is a finite float32 state dict of NETWORKS.
    """
    try:
        size = os.path.getsize(path)
        with zipfile.ZipFile(path) as archive:
            # torch.save does not compress: what unpacks to more than the file was made to fill the memory.
            if sum(entry.file_size for entry in archive.infolist()) > size or archive.testzip():
                raise UserError("it is corrupt")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if sum(weights.nbytes for weights in state.values()) > size:
            raise UserError("its tensors claim to be larger than the file")
        counters = {name for name in state if name.endswith("num_batches_tracked")}  # of batch normalization, int64
        floats = [weights for name, weights in state.items() if name not in counters]
        if not all(weights.dtype == torch.float32 and weights.isfinite().all() for weights in floats):
            raise UserError("its weights are not finite float32 numbers")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; train first (your own: --images)") from error
    except MALFORMED as error:
        raise UserError(f"{path} is not a state dict: {str(error) or type(error).__name__}") from error
    try:
        config, sizes = identify_network(state)
        with torch.device("meta"):  # shapes alone: no memory is allocated, and no random number drawn
            network = config.build(*sizes)
        network.load_state_dict(state, assign=True)
    except (ValueError, RuntimeError) as error:  # impossible sizes, and keys or shapes that do not match
        raise UserError(f"{path} is not a network's state dict: {error}") from error
    return network.to(device, memory_format=torch.channels_last).eval()


def read_metadata(model_path: Path, network: nn.Module) -> dict[str, Any]:
    """Return what the JSON file beside the network says, or without one what the weights do. Raises UserError."""
    config, (channels, _, num_classes, image_size) = identify_network(network.state_dict())
    path = model_path.with_suffix(".json")
    if not path.exists():
        classes = [f"class {label}" for label in range(num_classes)]
        return {"dataset": "", "classes": classes, "channels": channels, "image_size": image_size}
    try:
        metadata = {"dataset": ""} | json.loads(path.read_text(encoding="utf-8"))
        sizes = metadata["channels"], metadata["hidden_units"], len(metadata["classes"]), metadata["image_size"]
        config.build(*sizes).load_state_dict(network.state_dict())
    except (OSError, TypeError, KeyError, ValueError, RuntimeError) as error:  # RuntimeError: the shapes differ
        raise UserError(f"{path} does not describe the network in {model_path}: {error}") from error
    return metadata


# ---- Figures -------------------------------------------------------------------------------------
@dataclass
class Result:
    """One trained network, with the names and units it has in results.json."""

    name: str
    optimizer: str
    learning_rate: float
    seed: int
    hidden_units: int
    parameters: int
    multiply_adds: int  # multiply-accumulates (MACs) per image
    test_accuracy: float
    test_loss: float | None  # None if it is not finite
    training_seconds: float
    epochs: list[Record]
    confusion_matrix: list[list[int]]
    precision: list[float]  # per class: of the images predicted as it, the share that belongs to it
    recall: list[float]  # per class: of its images, the share that is predicted as it
    failed: str | None  # "diverged", "at chance" or None


def group_runs(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """Return the runs of each network and optimizer under their names, in the order of training."""
    groups = {(result.name, result.optimizer): [] for result in results}
    for result in results:
        groups[result.name, result.optimizer].append(result)
    return groups


COLORS = ("#E69F00", "#0072B2", "#CC79A7", "#56B4E9", "#F0E442")  # Okabe and Ito's, for the colour-blind too
CORRECT_COLOR, WRONG_COLOR = "#009E73", "#D55E00"
HATCHES, MARKERS = ("", "///", "...", "xx"), "os^D"  # one per optimizer


def draw_figures(
    results: Sequence[Result], network: nn.Module, test_set: ImageSet, analysis: Mapping[str, Any], dataset: str
) -> dict[str, "Figure"]:
    """Return the figures under their file names; network is the one whose predictions and activations are drawn."""
    logits, labels = predict_logits(network, test_set.images).cpu(), test_set.labels.cpu()
    metrics, correct = compute_metrics(logits, labels), logits.argmax(dim=1) == labels
    name = identify_network(network.state_dict())[0].name
    examples, mistakes = choose_examples(logits, labels, results[0].seed)
    # An image of each of the first three classes, predicted correctly if there is one.
    typical = torch.stack([((labels == k).int() + ((labels == k) & correct)).argmax() for k in labels.unique()[:3]])
    count, shifts, dead = f"{len(test_set):,} test images", analysis["shift_accuracy"], analysis["dead_channels"]
    title = f"{name}: {metrics.accuracy:.2%} of {count} correct"
    return {
        "accuracy_model_graph.png": plot_accuracy(results, f"{dataset}, {count}"),
        "learning_curves.png": plot_learning_curves(results, f"Learning curves on {dataset}"),
        "confusion_matrix.png": plot_confusion_matrix(metrics.confusion_matrix, test_set.class_names, title),
        "prediction_examples.png": plot_predictions(test_set, logits, examples, f"{name} on random test images"),
        "mistakes.png": plot_predictions(test_set, logits, mistakes, f"The most confident mistakes of {name}"),
        "shift_robustness.png": plot_shifts(shifts, f"{analysis['images']:,} test images, shifted in four directions"),
    } | ({"feature_maps.png": plot_feature_maps(network, test_set.subset(typical), dead)} if dead else {})


def choose_examples(logits: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of nine random images, and of the nine most confident mistakes."""
    confidences, predictions = logits.softmax(dim=1).max(dim=1)
    examples = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:9]
    mistakes = confidences.masked_fill(predictions == labels, -1).argsort(descending=True)
    return examples, mistakes[: (predictions != labels).sum()][:9]


def make_explorer_data(networks: Mapping[str, nn.Module], test_set: ImageSet, seed: int) -> bytes:
    """Return what assets/explorer.html shows: the weights of MLP and TinyVGG, and up to 60 test images."""

    def encode(tensor: Tensor) -> str:
        return base64.b64encode(tensor.numpy(force=True).tobytes()).decode()

    logits, labels = predict_logits(networks["TinyVGG"], test_set.images).cpu(), test_set.labels.cpu()
    of_classes = torch.cat([(labels == k).nonzero()[:5] for k in labels.unique()]).flatten()
    chosen = dict.fromkeys(torch.cat([*choose_examples(logits, labels, seed), of_classes]).tolist())
    images = test_set.subset(torch.tensor(list(chosen)[:60]))
    data = {"classes": images.class_names, "shape": images.images.shape[1:], "labels": images.labels.tolist()}
    states = {name: networks[name].state_dict() for name in ("MLP", "TinyVGG") if name in networks}
    weights = {name: {key: (t.shape, encode(t)) for key, t in state.items()} for name, state in states.items()}
    data |= {"images": encode(images.images), "networks": weights}
    return f"window.explorerData = {json.dumps(data)};\n".encode()


def new_figure(title: str, size: tuple[float, float], grid: tuple[int, int]) -> tuple["Figure", list["Axes"]]:
    """Return a figure of size inches and its axes, row by row; it needs neither a screen nor pyplot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    axes_list = figure.subplots(*grid, squeeze=False).flatten().tolist()
    for axes in axes_list:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, axes_list


def show_image(axes: "Axes", image: Tensor, title: str, font_size: int, **options: object) -> None:
    """Show a uint8 image (H, W) or (H, W, C), or one channel of activations, without ticks, below a title."""
    axes.imshow(image.numpy(force=True), **({"cmap": "gray", "vmin": 0, "vmax": 255} | options))
    axes.set_title(title, fontsize=font_size)
    axes.set(xticks=[], yticks=[], anchor="N")
    axes.spines[:].set_visible(False)


def color_of(network_name: str) -> str:
    return COLORS[[config.name for config in NETWORKS.values()].index(network_name) % len(COLORS)]


def plot_accuracy(results: Sequence[Result], title: str) -> "Figure":
    """Draw test accuracy (left) and training time (right): a group of bars per network, one bar per optimizer.

    Of several runs: mean, standard deviation, and a dot for each. Runs that failed are counted above the bar.
    """
    figure, panels = new_figure(title, (8, 3.6), (1, 2))
    groups = group_runs(results)
    names, optimizers = (list(dict.fromkeys(keys)) for keys in zip(*groups, strict=True))
    width = 0.6 if len(optimizers) == 1 else 0.84 / len(optimizers)
    measures = ("test_accuracy", "test accuracy", 100, "%", 2), ("training_seconds", "training time", 1, "s", 1)
    for axes, (measure, label, scale, unit, digits) in zip(panels, measures, strict=True):
        for (name, optimizer), runs in groups.items():
            k = optimizers.index(optimizer)
            x = names.index(name) + (k - (len(optimizers) - 1) / 2) * width
            values = [scale * getattr(run, measure) for run in runs if not run.failed] or [0]
            spread = stdev(values) if len(values) > 1 else None
            style = {"color": color_of(name), "edgecolor": "white", "hatch": HATCHES[k % 4], "label": optimizer}
            bars = axes.bar(x, mean(values), width, yerr=spread, capsize=8, **style)
            text = f"{mean(values):.{digits}f} {unit}"
            if spread is not None:
                text += f"\n± {spread:.{digits}f}"
                dots = torch.linspace(-0.4, 0.4, len(values)) * width + x
                axes.scatter(dots, values, s=12, color="black", alpha=0.6, zorder=3)
            if failed := sum(bool(run.failed) for run in runs):
                text += f"\n{failed} of {len(runs)} failed"
            axes.bar_label(bars, [text], padding=6, linespacing=1.1)
        axes.set(xticks=range(len(names)), xticklabels=names, ylabel=f"{label} ({unit})")
        axes.margins(y=0.3)
    panels[0].set(ylim=(0, 125 if len(results) > len(groups) else 110), yticks=range(0, 101, 20))
    if len(optimizers) > 1:
        handles = {bars.get_label(): bars for bars in panels[0].containers if bars.get_label() in optimizers}
        legend = figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False)
        for patch in legend.get_patches():
            patch.set_facecolor("gray")
    return figure


def plot_learning_curves(results: Sequence[Result], title: str) -> "Figure":
    """Draw loss (left) and accuracy (right) over the epochs, with a marker at the end of each.

    Of several runs: mean and, for the test curves, a band of one standard deviation. Those that failed are left out.
    """
    figure, panels = new_figure(title, (8, 4), (1, 2))
    groups = group_runs([result for result in results if not result.failed])
    optimizers = list(dict.fromkeys(optimizer for _, optimizer in groups))
    for axes, measure, scale in zip(panels, ("loss", "accuracy"), (1, 100), strict=True):
        for (name, optimizer), runs in groups.items():
            epochs = [record.epoch for record in runs[0].epochs]
            label = f"{name}, {optimizer}" if len(optimizers) > 1 else name
            style = {"color": color_of(name), "marker": MARKERS[optimizers.index(optimizer) % 4], "markersize": 5}
            style["markevery"] = [epoch == int(epoch) for epoch in epochs]
            for part, line, fill in (("train", "--", "white"), ("test", "-", None)):
                curves = [[scale * getattr(record, f"{part}_{measure}") for record in run.epochs] for run in runs]
                means = torch.tensor(curves).mean(dim=0)
                axes.plot(epochs, means, line, markerfacecolor=fill, label=f"{label}, {part}", **style)
                if part == "test" and len(runs) > 1:
                    sd = torch.tensor(curves).std(dim=0)
                    axes.fill_between(epochs, means - sd, means + sd, color=color_of(name), alpha=0.2, linewidth=0)
        axes.set(xlabel="epoch", ylabel="loss" if measure == "loss" else "accuracy (%)")
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y", alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def plot_confusion_matrix(confusion_matrix: Tensor, class_names: Sequence[str], title: str) -> "Figure":
    """Draw an int64 (classes, classes) matrix, rows the true class, as counts and shares of each row."""
    import matplotlib

    matplotlib.use("Agg")  # mlxtend draws through pyplot, which would otherwise look for a screen
    import matplotlib.pyplot as plt
    from mlxtend.plotting import plot_confusion_matrix as draw

    size = (min(40, max(9, 0.9 * len(class_names))),) * 2  # inches
    figure, axes = draw(confusion_matrix.numpy(force=True), figsize=size, show_normed=True, class_names=class_names)
    plt.close(figure)  # pyplot would keep it in memory for good
    figure.set_layout_engine("constrained")
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    return figure


def plot_predictions(image_set: ImageSet, logits: Tensor, indices: Tensor, title: str) -> "Figure":
    """Draw up to nine images, chosen by indices (n,), with the classes and probabilities that logits give them."""
    figure, grid = new_figure(title, (7.5, 8.5), (3, 3))
    for axes in grid[len(indices) :]:
        axes.set_visible(False)
    for axes, index in zip(grid, indices.tolist(), strict=False):
        p, label = logits[index].softmax(dim=0), image_set.labels[index].item()
        prediction, names = p.argmax().item(), image_set.class_names
        mark, color, line = ("✓", CORRECT_COLOR, "-") if prediction == label else ("✗", WRONG_COLOR, "--")
        text = f"{mark} predicted: {names[prediction]}, {p[prediction]:.1%}\ntrue: {names[label]}, {p[label]:.1%}"
        show_image(axes, image_set.images[index].permute(1, 2, 0), text, 10)
        axes.title.set_color(color)
        for spine in axes.spines.values():  # dashed marks a mistake where colours cannot be distinguished
            spine.set(visible=True, color=color, linewidth=3, linestyle=line)
    return figure


def plot_shifts(shift_accuracy: Mapping[str, Sequence[float]], title: str) -> "Figure":
    """Draw one line per network: its accuracy in [0, 1] on images shifted by 0, 1, 2, ... pixels."""
    figure, (axes,) = new_figure(title, (8, 4), (1, 1))
    for k, (name, accuracies) in enumerate(shift_accuracy.items()):
        percents, color = [100 * accuracy for accuracy in accuracies], color_of(name)
        axes.plot(percents, color=color, marker=MARKERS[k % 4], label=name)
        if k in (0, len(shift_accuracy) - 1):  # between two other lines there is no room for numbers
            for pixels, percent in enumerate(percents):
                axes.text(pixels, percent + (3 if k else -7), f"{percent:.0f}", color=color, fontsize=9, ha="center")
    axes.set(xlabel="shift (pixels)", ylabel="test accuracy (%)", ylim=(0, 105))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    return figure


def plot_feature_maps(network: nn.Module, image_set: ImageSet, dead_channels: Sequence[Sequence[int]]) -> "Figure":
    """Draw each image and its activations in up to ten channels of each convolution, after ReLU, one scale per layer.

    One column per layer, as in CNN Explainer (Wang et al. 2020, arXiv:2004.15004); dead_channels are marked.
    """
    layers = [feature_maps[:, :10] for feature_maps in compute_feature_maps(network, image_set.images)]
    columns = (1 + len(layers)) * len(image_set)
    title = "Activations after each convolution; dark: zero, bright: the largest shown of the layer"
    figure, grid = new_figure(title, (max(8, 0.64 * columns), 7.4), (1, columns))
    remaining = iter(grid)
    for index, (image, label) in enumerate(zip(image_set.images, image_set.labels, strict=True)):
        axes = next(remaining)
        text = f"{image_set.class_names[label]}\ninput\n{image.shape[1]} x {image.shape[2]}"
        show_image(axes, image.permute(1, 2, 0), text, 8)
        for layer_number, (layer, dead) in enumerate(zip(layers, dead_channels, strict=True), start=1):
            axes, (channels, height, width) = next(remaining), layer.shape[1:]
            gap = max(1, height // 7)
            column = F.pad(layer[index], (0, 0, 0, gap), value=math.nan).reshape(-1, width)[:-gap]
            brightest = layer.max().item() or 1
            text = f"conv {layer_number}\n{height} x {width}"
            show_image(axes, column, text, 9, cmap="viridis", vmax=brightest)
            for channel in set(dead) & set(range(channels)):
                y = channel * (height + gap) + height / 2
                axes.text(width / 2, y, "dead", color="white", ha="center", va="center", fontsize=9)
    return figure


# ---- Your own images -----------------------------------------------------------------------------
def load_image_folder(folder: Path, image_size: int | None, seed: int) -> tuple[ImageSet, ImageSet]:
    """Return the training set and the test set of a folder of images, on the CPU.

    folder has train/<class>/ and test/<class>/, or <class>/ alone: then one image in five of each class, chosen by
    seed, is for testing. They get one channel if all are grey, else three, and a side of image_size pixels; None
    is 28 if all are 28 x 28, else 64. Raises UserError, naming the file or folder, for what is missing or unreadable.
    """
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        (class_names, train_files), (test_names, test_files) = map(find_images, (folder / "train", folder / "test"))
        if different := sorted({*class_names} ^ {*test_names}):
            raise UserError(f"{folder}: only one of train and test has {', '.join(different)}")
    else:
        class_names, files = find_images(folder)
        train_files, test_files, generator = [], [], torch.Generator().manual_seed(seed)
        for label, name in enumerate(class_names):
            of_class = [file for file in files if file[1] == label]
            if len(of_class) < 2:
                raise UserError(f"{folder / name} has one image; a class needs one to train on and one to test on")
            shuffled = [of_class[i] for i in torch.randperm(len(of_class), generator=generator).tolist()]
            held_out = max(1, round(len(of_class) / 5))
            train_files, test_files = train_files + shuffled[held_out:], test_files + shuffled[:held_out]
    paths = [path for path, _ in (*train_files, *test_files)]
    bar = {"unit": " images", "leave": False, "disable": None, "max_workers": os.cpu_count()}
    headers = thread_map(read_image, paths, **bar)
    mode = "L" if {image.mode for image in headers} <= {"1", "L", "LA", "I", "I;16", "I;16B", "F"} else "RGB"
    image_size = image_size or (28 if {image.size for image in headers} == {(28, 28)} else 64)
    train_files = [train_files[index] for index in own_share(len(train_files))]
    paths, labels = zip(*train_files, *test_files, strict=True)
    images = torch.stack(thread_map(partial(read_square, mode=mode, image_size=image_size), paths, **bar))
    both, count = ImageSet(images, torch.tensor(labels), tuple(class_names)), len(train_files)
    test_indices = count + torch.randperm(len(both) - count, generator=torch.Generator().manual_seed(seed))
    return both.subset(slice(count)), both.subset(test_indices)  # shuffled: the first ones serve as a sample


def find_images(folder: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Return the class names, those of folder's folders, and each image file with its label. Raises UserError."""
    formats = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    try:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
        images = {p for p in paths if p.suffix.lower() in formats and p.name[0] != "." and p.is_file()}
        labels = {name: k for k, name in enumerate(sorted(p.name for p in folder.glob("[!.]*") if p.is_dir()))}
        if len(labels) < 2:
            raise UserError(f"{folder} must have at least two folders of images, one per class")
        files = make_dataset(str(folder), labels, is_valid_file=lambda path: Path(path) in images)
    except OSError as error:  # also what torchvision raises for a class without an image
        raise UserError(f"the images in {folder} cannot be read: {error}") from error
    if skipped := sorted({str(path) for path in paths} - {path for path, _ in files}):
        print(f"skipped, not images in a class folder: {', '.join(skipped)}")
    return list(labels), files


def read_image(path: str, mode: str | None = None) -> Image.Image:
    """Return an image in mode L or RGB, rotated by EXIF, visible where transparent; without mode its header."""
    try:
        with Image.open(path) as file:
            if not mode:
                return file
            image = ImageOps.exif_transpose(file)  # cameras store the orientation beside the pixels
            if image.mode.startswith("I"):
                image = image.convert("I").point(lambda value: value / 257).convert("L")  # 16 bits
            if image.has_transparency_data:  # on white, or on black where nothing would be seen on white
                pages = (Image.new("RGBA", image.size, color) for color in ("white", "black"))
                on_white, on_black = (Image.alpha_composite(page, image.convert("RGBA")) for page in pages)
                image = on_white if on_white.convert("L").getextrema()[0] < 200 else on_black
            return image.convert(mode)
    except (OSError, ValueError, SyntaxError, RuntimeError, struct.error, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from error


def read_square(path: str, mode: str, image_size: int) -> Tensor:
    """Return an image as uint8 (C, image_size, image_size): its middle, resized with antialiasing."""
    return pil_to_tensor(ImageOps.fit(read_image(path, mode), (image_size, image_size), Image.Resampling.LANCZOS))


def prepare_garment(photograph: Image.Image) -> Tensor:
    """Convert an RGB photograph to FashionMNIST's format: uint8 (1, 28, 28), the garment light on black.

    The dataset's authors trimmed a white border, resized, sharpened, padded, inverted and greyed (Xiao, Rasul, Vollgraf
    2017, arXiv:1708.07747, section 2). Here the more a pixel differs from the background, the lighter it becomes, so
    that garment and background may have any colours, and the light on the background may vary a little.
    """
    small = photograph.copy()
    small.thumbnail((280, 280))
    pixels = pil_to_tensor(small.filter(ImageFilter.MedianFilter(3))).float()[None]  # the median removes noise
    corners = F.interpolate(pixels, (32, 32), mode="area")[:, :, ::31, ::31]
    color = corners.flatten(2).median(dim=2).values[:, :, None, None]
    # From corner to corner the light may vary by 12 of 255; what differs more is a garment that fills the corner.
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
    size = [max(1, round(28 * side / max(trimmed.size))) for side in trimmed.size]
    sharpen = ImageFilter.UnsharpMask(radius=1, percent=80, threshold=0)
    return pil_to_tensor(ImageOps.pad(trimmed.resize(size, Image.Resampling.BICUBIC).filter(sharpen), (28, 28)))


# ---- Command line --------------------------------------------------------------------------------
def option(default: object, description: str, **argument: object) -> Any:  # noqa: ANN401
    return field(default=default, metadata={"help": description, **argument})


@dataclass(frozen=True)
class Settings:
    """The options of the command line, each with its argparse arguments and, if it is a number, the least value."""

    epochs: int = option(3, "passes over the training set", type=int, least=1)
    batch_size: int = option(128, "images per training step", type=int, least=1)
    learning_rate: float | None = option(None, "peak; by default the optimizer's own", type=float, least=1e-9)
    networks: Sequence[str] = option(("mlp", "tinyvgg"), "to compare; the last is saved", choices=NETWORKS, nargs="+")
    optimizer: Sequence[str] = option(("adam",), "one, or several to compare", choices=OPTIMIZERS, nargs="+")
    hidden_units: int | None = option(None, "width of the networks; by default 10, ResNet 16", type=int, least=1)
    augment: bool = option(False, "mirror and shift training images at random", action="store_true")
    seed: int = option(42, "decides initial weights, image order and examples", type=int, least=0)
    runs: int = option(1, "train all networks N times: seed, seed + 1, ...", type=int, least=1, metavar="N")
    device: str = option("auto", "auto is a GPU if there is one", choices=("auto", "cpu", "cuda", "mps"))
    no_plots: bool = option(False, "draw no figures, and skip the analysis for them", action="store_true")
    images: str | None = option(None, "your own, in DIR/<class>/ or DIR/train/<class>/ and DIR/test/", metavar="DIR")
    image_size: int | None = option(None, "of --images, in pixels; by default 28 or 64", type=int, least=8)
    data_dir: str = option("data_1", "where FashionMNIST is, or is downloaded to", metavar="DIR")
    models_dir: str = option("models", "where the last network is written, TinyVGG as CNN_model.pth", metavar="DIR")
    assets_dir: str = option("assets", "where the figures and results.json are written", metavar="DIR")
    predict: Sequence[str] = option((), "train nothing; classify these images", nargs="+", metavar="FILE")
    model: str | None = option(None, "for --predict; by default the saved ResNet, else the CNN", metavar="FILE")
    json: bool = option(False, "print predictions as lines of JSON", action="store_true")


def parse_args(argv: Sequence[str] | None = None) -> Settings:
    """Read the command line; an invalid one ends the program with one line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda message: sys.exit(print_error(f"{message} (see --help)", 2))
    for setting in fields(Settings):
        shown = " ".join(setting.default) if isinstance(setting.default, tuple) else setting.default
        arguments = {key: value for key, value in setting.metadata.items() if key != "least"}
        arguments["help"] += f" (default: {shown})" if shown else ""
        parser.add_argument(f"--{setting.name.replace('_', '-')}", default=setting.default, **arguments)
    values = vars(parser.parse_args(argv))
    for setting in fields(Settings):
        value, least = values[setting.name], setting.metadata.get("least")
        if None not in (value, least) and not least <= value < 2**32:
            parser.error(f"argument --{setting.name.replace('_', '-')}: {value} is not between {least} and 2**32")
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if values["device"] == "auto":
        values["device"] = next(device for device, is_present in present.items() if is_present)
    elif not present[values["device"]]:
        parser.error(f"argument --device: there is no {values['device']} on this machine")
    return Settings(**values)


def compare(settings: Settings, train_set: ImageSet, test_set: ImageSet) -> tuple[list[Result], dict[str, nn.Module]]:
    """Train every network with every optimizer and seed; return all results and, by name, the first that learned."""
    channels, _, image_size = train_set.images.shape[1:]
    seeds = range(settings.seed, settings.seed + settings.runs)
    runs = list(itertools.product(seeds, dict.fromkeys(settings.optimizer), dict.fromkeys(settings.networks)))
    results, networks = [], {}
    for seed, optimizer, key in tqdm(runs, "runs", leave=False, disable=process_rank()[0] > 0 or None):
        torch.manual_seed(seed)
        config, name, optimizer_name = NETWORKS[key], NETWORKS[key].name, OPTIMIZERS[optimizer].name
        hidden_units = settings.hidden_units or config.hidden_units
        network = config.build(channels, hidden_units, len(train_set.class_names), image_size)
        network.to(train_set.images.device)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        tqdm.write(f"{name}: {parameters:,} parameters, {optimizer_name}, seed {seed}")
        rate = settings.learning_rate or OPTIMIZERS[optimizer].learning_rate_for(config, hidden_units)
        options = {"epochs": settings.epochs, "batch_size": settings.batch_size, "augmented": settings.augment}
        options |= {"learning_rate": rate, "optimizer": optimizer, "seed": seed}
        history = train(network, train_set, test_set, **options, on_epoch_end=Record.print)
        if process_rank()[0] > 0:
            continue
        metrics = evaluate(network, test_set)
        is_finite = math.isfinite(metrics.loss + history[-1].train_loss)
        matrix = metrics.confusion_matrix
        result = Result(
            name=name,
            optimizer=optimizer_name,
            learning_rate=rate,
            seed=seed,
            hidden_units=hidden_units,
            parameters=parameters,
            multiply_adds=count_macs(network, test_set.images),
            test_accuracy=metrics.accuracy,
            test_loss=metrics.loss if is_finite else None,
            training_seconds=history[-1].training_seconds,
            epochs=history if is_finite else [],
            confusion_matrix=matrix.tolist(),
            precision=(matrix.diag() / matrix.sum(dim=0).clamp(min=1)).tolist(),
            recall=(matrix.diag() / matrix.sum(dim=1).clamp(min=1)).tolist(),
            failed="diverged" if not is_finite else "at chance" if metrics.is_at_chance else None,
        )
        results.append(result)
        if result.failed:
            print_error(f"{name}, seed {seed} failed: {result.failed}; a learning rate below {rate:g} may help")
        else:
            networks.setdefault(name, network)
    return results, networks


def print_table(results: Sequence[Result]) -> None:
    """Print one line per network and optimizer: the mean on the test set of the runs that learned, and their spread."""
    groups = group_runs(results)
    several = len(results) > len(groups)
    header = f"{'network':<9}{'optimizer':<10}{'parameters':>11}{'accuracy':>10}{'loss':>9}{'training time':>15}"
    print(f"\n{header}" + f"{'accuracy: sd':>14}{'min':>9}{'max':>9}{'runs':>6}{'failed':>8}" * several)
    for (name, optimizer), runs in groups.items():
        learned = [run for run in runs if not run.failed] or runs
        accuracies = [run.test_accuracy for run in learned]
        loss = mean(math.nan if run.test_loss is None else run.test_loss for run in learned)
        seconds, failed = mean(run.training_seconds for run in learned), sum(bool(run.failed) for run in runs)
        sd, parameters = stdev(accuracies) if len(accuracies) > 1 else 0.0, runs[0].parameters
        row = f"{name:<9}{optimizer:<10}{parameters:>11,}{mean(accuracies):>10.2%}{loss:>9.4f}{seconds:>13.1f} s"
        print(row + f"{sd:>14.2%}{min(accuracies):>9.2%}{max(accuracies):>9.2%}{len(runs):>6}{failed:>8}" * several)


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return what training time depends on, besides the program."""
    cpu_name = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name") or platform.processor()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name
    precision = str(training_precision(device)).removeprefix("torch.")
    versions = {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__}
    hardware = {"device": device.type, "device_name": name, "threads": torch.get_num_threads(), "precision": precision}
    return versions | hardware


def run(settings: Settings) -> int:
    """Load, train, compare, analyze, draw and save; return the exit code. Raises UserError."""
    # Your own images get folders of their own: FashionMNIST's network is not overwritten.
    own = Path(settings.images).resolve().name or "root" if settings.images else ""
    models_dir, assets_dir = Path(settings.models_dir, own), Path(settings.assets_dir, own)
    check_writable(models_dir, "--models-dir")
    check_writable(assets_dir, "--assets-dir")
    if settings.images:
        image_sets = load_image_folder(Path(settings.images), settings.image_size, settings.seed)
    else:
        image_sets = load_fashion_mnist(settings.data_dir)
        image_sets = image_sets[0].subset(torch.tensor(own_share(len(image_sets[0])))), image_sets[1]
    train_set, test_set = (image_set.to(settings.device) for image_set in image_sets)
    class_names, image_shape = list(test_set.class_names), list(test_set.images.shape[1:])
    rank, processes = process_rank()
    dataset = {"name": own or "FashionMNIST", "train_images": processes * len(train_set), "test_images": len(test_set)}
    environment = describe_environment(torch.device(settings.device))
    print("{}: {:,} training, {:,} test images on {}".format(*dataset.values(), environment["device_name"]))
    results, networks = compare(settings, train_set, test_set.subset(slice(1)) if rank else test_set)
    if rank:  # the first process has the results of all
        return 0
    print_table(results)
    config = NETWORKS[settings.networks[-1]]
    if config.name not in networks:
        raise UserError(f"no {config.name} learned anything, and nothing was saved")
    network = networks[config.name]
    report = {
        "dataset": dataset | {"image_shape": image_shape, "class_names": class_names},
        "environment": environment,
        "settings": asdict(settings),
        "models": [asdict(result) for result in results],
    }
    model_path = models_dir / config.model_file
    outputs = {model_path: serialize_network(network)}
    if not settings.no_plots:
        subset = test_set.subset(slice(1000))  # the shifts take 25 passes
        report["evidence"] = {
            "images": len(subset),
            "shift_accuracy": {name: measure_shifts(each, subset) for name, each in networks.items()},
            "dead_channels": find_dead_channels(network, test_set.images),
        }
        for name, figure in draw_figures(results, network, test_set, report["evidence"], dataset["name"]).items():
            figure.savefig(buffer := io.BytesIO(), dpi=120)
            outputs[assets_dir / name] = buffer.getvalue()
        page = Path(__file__).parent / "assets/explorer.html"
        if "TinyVGG" in networks and page.exists():
            outputs[assets_dir / page.name] = page.read_bytes()
            outputs[assets_dir / "explorer_data.js"] = make_explorer_data(networks, test_set, settings.seed)
    saved = next(result for result in results if result.name == config.name and not result.failed)
    metadata = {"dataset": dataset["name"], "classes": class_names, "image_size": image_shape[1]}
    metadata |= {"channels": image_shape[0], "hidden_units": saved.hidden_units, "test_accuracy": saved.test_accuracy}
    for path, content in ((model_path.with_suffix(".json"), metadata), (assets_dir / "results.json", report)):
        outputs[path] = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
    write_files(outputs)
    print(f"\n{config.name} is in {models_dir}{os.sep}, everything else in {assets_dir}{os.sep}")
    return 0


def predict(settings: Settings) -> int:
    """Print the saved network's prediction for each image; return the exit code, 1 if one could not be read."""
    best_first = [Path(settings.models_dir, NETWORKS[key].model_file) for key in ("resnet", "tinyvgg")]
    path = Path(settings.model) if settings.model else next(filter(Path.exists, best_first), best_first[-1])
    network = load_model(path, settings.device)
    name, metadata = identify_network(network.state_dict())[0].name, read_metadata(path, network)
    exit_code = 0
    for image_path in settings.predict:
        try:
            image, preparation = prepare_image(image_path, metadata)
        except UserError as error:
            exit_code = print_error(str(error))
            continue
        best = predict_logits(network, image[None].to(settings.device)).softmax(dim=1)[0].topk(2)
        first, second = ((metadata["classes"][k], p.item()) for p, k in zip(*best, strict=True))
        if settings.json:
            prediction = {"image": image_path, "class": first[0], "probability": first[1]}
            runner_up = {"runner_up": second[0], "runner_up_probability": second[1]}
            print(json.dumps(prediction | runner_up | {"prepared": preparation, "model": name}))
        else:
            print("{}: {} {:.2%}, then {} {:.2%} ({}, {})".format(image_path, *first, *second, name, preparation))
    return exit_code


def prepare_image(path: str, metadata: Mapping[str, Any]) -> tuple[Tensor, str]:
    """Return an image as the network takes it, uint8 (C, H, W), and how it was prepared. Raises UserError."""
    if (metadata["dataset"], metadata["channels"], metadata["image_size"]) == ("FashionMNIST", 1, 28):
        image = read_image(path, "RGB")
        if image.size == (28, 28) and max(image.getpixel((0, 0))) < 128:  # one of the dataset's own
            return pil_to_tensor(image.convert("L")), "as it is"
        return prepare_garment(image), "prepared like FashionMNIST's images"
    size = metadata["image_size"]
    return read_square(path, "L" if metadata["channels"] == 1 else "RGB", size), f"resized to {size} x {size}"


def print_error(message: str, exit_code: int = 1) -> int:
    """Print message as one line to stderr; return exit_code."""
    tqdm.write(f"fashion_mnist_cnn.py: {' '.join(message.split())}", file=sys.stderr)
    return exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code: 0, 1 for an error, 130 for Ctrl-C. A bad command line exits with 2."""
    settings = parse_args(argv)
    try:
        if distributed.is_torchelastic_launched():  # by torchrun: one of several processes
            distributed.init_process_group()
            if distributed.get_rank() > 0:
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return predict(settings) if settings.predict else run(settings)
    except KeyboardInterrupt:
        return print_error("interrupted", 130)
    except BrokenPipeError:  # whoever read the output has seen enough, as in `... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest as it exits
        return 1
    except (MemoryError, torch.OutOfMemoryError):
        return print_error("out of memory; a smaller --batch-size or --hidden-units needs less")
    except (UserError, OSError) as error:
        return print_error(str(error))
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


if __name__ == "__main__":
    if sys.stdout:  # None where it is closed
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.exit(main())
