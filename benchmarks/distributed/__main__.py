"""Measure every scheme on gloo ranks, set the model beside it, and plot the model to many ranks.

python -m benchmarks.distributed                      # prints; --out FOLDER keeps rows, model, figure and a README
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.distributed import model
from benchmarks.distributed.measure import measured
from benchmarks.distributed.model import Constants
from benchmarks.machine import can_count, device_name
from benchmarks.pages import COMMIT, figure, page, table, write, write_csv

#: the schemes whose cost the model knows
MODELLED = {"it-losses": model.ours, "official": model.gather_and_repeat}


def predicted(row: Any, constants: Constants) -> tuple[float, float, float]:
    """CPU ms, MB sent and MiB at the peak of a rank by the model."""
    cost = MODELLED[row.scheme](row.ranks, row.samples, row.dim, payload=4)
    return 1e3 * cost.seconds(constants), cost.sent / 1e6, cost.memory / 2**20


def line(row: Any, machine: Constants) -> dict[str, str]:
    """A row of the table: what was measured, with the cost by the model in brackets."""
    says = predicted(row, machine) if row.scheme in MODELLED else ()
    time, sent, peak = (f" [{number:.4g}]" for number in says) if says else ("", "", "")
    spread = f"{row.cpu_ms:.1f} ({row.cpu_ms_quartile_low:.1f} to {row.cpu_ms_quartile_high:.1f})"
    case = {"ranks": str(row.ranks), "N": str(row.samples), "D": str(row.dim), "scheme": row.scheme}
    costs = {"CPU ms a rank [model]": spread + time, "of ours": f"{row.of_ours:.2f}"}
    return case | costs | {"MB sent [model]": f"{row.sent_mb:.2f}{sent}", "peak MiB [model]": f"{row.peak_mib:.0f}{peak}"}


def plot(rows: pd.DataFrame, machines: dict[int, Constants], path: Path) -> None:
    """Left: model against measurement here. Right: the model on two interconnects to 256 ranks."""
    with figure(path, size=(11, 4.4)) as drawn:
        left, right = drawn.subplots(1, 2)
        for scheme in MODELLED:
            of_scheme = rows[rows.scheme == scheme]
            modelled = [predicted(row, machines[row.ranks])[0] for row in of_scheme.itertuples()]
            left.loglog(modelled, of_scheme.cpu_ms, "o", label=scheme)
        ends = [rows.cpu_ms.min() / 2, rows.cpu_ms.max() * 2]
        left.loglog(ends, ends, color="grey", linewidth=1)
        left.set(xlabel="CPU ms a rank, model", ylabel="measured", title="2 and 4 gloo ranks")
        worlds = [2**i for i in range(9)]
        for interconnect, style in (("nvlink", "-"), ("infiniband", "--")):
            constants = model.INTERCONNECTS[interconnect]
            for color, name in (("k", "it-losses"), ("C0", "covariance"), ("C1", "gather and repeat")):
                times = [1e6 * model.SCHEMES[name](world, 2048, 8192).seconds(constants) for world in worlds]
                right.loglog(worlds, times, style, color=color, label=f"{name}, {interconnect}")
        right.set(xlabel="ranks", ylabel="us a step, model", title="N = 2048, D = 8192, bf16: model, not measured")
        for axes in (left, right):
            axes.legend(fontsize=7)


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--shapes", nargs="+", default=["512x2048", "512x512", "1024x256"], help="global samples x dim")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help="folder for rows.csv, README.md and model.png")
    options = parser.parse_args()
    if not can_count():
        parser.error("the program counts bytes and memory by /proc, which this system lacks. Run it on Linux.")
    shapes = [(int(samples), int(dim)) for samples, dim in (shape.split("x") for shape in options.shapes)]
    found = {world: measured(world, shapes, options.repeats) for world in options.ranks}
    of_ranks = pd.DataFrame([row for rows, _ in found.values() for row in rows])
    rows = of_ranks.groupby(["scheme", "ranks", "samples", "dim"], sort=False, as_index=False).mean()
    machines = {world: Constants(*pd.DataFrame(constants).mean()) for world, (_, constants) in found.items()}
    # ours is the first scheme of each case
    ours = rows.groupby(["ranks", "samples", "dim"]).cpu_ms.transform("first")
    lines = [line(row, machines[row.ranks]) for row in rows.assign(of_ours=rows.cpu_ms / ours).itertuples()]
    constants = "\n".join(f"- {world} ranks: {machine}" for world, machine in machines.items())
    text = page(
        "CPU time and bytes of VICReg's global loss on gloo ranks",
        "`python -m benchmarks.distributed --out ...` measures forward and backward in float32, with one thread for each rank. "
        "The values are medians and quartiles over interleaved repeats, averaged over the ranks. The Linux kernel counted the "
        "bytes. The column *of ours* has the time divided by ours.",
        table(lines, left=4),
        f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores, torch {torch.__version__}, commit {COMMIT}",
        "The constants of the model, for one thread:",
        constants,
        "![model](model.png)",
    )
    print(text)
    if options.out:
        write_csv(options.out / "rows.csv", rows.to_dict("records"))
        plot(rows, machines, options.out / "model.png")
        write(options.out / "README.md", text)


if __name__ == "__main__":
    main()
