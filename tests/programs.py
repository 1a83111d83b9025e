"""Programs that start others: their output, an end after some seconds, and none of their processes left behind."""

import contextlib
import os
import signal
import subprocess


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


def _end_session(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
