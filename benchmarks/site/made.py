"""The parts of a page that are made: `<!-- made: name -->` to `<!-- /made -->` is replaced when the site is built."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from benchmarks.site import calculator, plots, tables, training

BLOCK = re.compile(r"<!-- made: (\S+) -->.*?<!-- /made -->", re.DOTALL)


class Plot(NamedTuple):
    """A plot, its text for readers who cannot see it, and its size in inches."""

    draw: Callable[[Figure], None]
    text: str
    size: tuple[float, float] = (5.6, 2.8)


PLOTS = {
    "beta": Plot(plots.beta, "Linear probe against beta of LogDet, for two laws of the entropy weight"),
    "spread-fraction": Plot(plots.spread_fraction, "Linear probe against the bandwidth of Pairwise"),
    "width": Plot(plots.width, "Linear probe against the dimension of the projection, for three objectives"),
    "byol-weight": Plot(plots.byol_weight, "Linear probe against the weight of an entropy beside BYOL"),
    "rate": Plot(plots.rate, "Linear probe against the learning rate, for three objectives"),
    "training": Plot(training.healthy_and_collapsing, "Four numbers along a healthy and a collapsing run", (5.6, 4.2)),
}
#: name -> function that writes that part as Markdown
MADE: dict[str, Callable[[], str]] = {
    "calculator": calculator.calculator,
    "choice": tables.choice,
    "choice-setting": tables.choice_setting,
    "conventions": calculator.conventions,
    "cost": tables.cost,
    "described-estimators": tables.described_estimators,
    "estimators": tables.estimators,
    "ranks": tables.ranks,
    "step": tables.step,
    "weights": tables.weights,
}


def filled(markdown: str) -> str:
    """The page with every made part in its place; KeyError for a name that nothing makes."""
    return BLOCK.sub(lambda block: _images(block[1]) if block[1] in PLOTS else MADE[block[1]](), markdown)


def _images(name: str) -> str:
    """The plot for light and for dark pages; the theme shows one of the two."""
    return "\n".join(f"![{PLOTS[name].text}](plots/{name}-{scheme}.svg#only-{scheme})" for scheme in plots.COLOURS)


def plot_files() -> dict[str, str]:
    """{path in the site: SVG}."""
    drawn = {name: plots.drawn(plot.draw, size=plot.size) for name, plot in PLOTS.items()}
    return {f"plots/{name}-{scheme}.svg": svg for name, schemes in drawn.items() for scheme, svg in schemes.items()}
