"""The options of Table 1, and every check that can be made before anything is trained."""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.backbones import STEMS
from benchmarks.data import DATASETS
from benchmarks.probes import KNN_NEIGHBOURS, KNN_TEMPERATURE, PROBE_WEIGHT_DECAY
from benchmarks.table1.long import chosen, long_runs
from benchmarks.table1.presets import BATCHES, EPOCHS, PRESETS, SIDES, WIDTHS
from benchmarks.table1.recipes import RECIPES, UNTRAINED, Recipe, fingerprint

#: the smallest values that can be meant
LEAST = {"epochs": 1, "batch_size": 2, "seeds": 1, "devices": 1, "jobs": 1, "image_size": 8, "workers": 0, "limit_images": 2}
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
#: those that keep the whole network on every process, since the first alone measures it
STRATEGIES = ("auto", "ddp")


class OptionError(Exception):
    """An option that cannot be meant."""


@dataclass(frozen=True)
class Options:
    """What the user asked for, complete."""

    dataset: str
    data_root: Path | None
    backbone: str
    width: float
    stem: str
    image_size: int
    methods: list[str]
    epochs: int
    batch_size: int
    seeds: int
    precision: str
    channels_last: bool
    compile: bool
    accelerator: str
    devices: int
    jobs: int
    strategy: str
    workers: int
    limit_images: int | None
    output: Path
    long: bool = False
    save_backbone: bool = False
    recipes: Mapping[str, Recipe] = field(default_factory=lambda: RECIPES)

    def settings(self) -> dict[str, Any]:
        """All that a number in the table depends on; what may differ when a table is resumed is left out."""
        table = {
            name: getattr(self, name)
            for name in ("dataset", "backbone", "width", "stem", "image_size", "epochs", "batch_size", "precision")
        }
        for name in ("devices", "limit_images", "channels_last", "compile"):
            table[name] = getattr(self, name)
        if self.long:
            table["long"] = True
        table["probe"] = {
            "weight_decay": PROBE_WEIGHT_DECAY,
            "knn_neighbours": KNN_NEIGHBOURS,
            "knn_temperature": KNN_TEMPERATURE,
        }
        return table | fingerprint(self.methods, self.recipes)


def parse(arguments: list[str] | None = None) -> Options:
    """Options from the command line, each checked.

    Raises:
        OptionError: with what was needed, what came, what to do.
    """
    return completed(read(parser(), arguments))


