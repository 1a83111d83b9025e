"""The networks of the figures: rows of Table 1, trained once for each method and trial, and reused by all figures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor

from benchmarks.table1.cli import Options, parse
from benchmarks.table1.pretrain import ENTROPY_BANDWIDTH, Pretraining, features, loader
from benchmarks.table1.recipes import RECIPES
from benchmarks.table1.runs import Run, loaded, module_for, trainer
from it_losses import diagnostics

#: passes cases on, under a progress bar of that description
Track = Callable[[Iterable[Any], str], Iterable[Any]]


def option(default: Any, text: str) -> Any:
    """A field of a setup, which is an option of the command line."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Setup:
    """The settings of all figures of one command: everything that a number depends on."""

    dataset: str = option("digits", "images to train on")
    data_root: str | None = option(None, "folder that holds the data set; digits need none")
    images: int | None = option(None, "only so many of each half, for trials")
    side: int = option(8, "pixels")
    backbone: str = option("resnet18", "a timm model")
    width: float | None = option(None, "factor on the channels of a ResNet; 0.25 for resnet18")
    epochs: int = option(15, "of pre-training, figures 1, 2, 3; at most .6 of it in 5")
    batch_size: int = option(128, "images a step")
    trials: int = option(5, "seeds, figures 1 to 4")
    models: int = option(36, "models of figure 5")
    noisy_images: int = option(16, "test images that get noise, figures 1, 3")
    copies: int = option(512, "noisy copies of each, figures 1, 3")
    seed: int = option(0, "of the first trial")
    device: str = option("cuda" if torch.cuda.is_available() else "cpu", "of training and measurement")

    def options(self) -> Options:
        """The same as options of Table 1; OptionError where one cannot be meant."""
        width = self.width or (0.25 if self.backbone == "resnet18" else 1.0)
        values = {"dataset": self.dataset, "backbone": self.backbone, "width": width, "image-size": self.side, "stem": "auto"}
        values |= {"epochs": self.epochs, "batch-size": self.batch_size, "seeds": self.trials, "jobs": 2}
        values |= {"data-root": self.data_root, "limit-images": self.images}
        values |= {"accelerator": "cpu" if self.device == "cpu" else "gpu"}
        return parse([word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))])


class Networks:
    """Networks by method and trial, and the rows of Table 1 that were asked for since `used` was last cleared."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.options = setup, setup.options()
        self.images = loaded(self.options)
        self.used: set[str] = set()
        self._trained: dict[tuple[str, int], tuple[Pretraining, list[diagnostics.EntropyBounds]]] = {}

    def get(self, method: str, trial: int) -> tuple[Pretraining, list[diagnostics.EntropyBounds]]:
        """The trained network of a row, and the entropy of its features before the first epoch and after each."""
        if (method, trial) not in self._trained:
            module = self.untrained(method, trial)
            entropies = [self.entropy(module)]
            after_each = LambdaCallback(on_train_epoch_end=lambda *_: entropies.append(self.entropy(module)))
            self._trained[method, trial] = self.fit(module, self.setup.epochs, after_each), entropies
        self.used.add(method)
        return self._trained[method, trial]

    def untrained(self, method: str, trial: int, **changed: float) -> Pretraining:
        """The same network before training; `changed` hyper-parameters take the place of the row's."""
        self.used.add(method)
        recipes = {method: RECIPES[method].varied(method, "a figure", **changed)}
        module = module_for(Run(method, self.setup.seed + trial), self.options.replaced(recipes=recipes), self.images)
        return module.to(self.setup.device).eval()

    def fit(self, module: Pretraining, epochs: int, *callbacks: L.Callback) -> Pretraining:
        """Train in place; the module comes back in evaluation mode, on the device."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            loop = trainer(self.options.replaced(epochs=epochs), list(callbacks))
            loop.fit(module.train(), loader(self.images.train, self.options.batch_size, 0))
        return module.to(self.setup.device).eval()

    def entropy(self, module: Pretraining) -> diagnostics.EntropyBounds:
        """Entropy in nats of held-out features on the unit sphere, smoothed by ENTROPY_BANDWIDTH."""
        held_out = F.normalize(evaluated_features(module, self.images.test))
        return diagnostics.pairwise_entropy_bounds(held_out, bandwidth=ENTROPY_BANDWIDTH)


@torch.no_grad()
def evaluated_features(module: Pretraining, images: Tensor) -> Tensor:
    """Penultimate features in evaluation mode; the mode stays what it was: uint8 [images, ...] -> [images, dim]."""
    training = module.training
    result = features(module.eval(), images)
    module.train(training)
    return result
