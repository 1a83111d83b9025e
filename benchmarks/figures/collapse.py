"""Figure 4: a Gaussian mixture fitted to two moons by gradient, with fixed inputs or with trained ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from matplotlib.figure import Figure
from sklearn.datasets import make_moons
from torch import Tensor

from benchmarks.figures.networks import Networks
from benchmarks.figures.statistics import Row, grouped, mean_and_error, verdict
from it_losses import diagnostics

POINTS = 100
#: of the moons' coordinates
MOON_NOISE = 0.05
#: fixed standard deviations of a component: far below the size of the moons (1), a third of it, and half of it
COMPONENT_STDS = (0.1, 0.3, 0.5)
LEARNING_RATE = 0.02
STEPS = 400
LOOK_EVERY = 10
#: standard deviation of the Gaussian at each centre, for the entropy of the centres
BANDWIDTH = 0.1
#: fractions of the entropy relative to one point: below the first the centres have collapsed, above the second not
COLLAPSED, KEPT = 0.01, 0.5


def rows(networks: Networks, track: Callable[[Iterable, str], Iterable]) -> list[Row]:
    """Entropy and spread of the centres along training."""
    trials = range(networks.setup.trials)
    cases = [(std, trainable, trial) for std in COMPONENT_STDS for trainable in (False, True) for trial in trials]
    return [
        row
        for std, trainable, trial in track(cases, "figure 4: mixtures")
        for row in _fit(std, trainable, networks.setup.seed, trial)
    ]


def plot(rows: list[Row], figure: Figure) -> None:
    """Entropy of the centres along training, inputs fixed and trained, by the size of a component."""
    axes = figure.subplots()
    for (inputs, std), lines in grouped(rows, "inputs", "component_std").items():
        steps = [step for (step,) in grouped(lines, "step")]
        means, errors = zip(*[_column(at, "entropy_nats") for at in grouped(lines, "step").values()], strict=True)
        style = "-" if inputs == "fixed" else "--"
        axes.errorbar(steps, means, errors, label=f"{inputs} inputs, component std {std}", linestyle=style, errorevery=5)
    axes.set(xlabel="step", ylabel="entropy of the centres, nats (KL bound)")
    # outside the axes, because there is a curve in every corner
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def caption(rows: list[Row]) -> str:
    """Do trainable inputs collapse to one point, and fixed ones not?"""
    kept = {std: {inputs: _kept(rows, std, inputs) for inputs in ("fixed", "trainable")} for std in COMPONENT_STDS}
    shows = [std for std, left in kept.items() if left["trainable"] <= COLLAPSED and left["fixed"] > KEPT]
    only = f" Only with component std {', '.join(map(str, shows))}:" if 0 < len(shows) < len(kept) else ""
    said = (
        f"component std {std}: {left['fixed']:.0%} of it left with fixed inputs, {left['trainable']:.0%} with trainable"
        for std, left in kept.items()
    )
    return (
        f"Means of a mixture of {POINTS} components of fixed covariance, started on the {POINTS} points of two moons, maximum "
        "likelihood by Adam; entropy by the pairwise KL bound, mean and standard error over trials. Claim: with fixed inputs "
        f"nothing collapses (here: of the entropy above that of one point more than {KEPT:.0%} is left), with trainable inputs "
        f"all points become one (at most {COLLAPSED:.0%}). {verdict(bool(shows))}{only} {'; '.join(said)}. The size of a "
        "component in the paper is not known."
    )


def _kept(rows: list[Row], std: float, inputs: str) -> float:
    """The fraction of the entropy, relative to one point, that is left at the last step."""
    lines = grouped([row for row in rows if (row["component_std"], row["inputs"]) == (std, inputs)], "step")
    start, end = (_column(lines[step,], "entropy_nats")[0] for (step,) in (min(lines), max(lines)))
    point = math.log(2 * math.pi * math.e * BANDWIDTH**2)
    return (end - point) / (start - point)


def _fit(std: float, trainable: bool, seed: int, trial: int) -> list[Row]:
    generator = torch.Generator().manual_seed(seed + trial)
    moons, _ = make_moons(POINTS, noise=MOON_NOISE, random_state=seed + trial)
    points = torch.as_tensor(moons, dtype=torch.float32).requires_grad_(trainable)
    centres = (points.detach() + 0.01 * torch.randn(points.shape, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([centres, points] if trainable else [centres], lr=LEARNING_RATE)
    result = []
    for step in range(STEPS + 1):
        if step % LOOK_EVERY == 0:
            entropy = diagnostics.pairwise_entropy_bounds(centres.detach(), bandwidth=BANDWIDTH).upper.item()
            spread = centres.detach().var(dim=0).sum().sqrt().item()
            facts = {"inputs": "trainable" if trainable else "fixed", "component_std": std, "trial": trial, "step": step}
            result.append({**facts, "entropy_nats": entropy, "spread": spread})
        optimizer.zero_grad()
        (-_log_likelihood(points, centres, std)).backward()
        optimizer.step()
    return result


def _log_likelihood(points: Tensor, centres: Tensor, std: float) -> Tensor:
    """`mean_i log mean_k N(x_i; centre_k, std^2 I)` up to a constant: 2 x [., 2] -> []."""
    squared_distances = (points[:, None] - centres).square().sum(dim=2)
    return torch.logsumexp(-squared_distances / (2 * std**2), dim=1).mean()


def _column(lines: list[Row], column: str) -> tuple[float, float]:
    return mean_and_error([line[column] for line in lines])
