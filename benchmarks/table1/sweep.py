"""A sweep: variants of the rows of Table 1, trained and probed as those are, on the training half alone, several at a time."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from benchmarks import backbones
from benchmarks.data import DataError, Images
from benchmarks.table1 import cli
from benchmarks.table1.cli import OptionError, Options
from benchmarks.table1.plan import Run, check, label, loaded, planned
from benchmarks.table1.pool import finished
from benchmarks.table1.progress import Bars
from benchmarks.table1.recipes import UNTRAINED, Recipe
from benchmarks.table1.rows import OutputError, Records
from benchmarks.table1.runs import Interrupted

#: fraction of the training half on which the variants are scored
VALIDATION_SHARE = 0.2


def sweep(
    name: str,
    description: str,
    arguments: list[str] | None,
    *,
    seeds: int,
    variants: Callable[[Options], Mapping[str, Recipe]],
    publish: Callable[[Records, Options, str], str],
) -> int:
    """The program: read the options of Table 1, make the runs that are missing, publish.

    Args:
        name: of the module, and of the default folder.
        description: for the help.
        arguments: the command line.
        seeds: runs a variant where the user names no number.
        variants: from the options to recipes, by a name that can be part of a file's.
        publish: from the finished runs, these options and the command line to a page of Markdown.

    Returns:
        Exit status: 0 done, 1 what was asked cannot be done, 130 stopped.
    """
    console, errors = Console(width=None if sys.stdout.isatty() else 120), Console(stderr=True)
    given = cli.read(_parser(name, description, seeds), arguments)
    given.output = given.output or Path("runs") / f"{name}-{given.preset or given.dataset}"
    try:
        options = cli.completed(given)
        asked = replace(options, methods=[name for name in options.methods if name != UNTRAINED])
        recipes = variants(asked)
        options = replace(asked, methods=list(recipes), recipes=recipes)
        if options.devices > 1:
            raise OptionError(f"--devices must be 1 here, got {options.devices}. Use --jobs.")
        images = loaded(options).validation(VALIDATION_SHARE)
        check(options, images)
        records = Records(options.output)
        records.open(options.settings() | {"scored_on": f"validation images, {VALIDATION_SHARE:g} of the training half"})
    except (OptionError, DataError, OutputError, backbones.BackboneError) as problem:
        errors.print(f"error: {problem}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        return 1
    try:
        _make(options, images, records, console)
    except (Interrupted, KeyboardInterrupt):
        errors.print(f"stopped; finished rows are in {options.output}: the same command goes on from there", soft_wrap=True)
        return 130
    words = " ".join(sys.argv[1:] if arguments is None else arguments)
    console.print(Markdown(publish(records, asked, f"python -m benchmarks.table1.{name} {words}".strip())))
    console.print(f"written: {options.output}/README.md, {name}.csv, rows.jsonl, curves/", soft_wrap=True)
    return 0


def _parser(name: str, description: str, seeds: int) -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog=f"python -m benchmarks.table1.{name}",
        description=f"{description} Run it again after a kill: it goes on where it was.",
        parents=[cli.parser(is_parent=True)],
    )
    command.set_defaults(seeds=seeds)
    return command


def _make(options: Options, images: Images, records: Records, console: Console) -> None:
    (options.output / "unfinished").mkdir(exist_ok=True)
    pending = [run for run in planned(options) if not records.has(run.method, run.seed)]
    with Bars(console, runs=len(pending), epochs=options.epochs) as bars:
        bars.say(f"{cli.describe(options)}: {len(pending)} of {len(planned(options))} runs to make in {options.output}")
        for row, curve in finished(pending, options, images, bars):
            records.add(row, curve)
            run = Run(row["method"], row["seed"])
            bars.say(f"{label(run, options)}: linear {100 * row['linear']:.1f} %, {row['seconds']:.0f} s")
