"""The border of script and folder: one door, modules that use the script as a library."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fashion_mnist_extras
from conftest import REPOSITORY
from fashion_mnist_extras.explorer import join_sources

FOLDER = Path(fashion_mnist_extras.__file__).parent
FILES = {path.stem: path for path in FOLDER.glob("*.py") if path.stem != "__init__"}
FILES |= {path.parent.name: path for path in FOLDER.glob("*/__init__.py")}
MODULES = sorted(FILES)
# Which other modules a module may import.
ARROWS = {
    "array_files": {"image_folders", "image_files"},
    "command_line": set(MODULES),
    "explorer": {"analysis"},
    "image_folders": {"image_files", "augmentation"},
    "prediction": {"image_files"},
    "transfer": {"image_folders"},
}
# What may have Any or Callable in its signature: JSON, the state of a checkpoint, augment, and
# functions that stay within the module.
UNTYPED = {
    "checkpoints.Checkpoint.__init__",
    "checkpoints.Checkpoint.load_content",
    "checkpoints.Checkpoint.update",
    "checkpoints.describe_conditions",
    "command_line.Extras.after_outputs",
    "command_line.Extras.state_to_resume",
    "explorer.describe_training",
    "explorer.join_sources",
    "image_folders.map_files",
    "prediction.read_json",
}


def read_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported_names(tree: ast.AST) -> set[str]:
    """The modules that are imported, wherever it is."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "where a module is imported from is said in full"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_the_script_under_one_name_and_each_other_downwards(module: str):
    tree = read_tree(FILES[module])
    names = imported_names(tree)
    assert not any(name.startswith("fashion_mnist_cnn.") for name in names), "no from-import"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and node.names[0].name == "fashion_mnist_cnn":
            assert node.names[0].asname == "program"
    others = {other for other in MODULES if f"fashion_mnist_extras.{other}" in names}
    assert others <= ARROWS.get(module, set()), "see ARROWS"


def test_the_script_has_one_door():
    """Only find_extras imports the folder, and of it only command_line; nothing else names it."""
    tree = read_tree(REPOSITORY / "fashion_mnist_cnn.py")
    importing = [
        (getattr(node, "name", ""), name)
        for node in tree.body
        for name in imported_names(node)
        if name.startswith("fashion_mnist_extras.")
    ]
    assert importing == [("find_extras", "fashion_mnist_extras.command_line")]


def annotations_of(function: ast.FunctionDef) -> list[ast.expr]:
    arguments = function.args
    found = [argument.annotation for argument in (*arguments.args, *arguments.kwonlyargs)]
    return [annotation for annotation in (*found, function.returns) if annotation]


def test_no_function_is_handed_over_and_types_are_known():
    found = set()
    for module in MODULES:
        for parent in ast.walk(read_tree(FILES[module])):
            for node in ast.iter_child_nodes(parent):
                if not isinstance(node, ast.FunctionDef):
                    continue
                used = {
                    name.id
                    for a in annotations_of(node)
                    for name in ast.walk(a)
                    if isinstance(name, ast.Name)
                }
                if used & {"Any", "Callable"}:
                    owner = f"{parent.name}." if isinstance(parent, ast.ClassDef) else ""
                    found.add(f"{module}.{owner}{node.name}")
    assert found == UNTYPED, "see UNTYPED"


def test_each_module_is_imported_by_itself_and_loads_no_more_than_it_needs():
    code = f"""
import importlib, sys
for module in {MODULES}:
    for name in [name for name in sys.modules if name.startswith("fashion_mnist")]:
        del sys.modules[name]
    importlib.import_module("fashion_mnist_extras." + module)
print([name for name in ("matplotlib", "torchmetrics", "mlxtend") if name in sys.modules])
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_assets_hold_the_page_as_its_source_is():
    page = (REPOSITORY / "assets/explorer.html").read_bytes()
    data = json.loads(page.partition(b'type="application/json">')[2].partition(b"</script>")[0])
    assert page == join_sources(data)
