"""`python -m benchmarks.table1.tuning`: the same search for each method, over learning rate and main constant."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.pages import notes, page, table, write
from benchmarks.statistics import statistic
from benchmarks.table1.cli import VALIDATION_SHARE, Options, describe, parse
from benchmarks.table1.launch import command_line, launch
from benchmarks.table1.recipes import RECIPES, Recipe, long_runs
from benchmarks.table1.records import Records

#: for all methods alike, and for those of a long run; with one more here, the same command makes the runs that are missing
LEARNING_RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
LONG_RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)
#: where each run takes minutes: an order of magnitude in three
FEW_RATES = (1e-3, 3e-3, 9e-3)
#: method -> its main constant, and the values tried: what an untuned table takes, once lower and once higher
CONSTANTS: dict[str, tuple[str, tuple[float, ...]]] = {
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
    "supervised": ("label_smoothing", (0.0, 0.1, 0.2)),
}
#: where a long run takes others
LONG_CONSTANTS = {"byol": ("momentum", (0.97, 0.99, 0.996))}


class Search(NamedTuple):
    """What is tried: learning rates for all methods, and for each method its main constant and the values of that."""

    rates: tuple[float, ...]
    constants: Mapping[str, tuple[str, tuple[float, ...]]]

    @classmethod
    def of(cls, *, long: bool, rates_only: bool) -> Search:
        """For a short or a long run; `rates_only` leaves each constant as it is in the table without a grid."""
        if rates_only:
            rows = long_runs("") if long else RECIPES
            return cls(FEW_RATES, {name: (own, (rows[name].arguments[own],)) for name, (own, _) in CONSTANTS.items()})
        return cls(LONG_RATES, CONSTANTS | LONG_CONSTANTS) if long else cls(LEARNING_RATES, CONSTANTS)


def searched(records: Records) -> Search:
    """What was tried for these rows."""
    return Search.of(**{name: bool(records.settings.get(name)) for name in ("long", "rates_only")})


def settings(methods: list[str], search: Search) -> dict[str, dict[str, Any]]:
    """Every setting by the name of its runs, as many for each method."""
    rates, constants = search
    return {
        f"{method}-rate{rate:g}-{constant}{value:g}": {"method": method, "constant": constant, "value": value, "rate": rate}
        for method, (constant, values) in constants.items()
        if method in methods
        for rate, value in product(rates, values)
    }


def grid(options: Options) -> dict[str, Recipe]:
    """The recipe of every setting."""
    tried = settings(options.methods, Search.of(long=options.long, rates_only=options.rates_only))
    return {
        name: _recipe(options.recipes, "the grid of benchmarks.table1.tuning", **setting) for name, setting in tried.items()
    }


def _recipe(rows: Mapping[str, Recipe], source: str, method: str, constant: str, value: float, rate: float) -> Recipe:
    title = f"{rows[method].title}, rate {rate:g}, {constant} {value:g}"
    return rows[method].varied(title, source, rate, **{constant: value})


def cells(records: Records) -> pd.DataFrame:
    """The settings that have runs, with the means of their scores and whether each is the best of its method.

    The best has the highest mean linear accuracy on validation images; ties go to higher kNN, then to the first.
    """
    found = []
    for name, setting in settings(list(CONSTANTS), searched(records)).items():
        runs = records.of(name)
        if runs:
            linear, knn = (statistic(run[score] for run in runs) for score in ("linear", "knn"))
            found.append(setting | {"seeds": len(runs), "linear": linear.mean, "knn": knn.mean, "text": linear.text(100)})
    if not found:
        raise ValueError("has no rows of a grid")
    frame = pd.DataFrame(found)
    ranked = frame.sort_values(["linear", "knn"], ascending=False, kind="stable").drop_duplicates("method")
    return frame.assign(best=frame.index.isin(ranked.index))


def chosen(rows: Mapping[str, Recipe], folder: Path) -> dict[str, Recipe]:
    """The rows at the best settings of a grid that was recorded in the folder.

    Raises:
        OSError, ValueError: the folder holds no grid, or none of some row.
    """
    best = {cell.method: cell for cell in cells(Records(folder)).query("best").itertuples()}
    missing = [name for name in rows if name not in best]
    if missing:
        raise ValueError(f"has no best setting of {', '.join(missing)}")
    source = f"best of the grid in {folder}"
    constants = {name: {best[name].constant: best[name].value} for name in rows}
    return {name: row.varied(row.title, source, best[name].rate, **constants[name]) for name, row in rows.items()}


def publish(records: Records, description: str, command: str) -> str:
    """Write `README.md`: a line for each method and value, the best in bold, and what was chosen; returns the Markdown."""
    found, (rates, constants) = cells(records), searched(records)
    found["text"] = found.text.mask(found.best, "**" + found.text + "**")
    seeds = " or ".join(map(str, sorted(set(found.seeds))))
    text = page(
        "An equal grid for every method",
        f"    {command}",
        notes(records.folder),
        f"{description}; commit {records.names('commit')}. Linear probe % on {VALIDATION_SHARE:.0%} of the training half, "
        "drawn by class with a fixed seed; networks and probes saw the rest of it, and nothing here saw the test half. Mean ± "
        f"standard error over seeds ({seeds} each) at the last epoch; in bold the best, of equals that with the higher kNN.",
        table((_line(*key, line, rates) for key, line in found.groupby(["method", "value"], sort=False)), left=2),
        "Chosen:",
        "\n".join(_choice(cell, rates, constants[cell.method][1]) for cell in found.query("best").itertuples()),
    )
    write(records.folder / "README.md", text)
    return text


def _line(method: str, value: float, line: pd.DataFrame, rates: tuple[float, ...]) -> dict[str, str]:
    texts = dict(zip(line.rate, line.text, strict=True))
    cells = {f"rate {rate:g}": texts.get(rate, "") for rate in rates}
    return {"method": RECIPES[method].title, "constant": f"{line.constant.iloc[0]} {value:g}", **cells}


def _choice(cell: Any, rates: tuple[float, ...], values: tuple[float, ...]) -> str:
    tried = {"rate": (cell.rate, rates), cell.constant: (cell.value, values)}
    edges = " and the ".join(name for name, (own, all_) in tried.items() if len(all_) > 1 and own in (all_[0], all_[-1]))
    at_edge = f"; the {edges} at the edge of the grid" if edges else ""
    setting = f"learning rate {cell.rate:g}, {cell.constant} {cell.value:g}, {cell.text.strip('*')} %"
    return f"- {RECIPES[cell.method].title}: {setting}{at_edge}"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 what was asked cannot be done, 130 stopped."""
    rates = f"{len(LEARNING_RATES)} learning rates by three values of its main constant"
    about = f"Give every method the same search: {rates}, scored on images held out of the training half."

    def read() -> Options:
        asked = parse(arguments, sweep="tuning", about=about, seeds=2)
        return asked.varied(grid(asked))

    command = command_line("table1.tuning", arguments)
    return launch(read, lambda records, options, images: publish(records, describe(options), command))


if __name__ == "__main__":
    sys.exit(main())
