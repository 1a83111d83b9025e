"""Make the page of Table 1 in Markdown, with its verdicts and a plot, from the rows on disk."""

from __future__ import annotations

from math import isnan
from statistics import fmean
from typing import Any

from benchmarks.data import Images
from benchmarks.pages import figure, notes, page, table
from benchmarks.probes import KNN_NEIGHBOURS, KNN_TEMPERATURE, PROBE_WEIGHT_DECAY
from benchmarks.statistics import LEVEL, Difference, holm, paired_difference
from benchmarks.table1.cli import Options, describe
from benchmarks.table1.pretrain import ENTROPY_BANDWIDTH
from benchmarks.table1.recipes import BASES, RECIPES, SUPERVISED, UNTRAINED, title
from benchmarks.table1.records import Records
from benchmarks.table1.runs import pixel_scores

#: the rows without a self-supervised loss, whose features are their embeddings
REFERENCES = (UNTRAINED, SUPERVISED)
ORDER = [UNTRAINED, *RECIPES]
NOTE = (
    "The linear probe is a logistic regression on frozen, standardised features (weight decay "
    f"{PROBE_WEIGHT_DECAY:g}, L-BFGS). The kNN probe takes {KNN_NEIGHBOURS} neighbours by cosine similarity, with temperature "
    f"{KNN_TEMPERATURE:g}. Both are fitted on the training images and scored on the held-out ones at the last epoch. The "
    "columns (best) have the best epoch that was probed. It is chosen on the held-out images, so these columns are optimistic. "
    "The entropy is the pairwise (KL) bound of the held-out embeddings on the unit sphere, where each is the centre of a "
    f"Gaussian of standard deviation {ENTROPY_BANDWIDTH:g}. It is in nats relative to one point: 0 at collapse, and at most "
    "the logarithm of the number of images. RankMe is the effective rank of the embeddings. The column s has the seconds of a "
    "run with its probes."
)
VERDICTS = (
    "Do the entropies help? Each row is compared with its base at the same seeds, because a seed gives both the same initial "
    f"weights and the same images in the same order. A difference is significant if p < {LEVEL:g} in Student's paired test, "
    "after Holm's correction for the number of rows. The differences have their standard errors:"
)


def page_of(records: Records, options: Options, images: Images) -> str:
    """The page of Table 1; writes its `table1.png`."""
    plot(records, describe(options))
    seeds = sorted({len(records.of(method)) for method in _methods(records)})
    over = f"mean ± standard error of {' or '.join(map(str, seeds))} seeds" if seeds[-1] > 1 else "one seed"
    origin = f"{records.names('device')}, commit {records.names('commit')}"
    return page(
        f"Table 1: {records.settings['dataset']}, {records.settings['backbone']}",
        f"    {options.command}",
        notes(records.folder),
        f"{describe(options)}; {origin}; {over}.",
        "![Table 1](table1.png)",
        table([*_pixels(images), *(_line(records, method) for method in _methods(records))]),
        NOTE,
        VERDICTS,
        "\n".join(compared(records) or ["- No row with an entropy can be compared yet, because its base has no runs."]),
    )


def compared(records: Records) -> list[str]:
    """A sentence for each row with an entropy that compares it with its base."""
    seeds = {name: {row["seed"] for row in records.of(name)} for name in {*BASES, *BASES.values()}}
    pairs = [(name, base) for name, base in BASES.items() if seeds[name] & seeds[base]]
    linear, knn = (_differences(records, pairs, score) for score in ("linear", "knn"))
    return [
        f"- {title(name)} against {title(base)}. Linear probe: it {_in_words(a)}. kNN probe: it {_in_words(b)}."
        for (name, base), a, b in zip(pairs, linear, knn, strict=True)
    ]


def _differences(records: Records, pairs: list[tuple[str, str]], score: str) -> list[Difference]:
    """Each row minus its base at their common seeds; p-values corrected for the number of pairs."""
    gaps = []
    for pair in pairs:
        row, base = ({run["seed"]: run[score] for run in records.of(method)} for method in pair)
        seeds = sorted(row.keys() & base.keys())
        gaps.append(paired_difference([row[seed] for seed in seeds], [base[seed] for seed in seeds]))
    corrected = holm([gap.p_value for gap in gaps])
    return [gap._replace(p_value=p) for gap, p in zip(gaps, corrected, strict=True)]


