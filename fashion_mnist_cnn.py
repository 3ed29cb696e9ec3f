"""Train an MLP and a TinyVGG CNN on FashionMNIST, compare them, and save the CNN.

    python fashion_mnist_cnn.py                  # train both, compare, draw, save (about half a minute)
    python fashion_mnist_cnn.py --epochs 10      # train longer
    python fashion_mnist_cnn.py --optimizer adam sgd --runs 5    # compare optimizers too
    python fashion_mnist_cnn.py --images DIR     # train on your own pictures, a folder for each class
    python fashion_mnist_cnn.py --predict FILE   # ask the saved CNN what a picture shows
    python fashion_mnist_cnn.py --help           # every option with its default

The pictures and results.json are written to assets/, the CNN's weights to models/CNN_model.pth.
Other code loads the CNN with `from fashion_mnist_cnn import load_model; model = load_model()`.
"""

import argparse
import gzip
import hashlib
import http.client
import io
import json
import math
import os
import pickletools
import platform
import re
import signal
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from statistics import mean, stdev
from types import FrameType
from typing import TYPE_CHECKING, Any, BinaryIO

# ------------------------------------------------------------------------------------------------
# Errors, signals and files: nothing cryptic, nothing lost
# ------------------------------------------------------------------------------------------------


class UserError(ValueError):
    """Something the person at the keyboard can mend; its message is the one line that says how."""


def tell(message: str, exit_code: int) -> int:
    """Print message as one line to stderr, with line breaks and the like in it made visible; return exit_code."""
    visible = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    print(f"fashion_mnist_cnn.py: {''.join(visible)}", file=sys.stderr)
    return exit_code


# Each library has its own words for it, and few of them raise MemoryError.
OUT_OF_MEMORY = re.compile(
    r"out of memory|allocate memory|bad_alloc|failed to map segment|start new thread|could not create a "
)


def fail(error: Exception) -> int:
    """Say in one line what ended the program, or where it is a bug of ours, print the traceback; return 1."""
    if isinstance(error, UserError):
        return tell(str(error), 1)
    if isinstance(error, MemoryError | SystemError) or OUT_OF_MEMORY.search(str(error)):
        return tell("not enough memory; a smaller --batch-size or --hidden-units needs less", 1)
    if isinstance(error, ImportError):
        return tell(f"{error}; `pip install -r requirements.txt` installs what is needed", 1)
    if isinstance(error, BrokenPipeError):  # whoever read the output has seen enough, as in `... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest as it exits
        return 1
    if isinstance(error, OSError):
        return tell(str(error), 1)
    sys.__excepthook__(type(error), error, error.__traceback__)
    return 1


def stop(signal_number: int, frame: FrameType | None) -> None:
    """End at once, from wherever the program is: no file is ever half written, so there is nothing to tidy."""
    try:
        os.write(2, b"\n" * os.isatty(2) + b"fashion_mnist_cnn.py: interrupted\n")  # on a line below a progress bar
    finally:
        os._exit(128 + signal_number)


if __name__ == "__main__":
    # Before torch is imported, because that takes seconds in which a person may press Ctrl-C.
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    sys.excepthook = lambda kind, error, traceback: fail(error)
    # OpenBLAS, which comes with SciPy and serves nothing here, else starts threads that each take memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if sys.stdout:  # None where it is closed
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")

TEMPORARY = ".fashion_mnist_cnn-"  # begins the names of files that are not yet in their place


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Put each content at its path: all of them or, where one cannot be written, none.

    Each is written beside its place first and then moved there in one step, so that whatever happens
    to the program or the machine, a file is the old one or the new one, whole. Raises UserError.
    """
    temporaries = {path: path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}") for path in contents}
    try:
        for path, temporary in temporaries.items():
            with temporary.open("wb") as file:
                file.write(contents[path])
                file.flush()
                os.fsync(file.fileno())  # else the move may reach the disk before the bytes do
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; no file was left half written") from error
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs left of write_files; what is younger than a minute may be a run at work now."""
    for temporary in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            if time.time() - temporary.stat().st_mtime > 60:
                temporary.unlink()


def check_writable(folder: Path, option: str) -> None:
    """Make folder where it is missing. Raises UserError, naming the option, if no megabyte can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
    except OSError as error:
        raise UserError(f"{option}: cannot write to the folder {folder}: {error.strerror}") from error
    remove_leftovers(folder)


# The libraries come this late so that what stands above holds while they are imported. torchmetrics, matplotlib
# and mlxtend take as long to import as torch itself: they are imported where they are used, so that `--help`,
# a refused command line and `load_model` do not wait.
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image, ImageChops, ImageFilter, ImageOps
from torch import Tensor, nn
from torchvision.datasets import FashionMNIST
from torchvision.transforms.functional import pil_to_tensor
from tqdm import tqdm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# ------------------------------------------------------------------------------------------------
# Data
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageSet:
    """Labelled images, held whole on one device, so that a mini-batch is an index and not a copy from disk.

    images:       uint8 (N, C, H, W), 0 to 255; bytes take a quarter of the memory of floats
    labels:       int64 (N,), each an index into class_names
    class_names:  one name a class
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "ImageSet":
        return ImageSet(self.images.to(device), self.labels.to(device), self.class_names)


def to_float(images: Tensor) -> Tensor:
    """Scale uint8 images of any shape to float32 in [0, 1], exactly as torchvision's ToTensor does."""
    return images.float().div(255)


# The four files as they are inside the official archives (SHA-256). torchvision checks only that
# an extracted file exists, so one cut short by an interrupted run would break every later run.
EXTRACTED_FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def load_fashion_mnist(root: Path) -> tuple[ImageSet, ImageSet]:
    """Return FashionMNIST's training set (60,000 images) and test set (10,000), on the CPU.

    Reads root/FashionMNIST/raw. What is missing or damaged there is extracted again from the
    archives, and an archive that is missing or damaged is downloaded again.
    Raises UserError if a file can be neither read nor fetched.
    """
    raw = root / "FashionMNIST" / "raw"
    remove_leftovers(raw)
    for archive, md5 in FashionMNIST.resources:
        extracted = raw / archive.removesuffix(".gz")
        if not is_whole(extracted, "sha256", EXTRACTED_FILES[extracted.name]):
            check_writable(raw, "--data-dir")
            if not is_whole(raw / archive, "md5", md5):
                write_files({raw / archive: download(raw / archive, md5)})
            write_files({extracted: gzip.decompress((raw / archive).read_bytes())})
    datasets = [FashionMNIST(str(root), train=train) for train in (True, False)]
    train_set, test_set = (ImageSet(d.data.unsqueeze(1), d.targets, tuple(d.classes)) for d in datasets)
    return train_set, test_set


def is_whole(path: Path, algorithm: str, digest: str) -> bool:
    try:
        if not path.is_file():  # to open a named pipe would be to wait for ever
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest() == digest
    except OSError:
        return False


def download(archive: Path, md5: str) -> bytes:
    """Return the archive's content from the first mirror that has it. Raises UserError if none does."""
    print(f"downloading {archive.name}")
    faults = []
    for mirror in FashionMNIST.mirrors:
        try:
            with urllib.request.urlopen(mirror + archive.name, timeout=15) as response:
                content = response.read(2**26)  # twice what the largest has: an endless answer ends here
            if hashlib.md5(content).hexdigest() == md5:
                return content
            faults.append(f"{mirror}: not the official file")
        except (OSError, http.client.HTTPException) as error:
            faults.append(f"{mirror}: {error}")
    raise UserError(
        f"{archive.name} is {'damaged' if archive.exists() else 'missing'} and could not be downloaded "
        f"({', '.join(faults)}); put the four official archives ({', '.join(dict(FashionMNIST.resources))}) "
        f"into {archive.parent}, or name another folder with --data-dir"
    )


