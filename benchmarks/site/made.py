"""Generate the parts of pages between `<!-- made: name -->` and `<!-- /made -->` from the code or from recorded results.

`python -m benchmarks.site.made` writes the tables into the pages. Plots and calculator are only in the built site.
"""

import re
import sys
import textwrap
from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from benchmarks.pages import write
from benchmarks.site import calculator, plots, tables, training
from benchmarks.site.sources import ROOT

BLOCK = re.compile(r"<!-- made: (\S+) -->\n(.*?)<!-- /made -->", re.DOTALL)
WIDTH = 128


class Plot(NamedTuple):
    """The function that draws a plot, its alternative text, and its size in inches."""

    draw: Callable[[Figure], None]
    text: str
    size: tuple[float, float] = (5.6, 2.8)


PLOTS = {
    "beta": Plot(plots.beta, "Linear probe against beta of LogDet, for two laws of the entropy weight"),
    "spread-fraction": Plot(plots.spread_fraction, "Linear probe against the bandwidth of Pairwise"),
    "width": Plot(plots.width, "Linear probe against the dimension of the projection, for three objectives"),
    "byol-weight": Plot(plots.byol_weight, "Linear probe against the weight of an entropy beside BYOL"),
    "rate": Plot(plots.rate, "Linear probe against the learning rate, for three objectives"),
    "training": Plot(training.three_runs, "Six numbers along a healthy run and two that go wrong", (8.8, 4.4)),
}
#: name of a part -> function that returns it as Markdown, for pages in the repository
MADE: dict[str, Callable[[], str]] = {
    "accuracies": tables.accuracies,
    "choice": tables.choice,
    "choice-setting": tables.choice_setting,
    "conventions": calculator.conventions,
    "cost": tables.cost,
    "described-estimators": tables.described_estimators,
    "estimators": tables.estimators,
    "gains": tables.gains,
    "losses": tables.losses,
    "ranks": tables.ranks,
    "step": tables.step,
    "weights": tables.weights,
}
#: name of a part -> function that returns it as HTML, for the built site only
IN_THE_SITE: dict[str, Callable[[], str]] = {"calculator": calculator.calculator}


def written(markdown: str) -> str:
    """The text of a page in the repository, with its generated parts up to date."""

    def part(block: re.Match[str]) -> str:
        name = block[1]
        return f"<!-- made: {name} -->\n\n{_wrapped(MADE[name]())}\n\n<!-- /made -->" if name in MADE else block[0]

    return BLOCK.sub(part, markdown)


def filled(markdown: str) -> str:
    """The text of a page in the site, with plots and calculator; KeyError for a part that no function makes."""

    def part(block: re.Match[str]) -> str:
        name = block[1]
        return block[2].strip("\n") if name in MADE else _images(name) if name in PLOTS else IN_THE_SITE[name]()

    return BLOCK.sub(part, markdown)


def _wrapped(text: str) -> str:
    """The text with long lines broken, except in tables, headings and equations."""
    return "\n".join(line if line.startswith(("|", "#", " ")) else _broken(line) for line in text.split("\n"))


def _broken(line: str) -> str:
    indent = "  " * line.startswith("- ")
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _images(name: str) -> str:
    """The plot for light and for dark pages; the theme shows one of the two."""
    return "\n".join(f"![{PLOTS[name].text}](plots/{name}-{scheme}.svg#only-{scheme})" for scheme in plots.COLOURS)


def plot_files() -> dict[str, str]:
    """The plots: {path in the site: SVG}."""
    drawn = {name: plots.drawn(plot.draw, size=plot.size) for name, plot in PLOTS.items()}
    return {f"plots/{name}-{scheme}.svg": svg for name, schemes in drawn.items() for scheme, svg in schemes.items()}


def main() -> int:
    """Write the generated parts of the README and of the pages in docs/."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        before = path.read_text()
        if written(before) != before:
            write(path, written(before))
            print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