def _in_words(gap: Difference) -> str:
    chance = ", p < 0.001" if gap.p_value < 0.001 else "" if isnan(gap.p_value) else f", p = {gap.p_value:.2g}"
    return f"{gap.verdict} ({gap.text()} points{chance})"


def _methods(records: Records) -> list[str]:
    """The methods that have runs, in the order of the paper's table."""
    return [method for method in ORDER if records.of(method)]


def _pixels(images: Images) -> list[dict[str, str]]:
    """The row of the probes on the images themselves; none where they would take long."""
    scores = pixel_scores(images)
    return [{"method": "pixels"} | {f"{probe} %": f"{100 * score:.1f}" for probe, score in scores.items()}] if scores else []


def _line(records: Records, method: str) -> dict[str, str]:
    shares = {"linear %": "linear", "linear % (best)": "linear_best", "kNN %": "knn", "kNN % (best)": "knn_best"}
    cells = {head: records.mean(method, column).text(100) for head, column in shares.items()}
    # features have another dimension than embeddings: no entropy to compare
    entropy, rank = (records.mean(method, column) for column in ("entropy_upper_nats", "rank_me"))
    embeddings = ("", "") if method in REFERENCES else (entropy.text(digits=2), rank.text())
    seconds = f"{records.mean(method, 'seconds').mean:.0f}"
    return {"method": title(method), **cells, "entropy (nats)": embeddings[0], "RankMe": embeddings[1], "s": seconds}


def plot(records: Records, description: str) -> None:
    """Left: accuracy of every row, best at the top; right: entropy and effective rank along training."""
    with figure(records.folder / "table1.png", size=(13, 5.6)) as drawn:
        bars, entropy, rank = drawn.subplots(1, 3, width_ratios=[1.5, 1, 1])
        _draw_bars(bars, records)
        _draw_curves(entropy, records, "entropy_upper_nats", "entropy of the embeddings (nats)")
        _draw_curves(rank, records, "rank_me", "effective rank (RankMe)")
        for axes in (bars, entropy, rank):
            axes.spines[["top", "right"]].set_visible(False)
        if len(_methods(records)) > 1:
            drawn.legend(*rank.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        drawn.suptitle(description, fontsize=11)


def _draw_bars(axes: Any, records: Records) -> None:
    methods = sorted(_methods(records), key=lambda method: records.mean(method, "linear").mean)
    for height, method in enumerate(methods):
        linear, knn = (records.mean(method, column) for column in ("linear", "knn"))
        colour = "#9a9a9a" if method in REFERENCES else "#c8553d" if method in BASES else "#35618f"
        error = 100 * linear.error if linear.error > 0 else None
        axes.barh(height, 100 * linear.mean, xerr=error, color=colour, height=0.62, capsize=3)
        axes.plot(100 * knn.mean, height, "D", color="white", markeredgecolor="black", markersize=5)
        axes.text(101, height, linear.text(100), va="center", fontsize=9)
    axes.set_yticks(range(len(methods)), map(title, methods))
    axes.set(xlim=(0, 100), title="held-out accuracy (%): bar linear, diamond kNN")


def _draw_curves(axes: Any, records: Records, column: str, label: str) -> None:
    from matplotlib import colormaps

    for method in (method for method in _methods(records) if method not in REFERENCES):
        runs = [records.curve(method, row["seed"]) for row in records.of(method)]
        epochs = [point["epoch"] for point in min(runs, key=len)]
        means = [fmean(run[index][column] for run in runs) for index in range(len(epochs))]
        dashes, colour = "--" if method in BASES else "-", colormaps["tab10"](ORDER.index(method) - 1)
        axes.plot(epochs, means, dashes, color=colour, label=title(method), linewidth=1.8)
    axes.set(xlabel="epoch", title=label)
    axes.grid(alpha=0.25)
