"""The networks of the figures, trained once for each method and trial, and reused by all figures."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from lightning_utilities.core import rank_zero
from torch import Tensor

from benchmarks import augment, backbones, data
from benchmarks.methods import METHODS
from benchmarks.table1.pretrain import ENTROPY_BANDWIDTH, Pretraining, features, loader
from benchmarks.table1.recipes import RECIPES
from it_losses import diagnostics


@dataclass(frozen=True)
class Setup:
    """The settings of all figures of one command: everything that a number depends on."""

    dataset: str = "digits"
    data_root: Path | None = None
    images: int | None = None
    side: int = 8
    backbone: str = "resnet18"
    width: float = 0.25
    epochs: int = 15
    batch_size: int = 128
    trials: int = 5
    models: int = 36
    noisy_images: int = 16
    copies: int = 512
    seed: int = 0
    device: str = "cpu"


@dataclass
class Trained:
    """A network after pre-training, and the entropy of its features before the first epoch and after each."""

    module: Pretraining
    entropies: list[diagnostics.EntropyBounds]


@dataclass
class Networks:
    """Networks by method and trial, and the rows of Table 1 that were asked for since `used` was last cleared."""

    setup: Setup
    images: data.Images = field(init=False)
    used: set[str] = field(default_factory=set)
    _trained: dict[tuple[str, int], Trained] = field(default_factory=dict)

    def __post_init__(self) -> None:
        images = data.load(self.setup.dataset, self.setup.data_root, self.setup.side)
        self.images = images.subset(self.setup.images) if self.setup.images else images

    def get(self, method: str, trial: int) -> Trained:
        """The network of a row of Table 1, trained at the first call."""
        self.used.add(method)
        if (method, trial) not in self._trained:
            self._trained[method, trial] = self._pretrained(method, trial)
        return self._trained[method, trial]

    def untrained(self, method: str, trial: int, **changed: float) -> Pretraining:
        """The same network before training; `changed` hyper-parameters take the place of the row's."""
        self.used.add(method)
        torch.manual_seed(self.setup.seed + trial)
        images, setup = self.images, self.setup
        backbone = backbones.create(setup.backbone, channels=images.channels, side=setup.side, width=setup.width)
        recipe = RECIPES[method]
        head = METHODS[recipe.method](backbones.width_of(backbone), **(recipe.arguments | changed))
        views = augment.Views(
            augment.recipe_for(setup.dataset, images.channels), setup.side, *augment.channel_moments(images.train)
        )
        return Pretraining(backbone, head, views, recipe.learning_rate.value)

    def fit(self, module: Pretraining, epochs: int, *callbacks: L.Callback) -> Pretraining:
        """Train in place; the module comes back in evaluation mode, on the device."""
        # dozens of runs have one bar, and Lightning would repeat the same messages for each
        rank_zero.log.setLevel(logging.ERROR)
        device = torch.device(self.setup.device)
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu" if device.type == "cpu" else device.type,
            devices=1,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            batch = min(self.setup.batch_size, len(self.images.train))
            trainer.fit(module, loader(self.images.train, batch, 0))
        return module.to(device).eval()

    @torch.no_grad()
    def standardised(self, module: Pretraining, images: Tensor) -> Tensor:
        """Images as the network sees them, without augmentation: uint8 [batch, ...] -> float [batch, ...]."""
        return module.views.standardised(images.to(self.setup.device))

    def _pretrained(self, method: str, trial: int) -> Trained:
        module = self.untrained(method, trial)
        entropies = [entropy(module, self.images.test)]
        after_each = AfterEachEpoch(lambda: entropies.append(entropy(module, self.images.test)))
        return Trained(self.fit(module, self.setup.epochs, after_each), entropies)


@dataclass
class AfterEachEpoch(L.Callback):
    """A callback that measures the entropy once an epoch."""

    measure: Callable[[], None]

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Measure."""
        self.measure()


@torch.no_grad()
def entropy(module: Pretraining, images: Tensor) -> diagnostics.EntropyBounds:
    """Entropy in nats of held-out features on the unit sphere, smoothed by ENTROPY_BANDWIDTH: uint8 images -> bounds."""
    return diagnostics.pairwise_entropy_bounds(F.normalize(evaluated_features(module, images)), bandwidth=ENTROPY_BANDWIDTH)


@torch.no_grad()
def evaluated_features(module: Pretraining, images: Tensor) -> Tensor:
    """Penultimate features in evaluation mode; the mode stays what it was: uint8 [images, ...] -> [images, dim]."""
    training = module.training
    result = features(module.eval(), images)
    module.train(training)
    return result
