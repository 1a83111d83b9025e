"""Run Table 1 or a sweep: make the missing runs, several at a time, and write the page."""

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

from benchmarks import RequestError
from benchmarks.data import HELD_OUT, Images
from benchmarks.pages import notes, write
from benchmarks.table1.cli import Options
from benchmarks.table1.recipes import UNTRAINED
from benchmarks.table1.records import Records, Row, reserved, writing
from benchmarks.table1.runs import Run, is_first_process, loaded, made

#: environment variable with the runs that are left, which rank 0 sets for the processes that Lightning starts
PENDING = "IT_LOSSES_TABLE1_PENDING"


def launch(read: Callable[[], Options], page: Callable[[Records, Options, Images], str] | None) -> int:
    """Make the missing runs for the options that `read` returns, then write the page that `page` makes of all rows.

    The exit status is 0, or 1 after a RequestError, or 130 after Ctrl-C.
    """
    try:
        options = read()
        images = loaded(options)
        # the first process reserves the folder for all processes
        with reserved(options.output) if is_first_process() else nullcontext():
            records = Records(options.output)
            records.open(options.settings() | {"images": images.digest})
            _make(options, images, records)
            if page and is_first_process():
                text = page(records, options, images)
                with writing(options.output):
                    write(options.output / "README.md", text)
                # if the output goes to a file, use 120 columns, because rich would wrap the table at 80
                Console(width=None if sys.stdout.isatty() else 120).print(Markdown(text))
                print(f"written: {options.output}/README.md, rows.jsonl")
    except RequestError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped. Finished runs are kept. Run the same command to continue", file=sys.stderr)
        return 130
    return 0


def head(records: Records, options: Options) -> dict[str, object]:
    asked = {"command": options.command, "dataset": options.dataset, "backbone": options.backbone}
    made = {"commits": records.names("commit"), "over": records.over(), "share": HELD_OUT, "notes": notes(records.folder)}
    return asked | {"description": options.describe()} | made


def _make(options: Options, images: Images, records: Records) -> None:
    # seed by seed, so that the table of one seed is complete early
    all_runs = [Run(method, seed) for seed in range(options.seeds) for method in options.methods]
    if is_first_process():
        # the first process sets the list for all processes, because it may add rows before another process starts
        os.environ[PENDING] = json.dumps([run for run in all_runs if not records.has(*run)])
    pending = [Run(*run) for run in json.loads(os.environ[PENDING])]
    if is_first_process():
        print(f"{options.describe()}: {options.output} lacks {len(pending)} of {len(all_runs)} runs")
        if len(pending) < len(all_runs):
            print(f"{len(all_runs) - len(pending)} of {len(all_runs)} runs are on disk already and are kept", flush=True)
    if options.jobs > 1 or options.is_sweep:
        # one thread, as in the worker processes, so that the numbers do not depend on the number of jobs
        torch.set_num_threads(1)
    options = options.replaced(to_train=[run for run in pending if run.method != UNTRAINED])
    # only the first process has rows
    for row in filter(None, _results(pending, options, images)):
        records.add(row)
        run, left = Run(row["method"], row["seed"]), len(all_runs) - len(records.rows)
        with writing(options.output):
            run.checkpoint(options).unlink(missing_ok=True)
        scores = f"linear {100 * row['linear']:.1f} %, kNN {100 * row['knn']:.1f} %"
        print(f"{run.label(options)}: {scores}, {row['seconds']:.0f} s; {left} runs left", flush=True)


def _results(runs: list[Run], options: Options, images: Images) -> Iterator[Row]:
    """Yield the row of each run when it ends. With several jobs, runs are made in worker processes."""
    if options.jobs == 1:
        return (made(run, options, images) for run in runs)
    pool = Parallel(n_jobs=options.jobs, return_as="generator_unordered")
    return pool(delayed(_in_worker)(run, options, images, os.getpid()) for run in runs)


def _in_worker(run: Run, options: Options, images: Images, parent: int) -> Row:
    torch.set_num_threads(1)
    # Ctrl-C must end a worker at once; a worker that catches it would begin the next run
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def end_with_parent() -> None:
        # a worker must not outlive a killed parent, because a new command makes the same run again
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    return made(run, options, images)
