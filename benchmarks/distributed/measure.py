"""CPU time, bytes sent and memory of one forward and backward pass on each of several gloo ranks, as the kernel counts them."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from lightly.loss import VICRegLoss
from lightly.utils.dist import gather
from torch import Tensor

from benchmarks.distributed.model import Constants
from benchmarks.machine import peak_mib, written_bytes
from benchmarks.peers import Objective, official_vicreg, solo_learn_vicreg
from it_losses import VICReg
from it_losses.distributed import all_gather_single


def gathered(own: Tensor) -> Tensor:
    """The samples of all ranks, by solo-learn's and the authors' function, which all-reduces the gradients of all samples."""
    return torch.cat(gather(own))


#: VICReg (25, 25, 1) of the batch of all ranks as other projects compute it; solo-learn's weight of 12.5 is the authors' 25
official = partial(official_vicreg, gather=gathered)
solo_learn = partial(solo_learn_vicreg, gather=gathered, variance_weight=12.5)
lightly = VICRegLoss(gather_distributed=True)
#: name -> loss; ours is the first
SCHEMES = {"it-losses": VICReg(), "official": official, "solo-learn": solo_learn, "lightly": lightly}


def measured(world: int, shapes: list[tuple[int, int]], repeats: int) -> tuple[list[dict[str, Any]], list[Constants]]:
    """The cost of every scheme at every (global samples, dim) on each rank, and the constants of the model there."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (world, shapes, repeats, folder), nprocs=world)
        found = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world)]
    return [row for rows, _ in found for row in rows], [Constants(*constants) for _, constants in found]


def _rank(rank: int, world: int, shapes: list[tuple[int, int]], repeats: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    rows = [row for samples, dim in shapes for row in _case(samples, dim, repeats)]
    torch.save((rows, tuple(_constants())), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def _case(samples: int, dim: int, repeats: int) -> list[dict[str, Any]]:
    """Medians and quartiles over interleaved repeats."""
    world = dist.get_world_size()
    views = torch.randn(2, samples // world, dim, generator=torch.Generator().manual_seed(dist.get_rank()))
    own = [z.requires_grad_() for z in views]
    steps = {name: partial(_gradient, loss, own) for name, loss in SCHEMES.items()}
    first = {name: step() for name, step in steps.items()}
    for name, gradient in first.items():
        # a scheme with a wrong gradient is not timed
        torch.testing.assert_close(gradient, first["it-losses"], rtol=1e-3, atol=1e-3 * gradient.abs().max().item(), msg=name)
    rounds = [[1e3 * _cpu_seconds(step) for step in steps.values()] for _ in range(repeats)]
    rows = []
    for (name, step), times in zip(steps.items(), zip(*rounds, strict=True), strict=True):
        low, median, high = statistics.quantiles(times, n=4)
        case = {"scheme": name, "ranks": world, "samples": samples, "dim": dim}
        milliseconds = {"cpu_ms": median, "cpu_ms_quartile_low": low, "cpu_ms_quartile_high": high}
        sent = sent_mb(step)
        dist.barrier()
        rows.append(case | milliseconds | {"sent_mb": sent, "peak_mib": peak_mib(step, views.device)})
    return rows


def _gradient(loss: Objective, own: list[Tensor]) -> Tensor:
    return torch.cat(torch.autograd.grad(loss(*own), own))


def sent_mb(step: Callable[[], object]) -> float:
    """The bytes that this process wrote to its sockets; it writes nothing else meanwhile."""
    dist.barrier()
    before = written_bytes()
    step()
    return (written_bytes() - before) / 1e6


def _constants() -> Constants:
    """The constants, each from one operation as in the losses, in CPU time of one thread while gloo ranks communicate."""
    world = dist.get_world_size()
    a, b, x = torch.randn(512, 2048), torch.randn(2048, 512), torch.randn(1 << 23)
    all_ranks, own = torch.empty(world << 21), torch.randn(1 << 21)
    return Constants(
        flops=2 * 512 * 512 * 2048 / _median_seconds(lambda: a @ b),
        memory_bytes=2 * x.nbytes / _median_seconds(lambda: x.mul_(0.999)),
        # the system maps pages of zeros only when they are written
        fresh_bytes=x.nbytes / _median_seconds(lambda: torch.zeros_like(x).add_(1)),
        link_bytes=own.nbytes * (world - 1) / _median_seconds(lambda: all_gather_single(all_ranks, own)),
        latency=_median_seconds(lambda: all_gather_single(all_ranks[:world], own[:1]), calls=50),
    )


def _median_seconds(call: Callable[[], object], calls: int = 10) -> float:
    call()
    return statistics.median(_cpu_seconds(call) for _ in range(calls))


def _cpu_seconds(call: Callable[[], object]) -> float:
    dist.barrier()
    start = time.process_time()
    call()
    return time.process_time() - start
