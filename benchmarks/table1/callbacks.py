"""Lightning callbacks of a run: time, random generators, checkpoints and evaluation."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist

from benchmarks.data import Images
from benchmarks.table1.pretrain import Pretraining, measure
from benchmarks.table1.records import writing


class Stopwatch(L.Callback):
    """Measures wall-clock and CPU seconds, which differ on a busy machine. A resumed run adds its earlier seconds.

    After the first epoch, the callback prints how long `runs` such runs will take.
    """

    def __init__(self, runs: float = 0.0) -> None:
        self.wall, self.cores, self.runs = time.monotonic(), time.process_time(), runs

    def state_dict(self) -> dict[str, float]:
        """The seconds so far, for the row of the run and for checkpoints."""
        wall, cores = time.monotonic() - self.wall, time.process_time() - self.cores
        return {"seconds": round(wall, 1), "core_seconds": round(cores, 1)}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.wall, self.cores = self.wall - state["seconds"], self.cores - state["core_seconds"]

    def on_train_epoch_end(self, loop: L.Trainer, module: L.LightningModule) -> None:
        if self.runs and loop.is_global_zero and loop.current_epoch == 0:
            whole = timedelta(seconds=round(self.runs * loop.max_epochs * (time.monotonic() - self.wall)))
            print(f"all runs will take about {whole}, estimated from the first epoch of the first run", flush=True)


class Generator(L.Callback):
    """Seeds the random generators before training, differently on each rank, and restores them in a resumed run.

    Methods draw different amounts of random numbers to build their heads. With a new seed after that, all methods get the same
    order of images and the same views.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def setup(self, loop: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Seed each rank differently; rank 0 has the seed of a run on one device."""
        torch.manual_seed(int(np.random.SeedSequence((self.seed, loop.global_rank)).generate_state(1)[0]))

    def on_save_checkpoint(self, loop: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        states, device = [torch.get_rng_state()], loop.strategy.root_device
        states += [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
        checkpoint["generators"] = [states] * loop.world_size
        if dist.is_initialized():
            dist.all_gather_object(checkpoint["generators"], states)

    def on_load_checkpoint(self, loop: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the generators before the optimiser is built, because the loader then draws random numbers."""
        cpu, *cuda = checkpoint["generators"][loop.global_rank]
        torch.set_rng_state(cpu)
        for state in cuda:
            torch.cuda.set_rng_state(state, loop.strategy.root_device)


class Checkpoint(L.Callback):
    """Saves the state of an unfinished run every few epochs, in one file that is replaced atomically."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_train_epoch_end(self, loop: L.Trainer, module: L.LightningModule) -> None:
        """Save every few epochs and after the last one, before the probes, which may run out of memory."""
        epoch, beside = loop.current_epoch + 1, self.path.with_suffix(".part")
        if epoch % self.every == 0 or epoch == loop.max_epochs:
            with writing(self.path.parent):
                loop.save_checkpoint(beside)
                if loop.is_global_zero:
                    beside.replace(self.path)


class Evaluation(L.Callback):
    """Measures entropy and effective rank of the embeddings after each epoch, and runs the probes every few epochs.

    Only rank 0 measures. The other ranks wait for rank 0 when they average their next gradients.
    """

    def __init__(self, images: Images, every: int) -> None:
        self.images, self.every = images, every

    def on_fit_start(self, trainer: L.Trainer, module: Pretraining) -> None:
        """Measure the epoch of a restored checkpoint, because checkpoints are saved before the measurement."""
        if module.epoch_losses:
            self.on_train_epoch_end(trainer, module)

    def on_train_epoch_end(self, trainer: L.Trainer, module: Pretraining) -> None:
        losses, module.epoch_losses = torch.stack(module.epoch_losses).to(module.device), []
        if trainer.is_global_zero:
            # when fitting starts, Lightning has not restored its own count of epochs yet
            epoch = len(module.curve) + 1
            is_probed = epoch % self.every == 0 or epoch == trainer.max_epochs
            point = {"epoch": epoch, "loss": losses.mean().item()} | measure(module, self.images, probes=is_probed)
            module.curve.append(point)
