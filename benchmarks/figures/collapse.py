"""Figure 4: a Gaussian mixture fitted to two moons by gradient, its inputs fixed or trained with it."""

from __future__ import annotations

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
#: the fixed standard deviation of a component: far below the moons' size, and about half of it
COMPONENT_STDS = (0.1, 0.5)
LEARNING_RATE = 0.02
STEPS = 400
LOOK_EVERY = 10
#: Gaussian that stands on each centre when their entropy is measured
BANDWIDTH = 0.1
#: all centres are one when their standard deviation has shrunk to this share
COLLAPSED = 0.01


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
    # the steepest curve falls through the lower left corner
    axes.legend(loc="upper right")


def caption(rows: list[Row]) -> str:
    """Do trainable inputs collapse to one point, and fixed ones not?"""
    last = [row for row in rows if row["step"] == max(row["step"] for row in rows)]
    first = [row for row in rows if row["step"] == 0]
    shows, said = {}, []
    for std in COMPONENT_STDS:
        at_start = _column([r for r in first if r["component_std"] == std], "spread")[0]
        ends = {
            inputs: _column([r for r in last if r["component_std"] == std and r["inputs"] == inputs], "spread")[0] / at_start
            for inputs in ("fixed", "trainable")
        }
        drop = {
            inputs: _column([r for r in last if r["component_std"] == std and r["inputs"] == inputs], "entropy_nats")[0]
            - _column([r for r in first if r["component_std"] == std and r["inputs"] == inputs], "entropy_nats")[0]
            for inputs in ("fixed", "trainable")
        }
        shows[std] = ends["trainable"] < COLLAPSED < ends["fixed"]
        said.append(
            f"component std {std}: {'yes' if shows[std] else 'no'} (spread of the centres left, fixed {ends['fixed']:.3f}, "
            f"trainable {ends['trainable']:.3f}; entropy {drop['fixed']:+.2f} and {drop['trainable']:+.2f} nats)"
        )
    everywhere = "" if all(shows.values()) or not any(shows.values()) else " It depends on the size of a component:"
    return (
        f"Means of a mixture of {POINTS} components of fixed covariance, started on the {POINTS} points of two moons, maximum "
        "likelihood by Adam; entropy by the pairwise KL bound, mean and standard error over trials. Claim: with fixed inputs "
        "nothing collapses, with trainable inputs all points become one and the entropy drops. "
        f"{verdict(any(shows.values()))}{everywhere} {'; '.join(said)}. The size of a component in the paper is not known."
    )


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
