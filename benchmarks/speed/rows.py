"""A measured number with its full setting: a row of the CSV."""

from __future__ import annotations

import csv
import importlib.metadata
import platform
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from benchmarks.commit import COMMIT

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Row:
    """One metric of one implementation at one size."""

    level: str
    objective: str
    batch: int
    dim: int
    dtype: str
    provider: str
    mode: str
    metric: str
    value: float
    p20: float
    p80: float
    repetitions: int
    clock: str
    device: str
    threads: int
    torch: str
    lightly: str
    python: str
    commit: str
    dirty: bool


def circumstances(device: torch.device, dtype: str = "float32") -> dict[str, object]:
    """The columns that are the same in every row of a run."""
    return {
        "dtype": dtype,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "lightly": _version("lightly"),
        "python": platform.python_version(),
        "commit": (COMMIT or "").removesuffix("-dirty"),
        "dirty": (COMMIT or "").endswith("-dirty"),
    }


def write(rows: list[Row], path: Path) -> None:
    """As CSV, one column a field."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(row).items()} for row in rows)


def read(path: Path) -> list[Row]:
    """The rows that `write` wrote; none if there is no file."""
    if not path.exists():
        return []
    kinds = {"batch": int, "dim": int, "repetitions": int, "threads": int, "value": float, "p20": float, "p80": float}
    kinds["dirty"] = lambda text: text == "True"
    with path.open(newline="") as file:
        return [Row(**{name: kinds.get(name, str)(text) for name, text in row.items()}) for row in csv.DictReader(file)]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
