"""Figure 1: p-values of a test that outputs are Gaussian for Gaussian input noise, and distances between raw images."""

from itertools import product
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

METHODS = ("vicreg", "simclr", "byol")
#: standard deviations of the noise, in units of the standard deviation of all pixels
NOISE = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
#: number of raw images whose pairwise distances are taken
RAW_IMAGES = 1000
BINS = 40
LINE = 0.01


def rows(networks: Networks) -> list[dict[str, Any]]:
    """Rows of both panels: mean p-values by network and noise, and histograms of distances between images."""
    cases = list(product((*METHODS, None), range(networks.setup.trials)))
    p_values = [row for case in track(cases, "figure 1: p-values") for row in _p_values(networks, *case)]
    sets = {"digits": data.load("digits", None, 8)} | {networks.setup.dataset: networks.images}
    return p_values + [row for name, images in sets.items() for row in _histogram(name, images.train[:RAW_IMAGES])]


def _p_values(networks: Networks, method: str | None, trial: int) -> list[dict[str, Any]]:
    setup = networks.setup
    module = networks.get(method, trial)[0] if method else networks.untrained("vicreg", trial)
    x = module.views.standardised(networks.images.test[: setup.noisy_images].to(setup.device))
    generator = torch.Generator(setup.device).manual_seed(setup.seed + trial)
    facts = {"panel": "p-value", "network": title(method) if method else "untrained", "trial": trial}
    found = (theory.output_normality(module.backbone, x, noise, copies=setup.copies, generator=generator) for noise in NOISE)
    return [facts | {"noise": noise, "p_value": p.nanmean().item()} for noise, p in zip(NOISE, found, strict=True)]


def _histogram(name: str, images: Tensor) -> list[dict[str, Any]]:
    distances = torch.pdist(images.flatten(1).double() / 255)
    largest = distances.max().item()
    shares = (torch.histc(distances, BINS, 0, largest) / len(distances)).tolist()
    facts = {"smallest": distances.min().item(), "median": distances.median().item(), "width": largest / BINS}
    bars = ({"distance": i * facts["width"], "share": share} for i, share in enumerate(shares))
    return [{"panel": "distance", "network": name} | bar | facts for bar in bars]


def plot(frame: pd.DataFrame, figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    draw(left, over_trials(frame[frame.panel == "p-value"], "p_value", "noise", "network"), marker="o", loglog=True)
    left.axhline(LINE, color="black", linestyle="--", linewidth=0.8)
    left.set(xlabel="noise, in standard deviations of the pixels", ylabel="p-value, mean over outputs")
    for name, bars in frame[frame.panel == "distance"].groupby("network", sort=False):
        right.bar(bars.distance, bars.share, bars.width, align="edge", label=name, alpha=0.6)
    right.set(xlabel="l2 distance of raw images, pixels in [0, 1]", ylabel="share of pairs", xlim=(0, None))
    right.legend()


def finding(frame: pd.DataFrame) -> dict[str, Any]:
    p_values, pairs = frame[frame.panel == "p-value"], frame[frame.panel == "distance"].drop_duplicates("network")
    means = over_trials(p_values, "p_value", "network", "noise")["mean"].unstack(sort=False)
    ends = means.iloc[:, [0, -1]].set_axis(["first", "last"], axis=1)
    return {
        "left": verdict(bool(((ends["last"] < ends["first"]) & (ends["first"] > LINE)).all())),
        "right": verdict(bool((pairs.smallest > 0.05 * pairs["median"]).all())),
        "smallest": means.columns[0],
        "largest": means.columns[-1],
        "p_values": "; ".join(f"{network} {first:.3f} and {last:.3f}" for network, first, last in ends.itertuples()),
        "distances": "; ".join(f"{p.network}: smallest {p.smallest:.3f}, median {p.median:.3f}" for p in pairs.itertuples()),
    }
