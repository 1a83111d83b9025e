"""Programs that start others: their output, an end after some seconds, and none of their processes left behind."""

import contextlib
import os
import signal
import subprocess
import time


def finished(command, *, seconds=300, **options):
    """What `subprocess.run` gives; AssertionError with the output so far where the program does not end in time."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes, **options)
    try:
        out, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _end_session(process)
        out, error = process.communicate()
        raise AssertionError(f"{command} did not end within {seconds} seconds:\n{out[-3000:]}\n{error[-3000:]}") from None
    finally:
        # ranks that their launcher has left behind
        _end_session(process)
    return subprocess.CompletedProcess(command, process.returncode, out, error)


def alive(pid):
    """Whether the process runs: one that has ended may wait for its parent to clear it away."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def assert_gone(*pids):
    """The processes end within ten seconds."""
    for _ in range(100):
        if not any(map(alive, pids)):
            return
        time.sleep(0.1)
    raise AssertionError(f"one of the processes {pids} is still there")


def _end_session(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
