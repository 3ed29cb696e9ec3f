"""More flags for the script, and the runs that they ask for."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from tqdm import tqdm

import fashion_mnist_cnn as program
from fashion_mnist_extras import (
    analysis,
    array_files,
    explorer,
    image_folders,
    prediction,
    processes,
    set_aside,
    transfer,
)
from fashion_mnist_extras.augmentation import Augmentation, find_mirrored_classes
from fashion_mnist_extras.checkpoints import Checkpoint, check_readable, describe_conditions


def extend(parser: program.ArgumentParser) -> None:
    """Add this folder's flags, and make main call start, below; which fit together: check_flags."""
    parser.set_defaults(start=partial(start, parser))
    group = parser.add_argument_group("your own images, prediction and more")
    side = partial(program.parse_number, kind=int, least=8)
    add = group.add_argument
    add(
        "--images",
        type=program.parse_text,
        metavar="PATH",
        help="train on your own: in PATH/<class>/, in PATH/train/<class>/ and PATH/test/, or in "
        "IDX, NPZ or CSV files",
    )
    add(
        "--image-size",
        type=side,
        metavar="N",
        help="side of --images in pixels (default: 28 if all have 28, else 64; of arrays up to 64, "
        "as they are; efficientnet: 224)",
    )
    add(
        "--augment",
        action=argparse.BooleanOptionalAction,
        help="change training images at random (default: only --images)",
    )
    add(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="mirror them too (default: unless --images are grey, as letters are)",
    )
    add(
        "--resume",
        action="store_true",
        help="go on with the run that was interrupted, to the same result",
    )
    add(
        "--predict",
        nargs="+",
        type=program.parse_text,
        default=(),
        metavar="FILE",
        help="train nothing; classify these images",
    )
    add(
        "--model",
        type=program.parse_text,
        metavar="FILE",
        help="for --predict (default: the best in --models-dir, here or beside the script)",
    )
    add("--json", action="store_true", help="print predictions as lines of JSON")


def start(parser: program.ArgumentParser, args: argparse.Namespace) -> int:
    """Predict or train, as the flags say; return the exit code. Raises UserError or OSError.

    Under torchrun every process runs this; only the first saves, draws and prints.
    """
    check_flags(parser, args)
    if args.predict:
        return prediction.predict(args)
    with processes.join(args.device) as (rank, count):
        arrays, subfolder = find_images(args)
        # Before images are read, which may take minutes.
        models_dir, assets_dir = program.find_output_folders(args, subfolder)
        if args.resume:
            check_readable(models_dir / "checkpoint.pth")
        dataset, recipe, seconds = prepare_training(args, subfolder, arrays)
        dataset = dataset.to(args.device)
        conditions = describe_conditions(recipe, dataset, count)
        environment = program.describe_environment(torch.device(args.device))
        checkpoint = Checkpoint(models_dir / "checkpoint.pth", conditions, environment)
        checkpoint.begin(args.resume)
        callback = Extras(
            args=args,
            dataset=dataset,
            recipe=recipe,
            models_dir=models_dir,
            assets_dir=assets_dir,
            checkpoint=checkpoint,
            writes_checkpoints=rank == 0,
        )
        share = processes.share_work(recipe, dataset, rank, count)
        trained = program.compare_networks(*share, callback)
        if seconds:
            trained = transfer.add_feature_time(trained, seconds)
        if rank > 0:
            for _ in trained:
                pass
            return 0
        try:
            with warnings.catch_warnings():
                # Names of classes in alphabets that no installed font has.
                warnings.filterwarnings("ignore", r"Glyph .* missing from font")
                exit_code = program.run(args, dataset, recipe, callback, trained)
        except KeyboardInterrupt:
            if not checkpoint.states:
                raise
            checkpoint.write()
            program.print_error(f"interrupted; add --resume to go on from {checkpoint.path}")
            return 130
        checkpoint.remove()
        return exit_code


def find_images(args: argparse.Namespace) -> tuple[array_files.ArrayFiles | None, str]:
    """Return the files of --images if they are arrays, and the name of the output folders.

    Raises UserError.
    """
    if not args.images:
        return None, ""
    place = Path(args.images)
    arrays = array_files.find_arrays(place)
    if arrays:
        place = arrays.place
    return arrays, prediction.choose_subfolder(place, Path(args.models_dir))


def check_flags(parser: program.ArgumentParser, args: argparse.Namespace) -> None:
    """End the program with one line and exit code 2 if flags do not go together."""
    if args.image_size and not args.images:
        parser.error("argument --image-size: not allowed without --images")
    if args.mirror is not None:
        flag = "--mirror" if args.mirror else "--no-mirror"
        if args.augment is False:
            parser.error(f"argument {flag}: not allowed with --no-augment")
        if not (args.images or args.augment):
            parser.error(f"argument {flag}: not allowed without --images or --augment")
    if (args.model or args.json) and not args.predict:
        flag = "--model" if args.model else "--json"
        parser.error(f"argument {flag}: not allowed without --predict")
    if args.predict and args.images:
        parser.error("argument --images: not allowed with --predict; name a network with --model")
    if "efficientnet" in (args.networks or ()):
        check_flags_of_efficientnet(parser, args)


