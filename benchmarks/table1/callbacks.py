"""Callbacks of a run: progress bars, random generators and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.table1.progress import Bars


class Steps(L.Callback):
    """Advances the progress bars."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars

    def on_train_start(self, loop: L.Trainer, module: L.LightningModule) -> None:
        """Count the steps before the run was interrupted."""
        for _ in range(loop.global_step):
            self.bars.step()

    def on_train_batch_end(self, *_: object) -> None:
        """Advance by one step."""
        self.bars.step()


class Generator(L.Callback):
    """The random generator of a run: each rank draws its own views, and a resumed run continues the sequence.

    Before fitting all ranks have the same seed, so that they build the same network.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def setup(self, loop: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Give every rank but the first a seed of its own; the first continues as a run on one device."""
        if loop.global_rank:
            torch.manual_seed(int(np.random.SeedSequence((self.seed, loop.global_rank)).generate_state(1)[0]))

    def on_save_checkpoint(self, loop: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the generator states of all ranks."""
        checkpoint["generators"] = _of_all_ranks(_states(loop.strategy.root_device))

    def on_load_checkpoint(self, loop: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the states at once, because the loader already draws when the optimiser asks for the number of steps."""
        _set(checkpoint["generators"][loop.global_rank], loop.strategy.root_device)


class Checkpoint(L.Callback):
    """Saves the state of an unfinished run every few epochs, in one file that is replaced atomically."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_train_epoch_end(self, loop: L.Trainer, module: L.LightningModule) -> None:
        """Save before the probes of the epoch, which take the most memory; after the last epoch too."""
        epoch = loop.current_epoch + 1
        if epoch % self.every == 0 or epoch == loop.max_epochs:
            beside = self.path.with_suffix(".part")
            loop.save_checkpoint(beside)
            if loop.is_global_zero:
                beside.replace(self.path)


def _states(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators of CPU and device."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def _set(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def _of_all_ranks(states: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    if not dist.is_initialized():
        return [states]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, states)
    return gathered
