"""`python -m benchmarks.table1`: pre-train, evaluate and compare every method of Table 1 on real images."""

from __future__ import annotations

import sys

from benchmarks.table1.cli import parse
from benchmarks.table1.launch import launch
from benchmarks.table1.tables import page_of


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 what was asked cannot be done, 130 stopped."""
    return launch(lambda: parse(arguments), page_of)


if __name__ == "__main__":
    sys.exit(main())
