"""The cost of an EmbeddingMonitor: milliseconds in a step that it measures, and in any other.

The time is that of the monitor's hooks. During the step the criteria only copy a few rows for it.
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
    """A monitor that records the time of its own hooks."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.milliseconds: list[float] = []

    def on_train_batch_start(self, *arguments: Any) -> None:
        """Start the record of a step."""
        start = time.perf_counter()
        super().on_train_batch_start(*arguments)
        self.milliseconds.append(1e3 * (time.perf_counter() - start))

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Finish the record. The step itself ends before the clock starts."""
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
        """An optimizer with learning rate 0."""
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
    # the first two steps include imports and first allocations
    return {
        "measured_ms": statistics.quantiles(monitor.milliseconds[2::2], n=4),
        "between_ms": statistics.quantiles(monitor.milliseconds[3::2], n=4),
    }
