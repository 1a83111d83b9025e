"""`python -m benchmarks.table1.tuning` searches learning rate and main constant of each method, on grids of equal size."""

import math
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.data import Images
from benchmarks.pages import filled, table
from benchmarks.table1.cli import Options, parse
from benchmarks.table1.launch import head, launch
from benchmarks.table1.recipes import RECIPES, Recipe
from benchmarks.table1.records import Records

#: learning rates of short and of long runs, for all methods. If you add a rate, the same command makes only the missing runs
LEARNING_RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
LONG_RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)
#: the learning rates of `--rates-only`, which is for networks whose runs take minutes. Transformers and ConvNeXts need lower
#: rates than ResNets
FEW_RATES = {"resnet": (1e-3, 3e-3, 9e-3), "other": (2e-4, 6e-4, 2e-3)}
#: method -> its main constant, and the values to try: the value before tuning, a lower and a higher one
CONSTANTS: dict[str, tuple[str, tuple[float, ...]]] = {
    "simclr": ("temperature", (0.1, 0.2, 0.4)),
    "barlow_twins": ("redundancy_weight", (1.25e-3, 5e-3, 2e-2)),
    "swav": ("temperature", (0.05, 0.1, 0.2)),
    "moco": ("temperature", (0.1, 0.2, 0.4)),
    "vicreg": ("covariance_weight", (0.25, 1.0, 4.0)),
    "byol": ("momentum", (0.8, 0.9, 0.97)),
    "vicreg_pairdist": ("spread_fraction", (0.1, 0.2, 0.4)),
    # beta is not searched: with the default weights, it mainly changes the scale of the embeddings
    "vicreg_logdet": ("entropy_weight", (100.0, 400.0, 1600.0)),
    "byol_pairdist": ("entropy_weight", (0.05, 0.2, 0.8)),
    "byol_logdet": ("entropy_weight", (0.05, 0.2, 0.8)),
    "supervised": ("label_smoothing", (0.0, 0.1, 0.2)),
}
#: other values to try in long runs
LONG_CONSTANTS = {"byol": ("momentum", (0.97, 0.99, 0.996))}
#: pattern of the names that `grid` gives to settings; names in `benchmarks.table1.entropies` have no constant
NAME = r"(?P<method>\w+)-rate(?P<rate>.+?)(?:-(?P<constant>[a-z_]+)(?P<value>.+))?"


def grid(options: Options) -> dict[str, Recipe]:
    """The recipes of the grid by name, equally many for each method. With `--rates-only`, only the learning rate varies."""
    rates, constants = (LONG_RATES, CONSTANTS | LONG_CONSTANTS) if options.long else (LEARNING_RATES, CONSTANTS)
    if options.rates_only:
        rates = FEW_RATES["resnet" if options.backbone.startswith("resnet") else "other"]
        constants = {name: (own, (options.recipes[name].arguments[own],)) for name, (own, _) in constants.items()}
    found = {}
    for method in (method for method in constants if method in options.methods):
        row, (constant, values) = options.recipes[method], constants[method]
        for rate, value in product(rates, values):
            title = f"{row.title}, rate {rate:g}, {constant} {value:g}"
            recipe = row.varied(title, "the grid of benchmarks.table1.tuning", rate, **{constant: value})
            found[f"{method}-rate{rate:g}-{constant}{value:g}"] = recipe
    return found


def cells(records: Records) -> pd.DataFrame:
    """A row for each setting with runs: its score, and whether it is the best of its method; ValueError if there are none."""
    names = sorted({row["method"] for row in records.rows})
    tried = pd.Series(names, names, dtype=str).str.extract(f"^{NAME}$").dropna(subset="method")
    tried = tried.astype({"rate": float, "value": float}).sort_values(["rate", "value"])
    if tried.empty:
        raise ValueError("contains no results of a search")
    best = [records.best(names) for names in tried.groupby("method").groups.values()]
    return tried.assign(text=[records.mean(name, "linear").text(100) for name in tried.index], best=tried.index.isin(best))


def chosen(rows: Mapping[str, Recipe], folder: Path) -> dict[str, Recipe]:
    """The recipes `rows` with the best settings of the search in the folder; ValueError if a method has none there."""
    best = {cell.method: cell for cell in cells(Records(folder)).query("best").itertuples()}
    if missing := [name for name in rows if name not in best]:
        raise ValueError(f"has no results for {', '.join(missing)}")
    constants = {name: {cell.constant: cell.value} for name, cell in best.items() if isinstance(cell.constant, str)}
    return {
        name: row.varied(row.title, f"best of the grid in {folder}", best[name].rate, **constants.get(name, {}))
        for name, row in rows.items()
    }


def grid_table(found: pd.DataFrame, rows: Mapping[str, Recipe]) -> str:
    """A line for each method and value, with a column for each rate; the best of each method is bold."""
    shown = found.assign(text=found.text.mask(found.best, "**" + found.text + "**"))
    lines = []
    for name, row in rows.items():
        for value, line in shown[shown.method == name].groupby("value", dropna=False):
            setting = {} if math.isnan(value) else {"setting": f"{line.constant.iloc[0]} {value:g}"}
            texts = {f"learning rate {cell.rate:g}": cell.text for cell in line.itertuples()}
            lines.append({"method": row.title} | setting | texts)
    return table(lines, left=2 if "setting" in lines[0] else 1)


def page_of(records: Records, options: Options, images: Images) -> str:
    found = cells(records)
    rows = {name: RECIPES[name] for name in CONSTANTS if name in set(found.method)}
    best = {cell.method: cell for cell in found.query("best").itertuples()}
    said = {"grid": grid_table(found, rows), "chosen": "\n".join(_choice(best[name], found) for name in rows)}
    return filled(__file__, **head(records, options), **said)


def _choice(cell: Any, found: pd.DataFrame) -> str:
    tried = {"learning rate": (cell.rate, found.rate), cell.constant: (cell.value, found.value[found.method == cell.method])}
    edges = [name for name, (own, values) in tried.items() if own in (values.min(), values.max()) and values.nunique() > 1]
    verb = "is" if len(edges) == 1 else "are"
    at_edge = f"; the chosen {' and '.join(edges)} {verb} at the edge of the grid" if edges else ""
    setting = f"learning rate {cell.rate:g}, {cell.constant} {cell.value:g}"
    return f"- {RECIPES[cell.method].title}: {setting}, {cell.text} %{at_edge}"


def main(arguments: list[str] | None = None) -> int:
    rates = f"{len(LEARNING_RATES)} learning rates by three values of its main constant"
    about = f"Give every method the same search: {rates}, scored on images held out of the training half."
    return launch(lambda: parse(arguments, sweep="tuning", about=about, seeds=2).varied(grid), page_of)


if __name__ == "__main__":
    sys.exit(main())
