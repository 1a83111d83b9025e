"""Figure 5: over many models, does Theorem 3's bound correlate with the generalization gap better than supervised bounds?"""

import itertools
import math
import random
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from rich.progress import track

from benchmarks import RequestError
from benchmarks.paper.networks import Networks
from benchmarks.statistics import verdict
from benchmarks.table1.pretrain import features
from it_losses import theory

METHODS = ("vicreg",)
#: number of labelled images that the head is fitted to; the other training images are unlabelled
LABELLED = 200
#: a head fits its labels if its mean training loss is below this
FITS = 1e-3
#: the grid of models: fractions of the epochs (0 is untrained), widths, and weights of VICReg. The widest models have more
#: features than labels, so that their heads fit all labels
SWEEP = {
    "share_of_epochs": (0.0, 0.3, 1.0),
    "width": (0.5, 1.0, 2.0),
    "invariance_weight": (1.0, 25.0),
    "covariance_weight": (0.04, 25.0),
}
TERMS = ("invariance", "unlabelled_residual", "labelled_residual")
BOUNDS = {"core": "Theorem 3", "norm_bound": "supervised, norms", "count_bound": "supervised, parameters of the head"}


def rows(networks: Networks) -> list[dict[str, Any]]:
    """One row per model: settings, training and test loss, their gap, and the bounds with their terms."""
    if networks.options.width * min(SWEEP["width"]) < 0.125:
        width = f"{networks.options.width:g}"
        raise RequestError(f"figure 5 also trains networks of half the --width. It must be at least 0.25, got {width}.")
    return [_model(networks, i, settings) for i, settings in enumerate(track(sweep(networks.setup.models), "figure 5: models"))]


def sweep(models: int) -> list[dict[str, float]]:
    """The first `models` settings of the grid, shuffled with a fixed seed."""
    grid = [dict(zip(SWEEP, values, strict=True)) for values in itertools.product(*SWEEP.values())]
    random.Random(0).shuffle(grid)
    return grid[:models]


def _model(networks: Networks, trial: int, settings: dict[str, float]) -> dict[str, Any]:
    setup, images = networks.setup, networks.images
    changed = {name: value for name, value in settings.items() if name != "share_of_epochs"}
    epochs = math.ceil(settings["share_of_epochs"] * setup.epochs)
    module = networks.untrained("vicreg", trial, **changed)
    module = networks.fit(module, epochs) if epochs else module
    n = min(LABELLED, len(images.train) // 2)
    train, test = (F.normalize(features(module, half)) for half in (images.train, images.test))
    targets, test_targets = (F.one_hot(own, images.classes).to(train) for own in (images.train_labels, images.test_labels))
    with torch.no_grad():
        views = [module.views(part.to(setup.device)) for part in images.train[n:].split(512)]
        z_a, z_b = (F.normalize(torch.cat([module.backbone(pair[side]) for pair in views])) for side in (0, 1))
    bound = theory.generalization_bound(train[:n], targets[:n], z_a, z_b, targets[n:])
    head = theory.least_squares_head(train[:n], targets[:n])
    gap = theory.generalization_gap(head.weight, train[:n], targets[:n], test, test_targets).item()
    test_loss = torch.linalg.vector_norm(test.double() @ head.weight - test_targets, dim=1).mean().item()
    train_loss = test_loss - gap
    norms = (torch.linalg.matrix_norm(head.weight) * torch.linalg.matrix_norm(train[:n])).item()
    row = settings | {"epochs": epochs, "labelled": n, "features": train.shape[1]}
    row |= {"gap": gap, "train_loss": train_loss, "test_loss": test_loss}
    row |= {term: getattr(bound, term).item() for term in (*TERMS, "core")}
    return row | {"norm_bound": train_loss + 2 * norms / n, "count_bound": train_loss + math.sqrt(head.weight.numel() / n)}


def _pearson(frame: pd.DataFrame) -> pd.Series:
    """The correlation of each bound and term with the gap; NaN if the bound or term is constant."""
    return frame[[*BOUNDS, *TERMS, "gap"]].corr().gap


def plot(frame: pd.DataFrame, figure: Any) -> None:
    for axes, (column, label) in zip(figure.subplots(1, len(BOUNDS)), BOUNDS.items(), strict=True):
        points = axes.scatter(frame[column], frame.gap, c=frame.epochs, s=12)
        axes.set(xlabel=f"bound: {label}", ylabel="gap in the loss", title=f"Pearson {_pearson(frame)[column]:.2f}")
    figure.colorbar(points, label="epochs")


def finding(frame: pd.DataFrame) -> dict[str, Any]:
    pearson = _pearson(frame)
    return {
        # a bound that is equal for all models has the correlation NaN, and a comparison with NaN is false
        "verdict": verdict(pearson.core > 0.5 and not (pearson[["norm_bound", "count_bound"]] >= pearson.core).any()),
        "fit": (frame.train_loss < FITS).sum(),
        "models": len(frame),
        "labelled": frame.labelled[0],
        "bounds": "; ".join(f"{label} {pearson[column]:.3f}" for column, label in BOUNDS.items()),
        "terms": "; ".join(f"{term.replace('_', ' ')} {pearson[term]:.3f}" for term in TERMS),
        "above": (frame.core >= frame.test_loss).sum(),
    }
