"""What goes beyond comparing networks: each module is a tool that fashion_mnist_cnn.py uses.

1. No module imports the script, which runs without this folder too.
2. Arguments and results are tensors, paths, networks, plain data and matplotlib's axes.
3. What a user can fix is a FileError; notes for the user go through a function that is given.
"""

import time
from pathlib import Path


class FileError(OSError):
    """Something about a file that the user can fix; the message says it in one line."""


def set_aside(path: Path) -> Path:
    """Rename a file of an earlier run, so that another can take its place; return its new path."""
    date = time.strftime("%Y-%m-%d-%H%M%S")
    kept = path.with_name(f"{path.stem}-{date}{path.suffix}")
    number = 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.stem}-{date}-{number}{path.suffix}")
    return path.rename(kept)
