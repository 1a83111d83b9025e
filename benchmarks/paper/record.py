"""A folder of figures or theorems: the rows of each in a CSV, their settings in settings.json, and a page made from both."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from benchmarks.pages import figure, notes, page, table, write, write_csv
from benchmarks.paper import bound, collapse, correlation, diagonality, entropy, mixture, normality, optimum

MODULES: dict[str, ModuleType] = {
    "figure1": normality,
    "figure2": entropy,
    "figure3": diagonality,
    "figure4": collapse,
    "figure5": correlation,
    "theorem1": mixture,
    "theorem2": optimum,
    "theorem3": bound,
}


def save(folder: Path, name: str, rows: list[dict[str, Any]], settings: dict[str, Any], command: str) -> str:
    """Write rows, plot, settings and page; return the finding."""
    write_csv(folder / f"{name}.csv", rows)
    if hasattr(MODULES[name], "plot"):
        with figure(folder / f"{name}.png", size=(10, 4)) as drawn:
            MODULES[name].plot(pd.DataFrame(rows), drawn)
    path = folder / "settings.json"
    recorded = json.loads(path.read_text()) if path.exists() else {}
    recorded[name] = {"command": command} | settings
    write(path, json.dumps(recorded, indent=2, sort_keys=True) + "\n")
    write(folder / "README.md", page_of(folder))
    return "\n\n".join(said(MODULES[name], pd.DataFrame(rows)))


def page_of(folder: Path) -> str:
    """The page of a folder, with the remarks about it from its notes."""
    recorded = json.loads((folder / "settings.json").read_text())
    kinds = dict.fromkeys(f"{name[:-1].capitalize()}s" for name in sorted(recorded))
    # the digits are the data set of most records
    others = dict.fromkeys(own["dataset"] for own in recorded.values() if own.get("dataset", "digits") != "digits")
    heading = f"{' and '.join(kinds)} of arXiv 2303.00633, recomputed{''.join(f' on {name}' for name in others)}"
    return page(heading, notes(folder), *sections(folder))


def said(module: ModuleType, frame: pd.DataFrame) -> list[str]:
    """The statement beside the module with its constants, the table of a theorem, and the finding on the claim."""
    parts = [_statement(module)[1].format_map(vars(module))]
    if hasattr(module, "KEYS"):
        parts.append(table(module.line(*case, rows) for case, rows in frame.groupby(module.KEYS, sort=False)))
    return [*parts, module.finding(frame)]


def _statement(module: ModuleType) -> tuple[str, str]:
    """Title and text, a line for each paragraph, of the page that is written by hand."""
    heading, _, text = Path(str(module.__file__)).with_suffix(".md").read_text().partition("\n")
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))
    return heading.removeprefix("# "), "\n\n".join(paragraphs)


def sections(folder: Path) -> list[str]:
    """Everything in a folder, a section each."""
    recorded = json.loads((folder / "settings.json").read_text())
    return [part for name in sorted(recorded) for part in section(folder, name, recorded[name]) if part]


def section(folder: Path, name: str, settings: dict[str, Any]) -> list[str]:
    """The command, the plot, the finding and the settings."""
    module, facts = MODULES[name], {key: value for key, value in settings.items() if key != "command"}
    plot = f"![{name}]({name}.png)" if hasattr(module, "plot") else ""
    rows = f"Rows: [{name}.csv]({name}.csv). Settings: `{json.dumps(facts)}`"
    heading = f"## {name[:-1].capitalize()} {name[-1]}: {_statement(module)[0]}"
    found = said(module, pd.read_csv(folder / f"{name}.csv"))
    return [heading, f"    {settings['command']}", plot, *found, rows]
