"""Run the benchmarks in turn, each alone, and write their tables into both READMEs.

python benchmarks/run_all.py --clothing DIR --mnist DIR   # 2.5 hours; goes on where it stopped
python benchmarks/run_all.py speed shifts     # rerun only these
python benchmarks/run_all.py --tables         # run nothing, only write the tables

What each printed is kept in benchmarks/results.json. The folder of photographs, named clothing, has
train/ and test/, that of MNIST its four files. Benchmarks whose folder is not named are left out.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
READMES = (HERE.parent / "README.md", HERE / "README.md")
# In this order: what draws or looks at a network comes after what trains it.
STEPS = {
    "default": "networks.py default",
    "speed": "speed.py",
    "optimizer steps": "speed.py --optimizers",
    "beside": "speed.py --beside",
    "exercises": "exercises.py",
    "optimizers": "networks.py optimizers",
    "one epoch": "networks.py one-epoch",
    "processes": "networks.py processes",
    "stability": "stability.py",
    "capacity": "capacity.py",
    "resnet": "networks.py resnet",
    "shifts": "shifts.py --figure assets/shift_robustness_resnet.png",
    "images": "images.py",
    "transfer": "transfer.py --clothing CLOTHING",
    "clothing": "networks.py clothing --images CLOTHING",
    "photographs": "images.py --clothing CLOTHING/test",
    "datasets": "datasets.py --mnist MNIST",
    "explorer": "explorer.py --screenshot assets/explorer.png",
    "explorer, wide": "explorer.py --hidden-units 64",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"{', '.join(STEPS)}")
    parser.add_argument("--clothing", type=Path, metavar="DIR", help="folder of photographs")
    parser.add_argument("--mnist", type=Path, metavar="DIR", help="folder of MNIST's four files")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    unknown = set(arguments.steps) - STEPS.keys()
    if unknown:
        parser.error(f"no such step: {', '.join(sorted(unknown))}")
    if arguments.clothing and arguments.clothing.resolve().name != "clothing":
        parser.error("the folder of photographs must be named clothing, as its models are")
    folders = {"CLOTHING": arguments.clothing, "MNIST": arguments.mnist}
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, command in STEPS.items():
        is_done = name in results and results[name]["command"] == command
        if arguments.tables or (name not in arguments.steps if arguments.steps else is_done):
            continue
        missing = [word for word, folder in folders.items() if word in command and not folder]
        if missing:
            print(f"left out, because it needs --{missing[0].lower()}: {name}")
            continue
        results.pop(name, None)
        save(results)
        results[name] = run_step(command, folders)
        save(results)
    write_tables(json.loads(RESULTS.read_text()))


def save(results: dict[str, Any]) -> None:
    ordered = {name: results[name] for name in STEPS if name in results}
    RESULTS.write_text(json.dumps(ordered, indent=2) + "\n")


def run_step(command: str, folders: Mapping[str, Path | None]) -> dict[str, Any]:
    """Run one benchmark; return what it printed and how long it took.

    In its command the names of folders stand for where they are.
    """
    print(f"{time.strftime('%H:%M')} {command}", flush=True)
    script, *options = command.split()
    words = options
    for name, folder in folders.items():
        if folder:
            words = [word.replace(name, str(folder.resolve())) for word in words]
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, HERE / script, *words],
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = round(time.perf_counter() - start)
    return {"command": command, "seconds": seconds, "output": process.stdout}


def write_tables(results: dict[str, Any]) -> None:
    """Put each table between the comments of its name, in both READMEs."""
    tables = make_tables(results)
    for path in READMES:
        text = path.read_text()
        for name in re.findall(r"<!-- /(.+) -->", text):
            if name in tables:
                content = f"<!-- {name} -->\n{tables[name]}\n<!-- /{name} -->"
                pattern = rf"<!-- {name} -->\n.*<!-- /{name} -->"
                text = re.sub(pattern, lambda _, content=content: content, text, flags=re.DOTALL)
        path.write_text(text)


def make_tables(results: dict[str, Any]) -> dict[str, str]:
    """Return the tables of both READMEs by name. Raises ValueError for two machines' figures."""
    machines = {step["output"].partition("\n")[0] for step in results.values()}
    if len(machines) != 1:
        raise ValueError(f"not all measured on one machine: {machines}")
    tables = describe_default_run() | {"machine": "\n".join(machines)}
    for name, step in results.items():
        for number, table in enumerate(find_tables(step["output"]), start=1):
            tables[name if number == 1 else f"{name} {number}"] = table
    if tables.keys() >= set(COMBINED):
        tables |= combine_tables(tables)
    rows = [[f"`{step['command']}`", f"{step['seconds'] / 60:.1f}"] for step in results.values()]
    total = sum(step["seconds"] for step in results.values()) / 60
    tables["steps"] = to_table(["benchmark", "minutes"], [*rows, ["together", f"{total:.0f}"]])
    return tables


COMBINED = ("stability", "capacity", "resnet", "explorer", "explorer, wide")


def find_tables(output: str) -> list[str]:
    """Return the Markdown tables in what a benchmark printed."""
    return [match[0].strip() for match in re.finditer(r"(^\|.*\n)+", output, re.MULTILINE)]


def combine_tables(tables: dict[str, str]) -> dict[str, str]:
    """Return the tables that stand together from several benchmarks."""
    stability, capacity, resnet, page, wide = (read_rows(tables[name]) for name in COMBINED)
    ours = [row for row in stability if row[1] == "ours"]
    seeds = ours[0][-1].split()[-1]
    default = read_rows(tables["results"])
    brief = [
        [row[0], parameters, "3", f"{row[2]}, mean of {seeds} seeds"]
        for row, (_, parameters, *_) in zip(ours, default, strict=True)
    ]
    (units, parameters, _, _, accuracy, *_) = next(row for row in capacity if row[0] != "10")
    brief.append([f"TinyVGG, {units} hidden units", parameters, "10", f"{accuracy}, one seed"])
    (name, parameters, _, _, _, accuracy, *_) = resnet[0]
    brief.append([f"{name}, `--augment`", parameters, "20", f"{accuracy}, mean of 3 seeds"])
    explorer = [[*row, other[1]] for row, other in zip(page, wide, strict=True)]
    return {
        "brief": to_table(["network", "parameters", "epochs", "test accuracy"], brief),
        "explorer": to_table(["", "default run", "64 hidden units"], explorer),
    }


def describe_default_run() -> dict[str, str]:
    """Return the tables of what assets/results.json says."""
    report = json.loads((HERE.parent / "assets/results.json").read_text())
    models = report["models"]
    results = [
        [
            model["name"],
            f"{model['parameters']:,}",
            f"{model['multiply_adds']:,}",
            f"{model['test_accuracy']:.2%}",
            f"{model['test_loss']:.4f}",
            f"{model['training_seconds']:.1f} s",
        ]
        for model in models
    ]
    measures = [(measure, model) for measure in ("precision", "recall") for model in models]
    classes = [
        [name, *(f"{model[measure][label]:.1%}" for measure, model in measures)]
        for label, name in enumerate(report["dataset"]["class_names"])
    ]
    header = "network, parameters, MACs per image, test accuracy, test loss, training time"
    of_classes = ["class", *(f"{measure}, {model['name']}" for measure, model in measures)]
    return {
        "results": to_table(header.split(", "), results),
        "classes": to_table(of_classes, classes),
    }


def to_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    first, *others = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([first, "|---" * len(header) + "|", *others])


def read_rows(table: str) -> list[list[str]]:
    """Return the cells of a Markdown table, without its header."""
    _, _, *lines = table.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


if __name__ == "__main__":
    main()
