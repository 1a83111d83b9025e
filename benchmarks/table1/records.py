"""The rows on disk: a JSON object for each finished run, their settings, and the epochs of all runs in one CSV.

Every file is written whole, so that a kill leaves the old one or the new one.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from benchmarks.pages import write, write_csv
from benchmarks.statistics import Statistic, statistic

Row = dict[str, Any]
FILES = ("settings.json", "rows.jsonl", "curves.csv")


class OutputError(Exception):
    """The output folder cannot be used: it cannot be written, is in use, is damaged, or holds a table of other settings."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say what to do where the block cannot write to the folder."""
    try:
        yield
    except OSError as problem:
        remedy = "make room or give access, and run the same command again; or choose another --output"
        raise OutputError(f"{folder} cannot be written: {problem}. What was finished is kept: {remedy}.") from problem


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Keep other programs out of the folder until the block or the process ends, and remove half-written files of killed ones.

    Raises:
        OutputError: another program has reserved it, or it cannot be written.
    """
    unfinished = folder / "unfinished"
    with writing(folder):
        unfinished.mkdir(parents=True, exist_ok=True)
        lock = FileLock(unfinished / "lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise OutputError(f"Another program is writing to {folder}. Wait for it, or choose another --output.") from None
    with lock:
        with writing(folder):
            _remove_half_written(folder)
        yield


def _remove_half_written(folder: Path) -> None:
    half_written = [path for name in (*FILES, "README.md") for path in folder.glob(f".{name}.*")]
    half_written += [path for path in (folder / "unfinished").iterdir() if path.suffix != ".ckpt" and path.name != "lock"]
    for path in half_written:
        path.unlink()


class Records:
    """A folder of finished runs.

    Raises:
        OutputError: a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        restore = "Restore the file, or choose another --output."
        self.settings: dict[str, Any] = self._parsed(self._text("settings.json") or "{}", "settings.json", restore)
        lines = enumerate(self._text("rows.jsonl").splitlines(), 1)
        again = "Remove that line: its run is then made again."
        self.rows: list[Row] = [self._parsed(line, f"rows.jsonl, line {number}", again) for number, line in lines if line]
        self._curves: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for point in csv.DictReader(self._text("curves.csv").splitlines()):
            self._curves[point["method"], point["seed"]].append(point)

    def _text(self, name: str) -> str:
        try:
            return (self.folder / name).read_text() if (self.folder / name).exists() else ""
        except OSError as problem:
            raise OutputError(f"{self.folder} cannot be read: {problem}. Choose another --output.") from problem

    def _parsed(self, text: str, where: str, remedy: str) -> Any:
        try:
            return json.loads(text)
        except json.JSONDecodeError as problem:
            raise OutputError(f"{self.folder}/{where} is damaged: {problem}. {remedy}") from problem

    def open(self, settings: dict[str, Any]) -> None:
        """Make the folder, or check that its rows have these settings.

        Raises:
            OutputError: it cannot be written, its rows were made with other settings, or a curve is not whole.
        """
        before, now = (pd.json_normalize(flat).to_dict("records") for flat in (self.settings, json.loads(json.dumps(settings))))
        changed = [f"{k} was {v}, is {now[0][k]}" for k, v in before[0].items() if k in now[0] and now[0][k] != v]
        if changed:
            remedy = "Use those again, or choose another --output."
            raise OutputError(f"{self.folder} holds a table made with other settings: {'; '.join(changed)}. {remedy}")
        # a table may gain methods
        rows = self.settings.get("rows", {}) | settings["rows"]
        self.settings = self.settings | settings | {"rows": rows}
        for row in self.rows:
            last = self._curves[row["method"], str(row["seed"])][-1:]
            if [point["linear"] for point in last] != [str(row["linear"])]:
                lacks = f"it lacks the last epoch of {row['method']}, seed {row['seed']}"
                remedy = "Remove its line from rows.jsonl: the run is then made again."
                raise OutputError(f"{self.folder}/curves.csv is damaged: {lacks}. {remedy}")
        with writing(self.folder):
            write(self.folder / "settings.json", json.dumps(self.settings, indent=2) + "\n")

    def has(self, method: str, seed: int) -> bool:
        """Whether this run has a row."""
        return any((row["method"], row["seed"]) == (method, seed) for row in self.rows)

    def of(self, method: str) -> list[Row]:
        """The rows of one method, seed by seed."""
        return sorted((row for row in self.rows if row["method"] == method), key=lambda row: int(row["seed"]))

    def scores(self, method: str, column: str) -> list[float]:
        """A column of the rows of one method, seed by seed."""
        return [row[column] for row in self.of(method)]

    def best(self, methods: Iterable[str]) -> str:
        """The method with the highest mean linear accuracy; ties go to higher kNN, then to the first."""
        return max(methods, key=lambda method: [self.mean(method, score).mean for score in ("linear", "knn")])

    def mean(self, method: str, column: str) -> Statistic:
        """The mean of a column of the rows of one method."""
        return statistic(self.scores(method, column))

    def percent(self, method: str) -> dict[str, str]:
        """Both accuracies of one method, for a table."""
        return {"linear %": self.mean(method, "linear").text(100), "kNN %": self.mean(method, "knn").text(100)}

    def names(self, column: str) -> str:
        """The values of a column of the rows, as a list in words: commits, devices."""
        return ", ".join(sorted({str(row[column]) for row in self.rows}))

    def add(self, row: Row, curve: list[Row]) -> None:
        """Write the curve of a finished run, then its row. The curve of a run that was killed in between is replaced later."""
        run = {"method": row["method"], "seed": row["seed"]}
        self._curves[row["method"], str(row["seed"])] = [run | point for point in curve]
        self.rows.append(row)
        with writing(self.folder):
            write_csv(self.folder / "curves.csv", chain.from_iterable(self._curves.values()))
            write(self.folder / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))

    def curve(self, method: str, seed: int) -> list[dict[str, float]]:
        """The measurements of a finished run, epoch by epoch."""
        points = self._curves[method, str(seed)]
        return [{k: float(v) for k, v in point.items() if k not in ("method", "seed") and v != ""} for point in points]
