"""`python -m it_losses.adapters.lightly .../benchmarks/imagenet/resnet50/main.py ARGUMENTS`: the script, with our methods."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from it_losses.adapters.lightly import register


def main() -> None:
    """The script as a module, our methods in its METHODS, then its main with its own parser."""
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        raise SystemExit(f"{__doc__}\nThe first argument must be a benchmark script of lightly's, got {sys.argv[1:2]}.")
    # sys.argv stays whole: Lightning starts the other ranks by repeating it
    script = Path(sys.argv[1]).resolve()
    # the script imports its neighbours
    sys.path.insert(0, str(script.parent))
    benchmark = importlib.import_module(script.stem)
    register(benchmark.METHODS)
    benchmark.main(**vars(benchmark.parser.parse_args(sys.argv[2:])))


if __name__ == "__main__":
    main()
