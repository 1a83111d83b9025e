"""The command line that makes a recorded table again, from its settings.json and its rows."""

from __future__ import annotations

from typing import Any

from benchmarks.table1.recipes import RECIPES, UNTRAINED
from benchmarks.table1.rows import Row

#: options that the numbers depend on, as settings.json holds them
NAMED = ("dataset", "backbone", "width", "stem", "image_size", "epochs", "batch_size", "precision", "devices")


def command_line(settings: dict[str, Any], rows: list[Row]) -> str:
    """Everything named; where the images lie is the reader's to say."""
    options = [f"--{name.replace('_', '-')} {settings[name]}" for name in NAMED]
    options.append(f"--seeds {max(row['seed'] for row in rows) + 1}")
    if settings["dataset"] != "digits":
        options.append("--data-root DATA")
    methods = [name for name in RECIPES if name in {row["method"] for row in rows}]
    if set(methods) != set(RECIPES):
        options.append(f"--methods {' '.join(methods) or UNTRAINED}")
    if settings.get("limit_images") is not None:
        options.append(f"--limit-images {settings['limit_images']}")
    flags = {"--compile": settings.get("compile", False), "--no-channels-last": not settings.get("channels_last", True)}
    flags["--long"] = settings.get("long", False)
    return " ".join(["python -m benchmarks.table1", *options, *(flag for flag, on in flags.items() if on)])
