"""`python -m benchmarks.table1`: pre-train, evaluate and compare every method of Table 1 on real images."""

from __future__ import annotations

import sys

from benchmarks.table1 import tables
from benchmarks.table1.cli import describe, parse
from benchmarks.table1.launch import command_line, launch
from benchmarks.table1.runs import pixel_scores


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 what was asked cannot be done, 130 stopped."""
    command = command_line("table1", arguments)
    return launch(
        lambda: parse(arguments),
        lambda records, options, images: tables.publish(records, describe(options), command, pixel_scores(images)),
    )


if __name__ == "__main__":
    sys.exit(main())
