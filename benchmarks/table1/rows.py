"""The rows on disk: a JSON object for each finished run, their settings, and a CSV of the epochs of each.

Every file is written beside its place and moved there, so that a kill leaves the old one or the new one.
"""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class OutputError(Exception):
    """The output folder cannot be written, or holds a table made with other settings."""


class Records:
    """A folder of finished runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Row] = _read(folder / "rows.jsonl")

    def open(self, settings: dict[str, Any]) -> None:
        """Make the folder, and hold it to one set of settings: those of its first run.

        Raises:
            OutputError: it cannot be written, or its rows were made otherwise.
        """
        path = self.folder / "settings.json"
        try:
            (self.folder / "curves").mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._compare(json.loads(path.read_text()), json.loads(json.dumps(settings)))
            merged = _merged(json.loads(path.read_text()) if path.exists() else {}, settings)
            write(path, json.dumps(merged, indent=2) + "\n")
        except (OSError, json.JSONDecodeError) as problem:
            raise OutputError(f"{self.folder} cannot be used for output: {problem}. Choose another --output.") from problem

    def _compare(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        before, now = _flat(old), _flat(new)
        changed = [f"{name} was {before[name]}, is {now[name]}" for name in before if name in now and before[name] != now[name]]
        if changed:
            raise OutputError(
                f"{self.folder} holds a table made with other settings: {'; '.join(changed)}. "
                "Use those again, or choose another --output."
            )

    def has(self, method: str, seed: int) -> bool:
        """Whether this run has a row."""
        return any(row["method"] == method and row["seed"] == seed for row in self.rows)

    def add(self, row: Row, curve: list[Row]) -> None:
        """Write the row and the curve of a finished run."""
        if curve:
            fields = list(dict.fromkeys(name for point in curve for name in point))
            path = self.folder / "curves" / f"{row['method']}-seed{row['seed']}.csv"
            write_csv(path, fields, curve)
        self.rows.append(row)
        write(self.folder / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))

    def curve(self, method: str, seed: int) -> list[Row]:
        """What a finished run measured, epoch by epoch."""
        path = self.folder / "curves" / f"{method}-seed{seed}.csv"
        if not path.exists():
            return []
        with path.open(newline="") as lines:
            return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(lines)]


def write(path: Path, content: str | bytes) -> None:
    """Write the whole content atomically."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_csv(path: Path, fields: list[str], rows: list[Row]) -> None:
    """A header and the rows; what a row lacks stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def _read(path: Path) -> list[Row]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line]
    except FileNotFoundError:
        return []
    except (OSError, json.JSONDecodeError) as problem:
        raise OutputError(f"{path} cannot be read: {problem}. Remove it, or choose another --output.") from problem


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Merge the settings of two calls, because a table may gain methods."""
    merged = dict(old)
    for name, value in new.items():
        merged[name] = _merged(merged.get(name, {}), value) if isinstance(value, dict) else value
    return merged
