"""Train an MLP and a TinyVGG CNN on FashionMNIST, compare them, and save the CNN.

    python fashion_mnist_cnn.py                  # train both, compare, draw, save (about half a minute)
    python fashion_mnist_cnn.py --epochs 10      # train longer
    python fashion_mnist_cnn.py --device cuda    # choose the device yourself
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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
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
from torch import Tensor, nn
from torchvision.datasets import FashionMNIST
from tqdm import tqdm

if TYPE_CHECKING:
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


def train(
    model: nn.Module,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    on_epoch_end: Callable[[int, Epoch], None] | None = None,
) -> list[Epoch]:
    """Train model in place and return what each epoch came to.

    The model and both sets must be on the same device. Adam's learning rate rises to
    learning_rate and falls to zero again over the run (the one-cycle policy, Smith and Topin
    2018, arXiv:1708.07120). seed decides the order of the images and nothing else.
    Raises UserError if the loss is no longer a finite number.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.99), fused=True)
    steps = epochs * math.ceil(len(train_set) / batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=learning_rate, total_steps=steps, anneal_strategy="linear", cycle_momentum=False
    )
    shuffler = torch.Generator().manual_seed(seed)
    history = []
    for number in range(1, epochs + 1):
        start = time.perf_counter()
        order = torch.randperm(len(train_set), generator=shuffler).to(train_set.labels.device)
        batches = tqdm(
            order.split(batch_size), desc=f"epoch {number}/{epochs}", unit=" steps", leave=False, disable=None
        )
        logits = train_one_epoch(model, train_set, batches, optimizer, schedule)
        wait_for(train_set.labels.device)
        seconds = time.perf_counter() - start
        trained = score(logits, train_set.labels[order])
        tested = evaluate(model, test_set)
        if not math.isfinite(trained.loss + tested.loss):
            raise UserError(
                f"training diverged: the loss of epoch {number} is not a finite number; "
                f"a learning rate below {learning_rate:g} may help"
            )
        history.append(Epoch(trained.loss, trained.accuracy, tested.loss, tested.accuracy, seconds))
        if on_epoch_end:
            on_epoch_end(number, history[-1])
    return history


