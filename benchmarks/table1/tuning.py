"""`python -m benchmarks.table1.tuning`: the same search for each method, over learning rate and main constant."""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.table1.cli import Options, describe
from benchmarks.table1.recipes import RECIPES, Recipe
from benchmarks.table1.report import Statistic, statistic
from benchmarks.table1.rows import Records, write, write_csv
from benchmarks.table1.sweep import VALIDATION_SHARE, sweep

#: for all methods alike, and for those of a long run; with one more here, the same command makes the runs that are missing
LEARNING_RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
LONG_RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)
#: method -> its main constant, and the values tried: what an untuned table takes, once lower and once higher
CONSTANTS: dict[str, tuple[str, tuple[float, float, float]]] = {
    "simclr": ("temperature", (0.1, 0.2, 0.4)),
    "barlow_twins": ("redundancy_weight", (1.25e-3, 5e-3, 2e-2)),
    "swav": ("temperature", (0.05, 0.1, 0.2)),
    "moco": ("temperature", (0.1, 0.2, 0.4)),
    "vicreg": ("covariance_weight", (0.25, 1.0, 4.0)),
    "byol": ("momentum", (0.8, 0.9, 0.97)),
    "vicreg_pairdist": ("spread_fraction", (0.1, 0.2, 0.4)),
    # beta would only change the scale: the default weights follow it
    "vicreg_logdet": ("entropy_weight", (100.0, 400.0, 1600.0)),
    "byol_pairdist": ("entropy_weight", (0.05, 0.2, 0.8)),
    "byol_logdet": ("entropy_weight", (0.05, 0.2, 0.8)),
}
#: where a long run takes others
LONG_CONSTANTS = {"byol": ("momentum", (0.97, 0.99, 0.996))}


class Search(NamedTuple):
    """What is tried: learning rates, and of each method its main constant."""

    rates: tuple[float, ...]
    constants: Mapping[str, tuple[str, tuple[float, ...]]]

    def settings(self, method: str) -> list[tuple[str, float, float]]:
        """Every pair of a rate and a value of the constant."""
        return [(method, rate, value) for rate, value in itertools.product(self.rates, self.constants[method][1])]

    def name(self, method: str, rate: float, value: float) -> str:
        """The name of a run with that setting."""
        return f"{method}-rate{rate:g}-{self.constants[method][0]}{value:g}"

    def varied(self, recipe: Recipe, method: str, rate: float, value: float) -> Recipe:
        """The row with that setting."""
        constant = self.constants[method][0]
        title = f"{recipe.title}, rate {rate:g}, {constant} {value:g}"
        return recipe.varied(title, "the grid of benchmarks.table1.tuning", rate, **{constant: value})


def search(options: Options) -> Search:
    """The grid of a short or of a long run."""
    return Search(LONG_RATES, CONSTANTS | LONG_CONSTANTS) if options.long else Search(LEARNING_RATES, CONSTANTS)


class Cell(NamedTuple):
    """One setting of one method, all its seeds."""

    method: str
    constant: str
    value: float
    learning_rate: float
    seeds: int
    linear: Statistic
    knn: Statistic


def grid(options: Options) -> dict[str, Recipe]:
    """As many settings for each method: name -> recipe."""
    tried, rows = search(options), options.recipes
    settings = itertools.chain.from_iterable(map(tried.settings, options.methods))
    return {tried.name(*setting): tried.varied(rows[setting[0]], *setting) for setting in settings}


def cells(records: Records, tried: Search) -> list[Cell]:
    """The settings that have runs."""
    found = []
    for method, rate, value in itertools.chain.from_iterable(map(tried.settings, tried.constants)):
        runs = [row for row in records.rows if row["method"] == tried.name(method, rate, value)]
        if runs:
            scores = (statistic(run[score] for run in runs) for score in ("linear", "knn"))
            found.append(Cell(method, tried.constants[method][0], value, rate, len(runs), *scores))
    return found


def best(found: list[Cell], method: str) -> Cell:
    """The setting of highest mean linear accuracy on validation images; ties go to higher kNN, then to the first."""
    return max((cell for cell in found if cell.method == method), key=lambda cell: (cell.linear.mean, cell.knn.mean))


def markdown(found: list[Cell], tried: Search, description: str, commits: str, command: str) -> str:
    """A table of methods and settings, the best of each in bold; then what was chosen, and whether at the grid's edge."""
    methods = list(dict.fromkeys(cell.method for cell in found))
    chosen = {method: best(found, method) for method in methods}
    text = [
        "# An equal grid for every method",
        "",
        f"    {command}",
        "",
        f"{description}; commit {commits}. Linear probe % on {VALIDATION_SHARE:.0%} of the training half, drawn by class with "
        f"a fixed seed; networks and probes saw the rest of it, and nothing here saw the test half. Mean ± standard error over "
        f"seeds ({' or '.join(map(str, sorted({cell.seeds for cell in found})))} each) at the last epoch; in bold the best, of "
        "equals that with the higher kNN.",
        "",
        "| method | constant | " + " | ".join(f"rate {rate:g}" for rate in tried.rates) + " |",
        "|---|---|" + "---:|" * len(tried.rates),
    ]
    lines: dict[tuple[str, float], dict[float, Cell]] = defaultdict(dict)
    for cell in found:
        lines[cell.method, cell.value][cell.learning_rate] = cell
    for (method, value), line in lines.items():
        texts = [_text(line.get(rate), chosen[method]) for rate in tried.rates]
        text.append(f"| {RECIPES[method].title} | {tried.constants[method][0]} {value:g} | " + " | ".join(texts) + " |")
    text += ["", "Chosen:", ""]
    for cell in chosen.values():
        values = tried.constants[cell.method][1]
        edges = [
            name
            for name, value, span in (("rate", cell.learning_rate, tried.rates), (cell.constant, cell.value, values))
            if value in (span[0], span[-1])
        ]
        at_edge = f"; the {' and the '.join(edges)} at the edge of the grid" if edges else ""
        text.append(
            f"- {RECIPES[cell.method].title}: learning rate {cell.learning_rate:g}, {cell.constant} {cell.value:g}, "
            f"{cell.linear.text(100)} %{at_edge}"
        )
    return "\n".join(text) + "\n"


def publish(records: Records, options: Options, command: str) -> str:
    """Write `README.md` and `tuning.csv`; returns the Markdown."""
    tried = search(options)
    found = cells(records, tried)
    commits = ", ".join(sorted({str(row["commit"]) for row in records.rows}))
    text = markdown(found, tried, describe(options), commits, command)
    write(records.folder / "README.md", text)
    rows = [
        cell._asdict()
        | {name: getattr(cell, name).mean for name in ("linear", "knn")}
        | {f"{name}_standard_error": getattr(cell, name).error for name in ("linear", "knn")}
        | {"best": cell == best(found, cell.method)}
        for cell in found
    ]
    write_csv(records.folder / "tuning.csv", list(rows[0]), rows)
    return text


def _text(cell: Cell | None, chosen: Cell) -> str:
    if cell is None:
        return ""
    return f"**{cell.linear.text(100)}**" if cell is chosen else cell.linear.text(100)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 what was asked cannot be done, 130 stopped."""
    return sweep(
        "tuning",
        f"Give every method the same search: {len(LEARNING_RATES)} learning rates by three values of its main constant, scored "
        "on images held out of the training half.",
        arguments,
        seeds=2,
        variants=grid,
        publish=publish,
    )


if __name__ == "__main__":
    sys.exit(main())
