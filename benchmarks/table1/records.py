"""Finished runs on disk: `rows.jsonl` has a line with the settings of all runs, then a line for each run.

Every file is replaced as a whole, so that a killed program leaves the old file or the complete new one.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from benchmarks import RequestError
from benchmarks.pages import write
from benchmarks.statistics import Difference, Statistic, finding, holm, paired_difference, statistic
from benchmarks.table1.recipes import Recipe

Row = dict[str, Any]


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes to the folder, into a RequestError that says what to do."""
    try:
        yield
    except OSError as problem:
        remedy = "make room or give access, and run the same command again; or choose another --output"
        raise RequestError(f"{folder} cannot be written: {problem}. Finished runs are kept: {remedy}.") from problem


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Keep other programs out of the folder until the block ends, and remove half-written files of killed programs."""
    lock = FileLock(folder / "unfinished" / "lock", blocking=False)
    with writing(folder):
        (folder / "unfinished").mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise RequestError(f"Another program is writing to {folder}. Wait for it, or choose another --output.") from None
    with lock:
        with writing(folder):
            # the name of a half-written file starts with a dot and ends with a process number
            for path in [*folder.glob(".*.[0-9]*"), *(folder / "unfinished").glob("*.part*")]:
                path.unlink()
        yield


class Records:
    """A folder of finished runs; RequestError if `rows.jsonl` cannot be read, is damaged, or is of an older version."""

    def __init__(self, folder: Path) -> None:
        self.folder, path = folder, folder / "rows.jsonl"
        try:
            lines = path.read_text().splitlines() if path.exists() else []
        except OSError as problem:
            raise RequestError(f"{folder} cannot be read: {problem}. Choose another --output.") from problem
        read: list[Row] = []
        for number, line in enumerate(lines or ["{}"], 1):
            try:
                read.append(json.loads(line))
            except json.JSONDecodeError as problem:
                again = "Remove that line to repeat its run." if read else "Restore the file, or choose another --output."
                raise RequestError(f"{path}, line {number} is damaged: {problem}. {again}") from problem
        self.settings, *self.rows = read
        if "method" in self.settings:
            raise RequestError(f"{path} was written by an older version, without settings. Choose another --output.")

    def open(self, settings: dict[str, Any]) -> None:
        """Write the settings; RequestError if the rows in the folder were made with other settings."""
        before, now = (pd.json_normalize(flat).to_dict("records") for flat in (self.settings, json.loads(json.dumps(settings))))
        changed = [f"{k} was {v}, is {now[0][k]}" for k, v in before[0].items() if k in now[0] and now[0][k] != v]
        if changed:
            remedy = "Use the earlier settings again, or choose another --output."
            raise RequestError(f"{self.folder} holds a table made with other settings: {'; '.join(changed)}. {remedy}")
        # methods may be added to a table later
        rows = self.settings.get("rows", {}) | settings["rows"]
        self.settings = self.settings | settings | {"rows": rows}
        self._write()

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self._write()

    def _write(self) -> None:
        with writing(self.folder):
            write(self.folder / "rows.jsonl", "".join(json.dumps(line) + "\n" for line in (self.settings, *self.rows)))

    def has(self, method: str, seed: int) -> bool:
        return any((row["method"], row["seed"]) == (method, seed) for row in self.rows)

    def of(self, method: str) -> list[Row]:
        """The rows of one method, sorted by seed."""
        return sorted((row for row in self.rows if row["method"] == method), key=lambda row: int(row["seed"]))

    def scores(self, method: str, column: str) -> list[float]:
        return [row[column] for row in self.of(method)]

    def mean(self, method: str, column: str) -> Statistic:
        return statistic(self.scores(method, column))

    def cells(self, method: str, gaps: Mapping[str, Difference]) -> dict[str, str]:
        """Table cells of a method: both accuracies, and its difference and p-value from `gaps`, empty if it has none."""
        scores = {"linear %": self.mean(method, "linear").text(100), "kNN %": self.mean(method, "knn").text(100)}
        return scores | (gaps[method].cells() if method in gaps else {"difference": "", "p": ""})

    def best(self, methods: Iterable[str]) -> str:
        """The method with the highest mean linear accuracy; ties go to higher kNN, then to the first."""
        return max(methods, key=lambda method: [self.mean(method, score).mean for score in ("linear", "knn")])

    def compared(self, bases: Mapping[str, str], score: str) -> dict[str, Difference]:
        """The difference of each method from its baseline over common seeds, with p-values corrected for their number."""
        gaps = {}
        for pair in bases.items():
            row, base = ({run["seed"]: run[score] for run in self.of(method)} for method in pair)
            if seeds := sorted(row.keys() & base.keys()):
                gaps[pair[0]] = paired_difference([row[seed] for seed in seeds], [base[seed] for seed in seeds])
        corrected = holm([gap.p_value for gap in gaps.values()])
        return {name: gap._replace(p_value=p) for (name, gap), p in zip(gaps.items(), corrected, strict=True)}

    def findings(self, bases: Mapping[str, str], recipes: Mapping[str, Recipe]) -> str:
        lines = []
        for probe in ("Linear", "kNN"):
            gaps = self.compared(bases, probe.lower())
            lines.append(f"- {probe} probe. {finding({recipes[name].title: gap for name, gap in gaps.items()})}")
        return "\n".join(lines)

    def names(self, column: str) -> str:
        return ", ".join(sorted({str(row[column]) for row in self.rows}))

    def over(self) -> str:
        """Text that says whether the numbers of a table are from one seed, or means over several seeds."""
        seeds = sorted({len(self.of(method)) for method in {row["method"] for row in self.rows}})
        return f"mean ± standard error of {' or '.join(map(str, seeds))} seeds" if seeds[-1] > 1 else "one seed"
