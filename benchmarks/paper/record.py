"""Write and read a folder of figures or theorems: settings and rows in rows.jsonl, plots, and a page made from the rows.

Each line of rows.jsonl has the name of a figure or theorem, and either "settings" or the columns of a row.
`pandas.read_json("rows.jsonl", lines=True).query("name == 'figure5'")` returns the lines of Figure 5.
"""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from benchmarks.pages import figure, filled, notes, page, write
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


def save(folder: Path, name: str, rows: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """Write rows, plot and page of one figure or theorem, keep the others in the folder, and return its filled template."""
    mine = [{"name": name, "settings": settings}, *({"name": name} | row for row in rows)]
    lines = sorted([line for line in _lines(folder) if line["name"] != name] + mine, key=lambda line: line["name"])
    write(folder / "rows.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    if hasattr(MODULES[name], "plot"):
        with figure(folder / f"{name}.png", size=(10, 4)) as drawn:
            MODULES[name].plot(pd.DataFrame(rows), drawn)
    write(folder / "README.md", page_of(folder))
    return said(name, pd.DataFrame(rows))


def _lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "rows.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def settings_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The settings in a folder: {name of a figure or theorem: its command and all else that its rows depend on}."""
    return {line["name"]: line["settings"] for line in _lines(folder) if "settings" in line}


def rows_of(folder: Path, name: str) -> pd.DataFrame:
    rows = (line for line in _lines(folder) if line["name"] == name and "settings" not in line)
    return pd.DataFrame(rows).drop(columns="name")


def page_of(folder: Path) -> str:
    recorded = settings_of(folder)
    kinds = dict.fromkeys(f"{name[:-1].capitalize()}s" for name in recorded)
    # the heading names a data set only if it is not the digits, which most figures use
    others = dict.fromkeys(own["dataset"] for own in recorded.values() if own.get("dataset", "digits") != "digits")
    heading = f"{' and '.join(kinds)} of arXiv 2303.00633, recomputed{''.join(f' on {name}' for name in others)}"
    return page(heading, notes(folder), *(part for name in recorded for part in _section(folder, name, dict(recorded[name]))))


def _section(folder: Path, name: str, settings: dict[str, Any]) -> list[str]:
    """The parts of one figure or theorem: title, command, plot, finding and settings."""
    title, _, text = said(name, rows_of(folder, name)).removeprefix("# ").partition("\n\n")
    heading, command = f"## {name[:-1].capitalize()} {name[-1]}: {title}", f"    {settings.pop('command')}"
    plot = f"![{name}]({name}.png)" if hasattr(MODULES[name], "plot") else ""
    return [heading, command, plot, text, f"Rows: [rows.jsonl](rows.jsonl). Settings: `{json.dumps(settings)}`"]


def said(name: str, frame: pd.DataFrame) -> str:
    """The template of a figure or theorem, filled with the constants of its module and with its finding from the rows."""
    module = MODULES[name]
    return filled(str(module.__file__), **vars(module) | module.finding(frame))
