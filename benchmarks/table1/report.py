"""The table as people want it: Markdown, CSV and a plot, from the rows on disk."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from benchmarks.probes import KNN_NEIGHBOURS, KNN_TEMPERATURE, PROBE_WEIGHT_DECAY
from benchmarks.table1.pretrain import ENTROPY_BANDWIDTH
from benchmarks.table1.recipes import RECIPES, UNTRAINED, title
from benchmarks.table1.rows import Records, Row, write, write_csv

ORDER = [UNTRAINED, *RECIPES]


class Statistic(NamedTuple):
    """Mean over seeds, and its standard error where there are two seeds or more."""

    mean: float
    error: float | None

    def text(self, scale: float = 1.0, digits: int = 1) -> str:
        """For print."""
        error = "" if self.error is None else f" ± {scale * self.error:.{digits}f}"
        return f"{scale * self.mean:.{digits}f}{error}"


class Line(NamedTuple):
    """One row of the table, all its seeds."""

    method: str
    seeds: int
    linear: Statistic
    linear_best: Statistic
    knn: Statistic
    knn_best: Statistic
    entropy_nats: Statistic
    rank_me: Statistic
    seconds: Statistic


def statistic(values: Iterable[float]) -> Statistic:
    """Mean and s / sqrt(n); NaN where a run diverged."""
    values = list(values)
    mean, n = fmean(values), len(values)
    return Statistic(mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n) if n > 1 else None)


def lines(rows: list[Row]) -> list[Line]:
    """In the order of the paper's table."""
    table = []
    for method in ORDER:
        runs = [row for row in rows if row["method"] == method]
        if runs:
            columns = ("linear", "linear_best", "knn", "knn_best", "entropy_upper_nats", "rank_me", "seconds")
            table.append(Line(method, len(runs), *(statistic(run[name] for run in runs) for name in columns)))
    return table


def markdown(table: list[Line], description: str, pixels: float | None) -> str:
    """The table, and under it what a reader must know to read it."""
    seeds = sorted({line.seeds for line in table})
    heads = ["method", "linear %", "linear % (best)", "kNN %", "kNN % (best)", "entropy (nats)", "RankMe", "s"]
    text = [f"{description}; mean ± standard error of {' or '.join(map(str, seeds))} seed{'s' * (seeds[-1] > 1)}.", ""]
    text += ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for line in table:
        cells = [title(line.method), *(s.text(100) for s in line[2:6])]
        # the embeddings of an untrained backbone are its features, of another dimension: no entropy to compare
        cells += ["", ""] if line.method == UNTRAINED else [line.entropy_nats.text(digits=2), line.rank_me.text()]
        text.append("| " + " | ".join([*cells, f"{line.seconds.mean:.0f}"]) + " |")
    text += [
        "",
        f"Linear: logistic regression on frozen, standardised features (weight decay {PROBE_WEIGHT_DECAY:g}, L-BFGS). kNN: "
        f"{KNN_NEIGHBOURS} neighbours, cosine, temperature {KNN_TEMPERATURE:g}. Both are fitted on the training images and "
        "scored on the held-out ones, at the last epoch; (best) is the best epoch probed, chosen on the held-out images, hence "
        "optimistic. Entropy: pairwise (KL) bound for held-out embeddings on the unit sphere, each a Gaussian of standard "
        f"deviation {ENTROPY_BANDWIDTH:g}, in nats above that of one point: 0 at collapse, at most the logarithm of the "
        "number of images. RankMe: effective rank of the embeddings. s: seconds a run, probes included.",
    ]
    if pixels is not None:
        text[-1] += f" For scale: the same linear probe on the pixels themselves gives {100 * pixels:.1f} %."
    return "\n".join(text) + "\n"


def publish(records: Records, description: str, pixels: float | None) -> str:
    """Write `table1.md`, `table1.csv` and `table1.png`; returns the Markdown."""
    table = lines(records.rows)
    text = markdown(table, description, pixels)
    write(records.folder / "table1.md", text)
    fields = ["method", "title", "seeds"]
    flat = []
    for line in table:
        row: Row = {"method": line.method, "title": title(line.method), "seeds": line.seeds}
        for name, value in zip(line._fields[2:], line[2:], strict=True):
            row |= {name: value.mean, f"{name}_standard_error": value.error}
        flat.append(row)
    write_csv(records.folder / "table1.csv", fields + [name for name in flat[0] if name not in fields], flat)
    plot(records, table, description, records.folder / "table1.png")
    return text


def plot(records: Records, table: list[Line], description: str, path: Path) -> None:
    """Left: accuracy of every row, best at the top; right: entropy and effective rank along training."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.6), layout="constrained", dpi=150)
    bars, entropy, rank = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
    _draw_bars(bars, sorted(table, key=lambda line: line.linear.mean))
    trained = [line.method for line in table if line.method != UNTRAINED]
    colours = {name: colormaps["tab10"](ORDER.index(name) - 1) for name in trained}
    for axes, column, label in (
        (entropy, "entropy_upper_nats", "entropy of the embeddings (nats)"),
        (rank, "rank_me", "effective rank (RankMe)"),
    ):
        for method in trained:
            runs = [records.curve(method, row["seed"]) for row in records.rows if row["method"] == method]
            epochs = [point["epoch"] for point in min(runs, key=len)]
            means = [fmean(run[index][column] for run in runs) for index in range(len(epochs))]
            dashes = "--" if "+" in title(method) else "-"
            axes.plot(epochs, means, dashes, color=colours[method], label=title(method), linewidth=1.8)
        axes.set(xlabel="epoch", title=label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    if trained:
        figure.legend(*rank.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(description, fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write(path, buffer.getvalue())


def _draw_bars(axes, table: list[Line]) -> None:
    ours = {True: "#c8553d", False: "#35618f"}
    for height, line in enumerate(table):
        colour = "#9a9a9a" if line.method == UNTRAINED else ours["+" in title(line.method)]
        axes.barh(
            height,
            100 * line.linear.mean,
            xerr=100 * line.linear.error if line.linear.error else None,
            color=colour,
            height=0.62,
            capsize=3,
        )
        axes.plot(100 * line.knn.mean, height, "D", color="white", markeredgecolor="black", markersize=5)
        axes.text(101, height, line.linear.text(100), va="center", fontsize=9)
    axes.set_yticks(range(len(table)), [title(line.method) for line in table])
    axes.set(xlim=(0, 100), title="held-out accuracy (%): bar linear, diamond kNN")
    axes.spines[["top", "right"]].set_visible(False)
