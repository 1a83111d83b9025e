"""A theorem on disk: the rows in `theoremN.csv`; command, statement, table, finding and settings in `theoremN.md`."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import torch

from benchmarks.commit import COMMIT
from benchmarks.figures.statistics import Row


@dataclass(frozen=True)
class Setup:
    """What the numbers of one command depend on."""

    seed: int = 0
    #: networks, random starts or draws of the labels, by theorem
    trials: int = 5
    #: Monte Carlo samples of a network's output
    samples: int = 8192


def write(folder: Path, number: str, module: ModuleType, rows: list[Row], setup: Setup, seconds: float) -> str:
    """Write both files and return the finding."""
    folder.mkdir(parents=True, exist_ok=True)
    name, finding = f"theorem{number}", module.finding(rows)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    options = " ".join(f"--{option} {value}" for option, value in asdict(setup).items())
    facts = {"torch": torch.__version__, "device": "cpu", "commit": COMMIT, "seconds": round(seconds)}
    parts = [
        f"# Theorem {number}: {module.SUBJECT}",
        f"    python -m benchmarks.theorems {number} {options}",
        module.STATEMENT,
        markdown(module.table(rows)),
        finding,
        f"Rows: [{name}.csv]({name}.csv). Settings: `{json.dumps(asdict(setup) | facts)}`",
    ]
    (folder / f"{name}.md").write_text("\n\n".join(parts) + "\n")
    return finding


def markdown(lines: list[dict[str, str]]) -> str:
    """A table: its heads are the keys, all but the first column are aligned to the right."""
    heads = list(lines[0])
    text = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    return "\n".join(text + ["| " + " | ".join(line.values()) + " |" for line in lines])
