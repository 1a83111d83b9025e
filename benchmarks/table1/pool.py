"""Several runs at a time, each in its own process and on its own core; only the caller writes their results."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch
from rich.console import Console

from benchmarks.data import Images
from benchmarks.table1.cli import Options
from benchmarks.table1.plan import Run, label
from benchmarks.table1.progress import Bars
from benchmarks.table1.recipes import UNTRAINED
from benchmarks.table1.rows import Row
from benchmarks.table1.runs import trained, untrained

#: the settings of a worker, passed once
_given: tuple[Options, Images]


def finished(runs: list[Run], options: Options, images: Images, bars: Bars) -> Iterator[tuple[Row, list[Row]]]:
    """Yield row and curve of each run as it ends, `options.jobs` at a time. A single job runs in this process."""
    for row, curve in (_one_by_one if options.jobs == 1 else _from_workers)(runs, options, images):
        if row["method"] != UNTRAINED:
            bars.run(label(Run(row["method"], row["seed"]), options), steps=1)
            bars.step()
        yield row, curve


def _one_by_one(runs: list[Run], options: Options, images: Images) -> Iterator[tuple[Row, list[Row]]]:
    _prepare(options, images)
    yield from map(_made, runs)


def _from_workers(runs: list[Run], options: Options, images: Images) -> Iterator[tuple[Row, list[Row]]]:
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), _prepare, (options, images)) as pool:
        try:
            for done in as_completed([pool.submit(_made, run) for run in runs]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare(options: Options, images: Images) -> None:
    """Set up a worker. It always has one thread, so that numbers do not depend on the number of jobs."""
    global _given
    _given = options, images
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # Ctrl-C ends a worker at once; if it were caught, the worker would begin the next run
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # without this a worker would wait for work forever after its parent was killed
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _made(run: Run) -> tuple[Row, list[Row]]:
    options, images = _given
    if run.method == UNTRAINED:
        return untrained(run, options, images)
    silent = Bars(Console(quiet=True), runs=1, epochs=options.epochs, shown=False)
    return trained(run, options, images, silent, options.output)
