"""The recorded rows that the pages show: of Table 1, of the ablations, of the search for settings, and of speed."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import RESULTS, newest


class Estimate(NamedTuple):
    """A mean over seeds with its standard error, in percent."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.error:.1f}"


def estimate(scores: list[float]) -> Estimate:
    """Mean and standard error of fractions, in percent."""
    error = statistics.stdev(scores) / len(scores) ** 0.5
    return Estimate(100 * statistics.mean(scores), 100 * error)


def folder(marker: str, dataset: str | None = None) -> Path:
    """The newest folder of a CPU that holds the file `marker`, of a data set if it is named."""
    found = [path for path in newest(RESULTS, marker) if "-cpu-" in path.name]
    return next(path for path in found if dataset is None or settings(path)["dataset"] == dataset)


def settings(path: Path) -> dict[str, Any]:
    """The settings of the runs of a folder."""
    loaded: dict[str, Any] = json.loads((path / "settings.json").read_text())
    return loaded


@cache
def scores(path: Path, probe: str = "linear") -> dict[str, Estimate]:
    """{method: mean and standard error of the probe over its seeds}."""
    found = defaultdict(list)
    for line in (path / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        found[row["method"]].append(row[probe])
    return {method: estimate(values) for method, values in found.items()}


def changed(path: Path, base: str, options: set[str]) -> dict[str, dict[str, Any]]:
    """{method: its settings} of the runs of an ablation that differ from the base in nothing but these options."""
    rows = settings(path)["rows"]
    same = {name: value for name, value in rows[base].items() if name not in {*options, "criterion"}}
    others = {name: {key: row[key] for key in row if key not in {*options, "criterion"}} for name, row in rows.items()}
    return {name: rows[name] for name, rest in others.items() if rest == same}


@cache
def speed(metric: str = "time_ms") -> dict[tuple[str, int, int], float]:
    """{(objective, batch, dim): our time or memory of forward and backward} in the newest rows of a CPU."""
    with (folder("speed.png") / "rows.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["level"] == "op" and row["provider"] == "it-losses"]
    kept = [row for row in rows if row["mode"] == "both" and row["metric"] == metric]
    return {(row["objective"], int(row["batch"]), int(row["dim"])): float(row["value"]) for row in kept}


def tuning() -> list[dict[str, str]]:
    """The rows of the equal search for settings."""
    with (folder("tuning.csv") / "tuning.csv").open() as file:
        return list(csv.DictReader(file))
