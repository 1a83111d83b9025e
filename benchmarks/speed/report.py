"""The report of a run: tables of ratios, a list of cases in which ours is slower, and a figure."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from benchmarks.pages import figure, filled, table
from benchmarks.speed.measure import Row
from benchmarks.speed.objectives import OURS

Key = tuple[str, str, int, int]
METRICS = {"time_ms": ("Time", "ms"), "peak_mib": ("Peak memory above the inputs, fresh process", "MiB")}


def by_case(rows: list[Row], *, metric: str, mode: str = "both") -> dict[Key, dict[str, float]]:
    """(level, objective, batch, dim) -> provider -> number."""
    cases: dict[Key, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if (row["metric"], row["mode"]) == (metric, mode):
            cases[row["level"], row["objective"], int(row["batch"]), int(row["dim"])][row["provider"]] = float(row["value"])
    return cases


def slower(rows: list[Row]) -> list[str]:
    """Every comparison, of time or memory, that ours loses."""
    return [
        f"{level} {objective} {batch} x {dim}, {mode}, {metric}: {name} {value:.3g}, ours {found[OURS]:.3g}"
        for metric, mode in (("time_ms", "forward"), ("time_ms", "backward"), ("time_ms", "both"), ("peak_mib", "both"))
        for (level, objective, batch, dim), found in by_case(rows, metric=metric, mode=mode).items()
        for name, value in found.items()
        if value < found[OURS] and not name.startswith(OURS)
    ]


def readme(rows: list[Row], command: str) -> str:
    """The README of a folder of results."""
    first = rows[0]
    commits = ", ".join(dict.fromkeys(row["commit"] + " with uncommitted changes" * (row["dirty"] == "True") for row in rows))
    parts = []
    for metric, (title, unit) in METRICS.items():
        lines = [_line(key, found, unit) for key, found in by_case(rows, metric=metric).items()]
        parts += [f"## {title}", table(lines, left=2)] if lines else []
    return filled(
        __file__,
        command=command,
        **first,
        commits=commits,
        tables="\n\n".join(parts),
        slower="\n".join(f"- {line}" for line in slower(rows) or ["nowhere in this run"]),
        unmeasured="Not yet measured: any GPU." if "cpu" in first["clock"].lower() else "",
    )


def _line(key: Key, found: dict[str, float], unit: str) -> dict[str, str]:
    level, objective, batch, dim = key
    label = objective if level == "op" else f"{objective}, training step"
    ratios = {name: f"{value / found[OURS]:.2f}x" for name, value in found.items() if name != OURS}
    return {"": label, "N x D": f"{batch} x {dim}", f"ours, {unit}": f"{found[OURS]:.3g}", **ratios}


def draw(rows: list[Row], path: Path) -> None:
    """Time of the others over ours, one panel an objective."""
    cases = {key: found for key, found in by_case(rows, metric="time_ms").items() if key[0] == "op"}
    panels: dict[str, list[Key]] = defaultdict(list)
    for key in sorted(cases, key=lambda key: key[3] / key[2]):
        panels[key[1]].append(key)
    with figure(path, size=(13, 4.2)) as drawn:
        widths = [len(keys) + 1 for keys in panels.values()]
        all_axes = drawn.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
        for axes, (objective, keys) in zip(all_axes, panels.items(), strict=True):
            for name in dict.fromkeys(name for key in keys for name in cases[key] if name != OURS):
                ratios = {i: cases[key][name] / cases[key][OURS] for i, key in enumerate(keys) if name in cases[key]}
                axes.plot(list(ratios), list(ratios.values()), "o-", markersize=4, linewidth=1, label=name)
            axes.axhline(1, color="black", linewidth=0.8)
            axes.set_xticks(range(len(keys)), [f"{key[2]} x {key[3]}" for key in keys], rotation=90, fontsize=7)
            axes.set(yscale="log", title=objective)
            axes.legend(fontsize=7)
        all_axes[0].set_ylabel("time over ours, forward + backward")
