"""Three short runs on the digits with their diagnostics: one healthy, one that collapses, one with too strong an entropy."""

from functools import cache

import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

from it_losses import VICRegEntropy
from it_losses.diagnostics import measure, sphere_entropy_bounds

#: name of a run -> weight of its entropy; None for the default
RUNS = {"healthy": None, "collapsing: entropy_weight=0": 0.0, "entropy too strong: entropy_weight=400000": 4e5}
STEPS, EVERY, BATCH = 200, 5, 256


@cache
def runs() -> dict[str, pd.DataFrame]:
    """The diagnostics of all runs: {name of a run: numbers every few steps}."""
    return {name: run(weight) for name, weight in RUNS.items()}


def run(entropy_weight: float | None) -> pd.DataFrame:
    """Train a small network on views of the digits, and return its diagnostics every few steps."""
    generator = torch.Generator().manual_seed(0)
    images = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 128))
    criterion = VICRegEntropy("log_det", entropy_weight=entropy_weight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    numbers = {}
    for step in range(STEPS + 1):
        batch = images[torch.randint(len(images), (BATCH,), generator=generator)]
        views = [model(batch + 0.3 * torch.randn(batch.shape, generator=generator)) for _ in range(2)]
        terms = criterion.terms(*views)
        if step % EVERY == 0:
            numbers[step] = numbers_of(views[0].detach(), float(terms.invariance), float(terms.entropy))
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
    return pd.DataFrame.from_dict(numbers, orient="index")


def numbers_of(z: Tensor, invariance: float, entropy: float) -> dict[str, float]:
    """The numbers that the plot shows, by the title of their axes: [batch, dim] -> {title: number}."""
    measured = measure(z)
    return {
        "std": measured["std"],
        "entropy of the criterion, nats": entropy,
        "rank_me": measured["rank_me"],
        "spread": measured["spread"],
        "entropy on the sphere, nats": float(sphere_entropy_bounds(z).upper),
        "invariance / (2 std²)": invariance / (2 * measured["std"] ** 2),
    }


def three_runs(figure: Figure) -> None:
    """Plot each number of all runs against the step."""
    figure.subplots(2, 3, sharex=True)
    for name, numbers in runs().items():
        for axes, text in zip(figure.axes, numbers, strict=True):
            axes.plot(numbers[text], label=name)
            axes.set_title(text, fontsize=9)
            axes.grid(axis="y", alpha=0.25)
    for axes in figure.axes[3:]:
        axes.set_xlabel("step")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
