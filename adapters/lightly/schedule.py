"""How many steps of the optimizer a Lightning run has, and how many of them warm up: no sentinel enters the arithmetic."""

from __future__ import annotations

import math
from typing import Any


def total_steps(trainer: Any) -> int:
    """Steps of the optimizer in the whole run; ValueError where the trainer does not know when it ends."""
    # without batches Lightning never looks at the loader, and takes its length for unknown
    steps = 0 if trainer.limit_train_batches == 0 else trainer.estimated_stepping_batches
    # Lightning answers inf where neither steps nor epochs end, and -1 where a loader has no length
    if not 0 <= steps < math.inf:
        raise ValueError(
            f"the schedule needs the number of steps of the run, which Lightning gives as {steps}, since the epochs or the "
            "loader have no end. Pass Trainer(max_steps=...)."
        )
    return int(steps)


def warmup_steps(trainer: Any, epochs: float) -> int:
    """Steps in so many epochs, at most a tenth of the run."""
    most = total_steps(trainer) / 10
    if epochs <= 0:
        return 0
    return int(min(epochs * _steps_per_epoch(trainer), most))


def _steps_per_epoch(trainer: Any) -> float:
    """Steps of the optimizer in one epoch; inf where the loader has no length."""
    if trainer.train_dataloader is None:
        # max_epochs says nothing here: it is -1 where max_steps ends the run, which may also end within an epoch
        trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    return batches if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
