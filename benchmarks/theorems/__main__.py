"""`python -m benchmarks.theorems [1 2 3]`: recompute the paper's theorems on small networks, a table and its finding each."""

from __future__ import annotations

import argparse
import time
from dataclasses import fields
from pathlib import Path

from benchmarks.theorems import generalization, mixture, optimum
from benchmarks.theorems.page import Setup, write

THEOREMS = {"1": mixture, "2": optimum, "3": generalization}
OUT = Path("runs") / "theorems"


def parser() -> argparse.ArgumentParser:
    """The command line; what is not named has Setup's default."""
    default = Setup()
    parsed = argparse.ArgumentParser("python -m benchmarks.theorems", description=__doc__)
    parsed.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parsed.add_argument("theorems", nargs="*", metavar="theorem", help=f"which of {', '.join(THEOREMS)}; all if none is named")
    parsed.add_argument("--seed", type=int, default=default.seed, help="of the first trial")
    parsed.add_argument(
        "--trials", type=int, default=default.trials, help="networks (1), random starts (2), networks and splits (3)"
    )
    parsed.add_argument("--samples", type=int, default=default.samples, help="Monte Carlo samples, theorem 1")
    parsed.add_argument("--out", type=Path, default=OUT, help="folder for the files")
    return parsed


def main(arguments: list[str] | None = None) -> int:
    """Recompute; 0, or 2 for a request that cannot be met."""
    parsed = parser()
    options = parsed.parse_args(arguments)
    unknown = set(options.theorems) - set(THEOREMS)
    if unknown:
        parsed.error(f"no theorem {', '.join(sorted(unknown))}: there are {', '.join(THEOREMS)}.")
    for name, least in (("trials", 1), ("samples", 2)):
        if getattr(options, name) < least:
            parsed.error(f"--{name} must be at least {least}, got {getattr(options, name)}.")
    setup = Setup(**{field.name: getattr(options, field.name) for field in fields(Setup)})
    for number in options.theorems or THEOREMS:
        start = time.perf_counter()
        rows = THEOREMS[number].rows(setup)
        finding = write(options.out, number, THEOREMS[number], rows, setup, time.perf_counter() - start)
        print(f"Theorem {number}: {options.out / f'theorem{number}.md'}\n{finding}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
