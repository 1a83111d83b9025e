"""Two short runs on the digits, one healthy and one that collapses, with their diagnostics."""

from __future__ import annotations

from functools import cache

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

from it_losses import VICRegEntropy
from it_losses.diagnostics import measure, sphere_entropy_bounds

#: name of a run -> weight of its entropy; None for the default
RUNS = {"healthy": None, "collapsing: entropy_weight=0": 0.0}
#: number -> the text of its axis
SHOWN = {
    "rank_me": "rank_me",
    "spread": "spread",
    "entropy": "entropy on the sphere, nats",
    "agreement": "invariance / (2 std²)",
}
STEPS, EVERY, BATCH = 200, 5, 256


@cache
def runs() -> dict[str, list[dict[str, float]]]:
    """{name of a run: its numbers, every few steps}."""
    return {name: run(weight) for name, weight in RUNS.items()}


def run(entropy_weight: float | None) -> list[dict[str, float]]:
    """Train a small network on views of the digits; the numbers of the last views every few steps."""
    generator = torch.Generator().manual_seed(0)
    images = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 128))
    criterion = VICRegEntropy("log_det", entropy_weight=entropy_weight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    numbers = []
    for step in range(STEPS + 1):
        batch = images[torch.randint(len(images), (BATCH,), generator=generator)]
        views = [model(batch + 0.3 * torch.randn(batch.shape, generator=generator)) for _ in range(2)]
        terms = criterion.terms(*views)
        if step % EVERY == 0:
            numbers.append({"step": float(step)} | numbers_of(views[0], float(terms.invariance)))
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
    return numbers


def numbers_of(z: Tensor, invariance: float) -> dict[str, float]:
    """The numbers that the plot shows: [batch, dim] -> {name: float}."""
    measured = measure(z.detach())
    return {
        "rank_me": measured["rank_me"],
        "spread": measured["spread"],
        "entropy": float(sphere_entropy_bounds(z.detach()).upper),
        "agreement": invariance / (2 * measured["std"] ** 2),
    }


def healthy_and_collapsing(figure: Figure) -> None:
    """Each number along both runs."""
    for axes, (number, label) in zip(figure.subplots(2, 2, sharex=True).flat, SHOWN.items(), strict=True):
        for name, numbers in runs().items():
            axes.plot([row["step"] for row in numbers], [row[number] for row in numbers], label=name)
        axes.set_title(label, fontsize=9)
        axes.grid(axis="y", alpha=0.25)
    for axes in figure.axes[2:]:
        axes.set_xlabel("step")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
