"""The report of a run: tables of ratios, a list of cases in which ours is slower, and a figure."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from benchmarks.speed.peers import OURS
from benchmarks.speed.rows import Row

Key = tuple[str, str, int, int]


def by_case(rows: list[Row], *, metric: str, mode: str) -> dict[Key, dict[str, Row]]:
    """(level, objective, batch, dim) -> provider -> row."""
    cases: dict[Key, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if (row.metric, row.mode) == (metric, mode):
            cases[row.level, row.objective, row.batch, row.dim][row.provider] = row
    return cases


def slower(rows: list[Row]) -> list[str]:
    """Every comparison, of time or memory, that ours loses."""
    lost = []
    for metric, modes in (("time_ms", ("forward", "backward", "both")), ("peak_mib", ("both",))):
        for mode in modes:
            for (level, objective, batch, dim), found in by_case(rows, metric=metric, mode=mode).items():
                ours = found[OURS].value
                lost += [
                    f"{level} {objective} {batch} x {dim}, {mode}, {metric}: {name} {row.value:.3g}, ours {ours:.3g}"
                    for name, row in found.items()
                    if row.value < ours and not name.startswith(OURS)
                ]
    return lost


def readme(rows: list[Row], command: str) -> str:
    """The README of a folder of results."""
    first = rows[0]
    commits = ", ".join(dict.fromkeys(row.commit + " with uncommitted changes" * row.dirty for row in rows))
    lines = [
        "# Speed and memory",
        "",
        f"`{command}` on {first.device}, {first.threads} thread(s), torch {first.torch}, commit {commits}.",
        f"Forward and backward, two views, {first.dtype}; all implementations in turn in one process, medians ({first.clock});",
        "20th and 80th percentiles and every other number are in `rows.csv`. A ratio is the other's number over ours.",
        "",
        "![ratios](speed.png)",
    ]
    for metric, title, unit in (("time_ms", "Time", "ms"), ("peak_mib", "Peak memory above the inputs, fresh process", "MiB")):
        cases = by_case(rows, metric=metric, mode="both")
        if not cases:
            continue
        names = list(dict.fromkeys(name for found in cases.values() for name in found if name != OURS))
        lines += ["", f"## {title}", "", f"| | N x D | ours, {unit} | " + " | ".join(names) + " |"]
        lines.append("|---|---|---|" + "---|" * len(names))
        for (level, objective, batch, dim), found in cases.items():
            ours = found[OURS].value
            cells = (f"{found[name].value / ours:.2f}x" if name in found else "" for name in names)
            label = objective if level == "op" else f"{objective}, training step"
            lines.append(f"| {label} | {batch} x {dim} | {ours:.3g} | " + " | ".join(cells) + " |")
    lost = slower(rows)
    lines += ["", "## Where ours is slower or larger", "", *(f"- {line}" for line in lost or ["nowhere in this run"])]
    lines += ["", "Not yet measured: any GPU."] if "cpu" in first.clock.lower() else []
    return "\n".join(lines) + "\n"


def figure(rows: list[Row], path: Path) -> None:
    """Time of the others over ours, one panel an objective."""
    from matplotlib.figure import Figure

    cases = {key: found for key, found in by_case(rows, metric="time_ms", mode="both").items() if key[0] == "op"}
    objectives = list(dict.fromkeys(key[1] for key in cases))
    sizes = [[key for key in cases if key[1] == objective] for objective in objectives]
    fig = Figure(figsize=(13, 4.2), layout="constrained")
    panels = fig.subplots(1, len(objectives), width_ratios=[len(s) + 1 for s in sizes], squeeze=False)
    for axes, objective, keys in zip(panels[0], objectives, sizes, strict=True):
        keys = sorted(keys, key=lambda key: key[3] / key[2])
        names = [n for n in dict.fromkeys(n for key in keys for n in cases[key]) if n != OURS]
        for name in names:
            places = [i for i, key in enumerate(keys) if name in cases[key]]
            ratios = [cases[keys[i]][name].value / cases[keys[i]][OURS].value for i in places]
            axes.plot(places, ratios, "o-", markersize=4, linewidth=1, label=name)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_yscale("log")
        axes.set_xticks(range(len(keys)), [f"{key[2]} x {key[3]}" for key in keys], rotation=90, fontsize=7)
        axes.set_title(objective)
        axes.legend(fontsize=7)
    panels[0][0].set_ylabel("time over ours, forward + backward")
    fig.savefig(path, dpi=150)
