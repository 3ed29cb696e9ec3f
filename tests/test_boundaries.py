"""The rules of fashion_mnist_extras: who imports whom, and what is handed over."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fashion_mnist_extras
from conftest import REPOSITORY
from fashion_mnist_extras import FileError

FOLDER = Path(fashion_mnist_extras.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
# Which other modules a module may import; FileError is everybody's.
ARROWS = {
    "image_folders": {"image_files", "augmentation"},
    "prediction": {"image_files"},
}


def imported_names(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "where a module is imported from is said in full"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("module", ["__init__", *MODULES])
def test_no_module_imports_the_script_or_more_than_its_arrows(module: str):
    names = imported_names(FOLDER / f"{module}.py")
    assert not any(name.startswith("fashion_mnist_cnn") for name in names)
    others = {other for other in MODULES if f"fashion_mnist_extras.{other}" in names}
    assert others <= ARROWS.get(module, set())


def test_the_script_imports_the_folder_only_within_functions():
    """But for type checkers: without the folder it must load, and load no more than it needs."""
    tree = ast.parse((REPOSITORY / "fashion_mnist_cnn.py").read_text())
    at_import = []
    for statement in tree.body[1:]:  # after its docstring
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            continue
        at_import.append(ast.unparse(statement))
    assert at_import and not any("fashion_mnist_extras" in text for text in at_import)


def test_each_module_is_imported_by_itself_and_loads_no_script():
    code = f"""
import importlib, sys
for module in {MODULES}:
    importlib.import_module("fashion_mnist_extras." + module)
print("fashion_mnist_cnn" in sys.modules, "matplotlib" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("False False\n", "")


def test_a_file_error_says_its_text():
    error = FileError("photo.png cannot be read")
    assert isinstance(error, OSError)
    assert str(error) == "photo.png cannot be read"


def test_assets_hold_the_page_as_its_source_is():
    page = (FOLDER / "explorer.html").read_bytes()
    assert (REPOSITORY / "assets/explorer.html").read_bytes() == page
