"""The numbers that EmbeddingMonitor logs for the embeddings of a step, and the plot of their spectrum."""

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from it_losses import diagnostics
from it_losses.adapters import framework
from it_losses.diagnostics.inputs import rows as in_float64
from it_losses.diagnostics.summary import alarm_of

INSTALL = "pip install matplotlib"


def numbers(views: Sequence[Tensor], *, beta: float = 1.0) -> tuple[dict[str, float], str | None]:
    """Numbers by name, averaged over the views, and a warning of collapse or None: V x [rows, dim] -> (numbers, warning).

    Each view is measured by itself, as in the criteria, because rows of two views may belong to the same image.
    """
    each = [_numbers_of_view(z, beta) for z in views]
    alarms = [alarm_of(found, len(z), z.shape[1]) for found, z in zip(each, views, strict=True)]
    means = {name: sum(found[name] for found in each) / len(each) for name in each[0]}
    return means, next((alarm for alarm in alarms if alarm is not None), None)


def _numbers_of_view(z: Tensor, beta: float) -> dict[str, float]:
    z = in_float64(z)
    bounds = diagnostics.sphere_entropy_bounds(z)
    return diagnostics.measure(z, beta=beta) | {
        "pairwise_lower_nats": float(bounds.lower),
        "pairwise_upper_nats": float(bounds.upper),
    }


def mean_spectrum(views: Sequence[Tensor]) -> Tensor:
    """Eigenvalues of the covariance, largest first, averaged over the views: V x [rows, dim] -> [dim]."""
    return torch.stack([diagnostics.spectrum(z) for z in views]).mean(dim=0)


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def spectrum_figure(eigenvalues: Tensor) -> Any:
    """A logarithmic plot of eigenvalues, in the given order: [dim] -> matplotlib Figure."""
    framework("matplotlib", install=INSTALL)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3), layout="constrained")
    axes = figure.add_subplot(xlabel="rank", ylabel="eigenvalue of the covariance", yscale="log")
    positive = eigenvalues[eigenvalues > 0].cpu()
    axes.plot(range(1, len(positive) + 1), positive)
    return figure


def figure_sinks(trainer: Any, name: str) -> list[Callable[[Any], None]]:
    """Functions that send a figure to the loggers of TensorBoard and W&B; none on rank > 0 or without matplotlib."""
    if not trainer.is_global_zero or not can_plot():
        return []
    sinks: list[Callable[[Any], None]] = []
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            sinks.append(lambda figure, logger=logger: logger.log_image(name, [figure], step=step_of(trainer)))
        elif hasattr(getattr(logger, "experiment", None), "add_figure"):
            sinks.append(partial(logger.experiment.add_figure, name, global_step=step_of(trainer)))
    return sinks


def step_of(trainer: Any) -> int:
    """The step number under which Lightning itself logs, not `global_step`, which counts optimizer steps."""
    step: int = trainer.fit_loop.epoch_loop._batches_that_stepped
    return step