def load_image_folder(folder: Path, image_size: int | None, seed: int) -> tuple[ImageSet, ImageSet]:
    """Return the training set and the test set of a folder of pictures, on the CPU.

    folder has train/<class>/ and test/<class>/, or <class>/ alone: then one picture in five of each class,
    chosen by seed, is held out for testing. The images have one channel where all pictures are grey, else
    three, and image_size x image_size pixels; None is 28 where all pictures are 28 x 28, else 64.
    Raises UserError, naming the file or folder, for whatever is out of place.
    """
    parts = find_pictures(folder, seed)
    paths = [path for part in parts for files in part.values() for path in files]
    kinds = set(in_parallel(look_at_picture, paths, "looking through the pictures"))
    mode = "L" if all(grey for grey, _ in kinds) else "RGB"
    if image_size is None:
        image_size = 28 if all(size == (28, 28) for _, size in kinds) else 64
    check_room_for_pictures(len(paths), len(mode), image_size)
    train_set, test_set = (read_pictures(files, mode, image_size) for files in parts)
    return train_set, test_set


def find_pictures(folder: Path, seed: int) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Return the files of each class to train on and those to test on. Raises UserError."""
    if {entry.name for entry in folder.glob("[!.]*")} == {"train", "test"}:
        train, test = find_classes(folder / "train"), find_classes(folder / "test")
        for name in sorted(train.keys() ^ test.keys()):
            there, missing = ("train", "test") if name in train else ("test", "train")
            raise UserError(f"{folder / there / name} is a class that {folder / missing} does not have")
        return train, test
    train, test = {}, {}
    shuffler = torch.Generator().manual_seed(seed)
    for name, files in find_classes(folder).items():
        if len(files) == 1:
            raise UserError(f"{folder / name} has one picture; it takes one to train on and another to test on")
        shuffled = [files[i] for i in torch.randperm(len(files), generator=shuffler).tolist()]
        held_out = max(1, round(len(files) / 5))
        train[name], test[name] = shuffled[held_out:], shuffled[:held_out]
    return train, test


def find_classes(folder: Path) -> dict[str, list[Path]]:
    """Return the files in each folder of folder, both sorted by name. Raises UserError for anything else in them."""
    classes = {}
    for entry in list_folder(folder):
        if not entry.is_dir():
            raise UserError(f"{entry} is no folder; {folder} is to have a folder of pictures for each class")
        classes[entry.name] = list_folder(entry)
        if not classes[entry.name]:
            raise UserError(f"{entry} is a class without a picture")
        for file in classes[entry.name]:
            if not file.is_file():  # links in a circle end here too, and nothing is opened that could block
                what = "a folder" if file.is_dir() else "no file"
                raise UserError(f"{file} is {what}; the folder of a class is to have pictures and nothing else")
    if len(classes) < 2:
        raise UserError(f"{folder} has {len(classes) or 'no'} class; there must be two to tell apart")
    return classes


def list_folder(folder: Path) -> list[Path]:
    """Return what is in folder, sorted by name. Hidden files, which systems leave there, are left out and told."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read: {error.strerror}") from error
    hidden = [entry for entry in entries if entry.name.startswith(".")]
    if hidden:
        print(f"left out, being hidden: {', '.join(map(str, hidden))}")
    return [entry for entry in entries if entry not in hidden]


def in_parallel(work: Callable[[Any], Any], items: Sequence[Any], description: str) -> list[Any]:
    """Return work of each item, in order, done by a thread a processor: Pillow lets others run while it decodes."""
    with ThreadPool() as pool:  # leaving it, as an error does, drops what is still to do
        done = pool.imap(work, items, chunksize=16)
        return list(tqdm(done, desc=description, total=len(items), unit=" pictures", leave=False, disable=None))


def check_room_for_pictures(count: int, channels: int, image_size: int) -> None:
    """Raises UserError if as many pictures do not fit into the free memory, with the size that does."""
    room = free_memory() - 2**29  # half a gigabyte to train in
    if count * channels * image_size**2 > room:
        largest = math.isqrt(max(0, room) // (count * channels))
        raise UserError(
            f"{count:,} pictures of {image_size} x {image_size} need {count * channels * image_size**2 / 1e9:.1f} GB "
            f"of memory, and {max(0, room) / 1e9:.1f} GB are free for them; "
            + (f"--image-size {largest} would fit" if largest >= 4 else "fewer pictures would fit")
        )


def free_memory() -> float:
    """The bytes of memory that programs can still have; infinite where the system does not say."""
    meminfo = Path("/proc/meminfo")
    return 1024 * int(re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())[1]) if meminfo.exists() else math.inf


def read_pictures(files: Mapping[str, Sequence[Path]], mode: str, image_size: int) -> ImageSet:
    """Decode the files of each class, once, into an ImageSet. Pillow's mode is L, one channel, or RGB, three."""
    paths = [path for of_class in files.values() for path in of_class]
    labels = [label for label, of_class in enumerate(files.values()) for _ in of_class]
    images = torch.empty(len(paths), len(mode), image_size, image_size, dtype=torch.uint8)

    def read(number: int) -> None:
        images[number] = read_square(paths[number], mode, image_size)

    in_parallel(read, range(len(paths)), "reading the pictures")
    return ImageSet(images, torch.tensor(labels), tuple(files))


def look_at_picture(path: Path) -> tuple[bool, tuple[int, int]]:
    """Return whether a picture is grey, and its (width, height), without decoding it. Raises UserError."""
    with told_of_picture(path), Image.open(path) as picture:
        return picture.mode in ("1", "L", "LA", "I", "I;16", "F"), picture.size


def read_square(path: Path, mode: str, image_size: int) -> Tensor:
    """Return a picture as uint8 (C, image_size, image_size): its middle, resized with antialiasing."""
    picture = read_picture(path, mode)
    return pil_to_tensor(ImageOps.fit(picture, (image_size, image_size), Image.Resampling.LANCZOS))


def read_picture(path: Path, mode: str) -> Image.Image:
    """Return the picture in Pillow's mode L or RGB, upright, on white where it is transparent. Raises UserError."""
    with told_of_picture(path), Image.open(path) as picture:
        picture = ImageOps.exif_transpose(picture)  # cameras write down which way they were held
        if picture.mode.startswith("I"):
            picture = picture.point(lambda value: value / 257).convert("L")  # 16 bits
        if picture.has_transparency_data:
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture.convert("RGBA"))
        return picture.convert(mode)


