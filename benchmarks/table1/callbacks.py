"""What happens between the steps of a run: its bars move, its state is kept."""

from __future__ import annotations

from pathlib import Path

import lightning as L

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
