"""`python -m benchmarks.table1.tuning`: the same search for each method, over learning rate and main constant."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.data import Images
from benchmarks.pages import filled, notes, table
from benchmarks.table1.cli import Options, parse
from benchmarks.table1.launch import head, launch
from benchmarks.table1.recipes import RECIPES, Recipe, long_runs
from benchmarks.table1.records import Records

#: learning rates for all methods, of a short and of a long run; if you add one, the same command makes the missing runs
LEARNING_RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
LONG_RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)
#: learning rates where each run takes minutes, an order of magnitude in three values, by the backbone's family: transformers
#: and ConvNeXts like them, train at lower ones
FEW_RATES = {"resnet": (1e-3, 3e-3, 9e-3), "": (2e-4, 6e-4, 2e-3)}
#: method -> its main constant, and the values tried: a lower one, that of the untuned table, and a higher one
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
#: data set -> its name on the page, where they differ
NAMES = {"fashion_mnist": "Fashion-MNIST"}
#: the constants that differ for a long run
LONG_CONSTANTS = {"byol": ("momentum", (0.97, 0.99, 0.996))}


class Search(NamedTuple):
    """The values that a search tries: learning rates for all methods, and values of the main constant of each."""

    rates: tuple[float, ...]
    constants: Mapping[str, tuple[str, tuple[float, ...]]]

    @classmethod
    def of(cls, *, long: bool, rates_only: bool, backbone: str) -> Search:
        """The search for a short or a long run; `rates_only` keeps each constant of the untuned table."""
        if rates_only:
            rows = long_runs("") if long else RECIPES
            rates = next(rates for family, rates in FEW_RATES.items() if backbone.startswith(family))
            return cls(rates, {name: (own, (rows[name].arguments[own],)) for name, (own, _) in CONSTANTS.items()})
        return cls(LONG_RATES, CONSTANTS | LONG_CONSTANTS) if long else cls(LEARNING_RATES, CONSTANTS)


def searched(records: Records) -> Search:
    """The search of these rows."""
    flags = {name: bool(records.settings.get(name)) for name in ("long", "rates_only")}
    return Search.of(**flags, backbone=str(records.settings.get("backbone")))


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
    tried = settings(options.methods, Search.of(long=options.long, rates_only=options.rates_only, backbone=options.backbone))

    def recipe(method: str, constant: str, value: float, rate: float) -> Recipe:
        row = options.recipes[method]
        title = f"{row.title}, rate {rate:g}, {constant} {value:g}"
        return row.varied(title, "the grid of benchmarks.table1.tuning", rate, **{constant: value})

    return {name: recipe(**setting) for name, setting in tried.items()}


def cells(records: Records) -> pd.DataFrame:
    """The settings that have runs by their names, with their scores and whether each is the best of its method."""
    tried = pd.DataFrame(settings(list(CONSTANTS), searched(records))).T
    tried = tried[[bool(records.of(name)) for name in tried.index]]
    if tried.empty:
        raise ValueError("has no rows of a grid")
    best = [records.best(names) for names in tried.groupby("method").groups.values()]
    texts = [records.mean(name, "linear").text(100) for name in tried.index]
    seeds = [len(records.of(name)) for name in tried.index]
    return tried.assign(text=texts, seeds=seeds, best=tried.index.isin(best))


def chosen(rows: Mapping[str, Recipe], folder: Path) -> dict[str, Recipe]:
    """The rows at the best settings of a grid that was recorded in the folder.

    Raises:
        OSError, ValueError: the folder holds no grid, or none of some row.
    """
    best = {cell.method: cell for cell in cells(Records(folder)).query("best").itertuples()}
    missing = [name for name in rows if name not in best]
    if missing:
        raise ValueError(f"has no best setting of {', '.join(missing)}")

    def at_best(row: Recipe, cell: Any) -> Recipe:
        return row.varied(row.title, f"best of the grid in {folder}", cell.rate, **{cell.constant: cell.value})

    return {name: at_best(row, best[name]) for name, row in rows.items()}


def page_of(records: Records, options: Options, images: Images) -> str:
    """A row for each method and value, with the best in bold, and the chosen settings."""
    found, (rates, constants) = cells(records), searched(records)
    found["text"] = found.text.mask(found.best, "**" + found.text + "**")
    seeds = sorted(set(found.seeds))
    return filled(
        __file__,
        **head(records, options),
        dataset=NAMES.get(options.dataset, options.dataset),
        # a ResNet is the usual network
        network="" if options.backbone.startswith("resnet") else f", {options.backbone}",
        notes=notes(records.folder),
        over=f"mean ± standard error of {' or '.join(map(str, seeds))} seeds" if seeds[-1] > 1 else "accuracy of one seed",
        grid=table((_line(*key, line, rates) for key, line in found.groupby(["method", "value"], sort=False)), left=2),
        chosen="\n".join(_choice(cell, rates, constants[cell.method][1]) for cell in found.query("best").itertuples()),
    )


def _line(method: str, value: float, line: pd.DataFrame, rates: tuple[float, ...]) -> dict[str, str]:
    texts = dict(zip(line.rate, line.text, strict=True))
    cells = {f"learning rate {rate:g}": texts.get(rate, "") for rate in rates}
    return {"method": RECIPES[method].title, "setting": f"{line.constant.iloc[0]} {value:g}", **cells}


def _choice(cell: Any, rates: tuple[float, ...], values: tuple[float, ...]) -> str:
    tried = {"learning rate": (cell.rate, rates), cell.constant: (cell.value, values)}
    edges = [name for name, (own, all_) in tried.items() if len(all_) > 1 and own in (all_[0], all_[-1])]
    at_edge = (
        f"; the chosen {' and '.join(edges)} {'is' if len(edges) == 1 else 'are'} at the edge of the grid" if edges else ""
    )
    setting = f"learning rate {cell.rate:g}, {cell.constant} {cell.value:g}, {cell.text.strip('*')} %"
    return f"- {RECIPES[cell.method].title}: {setting}{at_edge}"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 what was asked cannot be done, 130 stopped."""
    rates = f"{len(LEARNING_RATES)} learning rates by three values of its main constant"
    about = f"Give every method the same search: {rates}, scored on images held out of the training half."

    def read() -> Options:
        asked = parse(arguments, sweep="tuning", about=about, seeds=2)
        return asked.varied(grid(asked))

    return launch(read, page_of)


if __name__ == "__main__":
    sys.exit(main())
