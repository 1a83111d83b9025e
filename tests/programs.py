"""Runs programs that start other processes. Returns their output, ends them after a time limit and leaves no process behind."""

import contextlib
import os
import signal
import subprocess
import time


def finished(command, *, seconds=300, **options):
    """Run a command like `subprocess.run`. Raise AssertionError with the output so far if it does not end in time."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes, **options)
    try:
        out, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _end_session(process)
        out, error = process.communicate()
        raise AssertionError(f"{command} did not end within {seconds} seconds:\n{out[-3000:]}\n{error[-3000:]}") from None
    finally:
        # end also the processes that a launcher has left running, such as ranks
        _end_session(process)
    return subprocess.CompletedProcess(command, process.returncode, out, error)


def alive(pid):
    """Whether the process still runs. A process that has ended and waits for its parent (state Z) does not count."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def assert_gone(*pids):
    """Assert that these processes end within ten seconds."""
    for _ in range(100):
        if not any(map(alive, pids)):
            return
        time.sleep(0.1)
    raise AssertionError(f"one of the processes {pids} still runs")


def _end_session(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