def train_one_epoch(
    model: nn.Module,
    train_set: ImageSet,
    batches: tqdm,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> Tensor:
    """Take one optimizer step on each mini-batch of image numbers; return the logits, in their order."""
    model.train()
    device = train_set.images.device
    mixed_precision = training_precision(device) == torch.bfloat16
    # For the epoch's loss and accuracy, computed once at its end and not at every step.
    epoch_logits = torch.empty(len(train_set), len(train_set.class_names), device=device)
    kept = 0
    for step, batch in enumerate(batches):
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
            logits = model(to_float(train_set.images[batch]))
        loss = F.cross_entropy(logits.float(), train_set.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        epoch_logits[kept : kept + len(batch)] = logits.detach()
        kept += len(batch)
        # Reading the loss makes the processor wait for a GPU, so only where somebody watches.
        if not batches.disable and step % 50 == 0:
            batches.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return epoch_logits


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


@torch.inference_mode()
def predict_logits(model: nn.Module, images: Tensor, batch_size: int = 200) -> Tensor:
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
    seed: int
    parameters: int
    test_accuracy: float
    test_loss: float
    training_seconds: float
    epochs: list[Epoch]
    confusion_matrix: list[list[int]]


def group_by_model(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the runs of each model under its name, in the order in which they were trained."""
    runs: dict[str, list[Result]] = {}
    for result in results:
        runs.setdefault(result.name, []).append(result)
    return runs


def make_result(model: nn.Module, history: list[Epoch], scores: Scores, seed: int) -> Result:
    return Result(
        name=type(model).__name__,
        optimizer="Adam",
        seed=seed,
        parameters=count_parameters(model),
        test_accuracy=scores.accuracy,
        test_loss=scores.loss,
        training_seconds=sum(epoch.seconds for epoch in history),
        epochs=history,
        confusion_matrix=scores.confusion_matrix.tolist(),
    )


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


# ------------------------------------------------------------------------------------------------
# Pictures
# ------------------------------------------------------------------------------------------------

# Okabe and Ito's palette, made to be told apart by the colour-blind too.
MODEL_COLORS = {"MLP": "#E69F00", "TinyVGG": "#0072B2"}
CORRECT_COLOR, WRONG_COLOR = "#009E73", "#D55E00"


def draw_figures(results: Sequence[Result], logits: Tensor, test_set: ImageSet, seed: int) -> dict[str, "Figure"]:
    """Return the three pictures under their file names.

    logits are float (N, classes), on test_set and of the first CNN in results. seed chooses the nine examples.
    """
    models = group_by_model(results)
    cnn = models["TinyVGG"][0]
    chosen = torch.randperm(len(test_set), generator=torch.Generator().manual_seed(seed))[:9].to(logits.device)
    return {
        "accuracy_model_graph.png": plot_accuracy(
            list(models),
            [[run.test_accuracy for run in runs] for runs in models.values()],
            [[run.training_seconds for run in runs] for runs in models.values()],
            f"{len(test_set):,} test images of FashionMNIST",
        ),
        "confusion_matrix.png": plot_confusion_matrix(
            torch.tensor(cnn.confusion_matrix),
            test_set.class_names,
            f"{cnn.name}: {cnn.test_accuracy:.2%} of {len(test_set):,} test images right",
        ),
        "prediction_examples.png": plot_predictions(
            test_set.images[chosen],
            test_set.labels[chosen].tolist(),
            logits[chosen].argmax(dim=1).tolist(),
            test_set.class_names,
            f"{cnn.name} on nine random test images",
        ),
    }


def plot_accuracy(
    names: Sequence[str], accuracies: Sequence[Sequence[float]], seconds: Sequence[Sequence[float]], title: str
) -> "Figure":
    """Draw a bar a model: test accuracy in [0, 1] on the left, seconds of training on the right.

    accuracies and seconds hold a list of runs for each name. Of several runs the bar is the mean,
    the error bar one standard deviation either way, and each run a dot.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    percents = [[100 * accuracy for accuracy in runs] for runs in accuracies]
    for axes, values, label, unit, digits in (
        (panels[0], percents, "test accuracy (%)", "%", 2),
        (panels[1], seconds, "training time (s)", "s", 1),
    ):
        for place, (name, runs) in enumerate(zip(names, values, strict=True)):
            text, top = f"{mean(runs):.{digits}f}", max(runs)
            axes.bar(name, mean(runs), color=MODEL_COLORS[name], width=0.6)
            if len(runs) > 1:
                axes.errorbar(place, mean(runs), stdev(runs), color="black", capsize=8)
                dots = [place - 0.25 + 0.5 * i / (len(runs) - 1) for i in range(len(runs))]
                axes.scatter(dots, runs, s=12, color="black", alpha=0.6, zorder=3)
                text += f" ± {stdev(runs):.{digits}f}"
                top = max(top, mean(runs) + stdev(runs))
            above = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center"}
            axes.annotate(f"{text} {unit}", (place, top), **above)
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(0, 1.15 * max(max(runs) for runs in values))
    panels[0].set_ylim(0, 110)
    panels[0].set_yticks(range(0, 101, 20))
    figure.suptitle(title)
    return figure


def plot_confusion_matrix(confusion_matrix: Tensor, class_names: Sequence[str], title: str) -> "Figure":
    """Draw an int64 (classes, classes) matrix, rows the true class, as counts and shares of each row."""
    import matplotlib

    matplotlib.use("Agg")  # mlxtend draws through pyplot, which would else look for a screen
    import matplotlib.pyplot as plt
    from mlxtend.plotting import plot_confusion_matrix as mlxtend_plot

    figure, axes = mlxtend_plot(
        confusion_matrix.numpy(force=True), figsize=(9, 9), show_normed=True, class_names=class_names
    )
    plt.close(figure)  # mlxtend registers it with pyplot, which would keep it in memory for good
    figure.set_layout_engine("constrained")
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    return figure


def plot_predictions(
    images: Tensor, labels: Sequence[int], predictions: Sequence[int], class_names: Sequence[str], title: str
) -> "Figure":
    """Draw nine images (uint8 (9, C, H, W)) in a 3 x 3 grid, each with its predicted and true class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 8.5), layout="constrained")
    for axes, image, label, prediction in zip(figure.subplots(3, 3).flat, images, labels, predictions, strict=True):
        correct = label == prediction
        color = CORRECT_COLOR if correct else WRONG_COLOR
        axes.imshow(image.permute(1, 2, 0).numpy(force=True), cmap="gray", vmin=0, vmax=255)
        axes.set_title(
            f"{'✓' if correct else '✗'} predicted: {class_names[prediction]}\ntrue: {class_names[label]}",
            color=color,
            fontsize=11,
            fontweight="normal" if correct else "bold",
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
    """What a run can be told from the command line."""

    epochs: int = 3
    batch_size: int = 128
    learning_rate: float = 0.02
    hidden_units: int = 10
    seed: int = 42
    runs: int = 1
    device: str = "auto"
    data_dir: str = "data_1"
    models_dir: str = "models"
    assets_dir: str = "assets"


def parse_args(argv: Sequence[str] | None = None) -> Settings:
    """Read the command line; a value that makes no sense ends the program with one line and exit code 2."""
    parser = argparse.ArgumentParser(
        description="Train an MLP and a TinyVGG CNN on FashionMNIST, compare them, and save the CNN.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    # argparse prints the usage before the message; one line is easier to find.
    parser.error = lambda message: sys.exit(tell(f"{message} (see --help)", 2))
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=number(int, 1, 1000), metavar="N", help="passes over the training set")
    training.add_argument("--batch-size", type=number(int, 1, 60000), metavar="N", help="images in a training step")
    training.add_argument(
        "--learning-rate", type=number(float, 1e-9, 100), metavar="X", help="highest learning rate of the run"
    )
    training.add_argument(
        "--hidden-units",
        type=number(int, 1, 1024),
        metavar="N",
        help="hidden units of the MLP, channels of every convolution of TinyVGG",
    )
    training.add_argument(
        "--seed", type=number(int, 0, 2**32 - 1), metavar="N", help="decides first weights, image order and examples"
    )
    training.add_argument(
        "--runs", type=number(int, 1, 1000), metavar="N", help="train both models N times: seed, seed + 1, ..."
    )
    training.add_argument(
        "--device", choices=["auto", "cpu", "cuda", "mps"], help="where to train; auto takes a GPU where there is one"
    )
    folders = parser.add_argument_group("folders")
    folders.add_argument("--data-dir", type=folder, metavar="DIR", help="where the dataset is, or is downloaded to")
    folders.add_argument("--models-dir", type=folder, metavar="DIR", help="where CNN_model.pth is written")
    folders.add_argument(
        "--assets-dir", type=folder, metavar="DIR", help="where the pictures and results.json are written"
    )
    parser.set_defaults(**asdict(Settings()))
    settings = Settings(**vars(parser.parse_args(argv)))
    if settings.device not in ("auto", *available_devices()):
        parser.error(f"argument --device: there is no {settings.device} on this machine")
    return settings


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


def check_memory(settings: Settings, device: torch.device) -> None:
    """Raises UserError if a training step needs more memory than is free, for which Linux would kill the program."""
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.exists():
        return
    free = 1024 * int(re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())[1])
    # Measured: TinyVGG keeps about 3,600 numbers an image and channel for the backward pass.
    needed = 3600 * training_precision(device).itemsize * settings.batch_size * settings.hidden_units
    if needed > free:
        raise UserError(
            f"a training step with --batch-size {settings.batch_size} and --hidden-units {settings.hidden_units} "
            f"needs about {needed / 1e9:.0f} GB of memory, and {free / 1e9:.0f} GB are free"
        )


def compare(
    settings: Settings, device: torch.device, train_set: ImageSet, test_set: ImageSet
) -> tuple[list[Result], TinyVGG, Tensor]:
    """Train both models by the same recipe, once a seed.

    Return all results, the first seed's CNN and its logits on test_set, float (N, classes).
    """
    results, cnns = [], []
    for seed in range(settings.seed, settings.seed + settings.runs):
        for build in (MLP, TinyVGG):
            torch.manual_seed(seed)
            model = build(hidden_units=settings.hidden_units).to(device)
            print(f"{build.__name__}: {count_parameters(model):,} parameters, seed {seed}")
            history = train(
                model,
                train_set,
                test_set,
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                seed=seed,
                on_epoch_end=print_epoch,
            )
            logits = predict_logits(model, test_set.images)
            results.append(make_result(model, history, score(logits, test_set.labels), seed))
            check_better_than_chance(results[-1], test_set, settings.learning_rate)
        cnns.append((model, logits))
    return results, *cnns[0]


def check_better_than_chance(result: Result, test_set: ImageSet, learning_rate: float) -> None:
    """Raises UserError if always naming the most frequent class would have done as well, give or take luck."""
    share = test_set.labels.bincount().max().item() / len(test_set)
    luck = 3 * math.sqrt(share * (1 - share) / len(test_set))  # three standard deviations of a guess
    if result.test_accuracy <= share + luck:
        raise UserError(
            f"{result.name} with seed {result.seed} learned nothing: its test accuracy is "
            f"{result.test_accuracy:.2%}, that of chance; a learning rate below {learning_rate:g}, "
            "a smaller batch or more epochs may help"
        )


def print_epoch(number: int, epoch: Epoch) -> None:
    print(
        f"  epoch {number}: train loss {epoch.train_loss:.4f}, accuracy {epoch.train_accuracy:.2%}   "
        f"test loss {epoch.test_loss:.4f}, accuracy {epoch.test_accuracy:.2%}   {epoch.seconds:.1f} s"
    )


def print_table(results: Sequence[Result]) -> None:
    """Print a line a model; where there are several runs, also how far they lie apart."""
    several = len(results) > len(group_by_model(results))
    print(f"\n{'model':<10}{'parameters':>12}{'test accuracy':>16}{'test loss':>12}{'training time':>16}", end="")
    print(f"{'accuracy: sd':>16}{'min':>9}{'max':>9}{'runs':>6}" if several else "")
    for name, runs in group_by_model(results).items():
        accuracies = [run.test_accuracy for run in runs]
        loss, seconds = (mean(getattr(run, field) for run in runs) for field in ("test_loss", "training_seconds"))
        print(f"{name:<10}{runs[0].parameters:>12,}{mean(accuracies):>16.2%}{loss:>12.4f}{seconds:>14.1f} s", end="")
        spread = f"{stdev(accuracies):>16.2%}{min(accuracies):>9.2%}{max(accuracies):>9.2%}" if several else ""
        print(f"{spread}{len(runs):>6}" if several else "")


def describe_run(
    settings: Settings, device: torch.device, train_set: ImageSet, test_set: ImageSet, results: Sequence[Result]
) -> dict[str, Any]:
    """Collect what results.json holds: all that a reader needs to judge the figures or repeat them."""
    return {
        "dataset": {
            "name": "FashionMNIST",
            "train_images": len(train_set),
            "test_images": len(test_set),
            "image_shape": list(train_set.images.shape[1:]),
            "class_names": list(train_set.class_names),
        },
        "environment": describe_environment(device),
        "settings": asdict(settings),
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


def run(settings: Settings) -> None:
    """The whole job: load, train, compare, save, draw."""
    models_dir, assets_dir = Path(settings.models_dir), Path(settings.assets_dir)
    check_writable(models_dir, "--models-dir")
    check_writable(assets_dir, "--assets-dir")
    device = torch.device(available_devices()[0] if settings.device == "auto" else settings.device)
    check_memory(settings, device)
    train_set, test_set = (image_set.to(device) for image_set in load_fashion_mnist(Path(settings.data_dir)))
    print(f"FashionMNIST: {len(train_set):,} training and {len(test_set):,} test images, on {device_name(device)}")

    results, cnn, logits = compare(settings, device, train_set, test_set)
    print_table(results)

    report = describe_run(settings, device, train_set, test_set, results)
    del train_set  # 47 MB that the libraries for drawing can use: memory peaks when they are imported
    weights = serialize_model(cnn)
    if not torch.equal(logits, predict_logits(read_model(io.BytesIO(weights)).to(device), test_set.images)):
        raise RuntimeError("the saved model does not answer as the trained one did")
    model_path = models_dir / "CNN_model.pth"
    outputs = {
        model_path: weights,
        assets_dir / "results.json": (json.dumps(report, indent=2) + "\n").encode(),
    }
    for name, figure in draw_figures(results, logits, test_set, settings.seed).items():
        outputs[assets_dir / name] = render_png(figure)
    write_files(outputs)
    print(f"\nThe CNN is in {model_path}, the pictures and results.json are in {assets_dir}{os.sep}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code: 0, or 1 for what went wrong. A bad command line exits with 2."""
    settings = parse_args(argv)
    try:
        run(settings)
    except Exception as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
