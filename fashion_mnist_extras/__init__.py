"""What goes beyond comparing networks: modules that build on fashion_mnist_cnn.py as on a library.

1. The script has one door: `find_extras` imports `command_line`, and nothing else of this folder.
2. A module says `import fashion_mnist_cnn as program`, then `program.load_model(...)`: one sees at
   every call what is the script's, and a test or an edit that replaces it is seen here. Modules
   import each other downwards only: `command_line` all, `explorer` `analysis`, `image_folders`
   `image_files` and `augmentation`, `prediction` `image_files`, `transfer` `image_folders`,
   `array_files` `image_folders` and `image_files`.
3. What is read is what runs: `program.run` is the run. This folder makes its arguments, and the
   hooks of its `Callback` add to it; they replace nothing. A module that decides the weights is one
   of `TRAINING_MODULES` in `checkpoints`.
4. What a user can fix is a `program.UserError`, in one line. A bug keeps its traceback.
"""

import time
from pathlib import Path

import fashion_mnist_cnn as program


def set_aside(path: Path) -> Path:
    """Rename a file of an earlier run, so that another can take its place; return its new path."""
    date = time.strftime("%Y-%m-%d-%H%M%S")
    kept = path.with_name(f"{path.stem}-{date}{path.suffix}")
    number = 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.stem}-{date}-{number}{path.suffix}")
    program.replace_file(path, kept)
    return kept
