"""Figure 2: the entropy of the features along training, by method."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from matplotlib.figure import Figure

from benchmarks.figures.networks import Networks
from benchmarks.figures.statistics import Row, grouped, mean_and_error, verdict
from benchmarks.table1.pretrain import ENTROPY_BANDWIDTH
from benchmarks.table1.recipes import title

METHODS = ("vicreg", "simclr", "byol", "barlow_twins", "swav")


def rows(networks: Networks, track: Callable[[Iterable, str], Iterable]) -> list[Row]:
    """Both bounds by method, trial and epoch; epoch 0 is before training."""
    cases = [(method, trial) for method in METHODS for trial in range(networks.setup.trials)]
    return [
        {
            "method": title(method),
            "trial": trial,
            "epoch": epoch,
            "entropy_lower_nats": bounds.lower.item(),
            "entropy_upper_nats": bounds.upper.item(),
        }
        for method, trial in track(cases, "figure 2: entropies")
        for epoch, bounds in enumerate(networks.get(method, trial).entropies)
    ]


def plot(rows: list[Row], figure: Figure) -> None:
    """The upper bound of each method, with a band of one standard error."""
    axes = figure.subplots()
    for (method,), lines in grouped(rows, "method").items():
        epochs = [epoch for (epoch,) in grouped(lines, "epoch")]
        means, errors = zip(*[_entropy(at) for at in grouped(lines, "epoch").values()], strict=True)
        axes.plot(epochs, means, label=method)
        low, high = zip(*[(mean - error, mean + error) for mean, error in zip(means, errors, strict=True)], strict=True)
        axes.fill_between(epochs, low, high, alpha=0.2)
    axes.set(xlabel="epoch", ylabel="entropy of the features, nats (KL bound)")
    axes.legend()


def caption(rows: list[Row]) -> str:
    """Is VICReg's entropy the highest at the end, and by how many standard errors?"""
    last = [row for row in rows if row["epoch"] == max(row["epoch"] for row in rows)]
    final = {method: _entropy(lines) for (method,), lines in grouped(last, "method").items()}
    (mean, error), others = final[title("vicreg")], {m: e for m, e in final.items() if m != title("vicreg")}
    best, (best_mean, best_error) = max(others.items(), key=lambda item: item[1][0])
    difference, spread = mean - best_mean, (error**2 + best_error**2) ** 0.5
    said = "; ".join(f"{method} {m:.3f} +- {e:.3f}" for method, (m, e) in sorted(final.items(), key=lambda i: -i[1][0]))
    trials = len(grouped(last, "trial"))
    beyond = "more than two standard errors" if abs(difference) > 2 * spread else "within two standard errors"
    certain = beyond if trials > 1 else "one trial, so no standard error is known"
    return (
        "Pairwise (KL) bound on the entropy in nats of held-out penultimate features on the unit sphere, one Gaussian of "
        f"standard deviation {ENTROPY_BANDWIDTH} on each, mean and standard error over trials; which tensor and which "
        f"estimator the paper takes is not known. Claim: VICReg's is the highest. {verdict(difference > 0)} VICReg less "
        f"{best}, the highest other: {difference:+.3f} +- {spread:.3f} nats ({certain}). At the last epoch: {said}."
    )


def _entropy(lines: list[Row]) -> tuple[float, float]:
    return mean_and_error([line["entropy_upper_nats"] for line in lines])
