"""`python -m benchmarks.distributed` measures CPU time, sent bytes and memory of VICReg over several gloo ranks.

Our loss is compared with losses that gather the samples of all ranks on each rank. The program runs on Linux only.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
import torch.multiprocessing
from lightly.loss import VICRegLoss
from lightly.utils.dist import gather
from torch import Tensor

from benchmarks.machine import batch_and_dim, can_count, device_name, peak_mib, written_bytes
from benchmarks.pages import COMMIT, filled, notes, write, write_csv
from benchmarks.peers import official_vicreg, solo_learn_vicreg
from it_losses import VICReg


def gathered(own: Tensor) -> Tensor:
    """The samples of all ranks. Backward all-reduces their gradients, as in solo-learn and the authors' code."""
    return torch.cat(gather(own))


#: VICReg (25, 25, 1) over the samples of all ranks, ours first. solo-learn sums over views, so its variance weight is 12.5
SCHEMES = {
    "it-losses": VICReg(),
    "official": partial(official_vicreg, gather=gathered),
    "solo-learn": partial(solo_learn_vicreg, gather=gathered, variance_weight=12.5),
    "lightly": VICRegLoss(gather_distributed=True),
}
SHAPES = [(512, 2048), (512, 512), (1024, 256)]


def measured(world: int, shapes: list[tuple[int, int]], repeats: int) -> list[dict[str, Any]]:
    """Measure every scheme at every (samples of all ranks, dim): one row per scheme, shape and rank."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (world, shapes, repeats, folder), nprocs=world)
        return [row for rank in range(world) for row in torch.load(Path(folder) / f"{rank}.pt", weights_only=True)]


def _rank(rank: int, world: int, shapes: list[tuple[int, int]], repeats: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save([row for samples, dim in shapes for row in _case(samples, dim, repeats)], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def _case(samples: int, dim: int, repeats: int) -> list[dict[str, Any]]:
    """A row per scheme, measured on this rank: median and quartiles over repeats. In each repeat, all schemes run in turn."""
    world = dist.get_world_size()
    views = torch.randn(2, samples // world, dim, generator=torch.Generator().manual_seed(dist.get_rank()))
    own = [z.requires_grad_() for z in views]
    steps = {name: lambda loss=loss: torch.cat(torch.autograd.grad(loss(*own), own)) for name, loss in SCHEMES.items()}
    first = {name: step() for name, step in steps.items()}
    for name, gradient in first.items():
        # stop before timing if a scheme has a wrong gradient
        torch.testing.assert_close(gradient, first["it-losses"], rtol=1e-3, atol=1e-3 * gradient.abs().max().item(), msg=name)
    rounds = [[1e3 * _cpu_seconds(step) for step in steps.values()] for _ in range(repeats)]
    rows = []
    for (name, step), times in zip(steps.items(), zip(*rounds, strict=True), strict=True):
        low, median, high = statistics.quantiles(times, n=4)
        row = {"scheme": name, "ranks": world, "samples": samples, "dim": dim}
        row |= {"cpu_ms": median, "cpu_ms_quartile_low": low, "cpu_ms_quartile_high": high, "sent_mb": sent_mb(step)}
        dist.barrier()
        rows.append(row | {"peak_mib": peak_mib(step, views.device)})
    return rows


def _cpu_seconds(call: Callable[[], object]) -> float:
    dist.barrier()
    start = time.process_time()
    call()
    return time.process_time() - start


def sent_mb(step: Callable[[], object]) -> float:
    """Megabytes that this process writes to its sockets in one step; it writes nothing else meanwhile."""
    dist.barrier()
    before = written_bytes()
    step()
    return (written_bytes() - before) / 1e6


def page_of(rows: pd.DataFrame, machine: str, notes: str) -> str:
    ours = rows.groupby(["ranks", "samples", "dim"]).cpu_ms.transform("first")
    lines = rows.assign(of_ours=rows.cpu_ms / ours).to_dict("records")
    return filled(__file__, lines, machine=machine, notes=notes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed", description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument(
        "--shapes", type=batch_and_dim, nargs="+", default=SHAPES, help="samples of all ranks x dim, such as 512x2048"
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("runs") / "distributed", help="folder for rows.csv and README.md")
    options = parser.parse_args()
    if not can_count():
        parser.error("the program reads bytes and memory from /proc, which this system lacks. Run it on Linux.")
    shapes, ranks = options.shapes, options.ranks
    if uneven := [f"{n} samples on {world} ranks" for n, _ in shapes for world in ranks if world < 2 or n % world]:
        parser.error(f"--ranks must be at least 2 and divide the samples of every shape, got {', '.join(uneven)}")
    if options.repeats < 2:
        parser.error(f"--repeats must be at least 2, got {options.repeats}")
    of_ranks = pd.DataFrame([row for world in ranks for row in measured(world, shapes, options.repeats)])
    rows = of_ranks.groupby(["scheme", "ranks", "samples", "dim"], sort=False, as_index=False).mean()
    machine = f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores, torch {torch.__version__}, commit {COMMIT}"
    text = page_of(rows, machine, notes(options.out))
    print(text)
    write_csv(options.out / "rows.csv", rows.to_dict("records"))
    write(options.out / "README.md", text)


if __name__ == "__main__":
    main()
