"""What happens between the steps of a run: its bars move, its state and its draws are kept."""

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
    """Moves the bars."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars

    def on_train_start(self, loop: L.Trainer, module: L.LightningModule) -> None:
        """Steps of earlier sittings."""
        for _ in range(loop.global_step):
            self.bars.step()

    def on_train_batch_end(self, *_: object) -> None:
        """One more."""
        self.bars.step()


class Generator(L.Callback):
    """What a run draws from, which is torch's generator alone: other views on each rank, and after a kill those that were next.

    Before fitting all ranks have the same seed, so that they build the same network.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def setup(self, loop: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """The first rank goes on as a run on one device would."""
        if loop.global_rank:
            torch.manual_seed(int(np.random.SeedSequence((self.seed, loop.global_rank)).generate_state(1)[0]))

    def on_save_checkpoint(self, loop: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """The states of all ranks."""
        checkpoint["generators"] = _of_all_ranks(_states(loop.strategy.root_device))

    def on_load_checkpoint(self, loop: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """At once: the loader draws when the optimiser is made, which asks how many steps there will be."""
        _set(checkpoint["generators"][loop.global_rank], loop.strategy.root_device)


class Checkpoint(L.Callback):
    """The state of an unfinished run, every few epochs, in one file that is replaced whole."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_train_epoch_end(self, loop: L.Trainer, module: L.LightningModule) -> None:
        """Before the probes of that epoch, which take the most memory; after the last too, whose probes are not there yet."""
        epoch = loop.current_epoch + 1
        if epoch % self.every == 0 or epoch == loop.max_epochs:
            beside = self.path.with_suffix(".part")
            loop.save_checkpoint(beside)
            if loop.is_global_zero:
                beside.replace(self.path)


def _states(device: torch.device) -> dict[str, Tensor]:
    """Of the CPU's generator, and of the device's."""
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
