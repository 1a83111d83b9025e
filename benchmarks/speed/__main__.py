"""`python -m benchmarks.speed [--full]`: tests first, then times and memory, then rows.csv, speed.png and README.md."""

from __future__ import annotations

import argparse
import datetime
import functools
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.speed import cases, clock, memory, report
from benchmarks.speed.peers import is_installed, providers
from benchmarks.speed.rows import ROOT, Row, circumstances, read, write

OBJECTIVES = ["vicreg", "log_det", "pairwise"]
#: tests that must pass on a device before its speed is measured
TESTS = {"cpu": ("tests/test_kernels_*.py", "tests/test_speed_peers.py"), "cuda": ("tests/test_gpu.py",)}


#: optional packages, and what is left out without them
OPTIONAL = {"lightly": "its VICRegLoss", "timm": "the training step", "matplotlib": "the figure"}


def main() -> int:
    """Exit with status 1, and write no file, if there is no such device or a test of the timed code fails."""
    arguments = _arguments()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("torch sees no GPU here: python -m it_losses says which devices it sees", file=sys.stderr)
        return 1
    torch.set_num_threads(arguments.threads)
    for package, part in OPTIONAL.items():
        if not is_installed(package):
            print(f"{package} is not installed: {part} is left out")
    if not (arguments.tested or _tests_pass(device)):
        print("a test failed: no speed is written", file=sys.stderr)
        return 1
    kind = "cpu" if device.type == "cpu" else torch.cuda.get_device_name().split()[-1].lower()
    folder = arguments.out or ROOT / "benchmarks" / "results" / f"{datetime.date.today()}-{kind}-speed"
    folder.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python -m benchmarks.speed", *_named(arguments)])
    rows = [row for row in read(folder / "rows.csv") if row.objective not in arguments.objectives]
    grid = [case for case in (cases.full() if arguments.full else cases.quick()) if case.objective in arguments.objectives]
    has_step = arguments.step and "vicreg" in arguments.objectives and is_installed("timm")
    for part in [functools.partial(_op_rows, case) for case in grid] + ([_step_rows] if has_step else []):
        rows += part(device, arguments)
        # written after every size, so that an interrupted run keeps its measurements
        write(rows, folder / "rows.csv")
        (folder / "README.md").write_text(report.readme(rows, command))
    if is_installed("matplotlib"):
        report.figure(rows, folder / "speed.png")
    print("\n".join(["", "slower or larger than another:", *report.slower(rows)]))
    print(f"written to {folder}")
    return 0


def _tests_pass(device: torch.device) -> bool:
    if not is_installed("pytest"):
        print("pytest is not installed; --tested times without testing first", file=sys.stderr)
        return False
    print("testing what is to be timed ...", flush=True)
    files = [str(path) for pattern in TESTS[device.type] for path in sorted(ROOT.glob(pattern))]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", *files]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def _named(arguments: argparse.Namespace) -> list[str]:
    """The command line options."""
    only = [] if arguments.objectives == OBJECTIVES else ["--objectives", *arguments.objectives]
    dtype = [] if arguments.dtype == "float32" else ["--dtype", arguments.dtype]
    return [*(["--full"] if arguments.full else []), *only, *dtype]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--full", action="store_true", help="every size at which a target is set; tens of minutes")
    parser.add_argument(
        "--objectives", nargs="+", choices=OBJECTIVES, default=OBJECTIVES, help="only these; a folder keeps its others"
    )
    parser.add_argument("--no-step", dest="step", action="store_false", help="leave the training step out")
    parser.add_argument("--tested", action="store_true", help="the tests of what is timed have just passed: do not repeat them")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each size, above five rounds of all (default 2)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default 1)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of the samples")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="folder of the results (default benchmarks/results/<date>-<device>-speed)")
    return parser.parse_args()


def _op_rows(case: cases.Case, device: torch.device, arguments: argparse.Namespace) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, arguments.dtype)
    views = [torch.randn(case.batch, case.dim, generator=generator).to(device, dtype).requires_grad_() for _ in range(2)]
    objectives = providers(case.objective, case.batch, case.dim, compiled=case.compiled)

    def clear() -> None:
        for z in views:
            z.grad = None

    implementations = {name: functools.partial(objective, *views) for name, objective in objectives.items()}
    rows = []
    if case.timed:
        rows = _time_rows("op", case.objective, case.batch, case.dim, implementations, device, arguments, clear)
    if case.peak:
        eager = [name for name in objectives if not name.startswith("torch.compile")]
        for name in eager:
            peak = memory.peak_mib(case.objective, case.batch, case.dim, name, device.type, arguments.dtype)
            labels = ("op", case.objective, case.batch, case.dim)
            rows.append(_row(*labels, name, "both", "peak_mib", (peak, peak, peak), 1, device, arguments.dtype))
    if device.type == "cuda":
        for name, run in implementations.items():
            count, milliseconds = clock.kernels(run)
            labels = ("op", case.objective, case.batch, case.dim)
            for metric, value in (("launches", float(count)), ("device_ms", milliseconds)):
                rows.append(_row(*labels, name, "both", metric, (value, value, value), 1, device, arguments.dtype))
    return rows


def _step_rows(device: torch.device, arguments: argparse.Namespace) -> list[Row]:
    from benchmarks.speed.step import training_steps

    batch, dim = cases.STEP
    steps = training_steps(providers("vicreg", batch, dim, compiled=False), batch, dim, device)
    return _time_rows("step", "vicreg", batch, dim, steps, device, arguments)


def _time_rows(level, objective, batch, dim, implementations, device, arguments, clear=lambda: None) -> list[Row]:  # type: ignore[no-untyped-def]
    dtype = arguments.dtype if level == "op" else "float32"
    times = clock.measured(implementations, device, seconds=arguments.seconds, repetitions=(5, 400), clear=clear)
    rows = []
    for name, series in times.items():
        for mode, values in series._asdict().items():
            labels = (level, objective, batch, dim, name, mode)
            rows.append(_row(*labels, "time_ms", clock.percentiles(values), len(values), device, dtype))
    medians = {name: clock.percentiles(series.both)[1] for name, series in times.items()}
    ours = next(iter(medians.values()))
    print(f"{level} {objective} {batch} x {dim}:", end=" ")
    print(", ".join(f"{name} {value:.3g} ms ({value / ours:.2f}x)" for name, value in medians.items()), flush=True)
    return rows


def _row(level, objective, batch, dim, provider, mode, metric, percentiles, repetitions, device, dtype) -> Row:  # type: ignore[no-untyped-def]
    p20, value, p80 = percentiles
    return Row(
        level=level, objective=objective, batch=batch, dim=dim, provider=provider, mode=mode, metric=metric, value=value,
        p20=p20, p80=p80, repetitions=repetitions, clock=clock.name_of_clock(device), **circumstances(device, dtype),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
