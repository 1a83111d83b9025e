"""Peak memory of forward and backward above the inputs, in a fresh process: `python -m benchmarks.speed.memory CASE...`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.speed.peers import providers


def peak_mib(objective: str, batch: int, dim: int, provider: str, device: str, dtype: str = "float32") -> float:
    """Measured by a new interpreter, so that nothing of another run is left in it."""
    command = [sys.executable, "-m", "benchmarks.speed.memory", objective, str(batch), str(dim), provider, device, dtype]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    return float(done.stdout.split()[-1])


def _measure(objective: str, batch: int, dim: int, provider: str, device: str, dtype: str) -> float:
    torch.set_num_threads(1)
    # the first call loads libraries, whose memory does not count
    warm = (160, 192) if batch < dim else (192, 160)
    _evaluate_at(objective, _views(*warm, device, dtype), provider)
    views = _views(batch, dim, device, dtype)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _evaluate_at(objective, views, provider)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # 5 sets the high-water mark to what is resident now
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    _evaluate_at(objective, views, provider)
    return (_status("VmHWM") - before) / 1024


def _views(batch: int, dim: int, device: str, dtype: str) -> list[torch.Tensor]:
    return [torch.randn(batch, dim, device=device, dtype=getattr(torch, dtype), requires_grad=True) for _ in range(2)]


def _evaluate_at(objective: str, views: list[torch.Tensor], provider: str) -> None:
    providers(objective, *views[0].shape, compiled=False)[provider](*views).backward()


def _status(field: str) -> int:
    """A field of this process's status, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"{field} is not in /proc/self/status; peak memory on a CPU is measured on Linux only.")


if __name__ == "__main__":
    objective_, batch_, dim_, *others = sys.argv[1:]
    print(_measure(objective_, int(batch_), int(dim_), *others))
