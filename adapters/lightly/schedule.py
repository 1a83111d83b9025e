"""The number of optimizer steps of a Lightning run, and how many of them warm up."""

from __future__ import annotations

import math
from typing import Any


def total_steps(trainer: Any) -> int:
    """Optimizer steps of the whole run; ValueError if the trainer does not know when it ends."""
    # with no batches allowed, Lightning never reads the loader and treats its length as unknown
    steps = 0 if trainer.limit_train_batches == 0 else trainer.estimated_stepping_batches
    # Lightning returns inf if neither steps nor epochs are limited, and -1 if a loader has no length
    if not 0 <= steps < math.inf:
        raise ValueError(
            f"the schedule needs the number of steps of the run, got {steps} from Lightning, because the epochs or the "
            "loader have no end. Pass Trainer(max_steps=...)."
        )
    return int(steps)


def warmup_steps(trainer: Any, epochs: float) -> int:
    """Optimizer steps in that many epochs, at most a tenth of the run."""
    most = total_steps(trainer) / 10
    if epochs <= 0:
        return 0
    return int(min(epochs * _steps_per_epoch(trainer), most))


def _steps_per_epoch(trainer: Any) -> float:
    """Optimizer steps in one epoch; inf if the loader has no length."""
    if trainer.train_dataloader is None:
        # not from max_epochs, which is -1 if max_steps ends the run, perhaps within an epoch
        trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    return batches if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
