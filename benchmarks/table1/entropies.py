"""`python -m benchmarks.table1.entropies`: every estimate of H(Z) with its default weights, beside VICReg, SimCLR and BYOL.

Each row gets the same small grid, three learning rates on validation images, and then a run of each seed at its best rate.
"""

from __future__ import annotations

import csv
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import in_fresh_process
from benchmarks.methods import METHODS
from benchmarks.pages import page, table, write, write_csv
from benchmarks.peers import Objective
from benchmarks.probes import KNN_NEIGHBOURS
from benchmarks.speed.measure import Case, Row, peak_of, time_rows
from benchmarks.statistics import LEVEL, Difference, holm, paired_difference, statistic
from benchmarks.table1.cli import VALIDATION_SHARE, Options, describe, parse
from benchmarks.table1.launch import command_line, launch
from benchmarks.table1.recipes import RECIPES, WIDE, Recipe, Setting
from benchmarks.table1.records import Records

BASE = "vicreg"
#: the rates that the grid of `benchmarks.table1.tuning` chose for the rows of Table 1
RATES = (4e-3, 8e-3, 1.6e-2)
#: the shape and the seconds at which the losses are timed
TIMED = Case("op", "entropies", 256, 2048, torch.device("cpu"), "float32", seconds=30.0)
GRID = (
    f"The grid: linear probe % on {VALIDATION_SHARE:.0%} of the training half at each learning rate, one seed; in bold the "
    "best, of equals that with the higher kNN."
)


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
    "koleo": _entropy("KoLeo", "koleo"),
    "spacings": _entropy("Spacings", "spacings"),
}


def grid(rows: dict[str, Recipe]) -> dict[str, Recipe]:
    """Every row at every rate."""
    return {f"{name}-rate{rate:g}": _at(recipe, rate) for name, recipe in rows.items() for rate in RATES}


def chosen(tried: Records, rows: dict[str, Recipe]) -> dict[str, Recipe]:
    """Every row at its best rate by linear accuracy on validation images; ties go to higher kNN, then to the lower rate."""

    def score(name: str, rate: float) -> tuple[float, float]:
        runs = tried.of(f"{name}-rate{rate:g}")
        return statistic(run["linear"] for run in runs).mean, statistic(run["knn"] for run in runs).mean

    return {name: _at(recipe, max(RATES, key=partial(score, name))) for name, recipe in rows.items()}


def _at(recipe: Recipe, rate: float) -> Recipe:
    return recipe.varied(f"{recipe.title}, rate {rate:g}", "the grid of this table", rate)


def losses(batch: int, dim: int) -> dict[str, Objective]:
    """The criterion of every row; of BYOL the mean negative cosine, without predictor and slow copy."""
    return {name: METHODS[recipe.method](8, **recipe.arguments).criterion for name, recipe in ROWS.items()}


def costs(path: Path) -> dict[str, tuple[float, float]]:
    """Milliseconds and MiB of forward and backward of each loss, measured unless the file holds them."""
    if not path.exists():
        torch.set_num_threads(1)
        views = TIMED.views()

        def clear() -> None:
            for z in views:
                z.grad = None

        found: list[Row] = time_rows(TIMED, {n: partial(loss, *views) for n, loss in losses(*views[0].shape).items()}, clear)
        peaks = {name: in_fresh_process(peak_of, TIMED, name, losses) for name in ROWS}
        write_csv(path, found + [TIMED.row(name, "both", "peak_mib", [peak]) for name, peak in peaks.items()])
    with path.open() as file:
        both = [row for row in csv.DictReader(file) if row["mode"] == "both"]
    values = {(row["provider"], row["metric"]): float(row["value"]) for row in both}
    return {name: (values[name, "time_ms"], values[name, "peak_mib"]) for name in ROWS}


def compared(records: Records, score: str) -> dict[str, Difference]:
    """Each row that has the seeds of VICReg against it, seed by seed; p-values corrected for the number of rows."""
    base = [row[score] for row in _by_seed(records, BASE)]
    runs = {name: [row[score] for row in _by_seed(records, name)] for name in ROWS if name != BASE}
    gaps = {name: paired_difference(values, base) for name, values in runs.items() if len(values) == len(base)}
    corrected = holm([gap.p_value for gap in gaps.values()])
    return {name: gap._replace(p_value=p) for (name, gap), p in zip(gaps.items(), corrected, strict=True)}


