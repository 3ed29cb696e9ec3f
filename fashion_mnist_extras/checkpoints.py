"""A file from which an interrupted run goes on, to the same result: --resume."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fashion_mnist_extras import FileError, set_aside

# Those of the settings in results.json that decide the weights.
DECISIVE_SETTINGS = (
    "epochs",
    "batch_size",
    "networks",
    "augment",
    "learning_rate_scale",
    "optimizer",
    "learning_rate",
    "hidden_units",
    "seed",
    "runs",
    "number of processes",
)


VERSION = "version of the program"


class Checkpoint:
    """The state of each training that a run has begun, in memory and from time to time in a file.

    settings, script (which trains), class_names and images decide the result: they must be the same
    to go on. environment may be another. load reads a file that torch.save wrote without executing
    it; write writes files in one step; report prints a line, report_error to stderr.
    """

    def __init__(
        self,
        path: Path,
        *,
        interval: float,
        settings: Mapping[str, Any],
        script: Path,
        class_names: Sequence[str],
        images: Sequence[Tensor],
        environment: Mapping[str, Any],
        load: Callable[[Path], object],
        write: Callable[[Mapping[Path, bytes]], None],
        report: Callable[[str], None],
        report_error: Callable[[str], None],
    ) -> None:
        self.path = path
        self.interval = interval  # seconds from one writing of the file to the next
        conditions = {name: settings[name] for name in DECISIVE_SETTINGS}
        conditions["image shape"] = images[0].shape[1:]
        conditions["images"] = compute_digest(class_names, images)
        conditions[VERSION] = compute_version(script)
        self.conditions = json.loads(json.dumps(conditions))  # which turns tuples into lists
        self.environment = environment
        self.load = load
        self.write_files = write
        self.report = report
        self.report_error = report_error
        self.resumed_from: object = None  # the environment in which the file was written
        self.states: dict[str, Any] = {}
        self.is_own = False  # whether the file, if there is one, is of this run
        self.last_written = time.monotonic()

    def begin(self, resume: bool) -> None:
        """Go on from the file if that is asked for, or offer it. Raises FileError.

        A run that torchrun has started again because a process died goes on unasked.
        """
        if resume:
            self.read()
        elif os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
            with suppress(FileError):  # it has written none yet
                self.read()
        elif self.path.exists() and self.is_of_this_version():
            self.report(
                f"{self.path} is of a run that was interrupted: --resume would go on with it"
            )

    def is_of_this_version(self) -> bool:
        """Whether this version of the program wrote the file, as far as the file says."""
        with suppress(OSError, ValueError):
            found = self.load_content()["conditions"].get(VERSION)
            return found in (None, self.conditions[VERSION])
        return True  # why it cannot be read is for --resume to say

    def load_content(self) -> dict[str, Any]:
        """Return what is in the file. Raises OSError or ValueError."""
        content = self.load(self.path)
        names = {"conditions", "environment", "states"}
        if not (isinstance(content, dict) and content.keys() == names):
            raise ValueError("this program did not write it")
        if not all(isinstance(content[name], dict) for name in names):
            raise ValueError("this program did not write it")
        return content

    def read(self) -> None:
        """Go on from the file. Raises FileError."""
        try:
            content = self.load_content()
        except OSError as error:
            hint = "the run may have ended, or come to no checkpoint"
            raise FileError(f"{self.path} cannot be read: {error.strerror}; {hint}") from error
        except ValueError as error:
            raise FileError(f"{self.path} is no checkpoint to go on from: {error}") from error
        conditions = content["conditions"]
        conditions.setdefault(VERSION, self.conditions[VERSION])  # earlier ones do not say it
        names = conditions.keys() | self.conditions.keys()
        others = sorted(name for name in names if conditions.get(name) != self.conditions.get(name))
        if VERSION in others:
            hint = "run the script as it was, or without --resume: this file is then kept"
            raise FileError(f"{self.path} is of another version of the program; {hint}")
        if others:
            raise FileError(f"{self.path} is of a run with other {', '.join(others)}")
        self.states = content["states"]
        self.resumed_from = content["environment"]
        if self.resumed_from != self.environment:
            self.report(f"{self.path} was written in another environment: {self.resumed_from}")
        self.is_own = True

    def update(self, key: str, state: Mapping[str, Any]) -> None:
        """Keep the state of one training; if interval seconds have passed, write all of them."""
        self.states[key] = state
        if time.monotonic() - self.last_written >= self.interval:
            try:
                self.write()
            except OSError as error:  # training can go on without
                self.report_error(str(error))

    def write(self) -> None:
        """Write the file in one step; another run's is kept under another name. Raises OSError."""
        self.last_written = time.monotonic()
        if self.path.exists() and not self.is_own:
            kept = set_aside(self.path)
            self.report(f"{self.path} of the run before is now {kept}")
        content = {
            "conditions": self.conditions,
            "environment": self.environment,
            "states": self.states,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        self.write_files({self.path: buffer.getvalue()})
        self.is_own = True

    def remove(self) -> None:
        """Remove the file, if it is of this run, which has ended."""
        if self.is_own:
            self.path.unlink(missing_ok=True)


def compute_version(script: Path) -> str:
    """Return a digest of what trains: the script, and how images are augmented.

    Comments and the form of lines are not in it.
    """
    digest = hashlib.sha256()
    for path in (script, Path(__file__).with_name("augmentation.py")):
        digest.update(ast.dump(ast.parse(path.read_bytes())).encode())
    return digest.hexdigest()


def compute_digest(class_names: Sequence[str], tensors: Sequence[Tensor]) -> str:
    """Return a digest of the names and of every value in the tensors."""
    digest = hashlib.sha256(repr(tuple(class_names)).encode())
    for tensor in tensors:
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
