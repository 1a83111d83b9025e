"""Tables of the site that follow from the code or from recorded rows."""

from __future__ import annotations

import csv
import inspect
import re
from pathlib import Path

from benchmarks.site.rows import changed, folder, scores, settings, speed
from benchmarks.site.sources import ROOT
from it_losses import ESTIMATORS, EntropyEstimator
from it_losses.__main__ import estimator_table

#: row of Table 1 -> how it is written, and the key of its speed; None where the loss is another library's
OBJECTIVES = {
    "vicreg": ("`VICReg()`", "vicreg"),
    "vicreg_logdet": ('`VICRegEntropy("log_det")`', "log_det"),
    "vicreg_pairdist": ('`VICRegEntropy("pairwise")`', "pairwise"),
    "byol": ("BYOL", None),
    "byol_logdet": ('BYOL + `EntropyRegularizer("log_det", beta=dim)`', "log_det"),
    "byol_pairdist": ('BYOL + `EntropyRegularizer("pairwise")`', "pairwise"),
}
#: the objective that a limit may name instead of the estimator in it
OBJECTIVE_OF = {"VarianceCovariance": "VICReg"}
#: the shape at which the time of every objective is recorded
SHAPE = 1024, 512
WIDE = 2048


def estimators() -> str:
    """The declared facts of every estimator."""
    return estimator_table()


def weights() -> str:
    """The default weights of every estimator."""
    lines = ["| objective | `invariance_weight` | `entropy_weight` |", "|---|---:|---:|"]
    for name, kind in ESTIMATORS.items():
        default = kind().default_weights
        entropy = "none: name it" if default.entropy is None else f"{default.entropy:g}"
        lines.append(f'| `VICRegEntropy("{name}")` | {default.invariance:g} | {entropy} |')
    return "\n".join(lines)


