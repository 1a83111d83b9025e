"""`python -m benchmarks.report` writes docs/report.md from a hand-written introduction and the newest results."""

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.pages import NOTES, RESULTS, ROOT, table, write
from benchmarks.table1 import tuning
from benchmarks.table1.recipes import ORDER, title
from benchmarks.table1.records import Records

PAGE = ROOT / "docs" / "report.md"
#: the hand-written introduction of the page
HEAD = Path(__file__).with_suffix(".md")
#: kind of results, as in the names of their folders -> the command that makes them
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


def page(results: Path, beside: Path) -> str:
    """The report as Markdown, with links relative to the folder `beside`."""
    heading, text = embedded(HEAD, beside)
    parts = [f"# {heading}", text]
    for content, command in CONTENTS.items():
        folders = newest(results, content)
        parts += [part for folder in folders for part in _section(folder, results, beside)]
        parts += _by_network(folders) if content == "table1" else []
        parts += [] if folders else [f"## {content.capitalize()}", f"Not recorded yet: `{command}`."]
    return "\n\n".join(parts) + "\n"


def newest(results: Path, content: str) -> list[Path]:
    """The newest complete folder of this kind for each device, data set and network. A complete folder has a README.md."""
    found = sorted((page.parent for page in results.glob(f"????-??-??-*-{content}*/README.md")), key=_age)
    return list({(folder.name.split("-")[3], *_settings(folder, "dataset", "backbone")): folder for folder in found}.values())


def _section(folder: Path, results: Path, beside: Path) -> list[str]:
    heading, text = embedded(folder / "README.md", beside)
    parts = [f"## {heading}", f"[{folder.name}]({_relative(folder, beside)}), {folder.name[:10]}", text]
    if folder in newest(results, "table1"):
        same = ("dataset", "backbone", "width")
        grids = [grid for grid in newest(results, "tuning") if _settings(grid, *same) == _settings(folder, *same)]
        untuned = "No search of the settings is recorded for this data set and network."
        parts.append(_tuned(Records(folder), Records(grids[-1])) if grids else untuned)
    return parts


def _by_network(folders: list[Path]) -> list[str]:
    """For each data set with several networks: the linear probe in a table, with a row per method and a column per network."""
    tables: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for folder in folders:
        (dataset, network), records = _settings(folder, "dataset", "backbone"), Records(folder)
        for name in filter(records.of, ORDER):
            tables[dataset][title(name)][network] = records.mean(name, "linear").text(100)
    parts = []
    for dataset, lines in tables.items():
        if len({network for line in lines.values() for network in line}) > 1:
            made = table({"linear %": name} | line for name, line in lines.items())
            parts += [f"## Table 1: {dataset}, by network", made]
    return parts


def embedded(path: Path, beside: Path) -> tuple[str, str]:
    """Title and text of a page, with headings one level lower and links relative to the folder `beside`."""
    heading, _, text = NOTES.sub(r"\1", path.read_text()).strip().partition("\n")
    text = re.sub(r"^(#+) ", r"#\1 ", text.strip("\n"), flags=re.MULTILINE)
    linked = re.compile(r"\]\((?!\w+:|#)([^)]+)\)")
    return heading.removeprefix("# "), linked.sub(lambda found: f"]({_relative(path.parent / found[1], beside)})", text)


def _tuned(table: Records, grid: Records) -> str:
    """A sentence that says how many methods of a table have the settings that the search chose."""
    rows, common = table.settings["rows"], {"learning_rate": table.settings["budget"].get("learning_rate")}
    chosen = [cell for cell in tuning.cells(grid).query("best").itertuples() if cell.method in rows]
    others = []
    for cell in chosen:
        used = common | rows[cell.method]
        if (used["learning_rate"], used.get(cell.constant)) != (cell.rate, cell.value):
            others.append(title(cell.method))
    same = "All" if not others else f"{len(chosen) - len(others)} of"
    said = f"{same} {len(chosen)} rows use the settings that the search on this page chose."
    return f"{said} These rows use others: {', '.join(others)}." if others else said


def _age(folder: Path) -> tuple[str, str, str]:
    """Sort key of a folder: the date in its name, the time of its last run if recorded, and its name."""
    rows = Records(folder).rows
    return folder.name[:10], str(rows[-1].get("finished", "")) if rows else "", folder.name


def _settings(folder: Path, *names: str) -> list[Any]:
    """The named settings of a folder; in a folder of figures or theorems, those of the first one."""
    settings = Records(folder).settings
    return [settings.get("settings", settings).get(name) for name in names]


def _relative(path: Path, beside: Path) -> str:
    return Path(os.path.relpath(path, beside)).as_posix()


if __name__ == "__main__":
    write(PAGE, page(RESULTS, PAGE.parent))
    print(f"written: {PAGE}")
