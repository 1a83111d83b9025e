"""The networks of the figures: methods of Table 1, trained once for each trial and shared by all figures."""

import argparse
import warnings

import lightning as L
import torch.nn.functional as F
from lightning.pytorch.callbacks import LambdaCallback

from benchmarks.table1.cli import Options, parse
from benchmarks.table1.pretrain import ENTROPY_BANDWIDTH, Pretraining, features, loader
from benchmarks.table1.recipes import RECIPES
from benchmarks.table1.runs import Run, loaded, module_for, trainer
from it_losses import diagnostics


def _options_of(setup: argparse.Namespace) -> Options:
    """Convert the settings of the figures to options of Table 1; RequestError if a value makes no sense."""
    same = ("dataset", "data_root", "backbone", "stem", "precision", "epochs", "batch_size")
    values = {name: getattr(setup, name) for name in same} | {"image_size": setup.side, "limit_images": setup.images}
    values |= {"width": setup.width or (0.25 if setup.backbone == "resnet18" else 1.0), "jobs": 2}
    values |= {"accelerator": "cpu" if setup.device == "cpu" else "gpu"}
    given = ((f"--{name.replace('_', '-')}", str(value)) for name, value in values.items() if value is not None)
    return parse([word for words in given for word in words])


class Networks:
    """Trains each method of Table 1 once for each trial, and keeps the networks."""

    def __init__(self, setup: argparse.Namespace) -> None:
        self.setup, self.options = setup, _options_of(setup)
        self.images = loaded(self.options)
        self._trained: dict[tuple[str, int], tuple[Pretraining, list[diagnostics.EntropyBounds]]] = {}

    def get(self, method: str, trial: int) -> tuple[Pretraining, list[diagnostics.EntropyBounds]]:
        """The trained network of a method, and the entropy of its features before the first epoch and after each epoch."""
        if (method, trial) not in self._trained:
            module = self.untrained(method, trial)
            entropies = [self.entropy(module)]
            after_each = LambdaCallback(on_train_epoch_end=lambda *_: entropies.append(self.entropy(module)))
            self._trained[method, trial] = self.fit(module, self.setup.epochs, after_each), entropies
        return self._trained[method, trial]

    def untrained(self, method: str, trial: int, *, width: float = 1.0, **changed: float) -> Pretraining:
        """The network before training; `changed` replaces hyper-parameters, and `width` multiplies the option --width."""
        recipes = {method: RECIPES[method].varied(method, "a figure", **changed)}
        options = self.options.replaced(recipes=recipes, width=self.options.width * width)
        module = module_for(Run(method, self.setup.seed + trial), options, self.images)
        return module.to(self.setup.device).eval()

    def fit(self, module: Pretraining, epochs: int, *callbacks: L.Callback) -> Pretraining:
        """Train the module in place, and return it in evaluation mode on the device."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            loop = trainer(self.options.replaced(epochs=epochs), list(callbacks))
            loop.fit(module.train(), loader(self.images, self.options.batch_size))
        return module.to(self.setup.device).eval()

    def entropy(self, module: Pretraining) -> diagnostics.EntropyBounds:
        """Bounds in nats on the entropy of l2-normalised held-out features, with the bandwidth ENTROPY_BANDWIDTH."""
        held_out = F.normalize(features(module, self.images.test))
        return diagnostics.pairwise_entropy_bounds(held_out, bandwidth=ENTROPY_BANDWIDTH)
