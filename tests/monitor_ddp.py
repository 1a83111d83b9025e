"""Trains on two DDP ranks that call different criteria, and writes EmbeddingMonitor's numbers: `monitor_ddp.py FILE`."""

import json
import sys

import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from it_losses import VICReg
from it_losses.adapters.lightning import EmbeddingMonitor


class Training(LightningModule):
    """A module that calls two criteria on the second rank and one on the first.

    The second rank calls no criterion in step 2, and its views collapse in step 3.
    """

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 5)
        self.everywhere, self.elsewhere = VICReg(gather_distributed=False), VICReg(gather_distributed=False)

    def training_step(self, batch, index):
        z_a, z_b = (self.layer(x) for x in torch.randn(2, 12, 6))
        second = self.global_rank == 1
        if second and index == 1:
            return z_a.mean()
        if second and index == 2:
            z_a, z_b = 0 * z_a + 1, 0 * z_b + 1
        loss = self.everywhere(z_a, z_b)
        return loss + self.elsewhere(z_b, z_a) if second else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Log(EmbeddingMonitor):
    """A monitor that also keeps the logged numbers of every step in a list."""

    def _log(self, trainer, pl_module, measured):
        self.log_of_steps = [*getattr(self, "log_of_steps", []), measured]
        super()._log(trainer, pl_module, measured)


def main(path):
    torch.manual_seed(0)
    log = Log(every_n_steps=1, on_collapse="stop")
    quiet = {name: False for name in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")}
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, callbacks=[log], **quiet)
    trainer.fit(Training(), DataLoader(TensorDataset(torch.zeros(20, 1)), batch_size=1))
    if trainer.is_global_zero:
        with open(path, "w") as file:
            json.dump({"steps": trainer.global_step, "rows": log.log_of_steps}, file)


if __name__ == "__main__":
    main(sys.argv[1])