def read(command: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """What was given; a preset stands where the command line names nothing, whatever the order."""
    preset = command.parse_known_args(arguments)[0].preset
    command.set_defaults(**PRESETS.get(preset, {}))
    return command.parse_args(arguments)


def completed(given: argparse.Namespace) -> Options:
    """What was given and, for the rest, what suits the data set; each checked, as by `parse`."""
    name, accelerator = given.dataset, _accelerator(given.accelerator)
    options = Options(
        dataset=name,
        data_root=given.data_root,
        backbone=given.backbone,
        width=WIDTHS.get(name, 1.0) if given.width is None and given.backbone.startswith("resnet18") else given.width or 1.0,
        stem=given.stem or ("original" if name == "digits" else "auto"),
        image_size=given.image_size or SIDES[name],
        methods=_methods(given.methods),
        epochs=EPOCHS.get(name, 200) if given.epochs is None else given.epochs,
        batch_size=BATCHES.get(name, 256) if given.batch_size is None else given.batch_size,
        seeds=given.seeds,
        precision=given.precision,
        channels_last=given.channels_last,
        compile=given.compile,
        accelerator=accelerator,
        devices=given.devices,
        jobs=(_cores() if accelerator == "cpu" and given.devices == 1 else 1) if given.jobs is None else given.jobs,
        strategy=given.strategy,
        workers=given.workers,
        limit_images=given.limit_images,
        output=given.output or Path("runs") / f"table1-{given.preset or name}",
        long=given.long,
        save_backbone=given.save_backbone,
        recipes=_recipes(given),
    )
    _check(options)
    return options


def parser(*, is_parent: bool = False) -> argparse.ArgumentParser:
    """The options and their help, which is left out where another parser is to take the options over."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.table1",
        add_help=not is_parent,
        description="Pre-train, evaluate and compare self-supervised methods on real images, at equal and small budgets. It "
        "compares methods; to train a backbone for use, take your framework and a criterion of it_losses. Run it again after "
        "a kill: it goes on where it was.",
        epilog="Methods: " + ", ".join(f"{name} ({recipe.title})" for name, recipe in RECIPES.items()) + ".",
    )
    add, on_or_off = parser.add_argument, argparse.BooleanOptionalAction
    add("--preset", choices=list(PRESETS), metavar="NAME", help=f"options for: {', '.join(PRESETS)}")
    add("--dataset", choices=list(DATASETS), default="digits", help="default: digits, which needs no download")
    add("--data-root", type=Path, help="folder of the data set, or where to download it to")
    add("--backbone", default="resnet18", help="any timm name (default: resnet18)")
    add("--width", type=float, help="factor on a ResNet's channels (default: 1; .25 for resnet18 on digits)")
    add("--stem", choices=STEMS, help="small: full resolution (default: up to 64 pixels, not on digits)")
    add("--image-size", type=int, help="side in pixels (default: 28 to 128, by data set)")
    add("--methods", nargs="+", default=["all"], metavar="NAME", help="rows to make (default: all)")
    add("--epochs", type=int, help="default: 8 on digits, 20 on Fashion-MNIST, 100 on a folder, else 200")
    add("--batch-size", type=int, help="images a step, over all devices (default: 64 on digits, else 256)")
    add("--long", action=on_or_off, default=False, help="the constants of a long run, not those of the digits (default: no)")
    add("--grid", type=Path, metavar="FOLDER", help="each row's best setting in what the tuning wrote there")
    add("--seeds", type=int, default=3, help="runs a row (default: %(default)s)")
    add("--precision", choices=PRECISIONS, default="32-true")
    add("--channels-last", action=on_or_off, default=True, help="memory format of the backbone (default: channels last)")
    add("--compile", action=on_or_off, default=False, help="torch.compile the backbone (default: no)")
    add("--accelerator", choices=("auto", "cpu", "gpu"), default="auto", help="default: a GPU where there is one")
    add("--devices", type=int, default=1, help="GPUs, or processes on the CPU (default: 1)")
    add("--jobs", type=int, help="runs at a time, each a process of one thread (default: 1, on a CPU its cores up to 8)")
    add("--strategy", default="auto", help="Lightning's: auto or ddp, which it is on several devices")
    add("--workers", type=int, default=0, help="loader processes (default: 0; images are in memory)")
    add("--limit-images", type=int, help="use the first so many images of each half: for trials")
    add("--save-backbone", action=on_or_off, default=False, help="keep each run's weights in OUTPUT/backbones (default: no)")
    add("--output", type=Path, help="folder for all that is written (default: in runs/, by data set or preset)")
    return parser


def _methods(names: list[str]) -> list[str]:
    chosen = [name for word in names for name in word.replace("-", "_").split(",") if name]
    if chosen == ["all"]:
        return [UNTRAINED, *RECIPES]
    unknown = [name for name in chosen if name not in {*RECIPES, UNTRAINED}]
    if unknown or not chosen:
        raise OptionError(f"--methods knows {', '.join(RECIPES)}; got {', '.join(unknown) or 'nothing'}.")
    return [UNTRAINED, *(name for name in RECIPES if name in chosen)]


def _recipes(given: argparse.Namespace) -> Mapping[str, Recipe]:
    rows = long_runs(given.backbone) if given.long else RECIPES
    if given.grid is None:
        return rows
    table = given.grid / "tuning.csv"
    if not table.is_file():
        raise OptionError(f"--grid {given.grid} has no tuning.csv. Name the folder that benchmarks.table1.tuning wrote to.")
    with table.open(newline="") as file:
        best = {row["method"]: row for row in csv.DictReader(file) if row["best"] == "True"}
    asked = {name: rows[name] for name in _methods(given.methods) if name != UNTRAINED}
    try:
        return rows | chosen(asked, best, f"best of the grid in {given.grid}")
    except ValueError as problem:
        raise OptionError(f"--grid {given.grid} {problem}. Tune these too, or leave them out.") from problem


def _accelerator(asked: str) -> str:
    if asked == "gpu" and not torch.cuda.is_available():
        raise OptionError("--accelerator gpu: this torch sees no CUDA device. Leave the option out to run on the CPU.")
    return ("gpu" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked


def _cores() -> int:
    """Cores that this process may use, as far as the memory of a common machine holds a run for each."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, 8)


def _check(options: Options) -> None:
    for name, least in LEAST.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise OptionError(f"--{name.replace('_', '-')} must be at least {least}, got {value}.")
    # below 8 channels the CPU's convolutions are known to corrupt memory
    if options.width < 0.125:
        raise OptionError(f"--width must be at least 0.125, got {options.width}.")
    if options.batch_size % options.devices or options.batch_size // options.devices < 2:
        raise OptionError(f"--batch-size {options.batch_size} cannot be divided among --devices {options.devices}.")
    if dist.is_torchelastic_launched():
        raise OptionError("--devices N starts the processes itself: run this without torchrun, as `python -m` alone.")
    if options.strategy not in STRATEGIES:
        raise OptionError(f"--strategy {options.strategy} has not been tried here: {' and '.join(STRATEGIES)} have.")
    if options.precision == "16-mixed" and options.accelerator == "cpu":
        raise OptionError("--precision 16-mixed needs a GPU: a CPU would take bf16-mixed in its place. Ask for that.")
    if options.jobs > 1 and options.devices > 1:
        raise OptionError(f"--jobs {options.jobs} is for runs of one device each, got --devices {options.devices}.")
    if options.accelerator == "gpu" and options.devices > torch.cuda.device_count():
        raise OptionError(f"--devices {options.devices}: this machine has {torch.cuda.device_count()} GPUs.")
    if options.data_root is not None and not options.data_root.is_dir():
        raise OptionError(f"--data-root {options.data_root} is not a folder. Create it, or name the one that holds the data.")
    above = options.output
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise OptionError(f"--output {options.output} cannot be written: {above} is no folder that you may write to.")


def describe(options: Options) -> str:
    """The settings in one sentence, for the head of the table."""
    width = "" if options.width == 1 else f" at {options.width:g} of its width"
    epochs = f"{options.epochs} epoch{'s' * (options.epochs > 1)}"
    return (
        f"{options.dataset}, {options.backbone}{width}, {options.image_size} pixels, {epochs}, batch {options.batch_size}, "
        f"{options.precision}"
    )
