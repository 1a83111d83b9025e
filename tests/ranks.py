"""Real processes that speak gloo to each other: started once, lent to every test that needs ranks.

`run(world, check, *args)` calls `check(*args)` on ranks 0 .. world - 1 of a fresh process group and returns what each returned.
"""

import atexit
import functools
import itertools
import multiprocessing
import tempfile
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

MOST = 4
#: seconds: a check that hangs is a failed check
PATIENCE = 180
_tasks = itertools.count()


def run(world, check, *args):
    workers, folder = _pool()
    store = str(Path(folder) / f"store{next(_tasks)}")
    for rank, connection in enumerate(workers[:world]):
        connection.send((check, args, store, rank, world))
    answers = [_answer(connection, rank) for rank, connection in enumerate(workers[:world])]
    failures = [f"rank {rank}:\n{error}" for rank, (_, error) in enumerate(answers) if error]
    assert not failures, "\n".join(failures)
    return [result for result, _ in answers]


def _answer(connection, rank):
    if not connection.poll(PATIENCE):
        return None, f"no answer within {PATIENCE} seconds"
    return connection.recv()


@functools.cache
def _pool():
    context = multiprocessing.get_context("spawn")
    folder = tempfile.TemporaryDirectory()
    pairs = [context.Pipe() for _ in range(MOST)]
    workers = [context.Process(target=_serve, args=(theirs,), daemon=True) for _, theirs in pairs]
    for worker in workers:
        worker.start()
    atexit.register(folder.cleanup)
    return [ours for ours, _ in pairs], folder.name


def _serve(connection):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    while True:
        try:
            check, args, store, rank, world = connection.recv()
        except EOFError:
            return
        torch.manual_seed(0)
        try:
            dist.init_process_group(
                "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=PATIENCE / 3)
            )
            connection.send((check(*args), None))
        except BaseException:
            connection.send((None, traceback.format_exc()))
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
