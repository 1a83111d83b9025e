"""`python -m benchmarks.table1`: pre-train, evaluate and compare every method of Table 1 on real images.

It writes a page and a plot of all finished runs in the output folder.
"""

import sys
from statistics import fmean
from typing import Any

from benchmarks.data import Images
from benchmarks.pages import figure, filled, table
from benchmarks.probes import Features, knn_accuracy, linear_accuracy
from benchmarks.statistics import Difference
from benchmarks.table1.cli import Options, parse
from benchmarks.table1.launch import head, launch
from benchmarks.table1.pretrain import ENTROPY_BANDWIDTH
from benchmarks.table1.recipes import BASES, ORDER, PROBE, RECIPES, SUPERVISED, UNTRAINED, title
from benchmarks.table1.records import Records

#: the rows without a self-supervised loss and without a projector
REFERENCES = (UNTRAINED, SUPERVISED)
#: raw pixels are not probed if the training images have more pixel values than this
LARGEST_PIXEL_PROBE = 100_000_000


def page_of(records: Records, options: Options, images: Images) -> str:
    """The page of Table 1. Its plot is written to `table1.png`."""
    _plot(records, options.describe())
    gaps = records.compared(BASES, "linear")
    lines = [*_pixels(images), *(_line(records, method, gaps) for method in _methods(records))]
    said = {"table": table(lines), "devices": records.names("device"), "findings": records.findings(BASES, RECIPES)}
    return filled(__file__, **head(records, options), **said, probe=PROBE, bandwidth=ENTROPY_BANDWIDTH)


def _methods(records: Records) -> list[str]:
    """The methods that have runs, in the order of the table."""
    return list(filter(records.of, ORDER))


def _pixels(images: Images) -> list[dict[str, str]]:
    """The row of the probes on raw pixels; no row if the probes would take long."""
    if images.train.numel() > LARGEST_PIXEL_PROBE:
        return []
    train, test = (half.float().flatten(1) / 255 for half in (images.train, images.test))
    pixels = Features(train, images.train_labels, test, images.test_labels, images.classes)
    linear, knn = linear_accuracy(pixels), knn_accuracy(pixels)
    return [{"method": "pixels", "linear %": f"{100 * linear:.1f}", "kNN %": f"{100 * knn:.1f}"}]


def _line(records: Records, method: str, gaps: dict[str, Difference]) -> dict[str, str]:
    line = {"method": title(method)} | records.cells(method, gaps)
    line |= {f"{probe} % (best)": records.mean(method, f"{probe.lower()}_best").text(100) for probe in ("linear", "kNN")}
    if method not in REFERENCES:
        # the references have no projector, and entropies in another dimension cannot be compared
        line["entropy (nats)"] = records.mean(method, "entropy_upper_nats").text(digits=2)
        line["RankMe"] = records.mean(method, "rank_me").text()
    return line | {"s": f"{records.mean(method, 'seconds').mean:.0f}"}


def _plot(records: Records, description: str) -> None:
    """Plot the accuracy of every method, best at the top, and entropy and effective rank during training."""
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
        epochs = zip(*(row["curve"] for row in records.of(method)), strict=True)
        means = {points[0]["epoch"]: fmean(point[column] for point in points) for points in epochs}
        dashes, colour = "--" if method in BASES else "-", colormaps["tab10"](ORDER.index(method) - 1)
        axes.plot(list(means), list(means.values()), dashes, color=colour, label=title(method), linewidth=1.8)
    axes.set(xlabel="epoch", title=label)
    axes.grid(alpha=0.25)


def main(arguments: list[str] | None = None) -> int:
    return launch(lambda: parse(arguments), page_of)


if __name__ == "__main__":
    sys.exit(main())
