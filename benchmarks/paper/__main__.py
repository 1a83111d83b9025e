"""`python -m benchmarks.paper figures [1 2 3 4 5]` or `theorems [1 2 3]` recomputes them and checks the paper's claims."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import RequestError
from benchmarks.backbones import STEMS
from benchmarks.machine import device_name
from benchmarks.pages import COMMIT
from benchmarks.paper import correlation
from benchmarks.paper.networks import Networks
from benchmarks.paper.record import MODULES, save
from benchmarks.table1.cli import PRECISIONS
from benchmarks.table1.recipes import RECIPES

LEAST = {"trials": 1, "noisy_images": 1, "copies": 20, "samples": 2}
MODELS = len(correlation.sweep(1000))


def main(arguments: list[str] | None = None) -> int:
    """Recompute the named figures or theorems. The exit status is 0, or 2 if an option or the data are wrong."""
    command, words = _parser(), sys.argv[1:] if arguments is None else arguments
    settings = vars(command.parse_args(words))
    kind, numbers, folder = (settings.pop(name) for name in ("kind", "numbers", "out"))
    names = [f"{kind}{number}" for number in numbers] or [name for name in MODULES if name.startswith(kind)]
    for name in set(names) - set(MODULES):
        command.error(f"there is no {kind} {name.removeprefix(kind)}.")
    for name, least in LEAST.items():
        if settings.get(name, least) < least:
            command.error(f"--{name.replace('_', '-')} must be at least {least}, got {settings[name]}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # all figures use the same trained networks
        inputs = {"networks": Networks(argparse.Namespace(**settings))} if kind == "figure" else settings
        for name in names:
            start = time.perf_counter()
            rows = MODULES[name].rows(**inputs)
            asked = {"command": " ".join(["python -m benchmarks.paper", *words])} | settings
            said = save(folder, name, rows, asked | _facts(name, settings) | {"seconds": round(time.perf_counter() - start)})
            print(f"{kind.capitalize()} {name[-1]}: {folder / 'README.md'}\n\n{said}\n")
    except (RequestError, OSError) as problem:
        command.error(str(problem))
    return 0


def _facts(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The facts that the rows depend on besides the options: hyper-parameters of the methods, machine and versions."""
    used = {row: RECIPES[row] for row in getattr(MODULES[name], "METHODS", ())}
    recipes = {row: {"learning_rate": recipe.learning_rate.value} | recipe.arguments for row, recipe in used.items()}
    machine = device_name(torch.device(settings.get("device", "cpu")))
    return {"recipes": recipes, "machine": machine, "torch": torch.__version__, "commit": COMMIT}


def _parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser("python -m benchmarks.paper", description=__doc__)
    kinds = command.add_subparsers(required=True, metavar="figures | theorems")
    for kind in ("figure", "theorem"):
        sub = kinds.add_parser(f"{kind}s", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        sub.set_defaults(kind=kind)
        sub.add_argument("numbers", nargs="*", metavar=kind, help="their numbers; all if none is named")
        sub.add_argument("--seed", type=int, default=0, help="seed of the first trial")
        sub.add_argument("--trials", type=int, default=5, help="number of networks, splits or random starts; figure 5 has none")
        sub.add_argument("--out", type=Path, default=Path("runs") / f"{kind}s", help="folder for the files")
    kinds.choices["theorems"].add_argument("--samples", type=int, default=8192, help="Monte Carlo samples of theorem 1")
    add = kinds.choices["figures"].add_argument
    add("--dataset", default="digits", help="images to train on")
    add("--data-root", help="folder that holds the data set; digits need none")
    add("--images", type=int, help="use only the first N training and N test images, for trials")
    add("--side", type=int, default=8, help="side of the images in pixels")
    add("--backbone", default="resnet18", help="a timm model")
    add("--width", type=float, help="factor on the channels of a ResNet; 0.25 for resnet18")
    add("--stem", choices=STEMS, default="auto", help="stem of the network, as in benchmarks.table1")
    add("--precision", choices=PRECISIONS, default="32-true", help="precision of training")
    add("--epochs", type=int, default=15, help="epochs of pre-training in figures 1, 2, 3; the largest number in figure 5")
    add("--batch-size", type=int, default=128, help="images in a step")
    add(
        "--models",
        type=int,
        default=MODELS,
        choices=range(1, MODELS + 1),
        metavar="MODELS",
        help="number of models of figure 5",
    )
    add("--noisy-images", type=int, default=16, help="number of test images that get noise in figures 1, 3")
    add("--copies", type=int, default=512, help="noisy copies of each image in figures 1, 3")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="device of training and measurement")
    return command


if __name__ == "__main__":
    raise SystemExit(main())
