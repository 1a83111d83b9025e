"""`python -m benchmarks.speed [--full]` runs tests, measures time and memory, and writes rows.csv, speed.png and README.md."""

import argparse
import csv
import datetime
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch

from benchmarks.machine import batch_and_dim, is_installed
from benchmarks.pages import RESULTS, ROOT, notes, write, write_csv
from benchmarks.speed import measure, report
from benchmarks.speed.measure import Case, Row
from benchmarks.speed.objectives import LARGE, LARGE_ON_A_GPU, OBJECTIVES, SIZES, SQUARE
from benchmarks.speed.report import case_of

#: tests that must pass on a device before its speed is measured
TESTS = {"cpu": ("tests/test_kernels_*.py", "tests/test_speed_peers.py"), "cuda": ("tests/test_gpu.py",)}
#: optional package -> the part that is left out without it
OPTIONAL = {"lightly": "its losses", "timm": "the training step", "matplotlib": "the figure"}


def main(arguments: list[str] | None = None) -> int:
    """Measure and report. Return 1 without measuring if the device is missing, a test fails, or old rows have other threads."""
    options = _options(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU. Run python -m it_losses to list the devices", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    for package, part in OPTIONAL.items():
        if not is_installed(package):
            print(f"{package} is not installed, so {part} is skipped")
    if not (options.tested or _tests_pass(device)):
        print("a test failed, so nothing was measured", file=sys.stderr)
        return 1
    kind = "cpu" if device.type == "cpu" else torch.cuda.get_device_name().split()[-1].lower()
    folder = options.out or RESULTS / f"{datetime.date.today()}-{kind}-speed"
    command = " ".join(["python -m benchmarks.speed", *(sys.argv[1:] if arguments is None else arguments)])
    # rows of an earlier call are kept, except for cases that are measured again
    cases: dict[Case, list[Row]] = {}
    for row in read(folder / "rows.csv"):
        if row["threads"] != str(options.threads):
            print(f"{folder} has rows of {row['threads']} threads, not {options.threads}. Use another --out", file=sys.stderr)
            return 1
        cases.setdefault(case_of(row), []).append(row)
    for measured in _measured(options, device):
        cases[case_of(measured[0])] = measured
        rows = list(chain.from_iterable(cases.values()))
        # write after every size, so that an interrupted run keeps its measurements
        write_csv(folder / "rows.csv", rows)
        write(folder / "README.md", report.readme(rows, command, notes(folder)))
    if is_installed("matplotlib"):
        report.draw(rows, folder / "speed.png")
    print("\n".join(["", "cases in which ours is slower or takes more memory:", *report.slower(rows), f"written to {folder}"]))
    return 0


def read(path: Path) -> list[Row]:
    """The rows that an earlier call wrote; none if there is no file."""
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def _measured(options: argparse.Namespace, device: torch.device) -> Iterator[list[Row]]:
    """Measure every objective at each size and dtype, then the training step; yield the rows of each measurement."""
    for dtype in options.dtype:
        for objective in options.objectives:
            is_square = options.full and objective == "vicreg"
            is_large = options.full or (device.type == "cuda" and objective in LARGE_ON_A_GPU)
            for size in options.sizes or dict.fromkeys(SIZES + LARGE * is_large + SQUARE * is_square):
                is_compiled = is_square and size in SIZES
                yield measure.op_rows(Case("op", objective, *size, device, dtype, options.seconds, is_compiled))
    if "float32" in options.dtype and not options.sizes and "vicreg" in options.objectives and is_installed("timm"):
        yield measure.step_rows(Case("step", "vicreg", *measure.STEP, device, "float32", options.seconds))


def _tests_pass(device: torch.device) -> bool:
    if not is_installed("pytest"):
        print("pytest is not installed. Install it, or pass --tested to skip the tests", file=sys.stderr)
        return False
    print("running the tests of the timed code ...", flush=True)
    files = [str(path) for pattern in TESTS[device.type] for path in sorted(ROOT.glob(pattern))]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", *files]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    add, names, dtypes = parser.add_argument, list(OBJECTIVES), ("float32", "bfloat16", "float16")
    add("--full", action="store_true", help="large sizes too, and VICReg at every size of a grid")
    add("--objectives", nargs="+", choices=names, default=names, help="time only these; a folder keeps its other rows")
    add(
        "--sizes",
        nargs="+",
        type=batch_and_dim,
        metavar="NxD",
        help="time only these sizes, such as 256x2048; a folder keeps its other rows",
    )
    add("--tested", action="store_true", help="skip the tests of the timed code")
    add("--seconds", type=float, default=2.0, help="seconds for each size; at least five rounds run (default 2)")
    add("--threads", type=int, default=1, help="threads of the CPU (default 1)")
    add("--dtype", nargs="+", default=["float32"], choices=dtypes, help="dtypes of the samples; the training step is float32")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--out", type=Path, help="folder of the results (default benchmarks/results/<date>-<device>-speed)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
