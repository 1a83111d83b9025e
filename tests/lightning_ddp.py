"""Trains a layer under Lightning on the given number of processes and writes its weights: `lightning_ddp.py DEVICES FILE`."""

import sys
from datetime import timedelta

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from it_losses import VICRegEntropy

BATCH, LEARNING_RATE = 8, 0.01


class Training(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = torch.nn.Linear(6, 5, dtype=torch.float64)
        self.criterion = VICRegEntropy("log_det")

    def training_step(self, batch, index):
        return self.criterion(*(self.model(x) for x in batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)

    def train_dataloader(self):
        # the test uses the samples in this order; Lightning's own sampler would shuffle them
        sampler = DistributedSampler(dataset(), self.trainer.world_size, self.global_rank, shuffle=False)
        return DataLoader(dataset(), BATCH // self.trainer.world_size, sampler=sampler)


def dataset():
    return TensorDataset(*torch.randn(2, 3 * BATCH, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))


def main(devices, path):
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=devices,
        # if one rank dies, the others raise an error after a minute instead of half an hour
        strategy=DDPStrategy(timeout=timedelta(seconds=60)),
        use_distributed_sampler=False,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    training = Training()
    trainer.fit(training)
    if trainer.is_global_zero:
        torch.save(training.model.state_dict(), path)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