@contextmanager
def told_of_picture(path: Path) -> Iterator[None]:
    """Raise UserError naming path for whatever goes wrong inside; Pillow's many formats raise all kinds."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} is no picture that can be read: {getattr(error, 'strerror', None) or error}"
        ) from error


def is_like_fashion_mnist(picture: Image.Image) -> bool:
    """Tell whether an RGB picture is 28 x 28, grey and on black, which is: along most of its edge."""
    if picture.size != (28, 28):
        return False
    red, green, blue = pil_to_tensor(picture)
    edge = torch.cat([red[0], red[-1], red[1:-1, 0], red[1:-1, -1]])
    return torch.equal(red, green) and torch.equal(red, blue) and edge.median().item() < 128


def prepare_garment(photograph: Image.Image) -> Image.Image:
    """Make of an RGB photograph what FashionMNIST's own images are: 28 x 28, grey, the garment light on black.

    In the steps by which its authors made them (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747, section 2): trim
    the border within 5 % of the corner's colour, longest edge to 28 (antialiased; they left pixels out), sharpen,
    pad to a square with the garment in the middle, negate, grey. On a dark ground there is nothing to negate.
    """
    ground = photograph.getpixel((0, 0))
    difference = ImageChops.difference(photograph, Image.new("RGB", photograph.size, ground))
    box = difference.point(lambda value: 255 * (value > 0.05 * 255)).getbbox()
    garment = ImageOps.contain(photograph.crop(box), (28, 28), Image.Resampling.BICUBIC)
    garment = garment.filter(ImageFilter.UnsharpMask(radius=1, percent=80, threshold=0))
    square = ImageOps.pad(garment, (28, 28), color=ground)
    return (ImageOps.invert(square) if mean(ground) > 127 else square).convert("L")


# ------------------------------------------------------------------------------------------------
# Models
# ------------------------------------------------------------------------------------------------


def initialize_weights(layer: nn.Module) -> None:
    """Draw a layer's weights for ReLU networks (He et al. 2015, arXiv:1502.01852), biases zero.

    Under PyTorch's own initialization a signal shrinks from layer to layer, and now and then a
    network of this size starts so close to a constant that it never learns.
    """
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)


class MLP(nn.Module):
    """Two fully connected layers. They see a row of pixels: which pixels are neighbours is lost.

    Takes float32 (N, C, H, W) in [0, 1] with C * H * W = in_features, returns logits (N, num_classes).
    The ReLU after the last layer is part of the exercise: no logit can be negative.
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
        self.apply(initialize_weights)
        # A logit that the last ReLU holds at zero for every image of its class gets no gradient, and
        # that class is lost for good. Starting all logits above zero keeps every class alive.
        nn.init.ones_(self.layer_stack[3].bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer_stack(images)


class TinyVGG(nn.Module):
    """The network of CNN Explainer (Wang et al. 2020, arXiv:2004.15004): two blocks of two convolutions.

    Takes float32 (N, in_channels, image_size, image_size) in [0, 1], returns logits (N, num_classes).
    Raises ValueError if image_size is under 4: each of the two blocks halves the picture.
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
        self.apply(initialize_weights)
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


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# ------------------------------------------------------------------------------------------------
# Training
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """The model within an epoch: epoch is how much of it was done, in (0, 1].

    The training figures are of the mini-batches since the point before, the test figures of the first
    PROBED_IMAGES test images at this moment.
    """

    epoch: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float


PROBED_IMAGES = 500


@dataclass(frozen=True)
class Epoch:
    """One pass over the training set. Losses are mean cross-entropy, accuracies are in [0, 1].

    The training figures are taken from the mini-batches as they were trained on, the test figures
    from the model at the end of the epoch. seconds is the time spent in training steps alone.
    """

    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float
    points: list[Point] = field(default_factory=list)


@dataclass(frozen=True)
class Recipe:
    """An optimizer with the highest learning rate for it, chosen on held-out images at ten hidden units."""

    name: str
    learning_rate: float
    build: Callable[..., torch.optim.Optimizer]

    def scaled_learning_rate(self, hidden_units: int) -> float:
        """A sum over more channels moves further in a step; the square root is what held-out images asked for."""
        return self.learning_rate * min(1.0, math.sqrt(10 / hidden_units))


RECIPES = {
    "adam": Recipe("Adam", 0.02, partial(torch.optim.Adam, betas=(0.9, 0.99), fused=True)),
    "sgd": Recipe("SGD", 0.06, partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=True)),
}


def train(
    model: nn.Module,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    optimizer: str = "adam",
    augmented: bool = False,
    points: int = 0,
    on_epoch_end: Callable[[int, Epoch], None] | None = None,
) -> list[Epoch]:
    """Train model in place and return what each epoch came to.

    The model and both sets must be on the same device. optimizer is a name in RECIPES; its learning
    rate rises to learning_rate and falls to zero again over the run (the one-cycle policy, Smith and
    Topin 2018, arXiv:1708.07120). augmented: train on images flipped and shifted at random. points:
    at how many of them the first epoch, in which most happens, is measured. seed decides the order
    of the images, their flips and shifts, and nothing else.
    Raises UserError if the loss is no longer a finite number.
    """
    device = train_set.images.device
    stepper = RECIPES[optimizer].build(model.parameters(), lr=learning_rate)
    steps = epochs * math.ceil(len(train_set) / batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        stepper, max_lr=learning_rate, total_steps=steps, anneal_strategy="linear", cycle_momentum=False
    )
    shuffler = torch.Generator().manual_seed(seed)
    augmenter = torch.Generator(device).manual_seed(seed) if augmented else None
    take_step = partial(take_training_step, model, train_set, stepper, schedule, augmenter)
    history = []
    for number in range(1, epochs + 1):
        batches = torch.randperm(len(train_set), generator=shuffler).to(device).split(batch_size)
        with tqdm(
            total=len(batches), desc=f"epoch {number}/{epochs}", unit=" steps", leave=False, disable=None
        ) as progress:
            parts = points if number == 1 else 0
            epoch = train_one_epoch(model, train_set, test_set, batches, take_step, parts, progress)
        if not math.isfinite(epoch.train_loss + epoch.test_loss):
            raise UserError(
                f"training diverged: the loss of epoch {number} is not a finite number; "
                f"a learning rate below {learning_rate:g} may help"
            )
        history.append(epoch)
        if on_epoch_end:
            on_epoch_end(number, epoch)
    return history


def train_one_epoch(
    model: nn.Module,
    train_set: ImageSet,
    test_set: ImageSet,
    batches: Sequence[Tensor],
    take_step: Callable[[Tensor], tuple[Tensor, Tensor]],
    points: int,
    progress: tqdm,
) -> Epoch:
    """Take a step on each mini-batch of image numbers; measure at as many points, and at the end."""
    labels = train_set.labels[torch.cat(batches)]
    # For the losses and accuracies, computed when they are asked for and not at every step.
    logits = torch.empty(len(labels), len(train_set.class_names), device=labels.device)
    probed = replace(test_set, images=test_set.images[:PROBED_IMAGES], labels=test_set.labels[:PROBED_IMAGES])
    measured, seconds, done = [], 0.0, 0
    length = math.ceil(len(batches) / max(1, points))
    for first in range(0, len(batches), length):
        model.train()
        start, began = time.perf_counter(), done
        for step, batch in enumerate(batches[first : first + length]):
            loss, logits[done : done + len(batch)] = take_step(batch)
            done += len(batch)
            progress.update()
            # Reading the loss makes the processor wait for a GPU, so only where somebody watches.
            if not progress.disable and step % 50 == 0:
                progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        wait_for(labels.device)
        seconds += time.perf_counter() - start
        if points:
            trained, tested = score(logits[began:done], labels[began:done]), evaluate(model, probed)
            place = done / len(labels)
            measured.append(Point(place, trained.loss, trained.accuracy, tested.loss, tested.accuracy))
    trained, tested = score(logits, labels), evaluate(model, test_set)
    return Epoch(trained.loss, trained.accuracy, tested.loss, tested.accuracy, seconds, measured)


def take_training_step(
    model: nn.Module,
    train_set: ImageSet,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    augmenter: torch.Generator | None,
    batch: Tensor,
) -> tuple[Tensor, Tensor]:
    """Take one optimizer step on a mini-batch, int64 (N,) image numbers; return its loss () and logits (N, classes)."""
    images = train_set.images[batch]
    if augmenter:
        images = augment(images, augmenter)
    mixed_precision = training_precision(images.device) == torch.bfloat16
    with torch.autocast(images.device.type, torch.bfloat16, enabled=mixed_precision):
        logits = model(to_float(images))
    loss = F.cross_entropy(logits.float(), train_set.labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    return loss.detach(), logits.detach()


def augment(images: Tensor, generator: torch.Generator, furthest: int = 2) -> Tensor:
    """Return uint8 images (N, C, H, W), each flipped sideways or not, and shifted by up to furthest pixels each way.

    What leaves the frame is lost, and black comes in. generator is on the images' device.
    """
    count, _, height, width = images.shape
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    chance = {"generator": generator, "device": images.device}
    flipped = torch.randint(2, (count, 1), **chance).bool()
    down, right = torch.randint(2 * furthest + 1, (2, count, 1), **chance)
    rows, columns = rows + down, torch.where(flipped, columns.flip(0), columns) + right
    numbers = torch.arange(count, device=images.device)[:, None, None]
    picked = F.pad(images, (furthest,) * 4)[numbers, :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def training_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 where a CPU multiplies it natively, else float32.

    Emulated bfloat16 is slower than float32; and on a GPU networks this small wait for kernels to
    be launched, not for arithmetic.
    """
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch cannot tell
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if device.type == "cpu" and native else torch.float32


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what was asked of it, so that a clock read next tells the truth."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


# ------------------------------------------------------------------------------------------------
# Evaluation
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """What a model's predictions are worth.

    loss:              mean cross-entropy
    accuracy:          correct / all, in [0, 1]: the confusion matrix's diagonal over its sum
    confusion_matrix:  int64 (classes, classes); row: true class, column: predicted class
    """

    loss: float
    accuracy: float
    confusion_matrix: Tensor


def score(logits: Tensor, labels: Tensor) -> Scores:
    """Score float logits (N, classes) against int64 labels (N,)."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    confusion_matrix = multiclass_confusion_matrix(logits.argmax(dim=1), labels, num_classes=logits.shape[1])
    accuracy = confusion_matrix.trace().item() / len(labels)
    return Scores(F.cross_entropy(logits, labels).item(), accuracy, confusion_matrix)


def score_classes(logits: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
    """Return precision and recall of each class, in [0, 1], of float logits (N, classes).

    Precision: of the images taken for the class, how many are of it. Recall: of its images, how many are recognized.
    """
    from torchmetrics.functional.classification import multiclass_precision, multiclass_recall

    sizes = {"num_classes": logits.shape[1], "average": "none"}
    precision, recall = (measure(logits, labels, **sizes) for measure in (multiclass_precision, multiclass_recall))
    return precision.tolist(), recall.tolist()


@torch.inference_mode()
def predict_logits(model: nn.Module, images: Tensor, batch_size: int = 100) -> Tensor:
    """Return float32 logits (N, classes) for uint8 images (N, C, H, W) on the model's device."""
    model.eval()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # else a GPU rounds to 10 bits
        return torch.cat([model(to_float(batch)) for batch in images.split(batch_size)])


def evaluate(model: nn.Module, image_set: ImageSet) -> Scores:
    """Score model on every image of image_set; both on the same device."""
    return score(predict_logits(model, image_set.images), image_set.labels)


@dataclass(frozen=True)
class Result:
    """One trained model, with the names and units it has in results.json."""

    name: str
    optimizer: str
    learning_rate: float
    seed: int
    parameters: int
    multiply_adds: int
    test_accuracy: float
    test_loss: float
    training_seconds: float
    epochs: list[Epoch]
    confusion_matrix: list[list[int]]
    precision: list[float]
    recall: list[float]


def group_runs(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """Return the runs of each model and optimizer under their names, in the order in which they were trained."""
    runs: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        runs.setdefault((result.name, result.optimizer), []).append(result)
    return runs


def count_multiply_adds(model: nn.Module, images: Tensor) -> int:
    """Return how many multiplications, each with an addition, the model makes for one of the images (N, C, H, W)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        predict_logits(model, images[:1])
    return counter.get_total_flops() // 2


def measure_shifts(model: nn.Module, image_set: ImageSet, furthest: int = 6) -> list[float]:
    """Return the accuracy on images moved by 0, 1, ... furthest pixels: the mean over the four directions.

    What leaves the frame is lost, and black comes in.
    """
    accuracies = []
    for pixels in range(furthest + 1):
        correct = []
        for down, right in {(pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels)}:
            moved = F.pad(image_set.images, (right, -right, down, -down))
            correct.append(predict_logits(model, moved).argmax(dim=1) == image_set.labels)
        answers = torch.cat(correct)
        accuracies.append(answers.sum().item() / len(answers))
    return accuracies


@torch.inference_mode()
def compute_feature_maps(model: TinyVGG, images: Tensor) -> Iterator[Tensor]:
    """Yield the answers of the four ReLUs after convolutions to uint8 images, each float32 (N, hidden_units, h, w)."""
    signal = to_float(images)
    for layer in [*model.conv_block_1, *model.conv_block_2]:
        signal = layer(signal)
        if isinstance(layer, nn.ReLU):
            yield signal


def find_dead_channels(model: TinyVGG, images: Tensor) -> list[list[int]]:
    """Return, for each of the four convolutions, the channels whose ReLU is zero everywhere on all the images."""
    dead = [set(range(model.conv_block_1[0].out_channels)) for _ in range(4)]
    for batch in images.split(50):
        for layer, feature_maps in enumerate(compute_feature_maps(model, batch)):
            dead[layer] -= set(feature_maps.amax(dim=(0, 2, 3)).nonzero().flatten().tolist())
            if not any(dead[layer + 1 :]):  # few are: most batches need no further layer
                break
    return [sorted(channels) for channels in dead]


@dataclass(frozen=True)
class Evidence:
    """What is measured to show why the CNN does better; shift_accuracy holds a list a model, by pixels from 0."""

    images: int
    shift_accuracy: dict[str, list[float]]
    dead_channels: list[list[int]]


def gather_evidence(mlp: MLP, cnn: TinyVGG, test_set: ImageSet) -> Evidence:
    """Measure the shifts on the first 1,000 test images, for they take 25 looks, dead channels on all of them."""
    few = replace(test_set, images=test_set.images[:1000], labels=test_set.labels[:1000])
    shifts = {type(model).__name__: measure_shifts(model, few) for model in (mlp, cnn)}
    return Evidence(len(few), shifts, find_dead_channels(cnn, test_set.images))


# ------------------------------------------------------------------------------------------------
# Saving and loading
# ------------------------------------------------------------------------------------------------


def serialize_model(model: nn.Module) -> bytes:
    """Return what torch.save writes of the model's state dict, as contiguous float32 CPU tensors."""
    buffer = io.BytesIO()
    state = {name: tensor.detach().cpu().float().contiguous() for name, tensor in model.state_dict().items()}
    torch.save(state, buffer)
    return buffer.getvalue()


def load_model(path: str | Path = "models/CNN_model.pth", device: str | torch.device = "cpu") -> TinyVGG:
    """Return the TinyVGG saved at path, in eval mode on device; its sizes are read off the weights.

    Nothing in the file is executed, and no more memory is used than a few times its size.
    Raises UserError (a ValueError) if path is not a TinyVGG's state dict of finite float32 numbers.
    """
    try:
        with Path(path).open("rb") as file:
            model = read_model(file)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; `python fashion_mnist_cnn.py` trains a model and writes it") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is damaged or was not written by torch.save") from error
    except UserError as error:
        raise UserError(f"{path} is not a TinyVGG state dict: {error}") from error
    return model.to(device)


# All that the pickle in a state dict of float32 tensors refers to.
STATE_DICT_GLOBALS = {"collections OrderedDict", "torch FloatStorage", "torch._utils _rebuild_tensor_v2"}


def read_model(file: BinaryIO) -> TinyVGG:
    """Return the TinyVGG that serialize_model wrote to file, in eval mode on the CPU.

    Raises BadZipFile if the file is damaged and UserError if it is whole but holds something else.
    """
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        # torch.save does not compress; what unpacks to more than its size was made to fill the memory.
        if sum(entry.file_size for entry in archive.infolist()) > size or archive.testzip():
            raise zipfile.BadZipFile
        pickles = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    try:
        # torch.load refuses commands, but lets a pickle ask for bytes without end.
        used = {argument for code in pickles for op, argument, _ in pickletools.genops(code) if "GLOBAL" in op.name}
        if not used <= STATE_DICT_GLOBALS:
            raise UserError("it holds more than float32 tensors")
        file.seek(0)
        state = torch.load(file, map_location="cpu", weights_only=True)
        if 4 * sum(map(torch.numel, state.values())) > size:
            raise UserError("it names more numbers than it holds")
        hidden_units, in_channels = state["conv_block_1.0.weight"].shape[:2]
        num_classes, features = state["classifier.1.weight"].shape
        with torch.device("meta"):  # shapes alone: nothing is allocated, and no random number drawn
            model = TinyVGG(in_channels, hidden_units, num_classes, image_size=4 * math.isqrt(features // hidden_units))
        model.load_state_dict(state, assign=True)
        if not all(tensor.isfinite().all() for tensor in state.values()):
            raise UserError("some of its weights are not finite numbers")
    except UserError:
        raise
    except Exception as error:  # torch has no list of what a strange file makes it raise
        raise UserError(f"its keys or shapes are others ({type(error).__name__})") from error
    return model.to(memory_format=torch.channels_last).eval()


@dataclass(frozen=True)
class ModelCard:
    """What a model's weights do not say, and CNN_model.json beside them does; test_accuracy is in [0, 1]."""

    dataset: str
    classes: list[str]
    image_size: int
    channels: int
    hidden_units: int
    test_accuracy: float


def read_card(model_path: Path, model: TinyVGG) -> ModelCard | None:
    """Return what the JSON file beside model's weights says of it, None if there is none.

    Raises UserError if it cannot be read or is of another model.
    """
    path = model_path.with_suffix(".json")
    if not path.exists():
        return None
    try:
        card = ModelCard(**json.loads(path.read_text(encoding="utf-8")))
        hidden_units, channels = model.conv_block_1[0].weight.shape[:2]
        classes, features = model.classifier[1].weight.shape
        sizes = (len(card.classes), card.channels, card.hidden_units, card.hidden_units * (card.image_size // 4) ** 2)
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not describe a model: {error}") from error
    if sizes != (classes, channels, hidden_units, features):
        raise UserError(f"{path} describes another model than {model_path} holds")
    return card


# ------------------------------------------------------------------------------------------------
# Pictures
# ------------------------------------------------------------------------------------------------

# Okabe and Ito's palette, made to be told apart by the colour-blind too.
MODEL_COLORS = {"MLP": "#E69F00", "TinyVGG": "#0072B2"}
CORRECT_COLOR, WRONG_COLOR = "#009E73", "#D55E00"
HATCHES, MARKERS = ("", "///"), ("o", "s")  # one an optimizer


def draw_figures(
    results: Sequence[Result],
    cnn: TinyVGG,
    logits: Tensor,
    test_set: ImageSet,
    evidence: Evidence,
    dataset: str,
    seed: int,
) -> dict[str, "Figure"]:
    """Return the pictures under their file names.

    cnn is the first in results, logits, float (N, classes), its own on test_set. seed chooses the random examples.
    """
    groups = group_runs(results)
    names, optimizers = zip(*groups, strict=True)
    of_cnn = next(result for result in results if result.name == "TinyVGG")
    probabilities, class_names = logits.softmax(dim=1).cpu(), test_set.class_names
    labels, predictions = test_set.labels.cpu(), logits.argmax(dim=1).cpu()
    chosen = torch.randperm(len(test_set), generator=torch.Generator().manual_seed(seed))[:9]
    wrong = (predictions != labels).nonzero().flatten()
    surest = wrong[probabilities[wrong].amax(dim=1).argsort(descending=True)][:9]

    def plot_examples(numbers: Tensor, title: str) -> "Figure":
        images = test_set.images[numbers.to(test_set.images.device)]
        return plot_predictions(
            images, labels[numbers].tolist(), predictions[numbers].tolist(), probabilities[numbers], class_names, title
        )

    return {
        "accuracy_model_graph.png": plot_accuracy(
            names,
            optimizers,
            [[run.test_accuracy for run in runs] for runs in groups.values()],
            [[run.training_seconds for run in runs] for runs in groups.values()],
            f"{len(test_set):,} test images of {dataset}",
        ),
        "learning_curves.png": plot_learning_curves(
            names, optimizers, [[run.epochs for run in runs] for runs in groups.values()], f"How {dataset} is learned"
        ),
        "confusion_matrix.png": plot_confusion_matrix(
            torch.tensor(of_cnn.confusion_matrix),
            class_names,
            f"TinyVGG: {of_cnn.test_accuracy:.2%} of {len(test_set):,} test images right",
        ),
        "prediction_examples.png": plot_examples(chosen, f"TinyVGG on {len(chosen)} random test images"),
        "mistakes.png": plot_examples(surest, f"The {len(surest)} mistakes TinyVGG is most sure of"),
        "shift_robustness.png": plot_shift_robustness(
            evidence.shift_accuracy, f"{evidence.images:,} test images, moved up, down, left and right"
        ),
        "feature_maps.png": plot_feature_maps(
            *first_of_classes(test_set, predictions, count=3), cnn, evidence.dead_channels
        ),
    }


def plot_accuracy(
    names: Sequence[str],
    optimizers: Sequence[str],
    accuracies: Sequence[Sequence[float]],
    seconds: Sequence[Sequence[float]],
    title: str,
) -> "Figure":
    """Draw a group of bars a model, a bar an optimizer: test accuracy in [0, 1] left, seconds of training right.

    accuracies and seconds hold a list of runs for each pair of name and optimizer. Of several runs the
    bar is the mean, the error bar one standard deviation either way, and each run a dot.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    groups, kinds = list(dict.fromkeys(names)), list(dict.fromkeys(optimizers))
    width = 0.6 if len(kinds) == 1 else 0.84 / len(kinds)
    percents = [[100 * accuracy for accuracy in runs] for runs in accuracies]
    for axes, values, label, unit, digits in (
        (panels[0], percents, "test accuracy (%)", "%", 2),
        (panels[1], seconds, "training time (s)", "s", 1),
    ):
        for name, optimizer, runs in zip(names, optimizers, values, strict=True):
            kind = kinds.index(optimizer)
            place = groups.index(name) + (kind - (len(kinds) - 1) / 2) * width
            axes.bar(place, mean(runs), width, color=MODEL_COLORS[name], edgecolor="white", hatch=HATCHES[kind])
            draw_runs(axes, place, width, runs)
            spread = f"\n± {stdev(runs):.{digits}f}" if len(runs) > 1 else ""
            top = max(runs) if len(runs) == 1 else max(*runs, mean(runs) + stdev(runs))
            above = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "linespacing": 1.1}
            axes.annotate(f"{mean(runs):.{digits}f} {unit}{spread}", (place, top), **above)
        axes.set_xticks(range(len(groups)), groups)
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(0, 1.25 * max(max(runs) for runs in values))
    panels[0].set_ylim(0, 125 if len(accuracies[0]) > 1 else 110)
    panels[0].set_yticks(range(0, 101, 20))
    if len(kinds) > 1:
        patches = [Patch(facecolor="gray", edgecolor="white", hatch=HATCHES[kind]) for kind in range(len(kinds))]
        figure.legend(patches, kinds, loc="outside lower center", ncols=len(kinds), frameon=False)
    figure.suptitle(title)
    return figure


def draw_runs(axes: "Axes", place: float, width: float, runs: Sequence[float]) -> None:
    """Draw over a bar the standard deviation of its runs, and a dot for each, where there are several."""
    if len(runs) > 1:
        axes.errorbar(place, mean(runs), stdev(runs), color="black", capsize=8)
        dots = [place + width * (0.8 * i / (len(runs) - 1) - 0.4) for i in range(len(runs))]
        axes.scatter(dots, runs, s=12, color="black", alpha=0.6, zorder=3)


def plot_learning_curves(
    names: Sequence[str], optimizers: Sequence[str], histories: Sequence[Sequence[Sequence[Epoch]]], title: str
) -> "Figure":
    """Draw loss (left) and accuracy (right) at the points of the first epoch and after each epoch.

    histories hold, for each pair of name and optimizer, the epochs of each of its runs. Of several runs the
    line is the mean, and the band around the test curves one standard deviation either way.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4), layout="constrained")
    kinds = list(dict.fromkeys(optimizers))
    panels = figure.subplots(1, 2)
    for axes, measure, scale in zip(panels, ("loss", "accuracy"), (1, 100), strict=True):
        for name, optimizer, runs in zip(names, optimizers, histories, strict=True):
            style = {"color": MODEL_COLORS[name], "marker": MARKERS[kinds.index(optimizer)], "markersize": 5}
            for part, line, fill in (("train", "--", "white"), ("test", "-", None)):
                places, values = follow(runs, part, measure)
                means = [scale * mean(of_runs) for of_runs in values]
                ends = [place == int(place) for place in places]  # a marker at the end of each epoch
                label = f"{name}{f', {optimizer}' if len(kinds) > 1 else ''}, {part}"
                axes.plot(places, means, line, markerfacecolor=fill, markevery=ends, label=label, **style)
                if part == "test" and len(runs) > 1:
                    spread = [scale * stdev(of_runs) for of_runs in values]
                    low, high = zip(*((m - sd, m + sd) for m, sd in zip(means, spread, strict=True)), strict=True)
                    axes.fill_between(places, low, high, color=MODEL_COLORS[name], alpha=0.2, linewidth=0)
        axes.set(xlabel="epoch", ylabel="loss" if measure == "loss" else "accuracy (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(title)
    return figure


def follow(runs: Sequence[Sequence[Epoch]], part: str, measure: str) -> tuple[list[float], list[list[float]]]:
    """Return the places of a curve, in epochs, and at each the values of all runs; part is "train" or "test"."""
    name = f"{part}_{measure}"
    points = runs[0][0].points
    places = [point.epoch for point in points[:-1]] + list(range(1, len(runs[0]) + 1))
    curves = [
        [getattr(point, name) for point in epochs[0].points[:-1]] + [getattr(epoch, name) for epoch in epochs]
        for epochs in runs
    ]
    if points and part == "train":  # a mean over the whole first epoch would lie below the points within it
        for curve, epochs in zip(curves, runs, strict=True):
            curve[len(points) - 1] = getattr(epochs[0].points[-1], name)
    return places, [list(values) for values in zip(*curves, strict=True)]


def plot_shift_robustness(shift_accuracy: Mapping[str, Sequence[float]], title: str) -> "Figure":
    """Draw a line a model: its accuracy, in [0, 1], on images moved by 0, 1, 2, ... pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for (name, accuracies), marker, above in zip(shift_accuracy.items(), "os", (-14, 8), strict=True):
        percents = [100 * accuracy for accuracy in accuracies]
        axes.plot(percents, color=MODEL_COLORS[name], marker=marker, label=name)
        for pixels, percent in enumerate(percents):
            text = {"xytext": (0, above), "textcoords": "offset points", "ha": "center", "fontsize": 9}
            axes.annotate(f"{percent:.0f}", (pixels, percent), color=MODEL_COLORS[name], **text)
    axes.set(xlabel="moved by (pixels)", ylabel="test accuracy (%)", ylim=(0, 105), title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    return figure


def first_of_classes(test_set: ImageSet, predictions: Tensor, count: int) -> tuple[Tensor, list[str]]:
    """Return an image of each of the first classes, uint8 (count, C, H, W), and their names: recognized, if one is."""
    labels = test_set.labels.cpu()
    numbers = []
    for label in range(min(count, len(test_set.class_names))):
        known, of_class = (labels == label) & (predictions == label), labels == label
        numbers.append((known if known.any() else of_class).nonzero()[0].item())
    images = test_set.images[torch.tensor(numbers, device=test_set.images.device)]
    return images, [test_set.class_names[labels[number]] for number in numbers]


def plot_feature_maps(
    images: Tensor, captions: Sequence[str], cnn: TinyVGG, dead_channels: Sequence[Sequence[int]]
) -> "Figure":
    """Draw, for each of the uint8 images (N, C, H, W), what ten channels of each convolution answer, after ReLU.

    A column a layer, as CNN Explainer has it (Wang et al. 2020, arXiv:2004.15004). All the maps of a layer share
    one scale. dead_channels, a list a layer, are marked.
    """
    from matplotlib.figure import Figure

    layers = [feature_maps[:, :10].cpu() for feature_maps in compute_feature_maps(cnn, images)]
    figure = Figure(figsize=(3.2 * len(images), 7.4), layout="constrained")
    grid = figure.subplots(1, 5 * len(images), squeeze=False)[0]
    for number, (image, caption) in enumerate(zip(images.cpu(), captions, strict=True)):
        columns = grid[5 * number : 5 * number + 5]
        columns[0].imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
        columns[0].set_title(f"{caption}\ninput\n{image.shape[1]} x {image.shape[2]}", fontsize=8)
        columns[0].set_anchor("N")
        for axes, layer, dead, place in zip(columns[1:], layers, dead_channels, range(1, 5), strict=True):
            channels, height, width = layer.shape[1:]
            gap = max(1, height // 7)
            column = F.pad(layer[number], (0, 0, 0, gap), value=math.nan).reshape(-1, width)[:-gap]
            axes.imshow(column.numpy(), cmap="viridis", vmin=0, vmax=layer.max().item() or 1)
            axes.set_title(f"conv {place}\n{height} x {width}", fontsize=9)
            for channel in (channel for channel in dead if channel < channels):
                middle = channel * (height + gap) + height / 2
                axes.text(width / 2, middle, "dead", color="white", ha="center", va="center", fontsize=9)
    for axes in grid:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    shown = min(10, cnn.conv_block_1[0].out_channels)
    figure.suptitle(f"What {shown} channels of each convolution answer, dark: nothing, bright: most in the layer")
    return figure


def plot_confusion_matrix(confusion_matrix: Tensor, class_names: Sequence[str], title: str) -> "Figure":
    """Draw an int64 (classes, classes) matrix, rows the true class, as counts and shares of each row."""
    import matplotlib

    matplotlib.use("Agg")  # mlxtend draws through pyplot, which would else look for a screen
    import matplotlib.pyplot as plt
    from mlxtend.plotting import plot_confusion_matrix as mlxtend_plot

    side = min(40, max(9, 0.9 * len(class_names)))  # inches
    figure, axes = mlxtend_plot(
        confusion_matrix.numpy(force=True), figsize=(side, side), show_normed=True, class_names=class_names
    )
    plt.close(figure)  # mlxtend registers it with pyplot, which would keep it in memory for good
    figure.set_layout_engine("constrained")
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    return figure


def plot_predictions(
    images: Tensor,
    labels: Sequence[int],
    predictions: Sequence[int],
    probabilities: Tensor,
    class_names: Sequence[str],
    title: str,
) -> "Figure":
    """Draw up to nine images (uint8 (N, C, H, W)) in a 3 x 3 grid, each with its predicted and true class.

    probabilities, float (N, classes), are the model's: both classes are shown with theirs.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 8.5), layout="constrained")
    grid = figure.subplots(3, 3).flatten()
    for axes in grid[len(images) :]:
        axes.set_visible(False)
    for axes, image, label, prediction, of_classes in zip(
        grid[: len(images)], images, labels, predictions, probabilities, strict=True
    ):
        correct = label == prediction
        color = CORRECT_COLOR if correct else WRONG_COLOR
        axes.imshow(image.permute(1, 2, 0).numpy(force=True), cmap="gray", vmin=0, vmax=255)
        axes.set_title(
            f"{'✓' if correct else '✗'} predicted: {class_names[prediction]}, {of_classes[prediction]:.1%}\n"
            f"true: {class_names[label]}, {of_classes[label]:.1%}",
            color=color,
            fontsize=10,
        )
        axes.set(xticks=[], yticks=[])
        # A dashed frame marks a mistake where colours cannot be told apart.
        for spine in axes.spines.values():
            spine.set(color=color, linewidth=3, linestyle="-" if correct else "--")
    figure.suptitle(title)
    return figure


def render_png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------
# Command line
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What the program can be told from the command line; None is for what depends on the rest."""

    epochs: int = 3
    batch_size: int = 128
    learning_rate: float | None = None
    optimizer: tuple[str, ...] = ("adam",)
    hidden_units: int = 10
    augment: bool = False
    seed: int = 42
    runs: int = 1
    device: str = "auto"
    no_plots: bool = False
    images: str = ""
    image_size: int | None = None
    data_dir: str = "data_1"
    models_dir: str = "models"
    assets_dir: str = "assets"
    predict: tuple[str, ...] = ()
    model: str = "models/CNN_model.pth"
    json: bool = False


FOR_PREDICTING = {"predict", "model", "json"}  # the settings that have no part in training


def show_setting(value: object) -> str:
    """Return a setting as the help shows it."""
    if isinstance(value, tuple):
        return " ".join(value) or "none"
    return {None: "auto", "": "none", False: "no"}.get(value) or str(value)


def parse_args(argv: Sequence[str] | None = None) -> Settings:
    """Read the command line; a value that makes no sense ends the program with one line and exit code 2."""
    parser = argparse.ArgumentParser(
        description="Train an MLP and a TinyVGG CNN on FashionMNIST or your own pictures, compare them, save the CNN.",
        allow_abbrev=False,
    )
    # argparse prints the usage before the message; one line is easier to find.
    parser.error = lambda message: sys.exit(tell(f"{message} (see --help)", 2))
    add_options(parser)
    given = vars(parser.parse_args(argv))
    settings = Settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
    if settings.device not in ("auto", *available_devices()):
        parser.error(f"argument --device: there is no {settings.device} on this machine")
    if len(set(settings.optimizer)) < len(settings.optimizer):
        parser.error("argument --optimizer: each one once")
    if settings.image_size and not settings.images:
        parser.error("argument --image-size: only the pictures of --images can have another size")
    without_a_part = given.keys() - FOR_PREDICTING - {"device"} if settings.predict else given.keys() & FOR_PREDICTING
    for name in sorted(without_a_part):
        parser.error(
            f"argument --{name.replace('_', '-')}: has no part in {'--predict' if settings.predict else 'training'}"
        )
    return settings


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give parser an option for each of the Settings."""

    def option(group: argparse._ArgumentGroup, name: str, description: str, **kind: Any) -> None:  # noqa: ANN401
        default = show_setting(getattr(Settings, name.replace("-", "_")))
        explained = f"{description} (default: {default})"
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, help=explained, **kind)  # Settings has the defaults

    def numeric(kind: type[int] | type[float], low: float, high: float) -> dict[str, Any]:
        return {"type": number(kind, low, high), "metavar": "X" if kind is float else "N"}

    a_folder = {"type": folder, "metavar": "DIR"}
    group = parser.add_argument_group("training")
    option(group, "epochs", "passes over the training set", **numeric(int, 1, 1000))
    option(group, "batch-size", "images in a training step", **numeric(int, 1, 60000))
    rates = " and ".join(f"{recipe.learning_rate} for {name}" for name, recipe in RECIPES.items())
    explained = f"highest learning rate of the run; auto: {rates}, less above 10 hidden units"
    option(group, "learning-rate", explained, **numeric(float, 1e-9, 100))
    option(group, "optimizer", "one or several to compare; the CNN of the first is saved", choices=RECIPES, nargs="+")
    option(group, "hidden-units", "of the MLP; channels of TinyVGG's convolutions", **numeric(int, 1, 1024))
    option(group, "augment", "flip and shift training images at random", action="store_true")
    option(group, "seed", "decides first weights, image order and examples", **numeric(int, 0, 2**32 - 1))
    option(group, "runs", "train all models N times: seed, seed + 1, ...", **numeric(int, 1, 1000))
    devices = ["auto", "cpu", "cuda", "mps"]
    option(group, "device", "where to train; auto takes a GPU where there is one", choices=devices)
    option(group, "no-plots", "draw no picture, and measure nothing for one", action="store_true")
    group = parser.add_argument_group("your own pictures")
    explained = "train on the pictures in DIR/train/<class>/ and DIR/test/<class>/, or in DIR/<class>/"
    option(group, "images", explained, **a_folder)
    explained = "pixels of their sides; auto: 28 where all pictures are 28 x 28, else 64"
    option(group, "image-size", explained, **numeric(int, 4, 1024))
    group = parser.add_argument_group("folders")
    option(group, "data-dir", "where FashionMNIST is, or is downloaded to", **a_folder)
    option(group, "models-dir", "where CNN_model.pth is written", **a_folder)
    option(group, "assets-dir", "where the pictures and results.json are written", **a_folder)
    group = parser.add_argument_group("asking a saved model")
    option(group, "predict", "train nothing; say what these pictures show", nargs="+", metavar="IMAGE")
    option(group, "model", "the model to ask", metavar="FILE")
    option(group, "json", "answer in lines of JSON", action="store_true")


def number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    """Return an argparse type that takes a number from low to high and nothing else."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan  # lies in no range
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a {'whole ' if kind is int else ''}number from {low} to {high}"
            )
        return value

    return parse


def folder(text: str) -> str:
    """Take any name of a folder but the empty one, which a shell makes of a variable that is not set."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be the name of a folder")
    return text


def available_devices() -> list[str]:
    """The kinds of device on this machine, fastest first."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [device for device, is_there in present.items() if is_there]


def check_memory(settings: Settings, device: torch.device, image_size: int) -> None:
    """Raises UserError if a training step needs more memory than is free, for which Linux would kill the program."""
    # Measured: TinyVGG keeps about 3,600 numbers an image of 28 x 28 and channel for the backward pass.
    numbers = 3600 * (image_size / 28) ** 2 * settings.batch_size * settings.hidden_units
    needed, free = training_precision(device).itemsize * numbers, free_memory()
    if device.type == "cpu" and needed > free:
        raise UserError(
            f"a training step with --batch-size {settings.batch_size} and --hidden-units {settings.hidden_units} "
            f"needs about {needed / 1e9:.0f} GB of memory, and {free / 1e9:.0f} GB are free"
        )


def compare(
    settings: Settings, device: torch.device, train_set: ImageSet, test_set: ImageSet
) -> tuple[list[Result], tuple[MLP, TinyVGG], Tensor]:
    """Train both models with each optimizer, once a seed.

    Return all results, the first of each model, and that CNN's logits on test_set, float (N, classes).
    """
    channels, _, image_size = train_set.images.shape[1:]
    classes, hidden_units = len(train_set.class_names), settings.hidden_units
    builders = (
        partial(MLP, channels * image_size**2, hidden_units, classes),
        partial(TinyVGG, channels, hidden_units, classes, image_size),
    )
    results, models, first_logits = [], [], None
    for seed in range(settings.seed, settings.seed + settings.runs):
        for optimizer in settings.optimizer:
            for build in builders:
                torch.manual_seed(seed)
                model = build().to(device)
                result, logits = train_and_score(model, train_set, test_set, settings, optimizer, seed)
                check_better_than_chance(result, test_set)
                results.append(result)
                if len(models) < 2:
                    models.append(model)
                    first_logits = logits
    return results, tuple(models), first_logits


def train_and_score(
    model: nn.Module, train_set: ImageSet, test_set: ImageSet, settings: Settings, optimizer: str, seed: int
) -> tuple[Result, Tensor]:
    """Train model in place, telling of each epoch; return its result and its logits on test_set."""
    name, recipe = type(model).__name__, RECIPES[optimizer]
    with_optimizer = f", {recipe.name}" if len(settings.optimizer) > 1 else ""
    print(f"{name}: {count_parameters(model):,} parameters{with_optimizer}, seed {seed}")
    learning_rate = settings.learning_rate or recipe.scaled_learning_rate(settings.hidden_units)
    history = train(
        model,
        train_set,
        test_set,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=learning_rate,
        seed=seed,
        optimizer=optimizer,
        augmented=settings.augment,
        points=0 if settings.no_plots else 20,
        on_epoch_end=print_epoch,
    )
    logits = predict_logits(model, test_set.images)
    scores = score(logits, test_set.labels)
    precision, recall = score_classes(logits, test_set.labels)
    result = Result(
        name=name,
        optimizer=recipe.name,
        learning_rate=learning_rate,
        seed=seed,
        parameters=count_parameters(model),
        multiply_adds=count_multiply_adds(model, test_set.images),
        test_accuracy=scores.accuracy,
        test_loss=scores.loss,
        training_seconds=sum(epoch.seconds for epoch in history),
        epochs=history,
        confusion_matrix=scores.confusion_matrix.tolist(),
        precision=precision,
        recall=recall,
    )
    return result, logits


def check_better_than_chance(result: Result, test_set: ImageSet) -> None:
    """Raises UserError if always naming the most frequent class would have done as well, give or take luck."""
    share = test_set.labels.bincount().max().item() / len(test_set)
    # Three standard deviations of a guess, but a handful of test images is not to condemn a model.
    luck = min(0.05, 3 * math.sqrt(share * (1 - share) / len(test_set)))
    if result.test_accuracy <= share + luck:
        raise UserError(
            f"{result.name} with seed {result.seed} learned nothing: its test accuracy is "
            f"{result.test_accuracy:.2%}, that of chance; a learning rate below {result.learning_rate:g}, "
            "a smaller batch or more epochs may help"
        )


def print_epoch(number: int, epoch: Epoch) -> None:
    print(
        f"  epoch {number}: train loss {epoch.train_loss:.4f}, accuracy {epoch.train_accuracy:.2%}   "
        f"test loss {epoch.test_loss:.4f}, accuracy {epoch.test_accuracy:.2%}   {epoch.seconds:.1f} s"
    )


def print_table(results: Sequence[Result]) -> None:
    """Print a line a model and optimizer; where there are several runs, also how far they lie apart."""
    groups = group_runs(results)
    several_runs = len(results) > len(groups)
    width = 11 if len({optimizer for _, optimizer in groups}) > 1 else 0
    header = f"{'model':<10}{'optimizer'[:width]:<{width}}{'parameters':>12}{'test accuracy':>16}{'test loss':>12}"
    spread = f"{'accuracy: sd':>16}{'min':>9}{'max':>9}{'runs':>6}" if several_runs else ""
    print(f"\n{header}{'training time':>16}{spread}")
    for (name, optimizer), runs in groups.items():
        accuracies = [run.test_accuracy for run in runs]
        loss, seconds = (mean(getattr(run, field) for run in runs) for field in ("test_loss", "training_seconds"))
        row = f"{name:<10}{optimizer[:width]:<{width}}{runs[0].parameters:>12,}{mean(accuracies):>16.2%}{loss:>12.4f}"
        if several_runs:
            spread = f"{stdev(accuracies):>16.2%}{min(accuracies):>9.2%}{max(accuracies):>9.2%}{len(runs):>6}"
        print(f"{row}{seconds:>14.1f} s{spread}")


def describe_run(
    settings: Settings,
    device: torch.device,
    dataset: str,
    train_set: ImageSet,
    test_set: ImageSet,
    results: Sequence[Result],
) -> dict[str, Any]:
    """Collect what results.json holds: all that a reader needs to judge the figures or repeat them."""
    return {
        "dataset": {
            "name": dataset,
            "train_images": len(train_set),
            "test_images": len(test_set),
            "image_shape": list(train_set.images.shape[1:]),
            "class_names": list(train_set.class_names),
        },
        "environment": describe_environment(device),
        "settings": {name: value for name, value in asdict(settings).items() if name not in FOR_PREDICTING},
        "models": [asdict(result) for result in results],
    }


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Collect what the time that training takes depends on, besides the program."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": device.type,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "precision": str(training_precision(device)).removeprefix("torch."),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")  # Linux alone; platform.processor() says only x86_64 there
    names = re.findall(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def load_dataset(settings: Settings) -> tuple[ImageSet, ImageSet]:
    """Return the training set and the test set, on the CPU. Raises UserError."""
    if settings.images:
        return load_image_folder(Path(settings.images), settings.image_size, settings.seed)
    return load_fashion_mnist(Path(settings.data_dir))


def run(settings: Settings) -> None:
    """The whole job: load, train, compare, save, draw."""
    own = Path(settings.images).resolve().name if settings.images else ""
    if settings.images and not (own and Path(settings.images).is_dir()):
        raise UserError(f"--images: {settings.images} is no folder{' with a name' * (not own)}")
    # Own pictures have folders of their own: the model of FashionMNIST is not overwritten.
    models_dir, assets_dir = Path(settings.models_dir) / own, Path(settings.assets_dir) / own
    check_writable(models_dir, "--models-dir")
    check_writable(assets_dir, "--assets-dir")
    device = torch.device(available_devices()[0] if settings.device == "auto" else settings.device)
    dataset = own or "FashionMNIST"
    train_set, test_set = (image_set.to(device) for image_set in load_dataset(settings))
    image_size = train_set.images.shape[-1]
    check_memory(settings, device, image_size)
    print(f"{dataset}: {len(train_set):,} training and {len(test_set):,} test images, on {device_name(device)}")

    results, (mlp, cnn), logits = compare(settings, device, train_set, test_set)
    print_table(results)

    report = describe_run(settings, device, dataset, train_set, test_set, results)
    del train_set  # 47 MB that the libraries for drawing can use: memory peaks when they are imported
    weights = serialize_model(cnn)
    if not torch.equal(logits, predict_logits(read_model(io.BytesIO(weights)).to(device), test_set.images)):
        raise RuntimeError("the saved model does not answer as the trained one did")
    accuracy = next(result.test_accuracy for result in results if result.name == "TinyVGG")
    card = ModelCard(
        dataset, list(test_set.class_names), image_size, test_set.images.shape[1], settings.hidden_units, accuracy
    )
    model_path = models_dir / "CNN_model.pth"
    outputs = {model_path: weights, model_path.with_suffix(".json"): as_json(asdict(card))}
    if not settings.no_plots:
        evidence = gather_evidence(mlp, cnn, test_set)
        report["evidence"] = asdict(evidence)
        figures = draw_figures(results, cnn, logits, test_set, evidence, dataset, settings.seed)
        outputs |= {assets_dir / name: render_png(figure) for name, figure in figures.items()}
    outputs[assets_dir / "results.json"] = as_json(report)
    write_files(outputs)
    pictures = "" if settings.no_plots else "the pictures and "
    print(f"\nThe CNN is in {model_path}, {pictures}results.json in {assets_dir}{os.sep}")


def as_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def predict(settings: Settings) -> int:
    """Print what the saved CNN takes each picture for; return the exit code, 1 if one could not be read."""
    device = torch.device("cpu" if settings.device == "auto" else settings.device)  # a GPU takes longer to wake up
    model = load_model(settings.model, device)
    card = read_card(Path(settings.model), model)
    class_names = card.classes if card else [f"class {number}" for number in range(model.classifier[1].out_features)]
    wide, narrow = max(map(len, settings.predict)), max(9, *map(len, class_names))
    if not settings.json:
        answers = f"{'class':<{narrow}}  probability  {'runner-up':<{narrow}}  probability"
        print(f"{'picture':<{wide}}  {answers}  prepared")
    exit_code = 0
    for path in settings.predict:
        try:
            image, preparation = prepare_for(model, card, Path(path))
        except UserError as error:
            exit_code = tell(str(error), 1)
            continue
        probabilities = predict_logits(model, image.unsqueeze(0).to(device)).softmax(dim=1)[0]
        best = [(class_names[k], probabilities[k].item()) for k in probabilities.topk(2).indices.tolist()]
        if settings.json:
            keys = ("class", "probability"), ("runner_up", "runner_up_probability")
            answer = {key: value for pair in zip(keys, best, strict=True) for key, value in zip(*pair, strict=True)}
            print(json.dumps({"picture": path, **answer, "prepared": preparation}))
        else:
            answers = "  ".join(f"{name:<{narrow}}  {probability:>11.2%}" for name, probability in best)
            print(f"{path:<{wide}}  {answers}  {preparation}")
    return exit_code


def prepare_for(model: TinyVGG, card: ModelCard | None, path: Path) -> tuple[Tensor, str]:
    """Return a picture as model takes it, uint8 (C, H, W), and in words what was done to it. Raises UserError."""
    if card and card.dataset == "FashionMNIST" and (card.channels, card.image_size) == (1, 28):
        picture = read_picture(path, "RGB")
        if is_like_fashion_mnist(picture):
            return pil_to_tensor(picture.convert("L")), "taken as it is"
        with told_of_picture(path):
            return pil_to_tensor(prepare_garment(picture)), "as the images of FashionMNIST were"
    channels = model.conv_block_1[0].in_channels
    features = model.classifier[1].in_features // model.conv_block_2[2].out_channels
    image_size = card.image_size if card else 4 * math.isqrt(features)
    image = read_square(path, "L" if channels == 1 else "RGB", image_size)
    return image, f"resized to {image_size} x {image_size}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code: 0, or 1 for what went wrong. A bad command line exits with 2."""
    settings = parse_args(argv)
    try:
        if settings.predict:
            return predict(settings)
        run(settings)
    except Exception as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
