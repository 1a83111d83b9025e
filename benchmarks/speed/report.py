"""The report on measured rows: tables of ratios, a list of cases in which our implementation is slower, and a figure."""

import itertools
from collections import defaultdict
from pathlib import Path

from benchmarks.pages import figure, filled, table
from benchmarks.speed.measure import Case, Row
from benchmarks.speed.objectives import OURS

METRICS = {
    "time_ms": ("Time", "ms"),
    "device_ms": ("Time of the GPU's kernels alone", "ms"),
    "launches": ("Launches of kernels", ""),
    "peak_mib": ("Peak memory above the inputs", "MiB"),
}
#: (metric, mode) -> name of the comparison in the report
COMPARED = {
    ("time_ms", "forward"): "Forward pass",
    ("time_ms", "backward"): "Backward pass",
    ("time_ms", "both"): "Forward and backward",
    ("device_ms", "both"): "The GPU's kernels alone",
    ("peak_mib", "both"): "Peak memory",
}


def case_of(row: Row) -> Case:
    return Case(row["level"], row["objective"], int(row["batch"]), int(row["dim"]), dtype=row["dtype"])


def by_case(rows: list[Row], *, metric: str, mode: str = "both") -> dict[Case, dict[str, float]]:
    """The values of a metric: case -> implementation -> value."""
    cases: dict[Case, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if (row["metric"], row["mode"]) == (metric, mode):
            cases[case_of(row)][row["provider"]] = float(row["value"])
    return cases


def slower(rows: list[Row]) -> list[str]:
    """A line for every comparison in which our implementation is slower or takes more memory."""
    return [
        f"{what}, {case.label} {case.size}: `{name}` takes {value:.3g} {unit}, ours {numbers[OURS]:.3g} {unit}"
        for (metric, mode), what in COMPARED.items()
        for unit in [METRICS[metric][1]]
        for case, numbers in by_case(rows, metric=metric, mode=mode).items()
        for name, value in numbers.items()
        if value < numbers[OURS] and not name.startswith(OURS)
    ]


def readme(rows: list[Row], command: str, notes: str = "") -> str:
    """The README of a folder of results; `notes` are the hand-written remarks about it."""
    first = rows[0]
    commits = ", ".join(dict.fromkeys(row["commit"] + " with uncommitted changes" * (row["dirty"] == "True") for row in rows))
    parts = []
    for metric, (title, unit) in METRICS.items():
        lines = [_line(case, found, unit) for case, found in by_case(rows, metric=metric).items()]
        parts += [f"## {title}", table(lines, left=2)] if lines else []
    return filled(
        __file__,
        command=command,
        **first,
        commits=commits,
        notes=notes,
        place=f" on {first['device']}" * ("cpu" not in first["clock"].lower()),
        tables="\n\n".join(parts),
        slower="\n".join(f"- {line}" for line in slower(rows)) or "Nowhere in this run.",
    )


def _line(case: Case, found: dict[str, float], unit: str) -> dict[str, str]:
    ratios = {name: f"{value / found[OURS]:.2f}x" for name, value in found.items() if name != OURS}
    return {"": case.label, "N x D": case.size, f"ours, {unit}".rstrip(", "): f"{found[OURS]:.3g}", **ratios}


def draw(rows: list[Row], path: Path) -> None:
    """Plot the time of other implementations divided by ours, a row for each case. To the right of 1, ours is faster."""
    timed = sorted(by_case(rows, metric="time_ms").items(), key=lambda case: (case[0].label, case[0].dim, case[0].batch))
    others = dict.fromkeys(name for _, found in timed for name in found if name != OURS)
    with figure(path, size=(9, 0.16 * len(timed) + 1.5)) as drawn:
        axes = drawn.subplots()
        for name, marker in zip(others, itertools.cycle("osD^vP"), strict=False):
            ratios = {i: found[name] / found[OURS] for i, (_, found) in enumerate(timed) if name in found}
            axes.plot(list(ratios.values()), list(ratios), marker, markersize=5, fillstyle="none", label=name)
        axes.axvline(1, color="black", linewidth=1.2)
        axes.set_yticks(range(len(timed)), [f"{case.label} {case.size}" for case, _ in timed], fontsize=7)
        axes.set(ylim=(len(timed) - 0.4, -0.6), xlabel="the other's time divided by ours, forward and backward")
        axes.set_xscale("log", subs=[2, 5])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.grid(which="both", alpha=0.3)
        axes.legend(fontsize=8)
