"""Tools of the programs that measure: names of devices, peak memory, written bytes, and calls in a fresh process."""

import ctypes
import importlib.util
import multiprocessing
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
STATUS, CLEAR, COUNTERS = (Path("/proc/self") / name for name in ("status", "clear_refs", "io"))


def is_installed(package: str) -> bool:
    """Whether the package can be imported, so that programs can leave out a missing one."""
    return importlib.util.find_spec(package) is not None


def batch_and_dim(text: str) -> tuple[int, int]:
    batch, dim = text.split("x")
    return int(batch), int(dim)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def in_fresh_process(function: Callable[..., T], *arguments: object) -> T:
    """Call the function in a new Python process, which has no memory or caches from earlier calls."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def can_count() -> bool:
    """Whether this system counts the bytes that a process writes and its peak of memory, as Linux does."""
    return COUNTERS.exists() and CLEAR.exists()


def peak_mib(call: Callable[[], object], device: torch.device) -> float:
    """Peak memory during a call in MiB, above the memory in use before the call."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not can_count():
        raise RuntimeError("peak memory on a CPU is counted by /proc, which this system lacks. Run it on Linux.")
    # give cached memory back to the system: the call could otherwise use it without being counted
    ctypes.CDLL(None).malloc_trim(0)
    # writing 5 sets the peak (VmHWM) to the current memory
    CLEAR.write_text("5")
    before = _counter(STATUS, "VmRSS")
    call()
    return (_counter(STATUS, "VmHWM") - before) / 1024


def written_bytes() -> int:
    """The bytes that this process has written so far, to sockets and files."""
    return _counter(COUNTERS, "wchar")


def _counter(path: Path, name: str) -> int:
    return int(dict(line.split(":", 1) for line in path.read_text().splitlines())[name].split()[0])
