"""The checkpoint of an interrupted run, from which --resume continues to the same result."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
import tokenize
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import fashion_mnist_cnn as program
from fashion_mnist_extras import set_aside

INTERVAL = 60  # seconds from one writing of the file to the next
VERSION = "version of the program"
TRAINING_MODULES = (
    "augmentation.py",
    "processes.py",
    "transfer.py",
)  # those that decide the weights, too


def describe_conditions(
    recipe: program.Recipe, dataset: program.Dataset, processes: int
) -> dict[str, Any]:
    """Return all that decides the weights, as JSON types: to resume, it must be the same.

    It has every field of the recipe, including new ones. Flags that change none of this do not
    matter.
    """
    train_set, test_set = dataset.train_set, dataset.test_set
    # Thumbnails, not features: the last bits of those depend on the number of threads.
    tensors = [train_set.pictures, train_set.labels, test_set.pictures, test_set.labels]
    conditions = asdict(recipe)
    conditions["number of processes"] = processes
    conditions["image shape"] = list(dataset.image_shape)
    conditions["images"] = compute_digest(train_set.class_names, tensors)
    conditions[VERSION] = compute_version()
    return json.loads(json.dumps(conditions, default=list))  # tuples and ranges become lists


class Checkpoint:
    """The state of each network's training, in memory and from time to time in a file.

    conditions must be the same to resume, environment may be another.
    """

    def __init__(
        self, path: Path, conditions: Mapping[str, Any], environment: Mapping[str, Any]
    ) -> None:
        self.path = path
        self.conditions = conditions
        self.environment = environment
        self.resumed_from: Mapping[str, Any] | None = None  # the environment that wrote the file
        self.states: dict[str, Any] = {}
        self.is_own = False  # whether the file, if there is one, is of this run
        self.last_written = time.monotonic()

    def begin(self, resume: bool) -> None:
        """Resume from the file if asked to, otherwise mention it. Raises UserError.

        A run that torchrun restarted because a process died resumes unasked.
        """
        if resume:
            self.read()
        elif os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
            with suppress(program.UserError):  # it has written none yet
                self.read()
        elif self.path.exists() and self.is_of_this_version():
            tqdm.write(
                f"{self.path} is of a run that was interrupted: --resume would go on with it"
            )

    def is_of_this_version(self) -> bool:
        """Whether this version of the program wrote the file, as far as the file says."""
        with suppress(OSError, ValueError):
            conditions = self.load_content()["conditions"]
            return conditions.get(VERSION) == self.conditions[VERSION]
        return True  # why it cannot be read is for --resume to say

    def load_content(self) -> dict[str, Any]:
        """Return what is in the file. Raises OSError or ValueError."""
        content = program.load_safely(self.path)
        names = {"conditions", "environment", "states"}
        if not (isinstance(content, dict) and content.keys() == names):
            raise ValueError("this program did not write it")
        if not all(isinstance(content[name], dict) for name in names):
            raise ValueError("its contents are not what this program writes")
        return content

    def read(self) -> None:
        """Resume from the file. Raises UserError."""
        check_readable(self.path)
        try:
            content = self.load_content()
        except ValueError as error:
            message = f"{self.path} is no checkpoint to go on from: {error}"
            raise program.UserError(message) from error
        conditions = content["conditions"]
        names = conditions.keys() | self.conditions.keys()
        others = sorted(name for name in names if conditions.get(name) != self.conditions.get(name))
        if VERSION in others:
            hint = "run the script as it was, or without --resume: this file is then kept"
            raise program.UserError(f"{self.path} is of another version of the program; {hint}")
        if others:
            raise program.UserError(f"{self.path} is of a run with other {', '.join(others)}")
        self.states = content["states"]
        self.resumed_from = content["environment"]
        if self.resumed_from != self.environment:
            tqdm.write(f"{self.path} was written in another environment: {self.resumed_from}")
        self.is_own = True

    def update(self, key: str, state: Mapping[str, Any]) -> None:
        """Keep the state of one network's training; if it is time, write all of them."""
        self.states[key] = state
        if time.monotonic() - self.last_written >= INTERVAL:
            try:
                self.write()
            except OSError as error:  # training can go on without
                program.print_error(str(error))

    def write(self) -> None:
        """Write the file; another run's is kept under another name. Raises OSError."""
        self.last_written = time.monotonic()
        if self.path.exists() and not self.is_own:
            kept = set_aside(self.path)
            tqdm.write(f"{self.path} of the run before is now {kept}")
        content = {
            "conditions": self.conditions,
            "environment": self.environment,
            "states": self.states,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        program.write_files({self.path: buffer.getvalue()})
        self.is_own = True

    def remove(self) -> None:
        """Remove the file, if it is of this run, which has ended."""
        if self.is_own:
            self.path.unlink(missing_ok=True)


def check_readable(path: Path) -> None:
    """Raise UserError if the file of a checkpoint cannot be opened."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        hint = "the run may have ended, or come to no checkpoint"
        raise program.UserError(f"{path} cannot be read: {error.strerror}; {hint}") from error


def compute_version() -> str:
    """Return a digest of the code that trains: the script and TRAINING_MODULES.

    Comments, empty lines and line ends do not change it, nor does another version of Python.
    """
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in (Path(program.__file__), *(folder / name for name in TRAINING_MODULES)):
        digest.update(remove_comments(path.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()


def remove_comments(source: str) -> str:
    """Return Python source without comments and empty lines."""
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def compute_digest(class_names: Sequence[str], tensors: Sequence[Tensor]) -> str:
    """Return a digest of the names and of every value in the tensors."""
    digest = hashlib.sha256(repr(tuple(class_names)).encode())
    for tensor in tensors:
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
