"""`python -m benchmarks.table1.entropies` compares every estimator at its default weights with VICReg, SimCLR and BYOL.

Each objective is tried at three learning rates on validation images, and then trained with every seed at its best rate.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.data import Images
from benchmarks.methods import METHODS
from benchmarks.pages import filled, table, write_csv
from benchmarks.peers import Objective
from benchmarks.probes import KNN_NEIGHBOURS
from benchmarks.speed.measure import Case, peak_row, time_rows
from benchmarks.statistics import Difference
from benchmarks.table1.cli import Options, parse
from benchmarks.table1.launch import head, launch
from benchmarks.table1.recipes import RECIPES, WIDE, Recipe, Setting
from benchmarks.table1.records import Records
from benchmarks.table1.tuning import cells, chosen, grid_table

BASE = "vicreg"
#: the learning rates that `benchmarks.table1.tuning` chose for the methods of Table 1
RATES = (4e-3, 8e-3, 1.6e-2)
#: shape and duration of the timing of the losses, on the CPU in float32
TIMED = Case("op", "entropies", 256, 2048, seconds=30.0)


def _entropy(title: str, entropy: str, **options: Any) -> Recipe:
    named = {"entropy": entropy} | options
    settings = WIDE | {name: Setting(value, "VICRegEntropy, with its default weights") for name, value in named.items()}
    return Recipe(title, "vicreg_entropy", settings, Setting(RATES[0], "the grid of this table"))


#: the first three rows have the tuned constants of Table 1; VICReg stands for the estimator variance_covariance
ROWS: dict[str, Recipe] = {name: RECIPES[name] for name in (BASE, "simclr", "byol")} | {
    "log_det": _entropy("LogDet", "log_det"),
    "log_det_anchor": _entropy("LogDet, anchor", "log_det", anchor=True),
    "pairwise": _entropy("Pairwise", "pairwise"),
    "quadratic": _entropy("QuadraticRenyi", "quadratic"),
    "renyi_2": _entropy("MatrixRenyi, order 2 of columns (FroSSL)", "renyi"),
    "renyi_1": _entropy("MatrixRenyi, order 1 of rows (I-VNE)", "renyi", order=1.0, normalize="rows"),
    "sigreg": _entropy("SIGReg", "sigreg"),
    "sigreg_256": _entropy("SIGReg, 256 slices (eb_jepa)", "sigreg", convention="eb_jepa"),
    "koleo": _entropy("KoLeo", "koleo"),
    "spacings": _entropy("Spacings", "spacings"),
}


def grid(options: Options) -> dict[str, Recipe]:
    """The recipe of every objective at every learning rate, by name."""
    return {
        f"{name}-rate{rate:g}": row.varied(f"{row.title}, rate {rate:g}", "the grid of this table", rate)
        for name, row in ROWS.items()
        for rate in RATES
    }


def losses(batch: int, dim: int) -> dict[str, Objective]:
    """The criterion of every objective; for BYOL the mean negative cosine, without predictor and momentum encoder."""
    return {name: METHODS[recipe.method](8, **recipe.arguments).criterion for name, recipe in ROWS.items()}


def costs(path: Path) -> pd.DataFrame:
    """Milliseconds and peak MiB of forward and backward of each loss. They are measured if the file is missing."""
    if not path.exists():
        torch.set_num_threads(1)
        views = TIMED.views()
        calls = {name: partial(loss, *views) for name, loss in losses(TIMED.batch, TIMED.dim).items()}
        write_csv(path, time_rows(TIMED, calls, views) + [peak_row(TIMED, name, losses) for name in ROWS])
    rows = pd.read_csv(path)
    return rows[rows["mode"] == "both"].pivot(index="provider", columns="metric", values="value")


def page_of(records: Records, options: Options, images: Images) -> str:
    bases = {name: BASE for name in ROWS if name != BASE}
    gaps, cost = records.compared(bases, "linear"), costs(records.folder / "speed.csv")
    lines, grid = (_line(records, name, gaps, cost) for name in ROWS), cells(Records(records.folder / "grid"))
    said = {"table": table(lines), "grid": grid_table(grid, ROWS), "findings": records.findings(bases, ROWS)}
    return filled(__file__, **head(records, options), **said, compared=len(bases), neighbours=KNN_NEIGHBOURS)


def _line(records: Records, name: str, gaps: dict[str, Difference], cost: pd.DataFrame) -> dict[str, str]:
    ranks = {"RankMe": "rank_me", "of features": "rank_me_features"}
    line = {"entropy": ROWS[name].title} | records.cells(name, gaps)
    line |= {column: f"{records.mean(name, rank).mean:.0f}" for column, rank in ranks.items()}
    return line | {"ms": f"{cost.time_ms[name]:.3g}", "MiB": f"{cost.peak_mib[name]:.0f}"}


def main(arguments: list[str] | None = None) -> int:
    asked = partial(parse, arguments, sweep="entropies", about="Compare every entropy at its default weights.", seeds=5)

    def tried() -> Options:
        options = asked().varied(grid)
        return options.replaced(seeds=1, output=options.output / "grid")

    def compared() -> Options:
        return asked().varied(lambda options: chosen(ROWS, options.output / "grid")).replaced(is_sweep=False)

    return launch(tried, None) or launch(compared, page_of)


if __name__ == "__main__":
    sys.exit(main())
