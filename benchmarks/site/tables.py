"""Tables and sentences of the pages, made from the code or from recorded results."""

import inspect
import re
from pathlib import Path

import torch

from benchmarks.pages import RESULTS, table
from benchmarks.report import newest
from benchmarks.site.rows import changed, folder, gpu_folder, read, records, score, speed, speed_rows
from benchmarks.site.sources import ROOT
from benchmarks.speed.measure import Case, Row
from benchmarks.speed.report import by_case
from benchmarks.statistics import LEVEL, difference
from benchmarks.table1.recipes import BASES, title
from it_losses import ESTIMATORS, EntropyEstimator, VICReg, VICRegEntropy
from it_losses.__main__ import estimator_table

#: method of Table 1 -> its code, and the timed objective; None for another library's loss
OBJECTIVES = {
    "vicreg": ("`VICReg(25, 25, 4)`", "vicreg"),
    "vicreg_logdet": ('`VICRegEntropy("log_det")`', "log_det"),
    "vicreg_pairdist": ('`VICRegEntropy("pairwise")`', "pairwise"),
    "byol": ("BYOL", None),
    "byol_logdet": ('BYOL + `EntropyRegularizer("log_det", 0.8, beta=dim)`', "log_det"),
    "byol_pairdist": ('BYOL + `EntropyRegularizer("pairwise", 0.05)`', "pairwise"),
}
#: estimator -> objective that docs/limits.md may name instead of the estimator
OBJECTIVE_OF = {"VarianceCovariance": "VICReg"}
#: the (batch, dim) of the times in `choice`
SHAPE = 1024, 512
WIDE = 2048
#: the first table of the README has these rows (level, batch, dim) and these columns (implementations of VICReg)
GAINS = ("op", 256, 2048), ("op", 256, 8192), ("step", 128, 2048)
IMPLEMENTATIONS = {
    "it-losses": "ours",
    "lightly": "lightly",
    "solo-learn": "solo-learn",
    "official": "the authors' code",
    "torch, N x N": "Gram in plain torch",
}


def estimators() -> str:
    """The table of the properties that every estimator declares."""
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
    digits, fashion = folder("table1", "digits"), folder("table1", "fashion_mnist")
    lines = []
    for row, (name, timed) in OBJECTIVES.items():
        time = f"{speed()[(timed, *SHAPE)]:.1f}" if timed else ""
        line = {"objective": name, "loss, ms": time, "digits, linear %": score(digits, row).text()}
        line |= {"digits, kNN %": score(digits, row, "knn").text(), "Fashion-MNIST, linear %": score(fashion, row).text()}
        lines.append(line | {f"{WIDE} dimensions, points": _wider(row)})
    return table(lines)


def _wider(row: str) -> str:
    """The change of the linear probe if the projection has WIDE dimensions instead of the default number."""
    path = folder("ablations")
    wide = [name for name, run in changed(path, row, {"output"}).items() if run["output"] == WIDE]
    if not wide:
        return ""
    return difference(*([run["linear"] for run in records(path).of(name)] for name in (*wide, row))).text()


def choice_setting() -> str:
    """The settings behind each column of `choice`, with links to the results."""
    digits, fashion, ablations = folder("table1", "digits"), folder("table1", "fashion_mnist"), folder("ablations")
    batch, dim = SHAPE
    return "\n".join(
        [
            f"- *loss*: time of forward and backward, two views of {batch} x {dim}, float32, one CPU thread "
            f"({_linked(folder('speed'))}). `VICReg` was timed whole. For the others the entropy of both views was timed.",
            f"- *digits*: {_training(digits)} ({_linked(digits)}).",
            f"- *Fashion-MNIST*: {_training(fashion)} ({_linked(fashion)}).",
            f"- *{WIDE} dimensions*: change of the linear probe on digits from 512 dimensions of the projection to {WIDE}, "
            f"{_seeds(ablations)} seeds ({_linked(ablations)}).",
        ]
    )


def _training(path: Path) -> str:
    run = records(path).settings
    network = f"{run['backbone']} at {run['width']} of its width"
    return f"{network}, {run['epochs']} epochs, batch {run['batch_size']}, {_seeds(path)} seeds, mean ± standard error"


def _seeds(path: Path) -> int:
    return len({row["seed"] for row in records(path).rows})


def cost() -> str:
    """The times of three entropies, at dimension 8192 and at the shapes where at least two entropies were timed."""
    kinds = {"vicreg": "VICReg", "log_det": "`log_det`", "pairwise": "`pairwise`"}
    times = {(kind, tuple(shape)): time for (kind, *shape), time in speed().items()}
    shapes = sorted({shape for _, shape in times})
    several = [shape for shape in shapes if sum((kind, shape) in times for kind in kinds) > 1 or shape[1] == 8192]
    lines = [
        {"N x D": "{} x {}".format(*shape)}
        | {f"{name}, ms": f"{times[kind, shape]:.3g}" if (kind, shape) in times else "" for kind, name in kinds.items()}
        for shape in several
    ]
    setting = "VICReg was timed whole, the others as an entropy of both views: forward and backward in float32, one CPU thread"
    return f"{table(lines)}\n\n{setting} ({_linked(folder('speed'))}). An empty cell was not timed."


def gains() -> str:
    """VICReg on a GPU and on one CPU thread beside other implementations: a call of the loss, and a training step."""
    gpu = read(gpu_folder() / "rows.csv")
    recorded = {gpu[0]["device"].removeprefix("NVIDIA "): gpu, "one CPU thread": speed_rows()}
    return table(_gain(device, rows, *shape) for device, rows in recorded.items() for shape in GAINS)


