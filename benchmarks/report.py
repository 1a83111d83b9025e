"""`python -m benchmarks.report`: docs/report.md, every table and figure from the newest rows in benchmarks/results."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.figures.networks import Setup
from benchmarks.table1.answers import compared, tuned
from benchmarks.table1.command import command_line
from benchmarks.table1.comparison import LEVEL
from benchmarks.table1.rows import Row, write

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "report.md"
#: date, device and content of a folder of results: 2026-11-21-cpu-table1
FOLDER = re.compile(r"(\d{4}-\d\d-\d\d)-([^-]+)-(.+)")
FIGURES = {
    "1": "normality of the output under input noise, distances of raw images",
    "2": "entropy along training",
    "3": "distance from a diagonal matrix",
    "4": "mixture collapse",
    "5": "generalization bound",
}
THEOREMS = {"1": "the output as a mixture", "2": "the optimum of the likelihood", "3": "the generalization bound"}
#: what is known of the settings of the paper's tables; the captions of figures say it for figures
KNOWN = """\
Of the paper's Table 1 the data sets are known: CIFAR-10, CIFAR-100 and Tiny-ImageNet. Its networks (ResNet-18, a ConvNeXt,
a ViT), its ten rows, its average over three trials, and that an entropy replaces VICReg's variance and covariance but is added
to BYOL's loss, were written down from memory and are to be checked against the paper. Epochs, batch size, learning rates, every
weight, beta, bandwidth, divergence, and the tensor of BYOL that is regularized are not known. The values taken here stand, with
their source, in `benchmarks/table1/recipes.py` and, for long runs, in `benchmarks/table1/long.py`. Tables 2 and 3 of the paper
are not known, and nothing here replaces them. [Sources](sources.md) has the same for the other statements."""


def page(results: Path, beside: Path) -> str:
    """The report as Markdown, its links relative to the folder `beside`."""
    text = [
        "# Report",
        "",
        "Made by `make report` from the newest rows in `benchmarks/results`: tables, figures and verdicts follow from them,",
        "the pages of the folders are embedded as they are. No number is the paper's.",
        "",
        *KNOWN.splitlines(),
    ]
    text += _tables(results, beside)
    text += _section("Equal tuning", results, beside, "tuning.csv", "README.md", "make tune")
    text += _section("Ablations", results, beside, "ablations.csv", "README.md", "make ablations")
    for number, subject in FIGURES.items():
        text += _figure(number, subject, results, beside)
    for number, subject in THEOREMS.items():
        text += _section(
            f"Theorem {number}: {subject}", results, beside, f"theorem{number}.md", f"theorem{number}.md", "make theorems"
        )
    text += _section("Speed and memory", results, beside, "speed.png", "README.md", "make bench")
    text += _section("Distributed", results, beside, "model.png", "README.md", "python -m benchmarks.distributed")
    return "\n".join(text) + "\n"


def newest(results: Path, marker: str) -> list[Path]:
    """The newest folder that holds the file `marker`, for each device and data set."""
    found = [path.parent for path in results.glob(f"*/{marker}") if FOLDER.fullmatch(path.parent.name)]
    return list({(FOLDER.fullmatch(folder.name)[2], _dataset(folder)): folder for folder in sorted(found, key=_age)}.values())


def _tables(results: Path, beside: Path) -> list[str]:
    folders = newest(results, "table1.md")
    text = [] if folders else ["", "## Table 1", "", "Not recorded yet: `make table`."]
    for folder in folders:
        settings, rows = _settings(folder), _rows(folder)
        grids = [grid for grid in newest(results, "tuning.csv") if _dataset(grid) == settings["dataset"]]
        answers = compared(rows) or ["- No row with an entropy has its base beside it yet."]
        text += [
            "",
            f"## Table 1: {settings['dataset']}",
            "",
            f"    {command_line(settings, rows)}",
            "",
            _origin(folder, beside, rows),
            "",
            f"![Table 1]({_relative(folder / 'table1.png', beside)})",
            "",
            *embedded(folder / "table1.md", beside),
            "",
            "Do the entropies help? Means over seeds are held against each other by Welch's test, not paired: a row beats its",
            f"base where p < {LEVEL:g}, and is within the error elsewhere. Differences with their standard errors:",
            "",
            *answers,
            "",
            tuned(settings, grids[-1] / "tuning.csv") if grids else "No equal grid is recorded for this data set.",
        ]
    return text


def _figure(number: str, subject: str, results: Path, beside: Path) -> list[str]:
    text = ["", f"## Figure {number}: {subject}"]
    folders = newest(results, f"figure{number}.md")
    for folder in folders:
        lines = embedded(folder / f"figure{number}.md", beside)
        values = json.loads(re.search(r"Settings: `(.*)`", "\n".join(lines))[1])
        changed = [
            f"--{field.name.replace('_', '-')} {values[field.name]}"
            for field in fields(Setup)
            if values.get(field.name, field.default) != field.default
        ]
        command = " ".join(["python -m benchmarks.figures", number, *changed])
        origin = f"{_link(folder, beside)}, {_date(folder)}, {values['accelerator']}, commit {values['commit']}"
        text += ["", f"    {command}", "", origin, "", *lines]
    return text if folders else [*text, "", f"Not recorded yet: `python -m benchmarks.figures {number}`."]


def _section(heading: str, results: Path, beside: Path, marker: str, name: str, command: str) -> list[str]:
    """A folder's own page, which holds its command and commit."""
    text = ["", f"## {heading}"]
    folders = newest(results, marker)
    for folder in folders:
        text += ["", f"{_link(folder, beside)}, {_date(folder)}", "", *embedded(folder / name, beside)]
    return text if folders else [*text, "", f"Not recorded yet: `{command}`."]


def embedded(path: Path, beside: Path) -> list[str]:
    """The text of a page without its title, with sections one level down and links relative to the folder `beside`."""
    lines = [line for line in path.read_text().strip().splitlines() if not line.startswith("# ")]
    lines = [re.sub(r"^(#+) ", r"#\1 ", line) for line in lines]
    linked = re.compile(r"\]\((?!\w+:|#)([^)]+)\)")
    lines = [linked.sub(lambda found: f"]({_relative(path.parent / found[1], beside)})", line) for line in lines]
    return "\n".join(lines).strip("\n").splitlines()


def _origin(folder: Path, beside: Path, rows: list[Row]) -> str:
    """The folder, date, device and commits of the results."""
    columns = (sorted({str(row[name]) for row in rows}) for name in ("device", "commit"))
    devices, commits = (", ".join(values) for values in columns)
    return f"{_link(folder, beside)}, {_date(folder)}, {devices}, commit {commits}"


def _age(folder: Path) -> tuple[str, str, str]:
    """Sort key: the day of the folder, the time of its last row if rows have one, and its name."""
    rows = _rows(folder)
    return _date(folder), str(rows[-1].get("finished", "")) if rows else "", folder.name


def _date(folder: Path) -> str:
    return FOLDER.fullmatch(folder.name)[1]


def _rows(folder: Path) -> list[Row]:
    path = folder / "rows.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def _settings(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "settings.json").read_text())


def _dataset(folder: Path) -> str | None:
    return _settings(folder)["dataset"] if (folder / "settings.json").exists() else None


def _link(folder: Path, beside: Path) -> str:
    return f"[{folder.name}]({_relative(folder, beside)})"


def _relative(path: Path, beside: Path) -> str:
    return Path(os.path.relpath(path, beside)).as_posix()


def main(arguments: Iterable[str] | None = None) -> int:
    """Write the page."""
    write(PAGE, page(RESULTS, PAGE.parent))
    print(f"written: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
