"""Measure every scheme on gloo ranks, set the model beside it, and plot the model to many ranks.

python -m benchmarks.distributed                      # prints; --out FOLDER keeps rows, model, figure and a README
"""

from __future__ import annotations

import argparse
import csv
import platform
from pathlib import Path

import torch

from benchmarks.commit import COMMIT
from benchmarks.distributed import model
from benchmarks.distributed.measure import Machine, Row, can_measure, measured

#: the schemes whose cost the model knows
MODELLED = {"it-losses": model.ours, "official": model.gather_and_repeat}


def predicted(row: Row, machine: Machine) -> tuple[float, float, float]:
    """CPU ms, MB sent and MiB at the peak of a rank by the model."""
    cost = MODELLED[row.scheme](row.ranks, row.samples, row.dim, payload=4)
    return 1e3 * cost.seconds(model.Constants(*machine)), cost.sent / 1e6, cost.memory / 2**20


def table(rows: list[Row], machines: dict[int, Machine]) -> str:
    """The rows as Markdown, ours first in each case, the model in brackets."""
    lines = ["| ranks | N | D | scheme | CPU ms a rank [model] | of ours | MB sent [model] | peak MiB [model] |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    reference = {row[1:4]: row for row in rows if row.scheme == "it-losses"}
    for row in rows:
        model_says = [""] * 3
        if row.scheme in MODELLED:
            model_says = [f" [{number:.4g}]" for number in predicted(row, machines[row.ranks])]
        ratio = row.cpu_ms / reference[row[1:4]].cpu_ms
        spread = f"{row.cpu_ms:.1f} ({row.cpu_ms_quartile_low:.1f} to {row.cpu_ms_quartile_high:.1f})"
        lines.append(
            f"| {row.ranks} | {row.samples} | {row.dim} | {row.scheme} | {spread}{model_says[0]} | {ratio:.2f} "
            f"| {row.sent_mb:.2f}{model_says[1]} | {row.peak_mib:.0f}{model_says[2]} |"
        )
    return "\n".join(lines)


def plot(rows: list[Row], machines: dict[int, Machine], path: Path) -> None:
    """Left: model against measurement here. Right: the model on two interconnects to 256 ranks."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4))
    for scheme in MODELLED:
        mine = [row for row in rows if row.scheme == scheme]
        left.loglog([predicted(row, machines[row.ranks])[0] for row in mine], [row.cpu_ms for row in mine], "o", label=scheme)
    ends = [min(row.cpu_ms for row in rows) / 2, max(row.cpu_ms for row in rows) * 2]
    left.loglog(ends, ends, color="grey", linewidth=1)
    left.set(xlabel="CPU ms a rank, model", ylabel="measured", title="2 and 4 gloo ranks")
    left.legend()
    worlds = [2**i for i in range(9)]
    for interconnect, line in (("nvlink", "-"), ("infiniband", "--")):
        constants = model.INTERCONNECTS[interconnect]
        for color, name in zip("k01", ("it-losses", "covariance", "gather and repeat"), strict=True):
            times = [1e6 * model.SCHEMES[name](world, 2048, 8192).seconds(constants) for world in worlds]
            right.loglog(worlds, times, line, color=color if color == "k" else f"C{color}", label=f"{name}, {interconnect}")
    right.set(xlabel="ranks", ylabel="us a step, model", title="N = 2048, D = 8192, bf16: model, not measured")
    right.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def machine_in_words() -> str:
    """The machine and versions of the measurement."""
    cpu = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return f"{cpu[0] if cpu else platform.processor()}, {len(cpu)} cores, torch {torch.__version__}, commit {COMMIT}"


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--shapes", nargs="+", default=["512x2048", "512x512", "1024x256"], help="global samples x dim")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help="folder for rows.csv, README.md and model.png")
    args = parser.parse_args()
    if not can_measure():
        parser.error("counts bytes and memory by /proc, which this system has not. Run it on Linux.")

    shapes = [(int(samples), int(dim)) for samples, dim in (shape.split("x") for shape in args.shapes)]
    rows, machines = [], {}
    for world in args.ranks:
        found, machines[world] = measured(world, shapes, args.repeats)
        rows += found
    constants = "\n".join(
        f"- {world} ranks: {m.flops / 1e9:.1f} GFLOP/s; {m.memory_bytes / 1e9:.1f} GB/s of memory, "
        f"{m.fresh_bytes / 1e9:.1f} of fresh memory; {m.link_bytes / 1e9:.2f} GB/s sent, {1e6 * m.latency:.0f} us a collective"
        for world, m in machines.items()
    )
    legend = "Constants of the model, in CPU time of one thread:"
    text = f"{table(rows, machines)}\n\n{machine_in_words()}\n\n{legend}\n\n{constants}\n"
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        with open(args.out / "rows.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows(rows)
        plot(rows, machines, args.out / "model.png")
        (args.out / "README.md").write_text(
            "# CPU time and bytes of VICReg's global loss on gloo ranks\n\nForward and backward, float32, one thread a rank; "
            "medians and quartiles over interleaved repeats, mean over ranks; bytes as the kernel counted them.\n"
            f"Made by `python -m benchmarks.distributed --out ...`.\n\n{text}\n![model](model.png)\n"
        )


if __name__ == "__main__":
    main()
