"""CPU time, bytes sent and memory of one forward and backward pass on each of several gloo ranks, as the kernel counts them."""

from __future__ import annotations

import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from benchmarks.distributed.schemes import Loss, schemes


class Row(NamedTuple):
    """The cost of one scheme on one rank, averaged over ranks: medians and quartiles over the repeats."""

    scheme: str
    ranks: int
    samples: int
    dim: int
    cpu_ms: float
    cpu_ms_quartile_low: float
    cpu_ms_quartile_high: float
    sent_mb: float
    peak_mib: float


class Machine(NamedTuple):
    """The constants of the model: what one thread of this machine does in a second of CPU time while gloo ranks communicate."""

    flops: float
    #: bytes read or written by an elementwise operation
    memory_bytes: float
    #: bytes of memory taken from the system
    fresh_bytes: float
    #: bytes sent
    link_bytes: float
    #: seconds of one collective of no bytes
    latency: float


def measured(world: int, shapes: list[tuple[int, int]], repeats: int) -> tuple[list[Row], Machine]:
    """Measure every scheme at every (global samples, dim) on that many ranks, interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (world, shapes, repeats, folder), nprocs=world)
        found = [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]
    rows = [_mean([rank[0][i] for rank in found]) for i in range(len(found[0][0]))]
    return rows, Machine(*(sum(column) / world for column in zip(*(rank[1] for rank in found), strict=True)))


def _mean(rows: list[Row]) -> Row:
    numbers = [sum(column) / len(rows) for column in zip(*(row[4:] for row in rows), strict=True)]
    return Row(*rows[0][:4], *numbers)


def _rank(rank: int, world: int, shapes: list[tuple[int, int]], repeats: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    rows = [row for samples, dim in shapes for row in _case(samples, dim, repeats)]
    torch.save((rows, _machine()), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def _case(samples: int, dim: int, repeats: int) -> list[Row]:
    world, candidates = dist.get_world_size(), schemes()
    views = torch.randn(2, samples // world, dim, generator=torch.Generator().manual_seed(dist.get_rank()))
    steps = {name: _step(loss, views) for name, loss in candidates.items()}
    first = {name: step() for name, step in steps.items()}
    for name, gradient in first.items():
        # a scheme with a wrong gradient is not timed
        torch.testing.assert_close(gradient, first["it-losses"], rtol=1e-3, atol=1e-3 * gradient.abs().max().item(), msg=name)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            dist.barrier()
            start = time.process_time()
            step()
            times[name].append(1e3 * (time.process_time() - start))
    rows = []
    for name, step in steps.items():
        low, median, high = statistics.quantiles(times[name], n=4)
        rows.append(Row(name, world, samples, dim, median, low, high, _sent_mb(step), _peak_mib(step)))
    return rows


def _step(loss: Loss, views: Tensor) -> Callable[[], Tensor]:
    own = [z.clone().requires_grad_() for z in views]

    def step() -> Tensor:
        return torch.cat(torch.autograd.grad(loss(*own), own))

    return step


def _sent_mb(step: Callable[[], Tensor]) -> float:
    """The bytes that this process wrote to its sockets; it writes nothing else meanwhile."""
    dist.barrier()
    before = _written()
    step()
    return (_written() - before) / 1e6


def _written() -> int:
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["wchar"])


def _peak_mib(step: Callable[[], Tensor]) -> float:
    """The peak of resident memory above that before."""
    dist.barrier()
    # memory that the allocator has cached would hide what this step takes
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_kib("VmRSS")
    step()
    return (_status_kib("VmHWM") - before) / 1024


def _status_kib(name: str) -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0])


def _machine() -> Machine:
    """Each constant from one operation, of the kind the losses are made of."""
    a, b = torch.randn(512, 2048), torch.randn(2048, 512)
    flops = 2 * 512 * 512 * 2048 / _seconds(lambda: a @ b)
    x = torch.randn(1 << 23)
    memory = 2 * x.nbytes / _seconds(lambda: x.mul_(0.999))
    # the system maps pages of zeros only when they are written
    fresh = x.nbytes / _seconds(lambda: torch.zeros_like(x).add_(1))
    all_ranks, own = torch.empty(dist.get_world_size() << 21), torch.randn(1 << 21)
    latency = _seconds(lambda: dist.all_gather_into_tensor(all_ranks[: dist.get_world_size()], own[:1]), calls=50)
    sent = own.nbytes * (dist.get_world_size() - 1)
    link = sent / _seconds(lambda: dist.all_gather_into_tensor(all_ranks, own))
    return Machine(flops, memory, fresh, link, latency)


def _seconds(call: Callable[[], object], calls: int = 10) -> float:
    call()
    times = []
    for _ in range(calls):
        dist.barrier()
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def can_measure() -> bool:
    """Whether this system counts what a process writes and how much memory it held."""
    return os.path.exists("/proc/self/io") and os.path.exists("/proc/self/clear_refs")
