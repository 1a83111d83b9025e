"""Figure 2: the entropy of the features along training, by method."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from rich.progress import track

from benchmarks.paper.networks import Networks
from benchmarks.statistics import over_trials, verdict
from benchmarks.table1.pretrain import ENTROPY_BANDWIDTH
from benchmarks.table1.recipes import title

METHODS = ("vicreg", "simclr", "byol", "barlow_twins", "swav")
BOUND = "entropy_upper_nats"
#: standard deviation of the Gaussian on each feature
BANDWIDTH = ENTROPY_BANDWIDTH


def rows(networks: Networks) -> list[dict[str, Any]]:
    """Both bounds by method, trial and epoch; epoch 0 is before training."""
    cases = [(method, trial) for method in METHODS for trial in range(networks.setup.trials)]
    return [
        {"method": title(method), "trial": trial, "epoch": epoch}
        | {"entropy_lower_nats": bounds.lower.item(), BOUND: bounds.upper.item()}
        for method, trial in track(cases, "figure 2: entropies")
        for epoch, bounds in enumerate(networks.get(method, trial)[1])
    ]


def plot(frame: pd.DataFrame, figure: Any) -> None:
    """The upper bound of each method, with a band of one standard error."""
    axes = figure.subplots()
    for method, of_method in frame.groupby("method", sort=False):
        means = over_trials(of_method, BOUND, "epoch")
        axes.plot(means.index, means["mean"], label=method)
        axes.fill_between(means.index, means["mean"] - means.error, means["mean"] + means.error, alpha=0.2)
    axes.set(xlabel="epoch", ylabel="entropy of the features, nats (KL bound)")
    axes.legend()


def finding(frame: pd.DataFrame) -> str:
    """Is VICReg's entropy the highest at the end, and by how many standard errors?"""
    last = frame[frame.epoch == frame.epoch.max()]
    final = over_trials(last, BOUND, "method").sort_values("mean", ascending=False, kind="stable")
    vicreg, others = final.loc[title("vicreg")], final.drop(title("vicreg"))
    best = others.iloc[0]
    difference, spread = vicreg["mean"] - best["mean"], math.hypot(vicreg.error, best.error)
    beyond = "more than two standard errors" if abs(difference) > 2 * spread else "within two standard errors"
    certain = beyond if last.trial.nunique() > 1 else "one trial, so no standard error is known"
    said = "; ".join(f"{method} {row['mean']:.3f} ± {row.error:.3f}" for method, row in final.iterrows())
    other = others.index[0]
    order = f"VICReg exceeds {other}, the next highest," if difference > 0 else f"{other} is the highest and exceeds VICReg"
    return (
        f"{verdict(difference > 0)} {order} by {abs(difference):.3f} ± {spread:.3f} nats ({certain}). The entropies at the "
        f"last epoch are: {said}."
    )
