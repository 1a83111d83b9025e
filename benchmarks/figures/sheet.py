"""A figure on disk: `figureN.png`, the rows it is drawn from in `figureN.csv`, its caption in `figureN.md`."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.commit import COMMIT
from benchmarks.figures.networks import Networks
from benchmarks.figures.statistics import Row
from benchmarks.table1.recipes import RECIPES


def write(folder: Path, name: str, module: ModuleType, rows: list[Row], networks: Networks, seconds: float) -> str:
    """Write all three files and return the caption."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    module.plot(rows, figure)
    figure.savefig(folder / f"{name}.png", dpi=150)
    caption = module.caption(rows)
    settings = json.dumps(settings_of(networks) | {"seconds": round(seconds)})
    (folder / f"{name}.md").write_text(
        f"![{name}]({name}.png)\n\n{caption}\n\nRows: [{name}.csv]({name}.csv). Settings: `{settings}`\n"
    )
    return caption


def settings_of(networks: Networks) -> dict[str, object]:
    """What the numbers depend on: the setup, the rows of Table 1 that were trained, torch, the device, the commit."""
    setup = networks.setup
    values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(setup).items()}
    recipes = {name: {"learning_rate": RECIPES[name].learning_rate.value} | RECIPES[name].arguments for name in networks.used}
    accelerator = torch.cuda.get_device_name() if setup.device.startswith("cuda") else setup.device
    return values | {"recipes": recipes, "torch": torch.__version__, "accelerator": accelerator, "commit": COMMIT}
