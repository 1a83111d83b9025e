"""`python -m benchmarks.paper figures [1 2 3 4 5]` or `theorems [1 2 3]`: recompute each, with a verdict on its claim."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from benchmarks.backbones import BackboneError
from benchmarks.data import DataError
from benchmarks.pages import COMMIT
from benchmarks.paper import correlation
from benchmarks.paper.networks import Networks, Setup, option
from benchmarks.paper.record import MODULES, save
from benchmarks.table1.cli import OptionError
from benchmarks.table1.recipes import RECIPES

LEAST = {"trials": 1, "models": 1, "noisy_images": 1, "copies": 20, "samples": 2}
MOST = {"models": len(correlation.sweep(1000))}


@dataclass(frozen=True)
class TheoremSetup:
    """What the numbers of the theorems depend on."""

    trials: int = option(5, "networks (1), random starts (2), networks and splits (3)")
    samples: int = option(8192, "Monte Carlo samples, theorem 1")
    seed: int = option(0, "of the first trial")


SETUPS = {"figure": Setup, "theorem": TheoremSetup}


def main(arguments: list[str] | None = None) -> int:
    """Recompute; 0, or 2 for a request that cannot be met."""
    command = parser()
    options = command.parse_args(arguments)
    kind, words = options.kind.removesuffix("s"), sys.argv[1:] if arguments is None else arguments
    numbers = [name.removeprefix(kind) for name in MODULES if name.startswith(kind)]
    unknown = sorted(set(options.numbers) - set(numbers))
    if unknown:
        command.error(f"no {kind} {', '.join(unknown)}: there are {', '.join(numbers)}.")
    setup = SETUPS[kind](**{field.name: getattr(options, field.name) for field in fields(SETUPS[kind])})
    for name, value in asdict(setup).items():
        if name in LEAST and not LEAST[name] <= value <= MOST.get(name, value):
            most = f" and at most {MOST[name]}" if name in MOST else ""
            command.error(f"--{name.replace('_', '-')} must be at least {LEAST[name]}{most}, got {value}.")
    try:
        for name, rows, facts in (_figures if kind == "figure" else _theorems)(setup, options.numbers or numbers):
            said = save(options.out, name, rows, asdict(setup) | facts, " ".join(["python -m benchmarks.paper", *words]))
            print(f"{name[:-1].capitalize()} {name[-1]}: {options.out / 'README.md'}\n\n{said}\n")
    except (BackboneError, DataError, OptionError) as problem:
        command.error(str(problem))
    return 0


def _figures(setup: Setup, numbers: list[str]) -> Iterator[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
    """Name, rows, and beside the setup what the numbers depend on: the rows of Table 1 that were trained, and the machine."""
    networks = Networks(setup)
    for number in numbers:
        networks.used.clear()
        start = time.perf_counter()
        rows = MODULES[f"figure{number}"].rows(networks, track)
        used = {name: RECIPES[name] for name in sorted(networks.used)}
        recipes = {name: {"learning_rate": row.learning_rate.value} | row.arguments for name, row in used.items()}
        accelerator = torch.cuda.get_device_name() if setup.device.startswith("cuda") else setup.device
        yield f"figure{number}", rows, {"recipes": recipes, "accelerator": accelerator} | _facts(start)


def _theorems(setup: TheoremSetup, numbers: list[str]) -> Iterator[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
    for number in numbers:
        start = time.perf_counter()
        yield f"theorem{number}", MODULES[f"theorem{number}"].rows(**asdict(setup)), {"device": "cpu"} | _facts(start)


def _facts(start: float) -> dict[str, Any]:
    return {"torch": torch.__version__, "commit": COMMIT, "seconds": round(time.perf_counter() - start)}


def parser() -> argparse.ArgumentParser:
    """The command line; what is not named has the default of its setup."""
    command = argparse.ArgumentParser("python -m benchmarks.paper", description=__doc__)
    kinds = command.add_subparsers(dest="kind", required=True)
    for kind, setup in SETUPS.items():
        sub = kinds.add_parser(f"{kind}s", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        sub.add_argument("numbers", nargs="*", metavar=kind, help="which; all if none is named")
        for field in fields(setup):
            kind_of = {"int": int, "float": float}.get(str(field.type).partition(" ")[0], str)
            name = f"--{field.name.replace('_', '-')}"
            sub.add_argument(name, type=kind_of, default=field.default, help=field.metadata["help"])
        sub.add_argument("--out", type=Path, default=Path("runs") / f"{kind}s", help="folder for the files")
    return command


if __name__ == "__main__":
    raise SystemExit(main())
