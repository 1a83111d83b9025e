"""The plots of the page on tuning, from the recorded ablations and the recorded search for settings."""

import io
import math
from collections.abc import Callable

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.site.rows import changed, folder, records, score
from benchmarks.statistics import Statistic
from benchmarks.table1 import tuning

#: colours of text and lines on a light and on a dark page
COLOURS = {"light": "#333333", "dark": "#d0d0d0"}
#: colours of lines, which colour-blind readers can distinguish on both backgrounds
CYCLE = ["#2a78d6", "#e07b00", "#2f9e5f", "#b84fb0", "#c23b3b", "#7f7f7f"]
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "it-losses",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
}
COLOURED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")

#: method of Table 1 -> name of its line in the plots
ROWS = {"vicreg": "VICReg", "vicreg_logdet": "log_det", "vicreg_pairdist": "pairwise"}


def drawn(draw: Callable[[Figure], None], *, size: tuple[float, float]) -> dict[str, str]:
    """The plot for light and for dark pages: {"light" or "dark": SVG}."""
    found = {}
    for scheme, colour in COLOURS.items():
        with matplotlib.rc_context(STYLE | dict.fromkeys(COLOURED, colour)):
            figure, file = Figure(figsize=size, layout="constrained"), io.StringIO()
            draw(figure)
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
            found[scheme] = file.getvalue()
    return found


def probed(figure: Figure, label: str, curves: dict[str, dict[float, Statistic]], *, log: int | None = 10) -> Axes:
    """Plot the linear probe against a setting: a line for each name, and a tick at each value that was tried."""
    axes = figure.add_subplot(xlabel=label, ylabel="linear probe, %")
    for name, points in curves.items():
        x = sorted(points)
        means, errors = zip(*(points[value] for value in x), strict=True)
        axes.errorbar(x, means, errors, marker="o", markersize=4, capsize=3, linewidth=1.4, label=name)
    if log:
        axes.set_xscale("log", base=log)
    axes.set_xticks(sorted({value for points in curves.values() for value in points}), minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False)
    return axes


def ablated(base: str, option: str, usual: float) -> dict[float, Statistic]:
    """{value of the option: score} of the base, whose value is `usual`, and of the ablations that change only this option."""
    path = folder("ablations")
    return {run.get(option, usual): score(path, name) for name, run in changed(path, base, {option}).items()}


def beta(figure: Figure) -> None:
    """Plot the linear probe against beta, with a fixed entropy weight and with a weight in proportion to 1 / beta."""
    path = folder("ablations")
    runs = changed(path, "vicreg_logdet", {"beta", "entropy_weight"})

    def by(law: Callable[[float], float]) -> dict[float, Statistic]:
        tried = {name: (run.get("beta", 1.0), run["entropy_weight"]) for name, run in runs.items()}
        return {beta: score(path, name) for name, (beta, weight) in tried.items() if math.isclose(weight, law(beta))}

    curves = {"entropy weight 400": by(lambda beta: 400.0), "entropy weight 400 / beta": by(lambda beta: 400.0 / beta)}
    probed(figure, "beta of LogDet", curves)


def spread_fraction(figure: Figure) -> None:
    """Plot the linear probe against the bandwidth of Pairwise."""
    points = ablated("vicreg_pairdist", "spread_fraction", 0.2)
    probed(figure, "spread_fraction of Pairwise", {'VICRegEntropy("pairwise")': points}, log=None)


def width(figure: Figure) -> None:
    """Plot the linear probe against the dimension of the projection."""
    probed(figure, "dimensions of the projection", {name: ablated(row, "output", 512) for row, name in ROWS.items()}, log=2)


def byol_weight(figure: Figure) -> None:
    """Plot the linear probe against the weight of an entropy that is added to BYOL."""
    rows = {"pairwise": ("byol_pairdist", 0.05), "log_det": ("byol_logdet", 0.8)}
    curves = {name: ablated(row, "entropy_weight", usual) for name, (row, usual) in rows.items()}
    axes = probed(figure, "weight of the entropy beside BYOL", curves)
    alone = score(folder("ablations"), "byol")
    axes.axhline(alone.mean, linestyle="--", linewidth=1, color=CYCLE[-1], label="BYOL")
    axes.legend(frameon=False)


def rate(figure: Figure) -> None:
    """Plot the linear probe against the learning rate. Each method has the main constant that the search chose."""
    probed(figure, "learning rate of AdamW", {name: _searched(row) for row, name in ROWS.items()})


def _searched(method: str) -> dict[float, Statistic]:
    path = folder("tuning", "digits")
    tried = tuning.cells(records(path)).query("method == @method")
    value = tried.query("best").value.iloc[0]
    return {cell.rate: score(path, cell.Index) for cell in tried[tried.value == value].itertuples()}
