"""Measure times, peak memory and written bytes; name devices; call a function in a fresh process.

To compare times, all implementations run in turn in one process, in every round.
"""

import ctypes
import importlib.util
import multiprocessing
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Step = Callable[[], Tensor]
#: the clock on each type of device. Other processes lengthen wall-clock time, but not the CPU time of this thread
CLOCKS = {"cpu": "CPU time of the thread", "cuda": "CUDA events"}
#: milliseconds; an untimed call precedes each timed call that is shorter than this
SHORT = 2000.0
STATUS, CLEAR, COUNTERS = (Path("/proc/self") / name for name in ("status", "clear_refs", "io"))


def is_installed(package: str) -> bool:
    """Whether the package can be imported."""
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
    """Whether /proc has the written bytes and the peak memory of this process, as on Linux."""
    return COUNTERS.exists() and CLEAR.exists()


def peak_mib(call: Callable[[], object], device: torch.device) -> float:
    """Peak memory during a call in MiB, above the memory in use before the call."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not can_count():
        raise RuntimeError("peak memory on a CPU is read from /proc, which this system lacks. Run it on Linux.")
    # return freed memory to the system, because memory that the call reuses would not be counted
    ctypes.CDLL(None).malloc_trim(0)
    # writing 5 resets the peak (VmHWM) to the current memory
    CLEAR.write_text("5")
    before = _counter(STATUS, "VmRSS")
    call()
    return (_counter(STATUS, "VmHWM") - before) / 1024


def written_bytes() -> int:
    """The bytes that this process has written so far, to sockets and files."""
    return _counter(COUNTERS, "wchar")


def _counter(path: Path, name: str) -> int:
    return int(dict(line.split(":", 1) for line in path.read_text().splitlines())[name].split()[0])


def timed(
    steps: dict[str, Step], device: torch.device, *, seconds: float, repetitions: tuple[int, int], inputs: Sequence[Tensor] = ()
) -> dict[str, dict[str, list[float]]]:
    """Time functions that return a loss: name -> "forward", "backward" and "both" -> milliseconds of every call.

    `repetitions` are the least and the largest number of rounds; between them, rounds start until `seconds` have passed.
    Freeing the memory of one implementation can take longer than the next call. The gradients of `inputs` are therefore freed
    before each timed call, and a short call first runs once untimed.
    """
    times: dict[str, dict[str, list[float]]] = {name: {"forward": [], "backward": [], "both": []} for name in steps}
    for step in steps.values():
        # the first calls load libraries and allocate memory, so they are not timed
        step().backward()
    (least, most), start, rounds = repetitions, time.monotonic(), 0
    while rounds < least or (rounds < most and time.monotonic() - start < seconds):
        for name, step in steps.items():
            _free(inputs)
            if not rounds or times[name]["both"][-1] < SHORT:
                step().backward()
                _free(inputs)
            forward, backward = _cuda(step) if device.type == "cuda" else _cpu(step)
            for mode, milliseconds in (("forward", forward), ("backward", backward), ("both", forward + backward)):
                times[name][mode].append(milliseconds)
        rounds += 1
    return times


def _free(inputs: Sequence[Tensor]) -> None:
    """Free the gradients, so that the next backward pass does not add to them."""
    for z in inputs:
        z.grad = None


def _cpu(step: Step) -> tuple[float, float]:
    start = time.thread_time()
    loss = step()
    middle = time.thread_time()
    loss.backward()
    return (middle - start) * 1e3, (time.thread_time() - middle) * 1e3


def _cuda(step: Step) -> tuple[float, float]:
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
    torch.cuda.synchronize()
    marks[0].record()
    loss = step()
    marks[1].record()
    loss.backward()
    marks[2].record()
    torch.cuda.synchronize()
    return marks[0].elapsed_time(marks[1]), marks[1].elapsed_time(marks[2])


def kernels(step: Step, inputs: Sequence[Tensor]) -> tuple[int, float]:
    """The number of GPU kernels in one forward and backward pass, and their total time in milliseconds.

    For small inputs, a step takes longer than its kernels, because the host must launch them.
    """
    step().backward()
    _free(inputs)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as trace:
        step().backward()
        torch.cuda.synchronize()
    times = [e.time_range.elapsed_us() for e in trace.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return len(times), sum(times) / 1e3


def percentiles(series: list[float]) -> tuple[float, float, float]:
    at = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    p20, median, p80 = torch.tensor(series, dtype=torch.float64).quantile(at).tolist()
    return p20, median, p80
