"""`python -m it_losses.adapters.compare lightly --batch 256 --dim 2048`: a library's VICReg and ours on your shape.

One row each: time of forward and backward (median and quartiles), peak memory beyond inputs and gradients, value. Each runs
in a process of its own, so that neither warms the other's caches nor hides the other's peak.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from it_losses.adapters.conventions import ARGUMENTS, vicreg
from it_losses.adapters.frameworks import framework

Criterion = Callable[[Tensor, Tensor], Tensor]
MIB = 2**20
CLONE = "git clone https://github.com/{}, then put the checkout on PYTHONPATH"


def theirs(library: str) -> Criterion:
    """The library's own criterion with its defaults."""
    if library == "lightly":
        return framework("lightly.loss", install="pip install lightly").VICRegLoss()  # type: ignore[no-any-return]
    if library == "stable-pretraining":
        return framework("stable_pretraining.losses", install="pip install stable-pretraining").VICRegLoss()  # type: ignore[no-any-return]
    if library == "solo-learn":
        return framework("solo.losses.vicreg", install=CLONE.format("vturrisi/solo-learn")).vicreg_loss_func  # type: ignore[no-any-return]
    if library == "pytorch-metric-learning":
        losses = framework("pytorch_metric_learning.losses", install="pip install pytorch-metric-learning")
        criterion = losses.VICRegLoss()
        return lambda z_a, z_b: criterion(z_a, ref_emb=z_b)
    criterion = framework("eb_jepa.losses", install=CLONE.format("facebookresearch/eb_jepa")).VICRegLoss()
    return lambda z_a, z_b: criterion(z_a, z_b)["loss"]


def measured(criterion: Criterion, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a step, MiB at the peak and the value, of one criterion on normal embeddings."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, options.batch, options.dim)
    z = torch.randn(shape, generator=generator).to(options.device, getattr(torch, options.dtype)).requires_grad_()
    z.grad = torch.zeros_like(z)
    # kernels, libraries and their caches are there before memory is counted
    small = torch.randn(2, 4, 4, device=options.device, dtype=z.dtype, requires_grad=True)
    criterion(*small).backward()
    before = _peak_bytes(options.device)
    milliseconds = [_step(criterion, z) for _ in range(options.steps + 3)][3:]
    peak = _peak_bytes(options.device) - before
    quartiles = statistics.quantiles(milliseconds, n=4)
    return {"step_ms": quartiles, "peak_mib": peak / MIB, "value": criterion(*z).item()}


def _step(criterion: Criterion, z: Tensor) -> float:
    _wait(z)
    start = time.perf_counter()
    criterion(*z).backward()
    _wait(z)
    return 1e3 * (time.perf_counter() - start)


def _wait(z: Tensor) -> None:
    if z.is_cuda:
        torch.cuda.synchronize(z.device)


def _peak_bytes(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # kilobytes on Linux
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _row(name: str, row: dict[str, Any]) -> str:
    low, median, high = row["step_ms"]
    return f"{name:<28}{median:>9.2f} ({low:.2f} to {high:.2f}){row['peak_mib']:>12.1f}{row['value']:>14.6f}"


def main() -> None:
    """Two child processes and a table, or, in a child, one measurement as JSON."""
    parser = argparse.ArgumentParser(prog="python -m it_losses.adapters.compare", description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=sorted(ARGUMENTS))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float64", "float32", "bfloat16", "float16"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", choices=["theirs", "ours"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        criterion = theirs(options.library) if options.only == "theirs" else vicreg(options.library)
        print(json.dumps(measured(criterion, options)))
        return
    rows = {}
    for only in ("theirs", "ours"):
        command = [sys.executable, "-m", "it_losses.adapters.compare", *sys.argv[1:], "--only", only]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if answer.returncode:
            raise SystemExit(answer.returncode)
        rows[only] = json.loads(answer.stdout.splitlines()[-1])
    threads = f", {torch.get_num_threads()} threads" if options.device == "cpu" else ""
    shape = f"{options.batch} x {options.dim}, {options.dtype}"
    print(f"VICReg of {options.library}, {shape}, {options.device}{threads}, torch {torch.__version__}")
    print(f"{'':<28}{'step ms (quartiles)':>26}{'peak MiB':>9}{'value':>14}")
    print(_row(options.library, rows["theirs"]))
    print(_row("it-losses", rows["ours"]))


if __name__ == "__main__":
    main()
