"""`python -m benchmarks.adapters lightly --batch 256 --dim 2048` compares a library's VICReg with ours.

It prints the time of forward and backward (median, 20th and 80th percentile), the peak memory above the inputs, and the value
of the loss. The two losses are timed in turn. The library "pytorch" is the authors' formula in plain PyTorch. "all" compares
every library that can be imported. "lightning" measures `EmbeddingMonitor` instead.
"""

import argparse
import statistics
import sys
import warnings
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.machine import in_fresh_process, percentiles, timed
from benchmarks.pages import table
from benchmarks.peers import Objective, library_vicreg
from benchmarks.speed.measure import Case, peak_of
from it_losses import VICReg
from it_losses.adapters.conventions import ARGUMENTS, vicreg

#: the libraries that can be compared, by their names on the command line
LIBRARIES = ("pytorch", *ARGUMENTS)


def _implementations(library: str, batch: int, dim: int) -> dict[str, Objective]:
    """The library's VICReg, and ours with the same values; ImportError if the library cannot be imported."""
    return {"its": library_vicreg(library), "ours": VICReg() if library == "pytorch" else vicreg(library)}


def _row(library: str, options: argparse.Namespace) -> dict[str, str]:
    warnings.simplefilter("ignore")
    of_library = partial(_implementations, library)
    case = Case("op", library, options.batch, options.dim, torch.device(options.device), options.dtype)
    views, criteria = case.views(), of_library(options.batch, options.dim)
    steps = {name: partial(criterion, *views) for name, criterion in criteria.items()}
    times = timed(steps, case.device, seconds=0.0, repetitions=(options.steps, options.steps))
    cells = {"library": library, "batch x dim": f"{options.batch} x {options.dim}"}
    for name, series in times.items():
        low, median, high = percentiles(series["both"])
        cells[f"{name}, ms"] = f"{median:.2f} ({low:.2f} to {high:.2f})"
    cells |= {f"{name}, MiB": f"{in_fresh_process(peak_of, case, name, of_library):.0f}" for name in criteria}
    return cells | {f"{name}, value": f"{step().item():.6g}" for name, step in steps.items()}


def _monitor_line(options: argparse.Namespace) -> str:
    """A sentence with the time of EmbeddingMonitor's hooks, in steps that it measures and in other steps.

    Criteria also copy a few embeddings for the monitor. Lightning's profiler does not count that time.
    """
    from it_losses.adapters.lightning import EmbeddingMonitor, lightning

    class Embeddings(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.z, self.criterion = nn.Parameter(torch.randn(2, options.batch, options.dim)), VICReg()

        def training_step(self, batch: object, batch_idx: int) -> Tensor:
            return self.criterion(*self.z)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    device = {"accelerator": "cpu" if options.device == "cpu" else "gpu", "devices": 1}
    profiler, steps = lightning.profilers.SimpleProfiler(), 2 * options.steps + 2
    watched = {"callbacks": [EmbeddingMonitor(every_n_steps=2)], "profiler": profiler}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(max_steps=steps, max_epochs=-1, **watched, **device, **silent)
        trainer.fit(Embeddings(), torch.utils.data.DataLoader(range(steps)))
    hooks = [spent for name, spent in profiler.recorded_durations.items() if "Monitor" in name and "train_batch" in name]
    milliseconds = [1e3 * sum(of_step) for of_step in zip(*hooks, strict=True)]
    # the monitor measures every second step; the first two steps also import modules, so they are left out
    during, between = (statistics.median(milliseconds[first::2]) for first in (2, 3))
    setting = f"EmbeddingMonitor, {options.batch} x {options.dim}"
    return f"{setting}: {during:.2f} ms in a step that it measures, {between:.2f} ms in any other"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapters", description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=[*LIBRARIES, "lightning", "all"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float64", "float32", "bfloat16", "float16"])
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(arguments)
    rows, lines = [], []
    for library in [*LIBRARIES, "lightning"] if options.library == "all" else [options.library]:
        try:
            if library == "lightning":
                lines.append(_monitor_line(options))
            else:
                rows.append(_row(library, options))
        except ImportError as error:
            if options.library != "all":
                raise SystemExit(str(error)) from error
            print(f"{library} is skipped: {error}", file=sys.stderr)
    if rows:
        threads = f", {torch.get_num_threads()} CPU thread(s)" if options.device == "cpu" else ""
        print(f"VICReg, {options.dtype}, {options.device}{threads}, {options.steps} steps, torch {torch.__version__}:\n")
        print(table(rows))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
