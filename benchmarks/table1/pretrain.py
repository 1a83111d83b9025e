"""The module that Lightning trains, its batches, and the measurements of its features."""

import math
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightly.models.utils import get_weight_decay_parameters
from lightly.utils.scheduler import CosineWarmupScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.augment import Views
from benchmarks.data import Images
from benchmarks.methods import Method, Momentum, Step
from benchmarks.probes import Features, knn_accuracy, linear_accuracy
from benchmarks.table1.recipes import BUDGET
from it_losses import diagnostics

#: standard deviation of the Gaussian around each embedding on the unit sphere, equal for all methods to make them comparable.
#: Well below .3 every entropy would be near log(images), and well above 1 near 0
ENTROPY_BANDWIDTH = 0.5
#: entropy and rank are measured on at most this many embeddings, because the entropy needs all pairs
MEASURED_IMAGES = 2048
#: columns with measurements of embeddings and features; all are NaN if an embedding or a feature is not finite
MEASURES = ("entropy_lower_nats", "entropy_upper_nats", "rank_me", "rank_me_features")

Batch = tuple[Tensor, Tensor]


class Batches(TensorDataset):
    """Images and labels in memory. One index operation fetches a batch, instead of a loop over images."""

    __getitems__ = TensorDataset.__getitem__


def loader(images: Images, batch_size: int) -> DataLoader[Batch]:
    """Shuffled training batches of equal size; Lightning distributes them over the ranks."""
    batches = Batches(images.train, images.train_labels)
    return DataLoader(batches, batch_size, shuffle=True, drop_last=True, collate_fn=tuple)


class Pretraining(L.LightningModule):
    """Trains a network with AdamW, linear warm-up and a cosine schedule. Only the learning rate differs between methods."""

    def __init__(self, backbone: nn.Module, method: Method, views: Views, learning_rate: float) -> None:
        super().__init__()
        self.backbone, self.method, self.views, self.learning_rate = backbone, method, views, learning_rate
        if isinstance(method, Momentum):
            method.begin(backbone)
        self.curve: list[dict[str, float]] = []
        self.epoch_losses: list[Tensor] = []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what `state_dict` lacks: measurements, the losses since then, and buffers such as lightly's memory bank."""
        checkpoint["curve"], checkpoint["epoch_losses"] = self.curve, torch.stack(self.epoch_losses)
        checkpoint["buffers"] = {name: held for name, held in self.named_buffers() if name not in checkpoint["state_dict"]}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.curve, self.epoch_losses = checkpoint["curve"], list(checkpoint["epoch_losses"])
        for name, held in checkpoint["buffers"].items():
            self.get_buffer(name).copy_(held)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """The loss of a batch: uint8 images [batch, channels, side, side] and labels [batch] -> []."""
        images, labels = batch
        step = Step(self.global_step, int(self.trainer.estimated_stepping_batches), labels)
        loss = self.method.loss(self.backbone, *self.views(images), step)
        self.epoch_losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW without weight decay of biases and normalisation layers, and a schedule that advances every step."""
        decayed, free = get_weight_decay_parameters([self.backbone, self.method])
        groups = [
            {"params": [p for p in decayed if p.requires_grad], "weight_decay": BUDGET["weight_decay"]},
            {"params": [p for p in free if p.requires_grad], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = CosineWarmupScheduler(optimizer, int(BUDGET["warmup"] * steps), steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@torch.no_grad()
def measure(module: Pretraining, images: Images, *, probes: bool) -> dict[str, float]:
    """Entropy (nats) and effective rank of held-out embeddings, and with `probes` the accuracies of frozen features."""
    test, training = features(module, images.test), module.training
    embeddings = module.eval().method.projector(test[:MEASURED_IMAGES]).float()
    module.train(training)
    if not (test.isfinite().all() and embeddings.isfinite().all()):
        return dict.fromkeys(MEASURES, math.nan) | ({"linear": 0.0, "knn": 0.0} if probes else {})
    bounds = diagnostics.pairwise_entropy_bounds(F.normalize(embeddings), bandwidth=ENTROPY_BANDWIDTH)
    # subtract the entropy of a single Gaussian, so that the result is 0 at collapse and at most log(images)
    one_point = embeddings.shape[1] / 2 * math.log(2 * math.pi * math.e * ENTROPY_BANDWIDTH**2)
    ranks = [diagnostics.rank_me(z).item() for z in (embeddings, test[:MEASURED_IMAGES])]
    row = dict(zip(MEASURES, [bounds.lower.item() - one_point, bounds.upper.item() - one_point, *ranks], strict=True))
    if probes:
        train, labels = features(module, images.train), (images.train_labels, images.test_labels)
        known, held_out = (half.to(test.device) for half in labels)
        frozen = Features(train, known, test, held_out, images.classes)
        row |= {"linear": linear_accuracy(frozen), "knn": knn_accuracy(frozen)}
    return row


@torch.no_grad()
def features(module: Pretraining, images: Tensor) -> Tensor:
    """Features of images without augmentation, in evaluation mode: uint8 [images, ...] -> [images, dim]."""
    training = module.training
    module.eval()
    batches = (module.views.standardised(part.to(module.device)) for part in images.split(512))
    found = torch.cat([module.backbone(batch).float() for batch in batches])
    module.train(training)
    return found
