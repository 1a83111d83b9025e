"""The options of Table 1 and its sweeps, and all checks that are made before training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import joblib
import torch
import torch.distributed as dist

from benchmarks import RequestError
from benchmarks.backbones import STEMS
from benchmarks.data import DATASETS, HELD_OUT
from benchmarks.table1.presets import DATASET_OPTIONS, PRESETS
from benchmarks.table1.recipes import RECIPES, UNTRAINED, Recipe, fingerprint, long_runs

#: the smallest value of each option
# a ResNet of width 0.125 has 8 channels; CPU convolutions with fewer channels are known to corrupt memory
LEAST = {"epochs": 1, "batch_size": 2, "seeds": 1, "devices": 1, "jobs": 1, "image_size": 8, "limit_images": 2, "width": 0.125}
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
#: the options that the numbers in a table depend on
DECISIVE = ("dataset", "backbone", "width", "stem", "image_size", "epochs", "batch_size", "precision", "devices")
DECISIVE += ("limit_images",)
ABOUT = (
    "Pre-train, evaluate and compare self-supervised methods on real images, at equal and small budgets. It compares methods; "
    "to train a backbone for use, take your framework and a criterion of it_losses."
)


class Options(argparse.Namespace):
    """The options of Table 1 or a sweep, as `parse` returns them."""

    def settings(self) -> dict[str, Any]:
        """The options that the numbers in a table depend on. They must be the same when the table is resumed."""
        table = {name: getattr(self, name) for name in DECISIVE} | ({"long": True} if self.long else {})
        if self.is_sweep:
            table |= {"rates_only": True} if self.rates_only else {}
            table |= {"scored_on": f"validation images, {HELD_OUT:g} of the training half"}
        return table | fingerprint(self.methods, self.recipes)

    def replaced(self, **changed: Any) -> Options:
        return Options(**vars(self) | changed)

    def varied(self, variants: Callable[[Options], Mapping[str, Recipe]]) -> Options:
        """These options, with the recipes that `variants(options)` returns as the methods to train."""
        recipes = variants(self)
        return self.replaced(methods=list(recipes), recipes=self.recipes | recipes)

    def describe(self) -> str:
        width = "" if self.width == 1 else f" at {self.width:g} of its width"
        trained = f"{self.epochs} epoch{'s' * (self.epochs > 1)}, batch {self.batch_size}, {self.precision}"
        return f"{self.dataset}, {self.backbone}{width}, {self.image_size} pixels, {trained}"


def parse(arguments: list[str] | None = None, *, sweep: str = "", about: str = ABOUT, seeds: int = 3) -> Options:
    """Options from the command line, completed by defaults for the data set, and checked; a RequestError says what to do."""
    command = _parser(sweep, about, seeds)
    preset = PRESETS.get(command.parse_known_args(arguments)[0].preset, {})
    dataset = command.parse_known_args(arguments, Options(**preset))[0].dataset
    options = command.parse_args(arguments, Options(**DATASET_OPTIONS[dataset] | preset, is_sweep=bool(sweep), to_train=[]))
    options.command = " ".join([command.prog, *(sys.argv[1:] if arguments is None else arguments)])
    options.output = options.output or Path("runs") / f"{sweep or 'table1'}-{options.preset or dataset}"
    options.methods = [UNTRAINED, *(name for name in RECIPES if name in options.methods or "all" in options.methods)]
    options.recipes = _recipes(options)
    if options.width is None:
        options.width = 0.25 if (dataset, options.backbone[:8]) == ("digits", "resnet18") else 1.0
    if options.accelerator == "auto":
        options.accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if options.jobs is None:
        # at most 8 runs at a time, to fit into the memory of a common machine
        options.jobs = min(joblib.cpu_count(), 8) if options.accelerator == "cpu" and options.devices == 1 else 1
    _check(options)
    return options


def _parser(sweep: str, about: str, seeds: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.table1{sweep and '.' + sweep}",
        description=f"{about} Run it again after a kill: it goes on where it was.",
        epilog="Methods: " + ", ".join(f"{name} ({recipe.title})" for name, recipe in RECIPES.items()) + ".",
    )
    add = parser.add_argument
    add("--preset", choices=list(PRESETS), metavar="NAME", help=f"options for: {', '.join(PRESETS)}")
    add("--dataset", choices=list(DATASETS), default="digits", help="default: digits, which needs no download")
    add("--data-root", type=Path, help="folder of the data set, or where to download it to")
    add("--backbone", default="resnet18", help="any timm name (default: resnet18)")
    add("--width", type=float, help="factor on a ResNet's channels (default: 1; .25 for resnet18 on digits)")
    add("--stem", choices=STEMS, default="auto", help="small: full resolution (default to 64 pixels, not on digits), or half")
    add("--image-size", type=int, help="side in pixels (default: 28 to 64, by data set)")
    rows = ["all", UNTRAINED, *RECIPES]
    add("--methods", nargs="+", choices=rows, default=["all"], metavar="NAME", help="rows to make (default: all)")
    add("--epochs", type=int, default=200, help="default: 8 on digits, 20 on Fashion-MNIST, 100 on a folder, else 200")
    add("--batch-size", type=int, default=256, help="images in a step, over all devices (default: 64 on digits, else 256)")
    add("--long", action="store_true", help="the constants of a long run, not those of the digits")
    add("--grid", type=Path, metavar="FOLDER", help="folder of a tuning run; each method gets its best setting from it")
    add("--rates-only", action="store_true", help="tuning: three learning rates and nothing else")
    add("--seeds", type=int, default=seeds, help="runs per method (default: %(default)s)")
    add("--precision", choices=PRECISIONS, default="32-true")
    add("--accelerator", choices=("auto", "cpu", "gpu"), default="auto", help="default: a GPU where there is one")
    add("--devices", type=int, default=1, help="GPUs, or processes on the CPU (default: 1)")
    add("--jobs", type=int, help="runs at a time, each a process of one thread (default: 1; on a CPU all cores, up to 8)")
    add("--limit-images", type=int, help="use only the first N training and N test images, for trials")
    add("--save-backbone", action="store_true", help="keep each run's weights in OUTPUT/backbones")
    add("--output", type=Path, help="folder for all that is written (default: in runs/, by data set or preset)")
    return parser


def _recipes(options: Options) -> Mapping[str, Recipe]:
    from benchmarks.table1.tuning import chosen

    rows = long_runs(options.backbone) if options.long else RECIPES
    if options.grid is None:
        return rows
    try:
        return rows | chosen({name: rows[name] for name in options.methods if name in rows}, options.grid)
    except ValueError as problem:
        remedy = "Name a folder that benchmarks.table1.tuning wrote to."
        raise RequestError(f"--grid {options.grid} {problem}. {remedy}") from problem


def _check(options: Options) -> None:
    batch, devices, root = options.batch_size, options.devices, options.data_root
    precision = options.precision if options.accelerator == "cpu" else ""
    for name, least in LEAST.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise RequestError(f"--{name.replace('_', '-')} must be at least {least}, got {value}.")
    refusals = [
        (batch % devices or batch // devices < 2, f"--batch-size {batch} cannot be divided among {devices} devices."),
        (dist.is_torchelastic_launched(), "--devices N starts the processes: run this program without torchrun."),
        (precision == "16-mixed", "--precision 16-mixed needs a GPU. On a CPU, use --precision bf16-mixed."),
        # feature maps of small images shrink to one pixel, where a bf16 convolution of stride 2 reads uninitialised memory
        (
            precision == "bf16-mixed" and options.image_size <= 16,
            f"--precision bf16-mixed on a CPU needs --image-size above 16, got {options.image_size} (NaN gradients).",
        ),
        (options.jobs > 1 and devices > 1, f"--jobs {options.jobs} needs --devices 1, got {devices}."),
        (options.is_sweep and devices > 1, f"--devices must be 1 in a sweep, got {devices}. Use --jobs."),
        (root and not root.is_dir(), f"--data-root {root} is not a folder. Create it, or name the one that holds the data."),
    ]
    for is_refused, message in refusals:
        if is_refused:
            raise RequestError(message)
