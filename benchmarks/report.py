"""`python -m benchmarks.report`: docs/report.md, the pages of the newest folders in benchmarks/results."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.pages import RESULTS, ROOT, write
from benchmarks.table1 import tuning
from benchmarks.table1.recipes import title
from benchmarks.table1.records import Records

PAGE = ROOT / "docs" / "report.md"
#: date, device and content of a folder of results, and what tells it from others of its content: 2026-11-21-cpu-table1-fashion
FOLDER = re.compile(r"(\d{4}-\d\d-\d\d)-([^-]+)-([^-]+)(-.+)?")
#: content of a folder -> the command that makes one
CONTENTS = {
    "table1": "make table",
    "entropies": "make entropies",
    "tuning": "make tune",
    "ablations": "make ablations",
    "figures": "make figures",
    "theorems": "make theorems",
    "speed": "make bench",
    "distributed": "python -m benchmarks.distributed",
}
#: what is known of the settings of the paper's tables; the captions of figures say it for figures
KNOWN = """\
Of the paper's Table 1 the data sets are known: CIFAR-10, CIFAR-100 and Tiny-ImageNet. Its networks (ResNet-18, a ConvNeXt,
a ViT), its ten rows, its average over three trials, and that an entropy replaces VICReg's variance and covariance but is added
to BYOL's loss, were written down from memory and are to be checked against the paper. Epochs, batch size, learning rates, every
weight, beta, bandwidth, divergence, and the tensor of BYOL that is regularized are not known. The values taken here stand, with
their source, in `benchmarks/table1/recipes.py`. Tables 2 and 3 of the paper are not known, and nothing here replaces them.
[Sources](sources.md) has the same for the other statements."""
INTRODUCTION = """\
Made by `make report` from the newest folders in `benchmarks/results`, whose pages are embedded as they are: tables, figures and
verdicts follow from their rows. No number is the paper's."""


def page(results: Path, beside: Path) -> str:
    """The report as Markdown, its links relative to the folder `beside`."""
    parts = ["# Report", INTRODUCTION, KNOWN]
    for content, command in CONTENTS.items():
        folders = newest(results, content)
        parts += [part for folder in folders for part in _section(folder, results, beside)]
        parts += [] if folders else [f"## {content.capitalize()}", f"Not recorded yet: `{command}`."]
    return "\n\n".join(parts) + "\n"


def newest(results: Path, content: str) -> list[Path]:
    """The newest folder with that content, for each device and data set; a folder has a page once its rows are complete."""
    paged = [page.parent for page in results.glob("*/README.md")]
    found = [folder for folder in paged if (match := FOLDER.fullmatch(folder.name)) and match[3] == content]
    return list(
        {
            (FOLDER.fullmatch(folder.name)[2], *_settings(folder, "dataset")): folder for folder in sorted(found, key=_age)
        }.values()
    )


def _section(folder: Path, results: Path, beside: Path) -> list[str]:
    heading, text = embedded(folder / "README.md", beside)
    parts = [f"## {heading}", f"[{folder.name}]({_relative(folder, beside)}), {FOLDER.fullmatch(folder.name)[1]}", text]
    if FOLDER.fullmatch(folder.name)[3] == "table1":
        same = ("dataset", "backbone", "width")
        grids = [grid for grid in newest(results, "tuning") if _settings(grid, *same) == _settings(folder, *same)]
        untuned = "No equal grid is recorded for this data set and network."
        parts.append(tuned(Records(folder), Records(grids[-1])) if grids else untuned)
    return parts


def embedded(path: Path, beside: Path) -> tuple[str, str]:
    """The title of a page, and its text with sections one level down and links relative to the folder `beside`."""
    heading, _, text = path.read_text().strip().partition("\n")
    text = re.sub(r"^(#+) ", r"#\1 ", text.strip("\n"), flags=re.MULTILINE)
    linked = re.compile(r"\]\((?!\w+:|#)([^)]+)\)")
    return heading.removeprefix("# "), linked.sub(lambda found: f"]({_relative(path.parent / found[1], beside)})", text)


def tuned(table: Records, grid: Records) -> str:
    """Whether the rows of a table have the settings that a grid chose."""
    chosen = [cell for cell in tuning.cells(grid).query("best").itertuples() if cell.method in table.settings["rows"]]
    others = []
    for cell in chosen:
        used = {"learning_rate": table.settings["budget"].get("learning_rate")} | table.settings["rows"][cell.method]
        if (used["learning_rate"], used.get(cell.constant)) != (cell.rate, cell.value):
            others.append(title(cell.method))
    said = f"{len(chosen) - len(others)} of {len(chosen)} rows have the settings that the equal grid of this page chose"
    return f"{said}; not so: {', '.join(others)}." if others else f"{said}."


def _age(folder: Path) -> tuple[str, str, str]:
    """Sort key: the day of the folder, the time of its last row if rows have one, and its name."""
    rows = Records(folder).rows
    return FOLDER.fullmatch(folder.name)[1], str(rows[-1].get("finished", "")) if rows else "", folder.name


def _settings(folder: Path, *names: str) -> list[Any]:
    path = folder / "settings.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    return [settings.get(name) for name in names]


def _relative(path: Path, beside: Path) -> str:
    return Path(os.path.relpath(path, beside)).as_posix()


def main() -> int:
    """Write the page."""
    write(PAGE, page(RESULTS, PAGE.parent))
    print(f"written: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
