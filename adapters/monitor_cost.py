"""What an EmbeddingMonitor costs: milliseconds in a step that it measures, and in any other.

The time is that of the monitor's hooks; what the criteria report to it during the step is a copy of a few rows.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import torch
from torch import Tensor, nn

from it_losses import VICReg
from it_losses.adapters.lightning import EmbeddingMonitor, lightning


class Timed(EmbeddingMonitor):
    """A monitor that keeps how long its own hooks take."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.milliseconds: list[float] = []

    def on_train_batch_start(self, *arguments: Any) -> None:
        """Open a step's account."""
        start = time.perf_counter()
        super().on_train_batch_start(*arguments)
        self.milliseconds.append(1e3 * (time.perf_counter() - start))

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Close it; the step itself is over before the clock starts."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        super().on_train_batch_end(*arguments)
        self.milliseconds[-1] += 1e3 * (time.perf_counter() - start)


class Embeddings(lightning.LightningModule):  # type: ignore[misc]
    """A module whose embeddings are its only parameters."""

    def __init__(self, batch: int, dim: int) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.randn(2, batch, dim, generator=torch.Generator().manual_seed(0)))
        self.criterion = VICReg()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of the embeddings."""
        loss: Tensor = self.criterion(*self.z)
        return loss

    def configure_optimizers(self) -> Any:
        """One that moves nothing."""
        return torch.optim.SGD(self.parameters(), lr=0.0)


def monitor_cost(options: argparse.Namespace) -> dict[str, list[float]]:
    """Quartiles over the steps of each kind: {"measured_ms": ..., "between_ms": ...}; every other step is measured."""
    monitor = Timed(every_n_steps=2)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_steps=2 * options.steps + 2,
            max_epochs=-1,
            accelerator="gpu" if torch.device(options.device).type == "cuda" else "cpu",
            devices=1,
            default_root_dir=folder,
            callbacks=[monitor],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        steps = torch.utils.data.DataLoader(range(2 * options.steps + 2))  # type: ignore[arg-type]
        trainer.fit(Embeddings(options.batch, options.dim), steps)
    # the first two steps pay for what is imported and allocated once
    return {
        "measured_ms": statistics.quantiles(monitor.milliseconds[2::2], n=4),
        "between_ms": statistics.quantiles(monitor.milliseconds[3::2], n=4),
    }
