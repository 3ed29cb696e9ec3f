"""What goes beyond comparing networks: each module is a tool that fashion_mnist_cnn.py uses.

1. No module imports the script, which runs without this folder too.
2. Arguments and results are tensors, paths, networks, plain data and matplotlib's axes.
3. What a user can fix is a FileError; notes for the user go through a function that is given.
"""


class FileError(OSError):
    """Something about a file that the user can fix; the message says it in one line."""
