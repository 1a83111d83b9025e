"""`python -m benchmarks.table1.entropies`: every estimate of H(Z) with its default weights, beside VICReg, SimCLR and BYOL.

Each row gets the same small grid, three learning rates on validation images, and then a run of each seed at its best rate.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.data import Images
from benchmarks.methods import METHODS
from benchmarks.pages import filled, notes, page, table, write_csv
from benchmarks.peers import Objective
from benchmarks.probes import KNN_NEIGHBOURS
from benchmarks.speed.measure import Case, peak_row, time_rows
from benchmarks.statistics import LEVEL, Difference, holm, paired_difference
from benchmarks.table1.cli import Options, parse
from benchmarks.table1.launch import head, launch
from benchmarks.table1.recipes import RECIPES, WIDE, Recipe, Setting
from benchmarks.table1.records import Records

BASE = "vicreg"
#: the rates that the grid of `benchmarks.table1.tuning` chose for the rows of Table 1
RATES = (4e-3, 8e-3, 1.6e-2)
#: the shape and the seconds at which the losses are timed
TIMED = Case("op", "entropies", 256, 2048, torch.device("cpu"), "float32", seconds=30.0)


def _entropy(title: str, entropy: str, **options: Any) -> Recipe:
    named = {"entropy": entropy} | options
    settings = WIDE | {name: Setting(value, "VICRegEntropy, with its default weights") for name, value in named.items()}
    return Recipe(title, "vicreg_entropy", settings, Setting(RATES[0], "the grid of this table"))


#: VICReg's entropy is variance_covariance; the first three have the constants that their grid chose for Table 1
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


def grid(name: str) -> dict[str, Recipe]:
    """A row at every rate."""
    return {
        f"{name}-rate{rate:g}": ROWS[name].varied(f"{ROWS[name].title}, rate {rate:g}", "the grid of this table", rate)
        for rate in RATES
    }


def chosen(tried: Records) -> dict[str, Recipe]:
    """Every row at its best rate on validation images; the lower of two equal ones."""
    return {name: grid(name)[tried.best(grid(name))] for name in ROWS}


def losses(batch: int, dim: int) -> dict[str, Objective]:
    """The criterion of every row; for BYOL the mean negative cosine, without predictor and slow copy."""
    return {name: METHODS[recipe.method](8, **recipe.arguments).criterion for name, recipe in ROWS.items()}


def costs(path: Path) -> pd.DataFrame:
    """Milliseconds and MiB of forward and backward of each loss, measured unless the file holds them."""
    if not path.exists():
        torch.set_num_threads(1)
        views = TIMED.views()
        calls = {name: partial(loss, *views) for name, loss in losses(TIMED.batch, TIMED.dim).items()}
        write_csv(path, time_rows(TIMED, calls, views) + [peak_row(TIMED, name, losses) for name in ROWS])
    rows = pd.read_csv(path)
    return rows[rows["mode"] == "both"].pivot(index="provider", columns="metric", values="value")


def compared(records: Records, score: str) -> dict[str, Difference]:
    """The difference from VICReg, seed by seed, of each row with its seeds; p-values are corrected for the number of rows."""
    base = records.scores(BASE, score)
    runs = {name: records.scores(name, score) for name in ROWS if name != BASE}
    gaps = {name: paired_difference(values, base) for name, values in runs.items() if len(values) == len(base)}
    corrected = holm([gap.p_value for gap in gaps.values()])
    return {name: gap._replace(p_value=p) for (name, gap), p in zip(gaps.items(), corrected, strict=True)}


def page_of_grid(tried: Records, options: Options, images: Images) -> str:
    """The accuracy of each row at each rate."""
    return page(
        "Learning rates of the entropies",
        "The table has the accuracy of the linear probe in %. The best of each row is in bold.",
        table(map(partial(_grid_line, tried), ROWS)),
    )


def page_of(records: Records, options: Options, images: Images) -> str:
    """The table, a sentence on the differences, and the grid."""
    gaps = {score: compared(records, score) for score in ("linear", "knn")}
    return filled(
        __file__,
        **head(records, options),
        notes=notes(records.folder),
        seeds=len(records.of(BASE)),
        table=table(_lines(records, gaps["linear"], costs(records.folder / "speed.csv"))),
        compared=len(gaps["linear"]),
        neighbours=KNN_NEIGHBOURS,
        findings="\n".join(_finding(score, found) for score, found in gaps.items()),
        grid=table(map(partial(_grid_line, Records(records.folder / "grid")), ROWS)),
    )


def _lines(records: Records, gaps: dict[str, Difference], cost: pd.DataFrame) -> list[dict[str, str]]:
    lines = []
    for name, recipe in ROWS.items():
        ranks = (f"{records.mean(name, rank).mean:.0f}" for rank in ("rank_me", "rank_me_features"))
        gap = {"difference": gaps[name].text(), "p": f"{gaps[name].p_value:.2g}"} if name in gaps else {}
        line = {"entropy": recipe.title} | records.percent(name) | {"difference": "", "p": ""} | gap
        line |= zip(("RankMe", "of features"), ranks, strict=True)
        lines.append(line | {"ms": f"{cost.time_ms[name]:.3g}", "MiB": f"{cost.peak_mib[name]:.0f}"})
    return lines


def _finding(score: str, gaps: dict[str, Difference]) -> str:
    beyond = [f"{ROWS[name].title} {gap.text()}" for name, gap in gaps.items() if gap.p_value < LEVEL]
    probe = {"linear": "linear", "knn": "kNN"}[score]
    counted = f"finds a significant difference from VICReg in {len(beyond)} of {len(gaps)} rows (p < {LEVEL:g})"
    return f"- The {probe} probe {counted}{': ' * bool(beyond)}{'; '.join(beyond)}."


def _grid_line(tried: Records, name: str) -> dict[str, str]:
    texts = {setting: tried.mean(setting, "linear").text(100) for setting in grid(name)}
    texts[tried.best(texts)] = f"**{texts[tried.best(texts)]}**"
    return {"entropy": ROWS[name].title} | {
        f"learning rate {rate:g}": text for rate, text in zip(RATES, texts.values(), strict=True)
    }


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 what was asked cannot be done, 130 stopped."""

    def asked() -> Options:
        return parse(arguments, sweep="entropies", about="Compare every entropy at its default weights.", seeds=5)

    def tried() -> Options:
        options = asked().varied({setting: recipe for name in ROWS for setting, recipe in grid(name).items()})
        return options.replaced(seeds=1, output=options.output / "grid")

    def compared_rows() -> Options:
        options = asked()
        return options.varied(chosen(Records(options.output / "grid"))).replaced(is_sweep=False)

    return launch(tried, page_of_grid) or launch(compared_rows, page_of)


if __name__ == "__main__":
    sys.exit(main())
