"""`python -m benchmarks.figures [1 2 3 4 5]`: recompute the paper's figures, PNG, CSV and caption each."""

from __future__ import annotations

import argparse
import time
from dataclasses import fields
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.backbones import BackboneError
from benchmarks.data import DATASETS, DataError
from benchmarks.figures import collapse, diagonality, entropy, generalization, normality
from benchmarks.figures.networks import Networks, Setup
from benchmarks.figures.sheet import write

FIGURES = {"1": normality, "2": entropy, "3": diagonality, "4": collapse, "5": generalization}
OUT = Path("runs") / "figures"


def parser() -> argparse.ArgumentParser:
    """The command line; what is not named has Setup's default."""
    default = Setup()
    parsed = argparse.ArgumentParser("python -m benchmarks.figures", description=__doc__)
    parsed.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parsed.add_argument("figures", nargs="*", metavar="figure", help=f"which of {', '.join(FIGURES)}; all if none is named")
    parsed.add_argument("--dataset", choices=sorted(DATASETS), default=default.dataset, help="images to train on")
    parsed.add_argument("--data-root", type=Path, help="folder that holds the data set; digits need none")
    parsed.add_argument("--images", type=int, help="only so many of each half, for trials")
    parsed.add_argument("--side", type=int, default=default.side, help="pixels")
    parsed.add_argument("--backbone", default=default.backbone, help="a timm model")
    parsed.add_argument(
        "--width", type=float, help=f"factor on the channels of a ResNet; {default.width} for {default.backbone}"
    )
    parsed.add_argument(
        "--epochs", type=int, default=default.epochs, help="of pre-training, figures 1, 2, 3; at most .6 of it in 5"
    )
    parsed.add_argument("--batch-size", type=int, default=default.batch_size, help="images a step")
    parsed.add_argument("--trials", type=int, default=default.trials, help="seeds, figures 1 to 4")
    parsed.add_argument("--models", type=int, default=default.models, help="models of figure 5, at most 36")
    parsed.add_argument(
        "--noisy-images", type=int, default=default.noisy_images, help="test images that get noise, figures 1, 3"
    )
    parsed.add_argument("--copies", type=int, default=default.copies, help="noisy copies of each, figures 1, 3")
    parsed.add_argument("--seed", type=int, default=default.seed, help="of the first trial")
    parsed.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of training and measurement")
    parsed.add_argument("--out", type=Path, default=OUT, help="folder for the files")
    return parsed


def main(arguments: list[str] | None = None) -> int:
    """Draw; 0, or 2 for a request that cannot be met."""
    parsed = parser()
    options = parsed.parse_args(arguments)
    unknown = set(options.figures) - set(FIGURES)
    if unknown:
        parsed.error(f"no figure {', '.join(sorted(unknown))}: there are {', '.join(FIGURES)}.")
    for name in ("side", "epochs", "batch_size", "trials", "models", "noisy_images"):
        if getattr(options, name) < 1:
            parsed.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}.")
    grid = len(generalization.sweep(options.models))
    if options.models > grid:
        parsed.error(f"--models must be at most {grid}, the size of figure 5's grid, got {options.models}.")
    if options.copies < 20:
        parsed.error(f"--copies must be at least 20 for the normality test, got {options.copies}.")
    if options.width is None:
        options.width = Setup.width if options.backbone == Setup.backbone else 1.0
    # fewer than 8 channels corrupt memory in oneDNN's convolutions
    if options.width < 0.125:
        parsed.error(f"--width must be at least 0.125, got {options.width}.")
    setup = Setup(**{field.name: getattr(options, field.name) for field in fields(Setup)})
    console = Console()
    try:
        networks = Networks(setup)
        for name in options.figures or FIGURES:
            _draw(name, networks, options.out, console)
    except (BackboneError, DataError) as problem:
        parsed.error(str(problem))
    return 0


def _draw(name: str, networks: Networks, out: Path, console: Console) -> None:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    networks.used.clear()
    start = time.perf_counter()
    with Progress(*columns, console=console) as progress:
        rows = FIGURES[name].rows(networks, lambda cases, description: progress.track(cases, description=description))
    caption = write(out, f"figure{name}", FIGURES[name], rows, networks, time.perf_counter() - start)
    console.print(f"[bold]Figure {name}[/bold] {out / f'figure{name}.png'}")
    console.print(caption + "\n", markup=False, highlight=False)


if __name__ == "__main__":
    raise SystemExit(main())
