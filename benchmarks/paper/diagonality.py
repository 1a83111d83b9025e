"""Figure 3: the distance of the optimal covariance from a diagonal matrix, against the scale of the input noise."""

from typing import Any

import pandas as pd
import torch
from rich.progress import track
from torch import Tensor, nn

from benchmarks.paper.networks import Networks
from benchmarks.statistics import draw, over_trials, verdict
from benchmarks.table1.pretrain import features
from it_losses import theory

METHODS = ("vicreg",)
SCALES = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
#: the optimum counts as diagonal if its distance from diagonal is below this fraction of its norm
DIAGONAL = 0.05


def rows(networks: Networks) -> list[dict[str, Any]]:
    """One row per trial and noise scale: distance of the optimum and of the mean conditional covariance from diagonal."""
    return [row for trial in track(range(networks.setup.trials), "figure 3: optima") for row in _trial(networks, trial)]


def _trial(networks: Networks, trial: int) -> list[dict[str, Any]]:
    setup, (module, _) = networks.setup, networks.get("vicreg", trial)
    unit = features(module, networks.images.test).var(dim=0).mean().sqrt()
    generator = torch.Generator(setup.device).manual_seed(setup.seed + trial)
    torch.manual_seed(setup.seed + trial)
    with torch.no_grad():
        views = module.views(networks.images.test[: setup.noisy_images].to(setup.device))
    result = []
    for scale in SCALES:
        noisy = [_conditional_covariances(module.backbone, x, scale, setup.copies, generator) / unit**2 for x in views]
        distance = theory.distance_from_diagonal(theory.maximise_log_det_ratio(*noisy, generator=generator)).item()
        conditional = theory.distance_from_diagonal(torch.cat(noisy).mean(dim=0)).item()
        result.append({"trial": trial, "scale": scale, "distance": distance, "conditional_distance": conditional})
    return result


@torch.no_grad()
def _conditional_covariances(backbone: nn.Module, x: Tensor, scale: float, copies: int, generator: torch.Generator) -> Tensor:
    """Covariance S(x) of the features of noisy copies of x, for each image x: [images, ...] -> [images, dim, dim], float64."""
    noise = torch.randn((len(x), copies, *x.shape[1:]), device=x.device, generator=generator)
    views = torch.stack([backbone(image + scale * each) for image, each in zip(x, noise, strict=True)])
    return theory.view_covariance(views.double())


def plot(frame: pd.DataFrame, figure: Any) -> None:
    columns = frame.rename(columns={"distance": "optimal", "conditional_distance": "mean conditional"})
    values = columns.melt(["trial", "scale"], var_name="covariance", value_name="distance")
    axes = figure.subplots()
    draw(axes, over_trials(values, "distance", "scale", "covariance"), marker="o", logx=True)
    axes.set(xlabel="scale of the input noise", ylabel="|S - diag S| / |S|", ylim=(0, None))


def finding(frame: pd.DataFrame) -> dict[str, Any]:
    means, alone = (over_trials(frame, column, "scale") for column in ("distance", "conditional_distance"))
    ends = {"first": means.iloc[0], "last": means.iloc[-1], "first_alone": alone.iloc[0], "last_alone": alone.iloc[-1]}
    beyond = means.index[means["mean"] > DIAGONAL]
    return ends | {"verdict": verdict(means["mean"].iloc[0] < DIAGONAL), "crossed": beyond.min() if len(beyond) else "none"}
