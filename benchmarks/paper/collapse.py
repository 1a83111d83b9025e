"""Figure 4: fit a Gaussian mixture to points on two moons by gradient descent, with fixed and with trainable points."""

import math
from itertools import product
from typing import Any

import pandas as pd
import torch
from rich.progress import track
from sklearn.datasets import make_moons

from benchmarks.paper.networks import Networks
from benchmarks.statistics import draw, over_trials, verdict
from it_losses import diagnostics

POINTS = 100
#: standard deviation of the noise on the moons' coordinates
MOON_NOISE = 0.05
#: standard deviations of a component, which are not trained; the moons have radius 1
COMPONENT_STDS = (0.1, 0.3, 0.5)
LEARNING_RATE = 0.02
STEPS = 400
LOOK_EVERY = 10
#: standard deviation of the Gaussian at each centre, in the estimate of the centres' entropy
BANDWIDTH = 0.1
#: fraction of the initial entropy that is left (0 for one point): at most COLLAPSED is a collapse, more than KEPT is none
COLLAPSED, KEPT = 0.01, 0.5


def rows(networks: Networks) -> list[dict[str, Any]]:
    """Entropy and spread of the centres, one row per case and measured step."""
    cases = list(product(COMPONENT_STDS, ("fixed", "trainable"), range(networks.setup.trials)))
    return [row for case in track(cases, "figure 4: mixtures") for row in _fit(*case, networks.setup.seed)]


def _fit(std: float, inputs: str, trial: int, seed: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed + trial)
    moons, _ = make_moons(POINTS, noise=MOON_NOISE, random_state=seed + trial)
    points = torch.as_tensor(moons, dtype=torch.float32).requires_grad_(inputs == "trainable")
    centres = (points.detach() + 0.01 * torch.randn(points.shape, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([centres, points] if points.requires_grad else [centres], lr=LEARNING_RATE)
    result = []
    for step in range(STEPS + 1):
        if step % LOOK_EVERY == 0:
            entropy = diagnostics.pairwise_entropy_bounds(centres.detach(), bandwidth=BANDWIDTH).upper.item()
            spread = centres.detach().var(dim=0).sum().sqrt().item()
            facts = {"inputs": inputs, "component_std": std, "trial": trial, "step": step}
            result.append(facts | {"entropy_nats": entropy, "spread": spread})
        optimizer.zero_grad()
        squared_distances = (points[:, None] - centres).square().sum(dim=2)
        # up to a constant, the negative log-likelihood `-mean_i log mean_k N(x_i; centre_k, std^2 I)`
        (-torch.logsumexp(-squared_distances / (2 * std**2), dim=1).mean()).backward()
        optimizer.step()
    return result


def plot(frame: pd.DataFrame, figure: Any) -> None:
    axes = figure.subplots()
    means = over_trials(frame, "entropy_nats", "step", "inputs", "component_std")
    draw(axes, means, errorevery=5, ylabel="entropy of the centres, nats (KL bound)")
    # the legend is outside the axes, because there is a curve in every corner
    axes.legend(title="inputs, size of a component", loc="center left", bbox_to_anchor=(1, 0.5))


def finding(frame: pd.DataFrame) -> dict[str, Any]:
    means = over_trials(frame, "entropy_nats", "component_std", "inputs", "step")["mean"].unstack()
    above_point = means - math.log(2 * math.pi * math.e * BANDWIDTH**2)
    kept = (above_point.iloc[:, -1] / above_point.iloc[:, 0]).unstack()
    shows = kept.index[(kept.trainable <= COLLAPSED) & (kept.fixed > KEPT)]
    return {
        "verdict": verdict(len(shows) > 0),
        "shows": " and ".join(map(str, shows)) or "none",
        "kept": "; ".join(f"{std}: {left.fixed:.0%} and {left.trainable:.0%}" for std, left in kept.iterrows()),
    }
