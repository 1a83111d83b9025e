"""Figure 2: the entropy of the features during training, for each method."""

import math
from itertools import product
from typing import Any

import pandas as pd
from rich.progress import track

from benchmarks.paper.networks import Networks
from benchmarks.statistics import draw, over_trials, verdict
from benchmarks.table1.pretrain import ENTROPY_BANDWIDTH
from benchmarks.table1.recipes import title

METHODS = ("vicreg", "simclr", "byol", "barlow_twins", "swav")
BOUND = "entropy_upper_nats"
#: standard deviation of the Gaussian around each feature vector
BANDWIDTH = ENTROPY_BANDWIDTH


def rows(networks: Networks) -> list[dict[str, Any]]:
    """One row per method, trial and epoch: lower and upper bound on the entropy. Epoch 0 is before training."""
    cases = list(product(METHODS, range(networks.setup.trials)))
    return [
        {"method": title(method), "trial": trial, "epoch": epoch}
        | {"entropy_lower_nats": bounds.lower.item(), BOUND: bounds.upper.item()}
        for method, trial in track(cases, "figure 2: entropies")
        for epoch, bounds in enumerate(networks.get(method, trial)[1])
    ]


def plot(frame: pd.DataFrame, figure: Any) -> None:
    draw(figure.subplots(), over_trials(frame, BOUND, "epoch", "method"), ylabel="entropy of the features, nats (KL bound)")


def finding(frame: pd.DataFrame) -> dict[str, Any]:
    last = frame[frame.epoch == frame.epoch.max()]
    final = over_trials(last, BOUND, "method").sort_values("mean", ascending=False, kind="stable")
    vicreg, others = final.loc[title("vicreg")], final.drop(title("vicreg"))
    difference, error = vicreg["mean"] - others["mean"].iloc[0], math.hypot(vicreg.error, others.error.iloc[0])
    within = "more than" if abs(difference) > 2 * error else "within"
    return {
        "verdict": verdict(difference > 0),
        "difference": f"{difference:.3f} ± {error:.3f}",
        "other": others.index[0],
        "certain": f"{within} two standard errors" if last.trial.nunique() > 1 else "one trial, so no standard error is known",
        "entropies": "; ".join(f"{method} {mean:.3f} ± {error:.3f}" for method, mean, error in final.itertuples()),
    }
