"""`python -m it_losses.adapters.compare lightly --batch 256 --dim 2048`: a library's VICReg and ours on your shape.

It prints the time of forward and backward (median and quartiles), the peak memory beyond inputs and gradients, and the value.
Each runs in its own process, so that neither warms the caches of the other. "pytorch" is the authors' formula in plain PyTorch,
"lightning" is the cost of the monitor, and "all" is everything that can be imported.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor

from it_losses.adapters.peers import LIBRARIES, Criterion, ours, theirs

MIB = 2**20


def measured(criterion: Criterion, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a step, peak MiB and value of one criterion on normal embeddings."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, options.batch, options.dim)
    z = torch.randn(shape, generator=generator).to(options.device, getattr(torch, options.dtype)).requires_grad_()
    z.grad = torch.zeros_like(z)
    # one step loads kernels, libraries and caches before memory is counted
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


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement that `--only` names, in this process; {"missing": why} if the library cannot be imported."""
    try:
        if options.only == "monitor":
            from it_losses.adapters.monitor_cost import monitor_cost

            return dict(monitor_cost(options))
        return measured((theirs if options.only == "theirs" else ours)(options.library), options)
    except ImportError as error:
        return {"missing": str(error)}


def measure_apart(options: argparse.Namespace, library: str, only: str) -> dict[str, Any]:
    """The same in a new process; ImportError if the library cannot be imported."""
    command = [sys.executable, "-W", "ignore", "-m", "it_losses.adapters.compare", library, "--only", only]
    for name in ("batch", "dim", "device", "dtype", "steps"):
        command += [f"--{name}", str(getattr(options, name))]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        raise SystemExit(answer.returncode)
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    if "missing" in found:
        raise ImportError(found["missing"])
    return found


def _quartiles(milliseconds: list[float]) -> str:
    low, median, high = milliseconds
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def heading(options: argparse.Namespace) -> str:
    """The setting of the measurement, and the names of the columns."""
    threads = f", {torch.get_num_threads()} CPU thread(s)" if options.device == "cpu" else ""
    setting = f"VICReg, {options.dtype}, {options.device}{threads}, {options.steps} steps, torch {torch.__version__}"
    if not options.markdown:
        return f"{setting}, {options.batch} x {options.dim}\n{'':<25}{'step ms (quartiles)':>28}{'peak MiB':>11}{'value':>13}"
    columns = ["library", "batch x dim", "its step, ms", "ours, ms", "its memory, MiB", "ours, MiB", "its value", "ours"]
    return f"{setting}:\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|"


def rows(options: argparse.Namespace, library: str, a: dict[str, Any], b: dict[str, Any]) -> str:
    """The measurements of a library and of ours, as two rows of text or one row of a Markdown table."""
    if not options.markdown:
        return "\n".join(
            f"{name:<25}{_quartiles(row['step_ms']):>28}{row['peak_mib']:>11.1f}{row['value']:>13.6g}"
            for name, row in ((library, a), ("it-losses", b))
        )
    cells = [library, f"{options.batch} x {options.dim}", _quartiles(a["step_ms"]), _quartiles(b["step_ms"])]
    cells += [f"{row['peak_mib']:.0f}" for row in (a, b)] + [f"{row['value']:.6g}" for row in (a, b)]
    return f"| {' | '.join(cells)} |"


def compare(options: argparse.Namespace, library: str) -> str:
    """The printed rows of one library; ImportError if it cannot be imported."""
    if library != "lightning":
        return rows(options, library, measure_apart(options, library, "theirs"), measure_apart(options, library, "ours"))
    cost = {kind: _quartiles(found) for kind, found in measure_apart(options, library, "monitor").items()}
    return (
        f"\nEmbeddingMonitor, {options.batch} x {options.dim}: {cost['measured_ms']} ms in a step that it measures, "
        f"{cost['between_ms']} ms in any other"
    )


def main(arguments: list[str] | None = None) -> None:
    """Start child processes and print a table; in a child, print one measurement as JSON."""
    parser = argparse.ArgumentParser(prog="python -m it_losses.adapters.compare", description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=[*LIBRARIES, "lightning", "all"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float64", "float32", "bfloat16", "float16"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--markdown", action="store_true", help="print the rows of a Markdown table")
    parser.add_argument("--only", choices=["theirs", "ours", "monitor"], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only:
        print(json.dumps(measure(options)))
        return
    if options.library != "lightning":
        print(heading(options), flush=True)
    for library in [*LIBRARIES, "lightning"] if options.library == "all" else [options.library]:
        try:
            print(compare(options, library), flush=True)
        except ImportError as error:
            if options.library != "all":
                raise SystemExit(str(error)) from error
            print(f"left out {library}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