def _gain(device: str, rows: list[Row], level: str, batch: int, dim: int) -> dict[str, str]:
    times, peaks = (by_case(rows, metric=metric) for metric in ("time_ms", "peak_mib"))
    case = Case(level, "vicreg", batch, dim)
    cells = {"": f"{device}, {'training step, ' * (level == 'step')}{batch} x {dim}"}
    for name, column in IMPLEMENTATIONS.items():
        memory = f", {peaks[case][name]:,.0f} MiB" if case in peaks else ""
        cells[column] = f"{times[case][name]:,.{int(times[case][name] < 100)}f} ms{memory}"
    return cells


def losses() -> str:
    """The losses of healthy and of collapsed embeddings, by objective with its default weights."""
    images, *noise = torch.randn(3, 256, 512, generator=torch.Generator().manual_seed(0))
    views = {"healthy": [images + 0.3 * n for n in noise], "all equal": [torch.ones(256, 512)] * 2}
    others = [name for name in ESTIMATORS if name != "variance_covariance"]
    criteria = {"`VICReg()`": VICReg()} | {f'`"{name}"`': VICRegEntropy(name) for name in others}
    values = {kind: {name: criterion(*z).item() for name, criterion in criteria.items()} for kind, z in views.items()}
    # few digits, so that rounding errors of different machines do not show
    shown = {kind: {name: f"{x:.{int(abs(x) < 10)}f}" for name, x in found.items()} for kind, found in values.items()}
    return table({"": kind} | found for kind, found in shown.items())


def accuracies() -> str:
    """The linear probe of VICReg and BYOL by data set and network; scores that an entropy changes significantly are bold."""
    return table(_accuracies(path) for path in newest(RESULTS, "table1"))


def _accuracies(path: Path) -> dict[str, str]:
    runs = records(path)
    gaps = runs.compared({row: BASES[row] for row in BASES if runs.of(row)}, "linear")
    images = {"fashion_mnist": "Fashion-MNIST", "image_folder": "drawings"}.get(runs.settings["dataset"], "digits")
    cells = {"images, network": f"{images}, {runs.settings['backbone']}", "seeds": str(_seeds(path))}
    for row in OBJECTIVES:
        text = score(path, row).text() if runs.of(row) else ""
        cells[title(row)] = f"**{text}**" if row in gaps and gaps[row].p_value < LEVEL else text
    return cells


def step() -> str:
    """Two sentences with the time of a training step with our loss and with lightly's, and of our loss alone."""
    timed = by_case(speed_rows(), metric="time_ms")
    step, times = next((key, found) for key, found in timed.items() if key.level == "step")
    return (
        f"Forward and backward of a timm `resnet10t` at 32 pixels with VICReg, {step.batch} x {step.dim}, take "
        f"{times['it-losses']:.0f} ms with our loss and {times['lightly']:.0f} ms with lightly's. Our loss alone takes "
        f"{speed()[('vicreg', step.batch, step.dim)]:.1f} ms of it (float32, one CPU thread, {_linked(folder('speed'))})."
    )


def ranks() -> str:
    """The cost per rank of our distributed VICReg and of losses that gather all samples, for WIDE dimensions."""
    path = folder("distributed")
    units = {"CPU time of a rank, ms": "cpu_ms", "sent by a rank, MB": "sent_mb", "peak memory, MiB": "peak_mib"}
    lines = [
        {"ranks": row["ranks"], "batch of all ranks x dim": f"{row['samples']} x {row['dim']}", "scheme": row["scheme"]}
        | {name: f"{float(row[column]):.3g}" for name, column in units.items()}
        for row in read(path / "rows.csv")
        if int(row["dim"]) == WIDE
    ]
    setting = (
        "The rows have forward and backward of VICReg in float32, with one thread for each rank (gloo, one machine of 2 cores"
    )
    return f"{table(lines, left=3)}\n\n{setting}, {_linked(path)})."


def described_estimators() -> str:
    """Every estimator with its description, equation, facts and limits."""
    return "\n\n".join(_described(name, kind) for name, kind in ESTIMATORS.items())


def _described(name: str, kind: type[EntropyEstimator]) -> str:
    docstring = inspect.cleandoc(kind.__doc__ or "")
    sentence = docstring.split("\n\n")[0]
    equation = re.search(r"^    \S.*(?:\n    .*)*", docstring, re.MULTILINE)
    facts = {
        "unit": kind.unit,
        "direction": kind.direction,
        "rotation invariant": "yes" if kind().rotation_invariant else "no",
        "cost": f"`{kind.cost}` for N samples of D dimensions",
    }
    parts = [f"### {kind.__name__}, `{name}`", sentence, equation[0] if equation else ""]
    parts += ["\n".join(f"- **{fact}**: {value}" for fact, value in facts.items()), _failures(kind.__name__)]
    return "\n\n".join(filter(None, parts))


def _failures(name: str) -> str:
    """The entries of docs/limits.md that name the class, as a Markdown list."""
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs" / "limits.md").read_text().splitlines()]
    names = {f"`{name}`", f"`{OBJECTIVE_OF.get(name, name)}`"}
    known = [(row[0], row[2]) for row in rows if len(row) == 3]
    mine = [(situation, remedy) for situation, remedy in known if any(name in situation for name in names)]
    failures = [(situation, remedy) for situation, remedy in mine if not remedy.startswith(("Nothing:", "Nothing in"))]
    if not failures:
        return ""
    return "Where it fails:\n\n" + "\n".join(f"- {situation} *What to do:* {remedy}" for situation, remedy in failures)


def _linked(path: Path) -> str:
    return f"[{path.name}](../{path.relative_to(ROOT).as_posix()})"