def check_flags_of_efficientnet(parser: program.ArgumentParser, args: argparse.Namespace) -> None:
    """End the program with one line and exit code 2 if a flag does not go with efficientnet."""
    if len(set(args.networks)) > 1:
        parser.error("argument --networks: efficientnet is trained alone")
    if not args.images:
        parser.error("argument --networks: efficientnet is for --images")
    if args.hidden_units:
        parser.error("argument --hidden-units: not allowed with --networks efficientnet")
    if args.augment:
        parser.error("argument --augment: not allowed with --networks efficientnet")
    if args.image_size and (args.image_size < 96 or args.image_size % 32):
        parser.error("argument --image-size: for efficientnet a multiple of 32, at least 96")
    if distributed.is_torchelastic_launched():
        parser.error("argument --networks: efficientnet is trained in one process, not by torchrun")


def choose_efficientnet(args: argparse.Namespace, source: image_folders.Images) -> bool:
    """Return whether to train efficientnet, and print why, unless --networks says it."""
    if args.networks:
        return "efficientnet" in args.networks
    if source.is_small_and_grey:
        return False
    settings = {
        "--hidden-units": args.hidden_units,
        "--augment": args.augment is True,
        "--no-augment": args.augment is False,
        "--image-size": args.image_size,
        "--batch-size": args.batch_size,
        "--epochs": args.epochs,
        "--learning-rate": args.learning_rate,
        "torchrun": distributed.is_torchelastic_launched(),
    }
    given = [flag for flag in settings if settings[flag]]
    if given:
        hint = "for photographs in colour there is --networks efficientnet, pretrained on ImageNet"
        print(f"{', '.join(given)}: tinyvgg and resnet are trained from scratch; {hint}")
        return False
    if source.are_photographs():
        hint = "--networks tinyvgg resnet trains from scratch"
        print(f"photographs in colour: efficientnet, pretrained on ImageNet, is trained; {hint}")
        return True
    hint = "--networks efficientnet is pretrained on ImageNet"
    print(f"grey or small images: tinyvgg and resnet are trained from scratch; {hint}")
    return False


def prepare_training(
    args: argparse.Namespace, subfolder: str, arrays: array_files.ArrayFiles | None
) -> tuple[program.Dataset, program.Recipe, float]:
    """Return the dataset, on the CPU, how to train on it, and what features took, in seconds.

    With --images it is what is in arrays or, without them, a folder of image files. Raises
    UserError or OSError.
    """
    if not args.images:
        dataset = program.load_dataset(args)
        return dataset, choose_recipe(args, dataset), 0.0
    source: image_folders.Images
    if arrays:
        source = array_files.list_arrays(arrays, args.data_dir, args.seed)
    else:
        source = image_folders.list_files(Path(args.images), args.seed)
    seconds = 0.0
    if choose_efficientnet(args, source):
        mirror = args.mirror
        if mirror is None:  # unless --networks says it, it is chosen for photographs in colour
            mirror = not args.networks or source.have_color()
        mirror = mirror and args.augment is not False
        image_size = args.image_size or transfer.IMAGE_SIZE
        dataset, seconds = transfer.load_features(source, image_size, mirror, args.device)
        recipe = transfer.recommend_recipe(len(dataset.train_set), args.batch_size, mirror)
        recipe = program.choose_recipe(args, recipe)
    else:
        dataset = image_folders.read_dataset(source, args.image_size)
        recipe = choose_recipe(args, dataset, source.is_small_and_grey)
    return name_dataset(args, dataset, subfolder, source), recipe, seconds


def choose_recipe(
    args: argparse.Namespace, dataset: program.Dataset, is_small_and_grey: bool = False
) -> program.Recipe:
    """Return what the flags say or, where they do not, what was best on held-out images."""
    recipe = program.Recipe()
    if args.images:
        shape = dataset.train_set.images.shape
        recipe = image_folders.recommend_recipe(shape, args.batch_size, args.mirror)
        if is_small_and_grey:
            is_changed = bool(args.augment or args.mirror)
            recipe = array_files.adapt_recipe(recipe, shape[0], is_changed)
        if args.augment is False:
            recipe = replace(recipe, augment=None, is_mirrored=False)
    elif args.augment:
        augmentation = Augmentation(mirror=args.mirror is not False)
        recipe = replace(recipe, augment=augmentation, is_mirrored=augmentation.mirror)
    return program.choose_recipe(args, recipe)


def name_dataset(
    args: argparse.Namespace,
    dataset: program.Dataset,
    subfolder: str,
    source: image_folders.Images,
) -> program.Dataset:
    """Return your own images under their name, with fonts for the names of their classes."""
    identity = prediction.identify_folder(source.folder, args.models_dir)
    notes = {**dataset.notes, "folder": identity}
    name = source.choose_name(image_folders.printable(subfolder))
    settings = dict(dataset.figure_settings)
    if not args.no_plots:
        settings["font.family"] = image_folders.find_fonts([name, *dataset.test_set.class_names])
    return replace(dataset, name=name, subfolder=subfolder, notes=notes, figure_settings=settings)