def _by_seed(records: Records, name: str) -> list[dict[str, Any]]:
    return sorted(records.of(name), key=lambda row: int(row["seed"]))


def publish_grid(records: Records) -> str:
    """Write `README.md` in the folder of the grid; returns the Markdown."""
    text = page("The grid of the entropies", GRID, table(_grid_lines(records)))
    write(records.folder / "README.md", text)
    return text


def publish(records: Records, description: str, command: str) -> str:
    """Write `README.md`: the table, what it says of the differences, and the grid; returns the Markdown."""
    tried, gaps = Records(records.folder / "grid"), {score: compared(records, score) for score in ("linear", "knn")}
    seeds = len(records.of(BASE))
    text = page(
        "Which entropy",
        f"    {command}",
        f"{description}; commit {records.names('commit')}; mean ± standard error of {seeds} seeds on held-out images.",
        table(_lines(records, gaps["linear"], costs(records.folder / "speed.csv"))),
        "Difference: of linear accuracies from VICReg's at the same seed, in points. p: Student's paired test with Holm's "
        f"correction for {len(gaps['linear'])} rows. kNN: {KNN_NEIGHBOURS} neighbours. RankMe: effective rank of the held-out "
        "embeddings and of the features; 1 is collapse. ms, MiB: forward and backward of the loss alone at 256 x 2048 in "
        "float32, one thread, CPU time and memory above the inputs.",
        "\n".join(_finding(score, found) for score, found in gaps.items()),
        GRID,
        table(_grid_lines(tried)),
    )
    write(records.folder / "README.md", text)
    return text


def _lines(records: Records, gaps: dict[str, Difference], cost: dict[str, tuple[float, float]]) -> list[dict[str, str]]:
    lines = []
    for name, recipe in ROWS.items():
        runs = records.of(name)
        linear, knn = (statistic(row[score] for row in runs).text(100) for score in ("linear", "knn"))
        ranks = (f"{statistic(row[rank] for row in runs).mean:.0f}" for rank in ("rank_me", "rank_me_features"))
        gap = {"difference": gaps[name].text(), "p": f"{gaps[name].p_value:.2g}"} if name in gaps else {}
        line = {"entropy": recipe.title, "linear %": linear, "kNN %": knn, "difference": "", "p": ""} | gap
        line |= zip(("RankMe", "of features"), ranks, strict=True)
        lines.append(line | {"ms": f"{cost[name][0]:.3g}", "MiB": f"{cost[name][1]:.0f}"})
    return lines


def _finding(score: str, gaps: dict[str, Difference]) -> str:
    beyond = [f"{ROWS[name].title} {gap.text()}" for name, gap in gaps.items() if gap.p_value < LEVEL]
    probe = {"linear": "linear", "knn": "kNN"}[score]
    counted = f"{len(beyond)} of {len(gaps)} rows differ from VICReg beyond the error (p < {LEVEL:g})"
    return f"- By the {probe} probe {counted}{': ' * bool(beyond)}{'; '.join(beyond)}."


def _grid_lines(tried: Records) -> list[dict[str, str]]:
    best = {name: recipe.learning_rate.value for name, recipe in chosen(tried, ROWS).items()}

    def cell(name: str, rate: float) -> str:
        text = statistic(run["linear"] for run in tried.of(f"{name}-rate{rate:g}")).text(100)
        return f"**{text}**" if rate == best[name] else text

    return [{"entropy": ROWS[name].title} | {f"rate {rate:g}": cell(name, rate) for rate in RATES} for name in ROWS]


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 what was asked cannot be done, 130 stopped."""
    command = command_line("table1.entropies", arguments)

    def asked() -> Options:
        return parse(arguments, sweep="entropies", about="Compare every entropy at its default weights.", seeds=5)

    def tried() -> Options:
        options = asked().varied(grid(ROWS))
        return options.replaced(seeds=1, output=options.output / "grid")

    def compared_rows() -> Options:
        options = asked()
        return options.varied(chosen(Records(options.output / "grid"), ROWS)).replaced(is_sweep=False)

    return launch(tried, lambda records, options, images: publish_grid(records)) or launch(
        compared_rows, lambda records, options, images: publish(records, describe(options), command)
    )


if __name__ == "__main__":
    sys.exit(main())
