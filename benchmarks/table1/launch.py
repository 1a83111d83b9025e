"""The program behind Table 1 and its sweeps: make the missing runs, several at a time, and write the page."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from joblib import Parallel, delayed
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.backbones import BackboneError
from benchmarks.data import DataError, Images
from benchmarks.pages import write
from benchmarks.table1.cli import VALIDATION_SHARE, OptionError, Options, describe
from benchmarks.table1.recipes import UNTRAINED
from benchmarks.table1.records import OutputError, Records, Row, reserved, writing
from benchmarks.table1.runs import Run, is_first_process, loaded, made

#: environment variable with the runs that are left, which rank 0 sets for the processes that Lightning starts
PENDING = "IT_LOSSES_TABLE1_PENDING"
#: the page of a table from its rows
Page = Callable[[Records, Options, Images], str]


def launch(read: Callable[[], Options], page: Page) -> int:
    """The program, from a function that reads its options to one that returns the page of its rows.

    Returns:
        Exit status: 0 done, 1 what was asked cannot be done, 130 stopped.
    """
    # in a file the table should not be wrapped at the 80 columns of a default terminal
    console, errors = Console(width=None if sys.stdout.isatty() else 120), Console(stderr=True)
    try:
        options = read()
        images = loaded(options)
        # the first process reserves it for all
        with reserved(options.output) if is_first_process() else nullcontext():
            records = Records(options.output)
            records.open(options.settings())
            _make(options, images, records, console)
            if is_first_process():
                text = page(records, options, images)
                with writing(options.output):
                    write(options.output / "README.md", text)
                console.print(Markdown(text))
                console.print(f"written: {options.output}/README.md, rows.jsonl, curves.csv", soft_wrap=True)
    except (OptionError, DataError, OutputError, BackboneError) as problem:
        errors.print(f"error: {problem}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        errors.print("stopped; finished rows are kept: the same command goes on from there", soft_wrap=True)
        return 130
    return 0


def head(records: Records, options: Options) -> dict[str, object]:
    """The first part of the page of every sweep."""
    run = {"command": options.command, "description": describe(options), "commits": records.names("commit")}
    return run | {"share": VALIDATION_SHARE}


def _make(options: Options, images: Images, records: Records, console: Console) -> None:
    # seed by seed, so that the table of one seed is complete early
    all_runs = [Run(method, seed) for seed in range(options.seeds) for method in options.methods]
    if is_first_process():
        # by the time that another process starts, the first may have added rows
        os.environ[PENDING] = json.dumps([run for run in all_runs if not records.has(*run)])
    pending = [Run(*run) for run in json.loads(os.environ[PENDING])]
    if options.jobs > 1 or options.is_sweep:
        # one thread, as in each of the worker processes, so that numbers do not depend on the number of jobs
        torch.set_num_threads(1)
    if is_first_process():
        done = len(all_runs) - len(pending)
        lines = [f"{describe(options)}: {len(pending)} of {len(all_runs)} runs to make in {options.output}"]
        lines += [f"going on: {done} of {len(all_runs)} runs are on disk already"] if done else []
        console.print("\n".join(lines), highlight=False)
    options = options.replaced(to_train=[run for run in pending if run.method != UNTRAINED])
    for row, curve in _results(pending, options, images):
        # only the first process has rows
        if not row:
            continue
        records.add(row, curve)
        run, left = Run(row["method"], row["seed"]), len(all_runs) - len(records.rows)
        # not before its row is on disk
        with writing(options.output):
            run.checkpoint(options).unlink(missing_ok=True)
        scores = f"linear {100 * row['linear']:.1f} %, kNN {100 * row['knn']:.1f} %"
        console.print(f"{run.label(options)}: {scores}, {row['seconds']:.0f} s; {left} runs left", highlight=False)


def _results(runs: list[Run], options: Options, images: Images) -> Iterator[tuple[Row, list[Row]]]:
    """Row and curve of each run as it ends; several jobs are processes on a core of their own, and only the caller writes."""
    if options.jobs == 1:
        return (made(run, options, images) for run in runs)
    pool = Parallel(n_jobs=options.jobs, return_as="generator_unordered")
    return pool(delayed(_in_worker)(run, options, images, os.getpid()) for run in runs)


def _in_worker(run: Run, options: Options, images: Images, parent: int) -> tuple[Row, list[Row]]:
    torch.set_num_threads(1)
    # Ctrl-C ends a worker at once; if it were caught, the worker would begin the next run
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    return made(run, options, images)


def _end_with(parent: int) -> None:
    """End this worker when its parent has been killed: the run would otherwise go on, beside the same run of a new command."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