def choice() -> str:
    """Cost and accuracy of each objective side by side."""
    digits, fashion = scores(folder("table1.md", "digits")), scores(folder("table1.md", "fashion_mnist"))
    knn = scores(folder("table1.md", "digits"), "knn")
    lines = [
        f"| objective | loss, ms | digits, linear % | digits, kNN % | Fashion-MNIST, linear % | {WIDE} dimensions, points |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row, (name, timed) in OBJECTIVES.items():
        time = f"{speed()[(timed, *SHAPE)]:.1f}" if timed else ""
        lines.append(f"| {name} | {time} | {digits[row]} | {knn[row]} | {fashion[row]} | {_wider(row)} |")
    return "\n".join(lines)


def _wider(row: str) -> str:
    """The change of the linear probe from the usual dimension of the projection to a wide one."""
    ablations = folder("ablations.csv")
    widths = {run["output"]: scores(ablations)[name] for name, run in changed(ablations, row, {"output"}).items()}
    if WIDE not in widths:
        return ""
    usual = scores(ablations)[row]
    error = (widths[WIDE].error ** 2 + usual.error**2) ** 0.5
    return f"{widths[WIDE].mean - usual.mean:+.1f} ± {error:.1f}"


def choice_setting() -> str:
    """The settings of the columns of `choice`, with the folders that they come from."""
    digits, fashion, ablations = folder("table1.md", "digits"), folder("table1.md", "fashion_mnist"), folder("ablations.csv")
    runs = {path: settings(path) for path in (digits, fashion, ablations)}
    seeds = {path: len((path / "rows.jsonl").read_text().splitlines()) // len(scores(path)) for path in runs}
    training = {
        path: f"{run['backbone']} at {run['width']} of its width, {run['epochs']} epochs, batch {run['batch_size']}, "
        f"{seeds[path]} seeds, mean ± standard error"
        for path, run in runs.items()
    }
    batch, dim = SHAPE
    return "\n".join(
        [
            f"- *loss*: time of forward and backward, two views of {batch} x {dim}, float32, one CPU thread "
            f"({_linked(folder('speed.png'))}). `VICReg()` was timed whole; of the others the entropy of both views was timed.",
            f"- *digits*: {training[digits]} ({_linked(digits)}).",
            f"- *Fashion-MNIST*: {training[fashion]} ({_linked(fashion)}).",
            f"- *{WIDE} dimensions*: change of the linear probe on digits from 512 dimensions of the projection to {WIDE}, "
            f"{seeds[ablations]} seeds ({_linked(ablations)}).",
        ]
    )


def cost() -> str:
    """The time of the three entropies at every shape at which at least two were timed."""
    kinds = {"vicreg": "variance and covariance", "log_det": "`log_det`", "pairwise": "`pairwise`"}
    shapes = sorted({(batch, dim) for _, batch, dim in speed()})
    several = [shape for shape in shapes if sum((kind, *shape) in speed() for kind in kinds) > 1]
    lines = ["| N x D | " + " | ".join(f"{name}, ms" for name in kinds.values()) + " |", "|---|" + "---:|" * len(kinds)]
    for shape in several:
        times = [f"{speed()[(kind, *shape)]:.3g}" if (kind, *shape) in speed() else "" for kind in kinds]
        lines.append(f"| {shape[0]} x {shape[1]} | {' | '.join(times)} |")
    return "\n".join(
        [*lines, "", f"float32, two views, forward and backward, one CPU thread ({_linked(folder('speed.png'))})."]
    )


def step() -> str:
    """How long a whole training step takes beside its loss, in one sentence."""
    path = folder("speed.png")
    with (path / "rows.csv").open() as file:
        rows = [
            row for row in csv.DictReader(file) if (row["level"], row["mode"], row["metric"]) == ("step", "both", "time_ms")
        ]
    times = {row["provider"]: float(row["value"]) for row in rows}
    batch, dim = int(rows[0]["batch"]), int(rows[0]["dim"])
    return (
        f"A step of VICReg with a timm `resnet10t` at 32 pixels, a batch of {batch} and {dim} dimensions takes "
        f"{times['it-losses']:.0f} ms with our loss and {times['lightly']:.0f} ms with lightly's. Our loss alone takes "
        f"{speed()[('vicreg', batch, dim)]:.1f} ms of it (float32, one CPU thread, {_linked(path)})."
    )


def ranks() -> str:
    """The cost of a rank beside other ways to gather, for wide embeddings."""
    path = folder("model.png")
    with (path / "rows.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["dim"]) == WIDE]
    lines = ["| ranks | batch of all ranks x dim | scheme | CPU time of a rank, ms | sent by a rank, MB | peak memory, MiB |"]
    lines.append("|---:|---|---|---:|---:|---:|")
    for row in rows:
        numbers = (float(row["cpu_ms"]), float(row["sent_mb"]), float(row["peak_mib"]))
        time, sent, peak = (f"{number:.3g}" for number in numbers)
        lines.append(f"| {row['ranks']} | {row['samples']} x {row['dim']} | {row['scheme']} | {time} | {sent} | {peak} |")
    setting = "VICReg, float32, forward and backward, one thread a rank, gloo on one machine of two cores"
    return "\n".join([*lines, "", f"{setting} ({_linked(path)})."])


def described_estimators() -> str:
    """Every estimator: what it is, its equation, its facts, and where it fails."""
    return "\n\n".join(_described(name, kind) for name, kind in ESTIMATORS.items())


def _described(name: str, kind: type[EntropyEstimator]) -> str:
    docstring = inspect.cleandoc(kind.__doc__ or "")
    sentence = docstring.split("\n\n")[0]
    equation = re.search(r"^    \S.*(?:\n    .*)*", docstring, re.MULTILINE)
    facts = {
        "unit": kind.unit,
        "direction": kind.direction,
        "rotation invariant": "yes" if kind.rotation_invariant else "no",
        "cost": f"`{kind.cost}` for N samples of D dimensions",
    }
    parts = [f"### {kind.__name__}, `{name}`", sentence, equation[0] if equation else ""]
    parts += ["\n".join(f"- **{fact}**: {value}" for fact, value in facts.items()), _failures(kind.__name__)]
    return "\n\n".join(filter(None, parts))


def _failures(name: str) -> str:
    """The rows of the table of limits that name the class, as a list."""
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs" / "limits.md").read_text().splitlines()]
    names = {f"`{name}`", f"`{OBJECTIVE_OF.get(name, name)}`"}
    table = [(row[0], row[2]) for row in rows if len(row) == 3]
    failures = [(situation, remedy) for situation, remedy in table if any(name in situation for name in names)]
    if not failures:
        return ""
    return "Where it fails:\n\n" + "\n".join(f"- {situation} *What to do:* {remedy}" for situation, remedy in failures)


def _linked(path: Path) -> str:
    return f"[{path.name}](../{path.relative_to(ROOT).as_posix()})"
