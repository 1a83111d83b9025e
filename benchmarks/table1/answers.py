"""Sentences for the report: whether an entropy helps, and whether every row had the same search for its settings."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.table1.comparison import difference
from benchmarks.table1.recipes import title
from benchmarks.table1.rows import Row

#: each row with an entropy, and the row without it that it is compared with
BASES = {"vicreg_logdet": "vicreg", "vicreg_pairdist": "vicreg", "byol_logdet": "byol", "byol_pairdist": "byol"}


def compared(rows: list[Row]) -> list[str]:
    """For each row with an entropy, a sentence that compares it with its base."""
    runs: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        runs[row["method"]].append(row)
    return [_sentence(name, base, runs) for name, base in BASES.items() if name in runs and base in runs]


def _sentence(name: str, base: str, runs: dict[str, list[Row]]) -> str:
    said = []
    for score, word in (("linear", "linear"), ("knn", "kNN")):
        gap = difference(*([row[score] for row in runs[method]] for method in (name, base)))
        chance = "" if gap.p_value is None else f", p {_rounded(gap.p_value)}"
        said.append(f"by the {word} probe it {gap.verdict} ({gap.text()} points{chance})")
    return f"- {title(name)} against {title(base)}: {'; '.join(said)}."


def _rounded(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.2g}"


def tuned(settings: dict[str, Any], grid: Path) -> str:
    """Whether the rows of a table (its settings.json) have the settings that a grid chose (its tuning.csv)."""
    chosen = [row for row in csv.DictReader(grid.read_text().splitlines()) if row["best"] == "True"]
    chosen = [row for row in chosen if row["method"] in settings["rows"]]
    others = []
    for row in chosen:
        used = {"learning_rate": settings["budget"].get("learning_rate")} | settings["rows"][row["method"]]
        if (used["learning_rate"], used.get(row["constant"])) != (float(row["learning_rate"]), float(row["value"])):
            others.append(title(row["method"]))
    said = f"{len(chosen) - len(others)} of {len(chosen)} rows have the settings that the equal grid of this page chose"
    return f"{said}; not so: {', '.join(others)}." if others else f"{said}."