# Outputs beside the script's own figures, if the networks can be looked into.
OUTPUTS = ("shift_robustness.png", "feature_maps.png", "explorer.html")


@dataclass
class Extras(program.Callback):
    """What the folder adds to a run: checkpoints, earlier networks kept, evidence, the page."""

    args: argparse.Namespace
    dataset: program.Dataset
    recipe: program.Recipe
    models_dir: Path
    assets_dir: Path
    checkpoint: Checkpoint
    writes_checkpoints: bool  # only the first of several processes does
    snapshots: dict[nn.Module, list[explorer.Snapshot]] = field(default_factory=dict)
    replaced: dict[str, list[prediction.SetAside]] = field(default_factory=dict)  # by each network
    unreported: list[prediction.SetAside] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.resumed_from = self.checkpoint.resumed_from

    def state_to_resume(self, key: str, network: nn.Module) -> Mapping[str, Any] | None:
        state = self.checkpoint.states.get(key)
        self.snapshots[network] = list(state["snapshots"]) if state else []
        return state

    def after_evaluation(self, key: str, state: program.TrainingState) -> None:
        record = state.history[-1]
        snapshots = self.snapshots[state.network]
        explorer.add_snapshot(snapshots, state.network, record.epoch, record.test_accuracy)
        if self.writes_checkpoints and record.ends_epoch:
            self.checkpoint.update(key, state.state_dict() | {"snapshots": list(snapshots)})

    def before_saving(self, result: program.TrainedNetwork) -> None:
        if result.name not in self.replaced:  # it is the first of this run
            others = prediction.set_aside_others(self.models_dir, result, self.dataset)
            self.replaced[result.name] = others
            self.unreported += others

    def saving_failed(self, result: program.TrainedNetwork) -> None:
        for other in self.replaced.get(result.name, []):
            other.put_back()
            program.print_error(f"{other.kept} is again {other.path}")

    def after_training(self, result: program.TrainedNetwork) -> None:
        self.report_set_aside()
        if self.recipe.is_mirrored and not result.diverged and not result.metrics.at_chance:
            print_mirrored_classes(result, self.dataset.test_set.class_names)

    def after_outputs(
        self, chosen: Mapping[str, program.TrainedNetwork], report: Mapping[str, Any]
    ) -> None:
        self.report_set_aside()
        self.report_others(chosen)
        written: dict[str, bytes] = {}
        if not self.dataset.input_shape:  # otherwise the images are features: none can be shifted
            evidence = analysis.analyze_networks(chosen, self.dataset.test_set)
            content = program.encode_json({**report, "evidence": evidence})
            program.write_files({self.assets_dir / "results.json": content})
            if not self.args.no_plots:
                several_optimizers = len(self.recipe.optimizers) > 1
                written |= analysis.draw_figures(evidence, chosen, self.dataset, several_optimizers)
                program.write_and_print(written, self.assets_dir)
                page = explorer.build_page(chosen, self.dataset, self.snapshots, evidence)
                program.write_and_print(page, self.assets_dir)
                written |= page
        if self.dataset.subfolder and not self.args.no_plots:
            self.set_aside_figures(written)

    def set_aside_figures(self, written: Mapping[str, bytes]) -> None:
        """Rename what this run does not write: it would seem to belong to the new results.

        Only beside your own images: FashionMNIST's figures are committed.
        """
        for name in OUTPUTS:
            path = self.assets_dir / name
            if name in written or not path.exists():
                continue
            try:
                tqdm.write(f"{path}, of an earlier run, is now {set_aside(path)}")
            except PermissionError as error:  # another program has it open
                program.print_error(f"{path} is of an earlier run: {error.strerror}")

    def report_others(self, chosen: Mapping[str, program.TrainedNetwork]) -> None:
        """Name the networks of earlier runs on one's own images that are beside the new ones."""
        others = []
        for kind in program.NETWORKS.values():
            path = self.models_dir / kind.model_file
            if kind.__name__ not in chosen and path.exists():
                others.append(str(path))
        if others and self.dataset.subfolder:
            tqdm.write(f"still there from earlier runs: {', '.join(others)}")

    def report_set_aside(self) -> None:
        for path, kept, reason in self.unreported:
            tqdm.write(f"{path}, {reason}, is now {kept}")
        self.unreported = []


def print_mirrored_classes(result: program.TrainedNetwork, class_names: tuple[str, ...]) -> None:
    """Print a line if the network confuses two classes about as often as not."""
    pair = find_mirrored_classes(result.metrics.confusion_matrix)
    if pair:
        names = " and ".join(class_names[label] for label in pair)
        hint = "--no-mirror if they are each other's mirror image, or more images of them"
        name = f"{result.name} with {result.optimizer}, seed {result.seed}"
        program.print_error(f"{name} does not tell {names} apart; this may help: {hint}")
