"""Measure one objective at one size: time, peak memory and, on a GPU, kernel launches. Also time a training step.

A row is one number with its full setting. All values are text, so that a row does not change when it is written and read.
"""

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.machine import CLOCKS, device_name, in_fresh_process, is_installed, kernels, peak_mib, percentiles, timed
from benchmarks.pages import COMMIT
from benchmarks.peers import Objective
from benchmarks.speed.objectives import OBJECTIVES, PEAKS, compiled

Row = dict[str, str]
Implementations = Callable[[int, int], dict[str, Objective]]
#: the training step: (batch, dim), a timm model, and the side of the images in pixels
STEP, BACKBONE, SIDE = (128, 2048), "resnet10t", 32


class Case(NamedTuple):
    """A loss ("op") or a training step ("step") at one size, which is timed for `seconds` in 5 to 400 rounds."""

    level: str
    objective: str
    batch: int
    dim: int
    device: torch.device = torch.device("cpu")
    dtype: str = "float32"
    seconds: float = 0.0
    is_compiled: bool = False

    @property
    def label(self) -> str:
        step, dtype = ", training step" * (self.level == "step"), f", {self.dtype}" * (self.dtype != "float32")
        return f"{self.objective}{step}{dtype}"

    @property
    def size(self) -> str:
        return f"{self.batch} x {self.dim}"

    def row(self, provider: str, mode: str, metric: str, values: list[float]) -> Row:
        """A row with the median of the values, their 20th and 80th percentile, and the setting."""
        p20, value, p80 = (f"{number:.6g}" for number in percentiles(values))
        row = {name: getattr(self, name) for name in ("level", "objective", "batch", "dim", "dtype")}
        row |= {"provider": provider, "mode": mode, "metric": metric, "value": value, "p20": p20, "p80": p80}
        row |= {"repetitions": len(values), "clock": CLOCKS[self.device.type], "device": device_name(self.device)}
        return {name: str(text) for name, text in (row | _versions()).items()}

    def views(self) -> list[Tensor]:
        generator, dtype = torch.Generator().manual_seed(0), getattr(torch, self.dtype)
        drawn = (torch.randn(self.batch, self.dim, generator=generator) for _ in range(2))
        return [z.to(self.device, dtype).requires_grad_() for z in drawn]


def _versions() -> dict[str, object]:
    lightly = importlib.metadata.version("lightly") if is_installed("lightly") else "not installed"
    commit, python = COMMIT or "", platform.python_version()
    facts = {"threads": torch.get_num_threads(), "torch": torch.__version__, "lightly": lightly, "python": python}
    return facts | {"commit": commit.removesuffix("-dirty"), "dirty": commit.endswith("-dirty")}


def op_rows(case: Case) -> list[Row]:
    """Measure forward and backward of every implementation of the objective."""
    views = case.views()
    # some losses of other libraries create tensors on torch's default device
    with case.device:
        eager = OBJECTIVES[case.objective](case.batch, case.dim)
    objectives = eager | (compiled(eager) if case.is_compiled else {})
    calls = {name: partial(objective, *views) for name, objective in objectives.items()}
    rows = time_rows(case, calls, views)
    if (case.batch, case.dim) in PEAKS:
        rows += [peak_row(case, name, OBJECTIVES[case.objective]) for name in eager]
    for name, call in calls.items() if case.device.type == "cuda" else ():
        count, milliseconds = kernels(call, views)
        rows += [case.row(name, "both", "launches", [count]), case.row(name, "both", "device_ms", [milliseconds])]
    return rows


def time_rows(case: Case, calls: dict[str, Callable[[], Tensor]], views: Sequence[Tensor] = ()) -> list[Row]:
    """Time each implementation, and print the medians of forward plus backward."""
    times = timed(calls, case.device, seconds=case.seconds, repetitions=(5, 400), inputs=views)
    medians = {name: percentiles(series["both"])[1] for name, series in times.items()}
    ours = next(iter(medians.values()))
    said = ", ".join(f"{name} {value:.3g} ms ({value / ours:.2f}x)" for name, value in medians.items())
    print(f"{case.level} {case.objective} {case.size}, {case.dtype}: {said}", flush=True)
    modes = ((name, mode, values) for name, series in times.items() for mode, values in series.items())
    return [case.row(name, mode, "time_ms", values) for name, mode, values in modes]


def peak_row(case: Case, provider: str, implementations: Implementations) -> Row:
    """The peak memory of one implementation; on a CPU in a new process, because the C library keeps freed memory."""
    arguments = case, provider, implementations
    peak = peak_of(*arguments) if case.device.type == "cuda" else in_fresh_process(peak_of, *arguments)
    return case.row(provider, "both", "peak_mib", [peak])


def peak_of(case: Case, provider: str, implementations: Implementations) -> float:
    """Peak memory of forward and backward in this process: MiB above the inputs."""
    if case.device.type == "cpu":
        torch.set_num_threads(1)

    def step(at: Case) -> Callable[[], None]:
        with at.device:
            objective = implementations(at.batch, at.dim)[provider]
        views = at.views()
        return lambda: objective(*views).backward()

    # a small call loads the libraries first, so that their memory is not counted
    small = (160, 192) if case.batch < case.dim else (192, 160)
    step(case._replace(batch=small[0], dim=small[1]))()
    return peak_mib(step(case), case.device)


def step_rows(case: Case) -> list[Row]:
    """Time a training step with each criterion: forward and backward of network and loss, without the optimiser."""
    import timm

    torch.manual_seed(0)
    backbone = timm.create_model(BACKBONE, pretrained=False, num_classes=0)
    width, dim = backbone.num_features, case.dim
    projector = nn.Sequential(nn.Linear(width, dim), nn.BatchNorm1d(dim), nn.ReLU(), nn.Linear(dim, dim))
    model = nn.Sequential(backbone, projector).to(case.device)
    images = torch.randn(2 * case.batch, 3, SIDE, SIDE, device=case.device)

    def step(criterion: Objective) -> Tensor:
        model.zero_grad(set_to_none=True)
        return criterion(*model(images).chunk(2))

    criteria = OBJECTIVES[case.objective](case.batch, dim)
    return time_rows(case, {name: partial(step, criterion) for name, criterion in criteria.items()})
