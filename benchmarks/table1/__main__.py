"""`python -m benchmarks.table1`: pre-train, evaluate and compare every method of Table 1 on real images."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.markdown import Markdown

from benchmarks import backbones
from benchmarks.data import DataError, Images
from benchmarks.table1.cli import OptionError, Options, describe, parse
from benchmarks.table1.estimate import estimate
from benchmarks.table1.plan import Run, check, label, loaded, planned
from benchmarks.table1.pool import finished
from benchmarks.table1.progress import Bars
from benchmarks.table1.recipes import UNTRAINED
from benchmarks.table1.report import publish
from benchmarks.table1.rows import OutputError, Records, Row
from benchmarks.table1.runs import Interrupted, pixel_accuracy, trained, untrained

#: environment variable by which rank 0 tells the processes that Lightning starts which runs are left
PENDING = "IT_LOSSES_TABLE1_PENDING"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 what was asked cannot be done, 130 stopped."""
    # in a file the table should not be wrapped at the 80 columns of a default terminal
    console, errors = Console(width=None if sys.stdout.isatty() else 120), Console(stderr=True)
    try:
        options = parse(arguments)
        images = loaded(options)
        check(options, images)
        records = Records(options.output)
        records.open(options.settings())
    except (OptionError, DataError, OutputError, backbones.BackboneError) as problem:
        errors.print(f"error: {problem}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        return 1
    try:
        _make(options, images, records, console)
    except (Interrupted, KeyboardInterrupt):
        errors.print(f"stopped; finished rows are in {options.output}: the same command goes on from there", soft_wrap=True)
        return 130
    if _is_first_process():
        text = publish(records, describe(options), pixel_accuracy(images))
        console.print(Markdown(text))
        console.print(f"written: {options.output}/table1.md, .csv, .png; curves/, rows.jsonl", soft_wrap=True)
    return 0


def _make(options: Options, images: Images, records: Records, console: Console) -> None:
    first = _is_first_process()
    pending = _pending(options, records)
    (options.output / "unfinished").mkdir(exist_ok=True)
    to_train = [run for run in pending if run.method != UNTRAINED]
    with Bars(console, runs=len(to_train), epochs=options.epochs, shown=first) as bars:
        done = len(planned(options)) - len(pending)
        bars.say(f"{describe(options)}: {len(pending)} runs to make in {options.output}")
        if done:
            bars.say(f"going on: {done} of {len(planned(options))} runs are on disk already")
        if options.jobs > 1:
            # one thread, as in each of the worker processes
            torch.set_num_threads(1)
        if to_train and first:
            bars.say(estimate(to_train, options, images))
        for row, curve in _made(pending, options, images, bars):
            if first:
                run = Run(row["method"], row["seed"])
                records.add(row, curve)
                scores = f"linear {100 * row['linear']:.1f} %, kNN {100 * row['knn']:.1f} %"
                bars.say(f"{label(run, options)}: {scores}, {row['seconds']:.0f} s")


def _made(pending: list[Run], options: Options, images: Images, bars: Bars) -> Iterator[tuple[Row, list[Row]]]:
    """Rows and curves as they come: one after the other on all devices, or several at a time."""
    if options.jobs > 1:
        yield from finished(pending, options, images, bars)
        return
    for run in pending:
        if run.method != UNTRAINED:
            yield trained(run, options, images, bars, options.output)
        elif _is_first_process():
            yield untrained(run, options, images)


def _pending(options: Options, records: Records) -> list[Run]:
    """Runs that have no row yet, as the first process found them: by now it may have added some."""
    if _is_first_process():
        pending = [run for run in planned(options) if not records.has(run.method, run.seed)]
        os.environ[PENDING] = json.dumps(pending)
    return [Run(*run) for run in json.loads(os.environ[PENDING])]


def _is_first_process() -> bool:
    return int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("RANK", "0")) == 0


if __name__ == "__main__":
    sys.exit(main())
