"""Figure 1: whether the output is Gaussian for Gaussian noise at the input, and the distances between raw images."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from rich.progress import track
from torch import Tensor

from benchmarks import data
from benchmarks.paper.networks import Networks
from benchmarks.statistics import draw, over_trials, verdict
from benchmarks.table1.recipes import title
from it_losses import theory

METHODS = ("vicreg", "simclr", "byol", None)
#: standard deviations of the noise, in units of the standard deviation of all pixels
NOISE = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
#: how many raw images are compared in pairs
RAW_IMAGES = 1000
BINS = 40
LINE = 0.01


def rows(networks: Networks) -> list[dict[str, Any]]:
    """Mean p-value by network and noise; histograms of distances."""
    cases = [(method, trial) for method in METHODS for trial in range(networks.setup.trials)]
    p_values = [row for case in track(cases, "figure 1: p-values") for row in _p_values(networks, *case)]
    sets = {"digits": data.load("digits", None, 8)} | {networks.setup.dataset: networks.images}
    return p_values + [row for name, images in sets.items() for row in _histogram(name, images.train[:RAW_IMAGES])]


def _p_values(networks: Networks, method: str | None, trial: int) -> list[dict[str, Any]]:
    setup = networks.setup
    module = networks.get(method, trial)[0] if method else networks.untrained("vicreg", trial)
    x = module.views.standardised(networks.images.test[: setup.noisy_images].to(setup.device))
    generator = torch.Generator(setup.device).manual_seed(setup.seed + trial)
    facts = {"panel": "p-value", "network": title(method) if method else "untrained", "trial": trial}
    result = []
    for noise in NOISE:
        p_values = theory.output_normality(module.backbone, x, noise, copies=setup.copies, generator=generator)
        result.append(facts | {"noise": noise, "p_value": p_values.nanmean().item()})
    return result


def _histogram(name: str, images: Tensor) -> list[dict[str, Any]]:
    distances = torch.pdist(images.flatten(1).double() / 255)
    width = distances.max().item() / BINS
    shares = torch.histc(distances, BINS, 0, distances.max().item()) / len(distances)
    facts = {"smallest": distances.min().item(), "median": distances.median().item(), "width": width}
    bars = ({"distance": i * width, "share": share} for i, share in enumerate(shares.tolist()))
    return [{"panel": "distance", "network": name} | bar | facts for bar in bars]


def plot(frame: pd.DataFrame, figure: Any) -> None:
    """p-values on the left, histograms on the right."""
    left, right = figure.subplots(1, 2)
    for network, of_network in frame[frame.panel == "p-value"].groupby("network", sort=False):
        draw(left, over_trials(of_network, "p_value", "noise"), network, marker="o", markersize=3)
    left.axhline(LINE, color="black", linestyle="--", linewidth=0.8)
    left.set(xscale="log", yscale="log", xlabel="noise, in standard deviations of the pixels")
    left.set(ylabel="p-value, mean over outputs")
    for name, bars in frame[frame.panel == "distance"].groupby("network", sort=False):
        right.bar(bars.distance, bars.share, bars.width, align="edge", label=name, alpha=0.6)
    right.set(xlabel="l2 distance of raw images, pixels in [0, 1]", ylabel="share of pairs", xlim=(0, None))
    left.legend()
    right.legend()


def finding(frame: pd.DataFrame) -> str:
    """Whether p falls with the noise and is large for small noise, and whether some images coincide."""
    p_values = frame[frame.panel == "p-value"]
    means = over_trials(p_values, "p_value", "network", "noise")["mean"].unstack(sort=False)
    first, last = means.iloc[:, 0], means.iloc[:, -1]
    falls = "; ".join(f"{network} {first[network]:.3f} and {last[network]:.3f}" for network in means.index)
    pairs = frame[frame.panel == "distance"].drop_duplicates("network")
    gaps = "; ".join(f"{row.network}: smallest {row.smallest:.3f}, median {row.median:.3f}" for row in pairs.itertuples())
    return (
        f"Left: {verdict(bool(((last < first) & (first > LINE)).all()))} The mean p-values at noise {p_values.noise.min()} and "
        f"{p_values.noise.max()} are: {falls}. Right: {verdict(bool((pairs.smallest > 0.05 * pairs['median']).all()))} The "
        f"distances are: {gaps}."
    )
