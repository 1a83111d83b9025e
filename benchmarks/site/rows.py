"""Read the recorded results that the pages show: Table 1, ablations, the search for settings, and speed."""

from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.pages import RESULTS
from benchmarks.report import newest
from benchmarks.speed.__main__ import read
from benchmarks.speed.measure import Row
from benchmarks.speed.objectives import OURS
from benchmarks.speed.report import by_case
from benchmarks.statistics import Statistic, statistic
from benchmarks.table1.records import Records


def folder(content: str, dataset: str | None = None) -> Path:
    """The newest folder of this kind of results on a CPU. With `dataset`, it has a ResNet on that data set."""
    found = [path for path in newest(RESULTS, content) if "-cpu-" in path.name]
    return next(path for path in found if dataset is None or _is_resnet(records(path).settings, dataset))


def gpu_folder() -> Path:
    """The newest folder of speed results on a GPU."""
    return next(path for path in newest(RESULTS, "speed") if "-cpu-" not in path.name)


def _is_resnet(settings: dict[str, Any], dataset: str) -> bool:
    return settings["dataset"] == dataset and settings["backbone"].startswith("resnet")


@cache
def records(path: Path) -> Records:
    """The rows and settings in a folder."""
    return Records(path)


def score(path: Path, method: str, probe: str = "linear") -> Statistic:
    """Mean and standard error of a probe over the seeds of a method, in percent."""
    return statistic(100 * row[probe] for row in records(path).of(method))


def changed(path: Path, base: str, options: set[str]) -> dict[str, dict[str, Any]]:
    """{name: settings} of the base and of the ablations that change only these options of the base."""
    rows = records(path).settings["rows"]
    others = {name: {key: row[key] for key in row if key not in {*options, "criterion"}} for name, row in rows.items()}
    return {name: rows[name] for name, rest in others.items() if rest == others[base]}


@cache
def speed_rows() -> list[Row]:
    """The rows of the newest speed results on a CPU."""
    return read(folder("speed") / "rows.csv")


def speed() -> dict[tuple[str, int, int], float]:
    """{(objective, batch, dim): our time of forward and backward, in ms}."""
    timed = by_case(speed_rows(), metric="time_ms")
    return {(key.objective, key.batch, key.dim): found[OURS] for key, found in timed.items() if key.level == "op"}
