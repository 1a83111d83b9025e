"""The spectrum of a covariance as a figure, and the loggers that take figures."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from it_losses.adapters import framework

INSTALL = "pip install matplotlib"


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def spectrum_figure(eigenvalues: Tensor) -> Any:
    """Eigenvalues of a covariance against their rank, logarithmic: [dim] -> matplotlib Figure."""
    framework("matplotlib", install=INSTALL)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3), layout="constrained")
    axes = figure.add_subplot(xlabel="rank", ylabel="eigenvalue of the covariance", yscale="log")
    positive = eigenvalues[eigenvalues > 0].cpu()
    axes.plot(range(1, len(positive) + 1), positive)
    return figure


def figure_sinks(trainer: Any, name: str) -> list[Callable[[Any], None]]:
    """Functions that give a figure to the loggers of TensorBoard and W&B; none on other ranks or without matplotlib."""
    if not trainer.is_global_zero or not can_plot():
        return []
    sinks: list[Callable[[Any], None]] = []
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            sinks.append(lambda figure, logger=logger: logger.log_image(name, [figure], step=trainer.global_step))
        elif hasattr(logger.experiment, "add_figure"):
            sinks.append(partial(logger.experiment.add_figure, name, global_step=trainer.global_step))
    return sinks
