"""Runs a check on several ranks, which are processes in a gloo group. All tests that need ranks share these processes.

`run(world, check, *args)` calls `check(*args)` on ranks 0 .. world - 1 of a fresh process group and returns their results.
If a rank fails, the test ends at once with the traceback of this rank, and the processes of all ranks are replaced.
"""

import atexit
import itertools
import multiprocessing
import shutil
import tempfile
import time
import traceback
import warnings
from datetime import timedelta
from multiprocessing import connection
from pathlib import Path

#: seconds after which a check that hangs counts as failed
PATIENCE = 180
#: seconds to wait for more errors after the first, because the error of a dead rank may arrive after those of others
GRACE = 0.2
_context = multiprocessing.get_context("spawn")
_tasks = itertools.count()
_workers = []
_folder = tempfile.mkdtemp()
atexit.register(shutil.rmtree, _folder, ignore_errors=True)


def run(world, check, *args):
    while len(_workers) < world:
        _workers.append(_started())
    store = str(Path(_folder) / f"store{next(_tasks)}")
    for rank, (_, pipe) in enumerate(_workers[:world]):
        pipe.send((check, args, store, rank, world, warnings.filters))
    try:
        results = _answers({pipe: rank for rank, (_, pipe) in enumerate(_workers[:world])})
    except BaseException:
        # other ranks may wait for the failed rank in a collective, which cannot be cancelled, so end their processes
        _end_all()
        raise
    return [results[rank] for rank in range(world)]


def _answers(pending):
    """Return a dict from rank to the result of its check. Raise AssertionError if a rank fails or gives no answer."""
    results, failures, deadline = {}, [], time.monotonic() + PATIENCE
    while pending:
        ready = connection.wait(pending, deadline - time.monotonic())
        if not ready:
            break
        for pipe in ready:
            rank = pending.pop(pipe)
            results[rank], error = _answer(pipe, rank)
            if error:
                failures.append(f"rank {rank}:\n{error}")
                deadline = min(deadline, time.monotonic() + GRACE)
    assert not failures, "\n".join(failures)
    assert not pending, f"ranks {sorted(pending.values())} did not answer within {PATIENCE} seconds"
    return results


def _answer(pipe, rank):
    try:
        return pipe.recv()
    except EOFError:
        process = _workers[rank][0]
        process.join()
        return None, f"its process ended with exit code {process.exitcode}"


def _started():
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    # close the child's end of the pipe here, or this process would not notice the death of the child
    theirs.close()
    return process, ours


def _end_all():
    for process, pipe in _workers:
        process.kill()
        process.join()
        pipe.close()
    _workers.clear()


def _serve(pipe):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    while True:
        try:
            check, args, store, rank, world, filters = pipe.recv()
        except EOFError:
            return
        if dist.is_initialized():
            # all ranks have answered, so no rank is still connecting to this one, and the old group can be destroyed
            dist.destroy_process_group()
        torch.manual_seed(0)
        # use the warning filters of the test, so that the same warnings are errors here
        warnings.resetwarnings()
        warnings.filters.extend(filters)
        try:
            dist.init_process_group(
                "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=PATIENCE / 3)
            )
            pipe.send((check(*args), None))
        except BaseException:
            pipe.send((None, traceback.format_exc()))
