"""`python -m it_losses.adapters.lightly .../benchmarks/imagenet/resnet50/main.py ARGUMENTS`: the script, with our methods.

`--backbone NAME` before the script trains a model of timm in place of a ResNet-50: `--backbone vit_base_patch16_224` is that of
`benchmarks/imagenet/vitb16/main.py`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from it_losses.adapters.lightly import register


def main() -> None:
    """The script as a module, our methods in its METHODS, then its main with its own parser."""
    parser = argparse.ArgumentParser(prog="python -m it_losses.adapters.lightly", description=__doc__)
    parser.add_argument("--backbone", default="resnet50", help="a model of timm")
    parser.add_argument("script", type=Path, help="main.py of one of lightly's benchmarks")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the script")
    options = parser.parse_args()
    if not options.script.is_file():
        parser.error(f"needs a benchmark script of lightly's, and there is no file {options.script}.")
    try:
        register({})
    except ImportError as error:
        parser.error(str(error))
    # sys.argv stays whole: Lightning starts the other ranks by repeating it
    script = options.script.resolve()
    # the script imports its neighbours
    sys.path.insert(0, str(script.parent))
    benchmark = importlib.import_module(script.stem)
    register(benchmark.METHODS, backbone=options.backbone)
    benchmark.main(**vars(benchmark.parser.parse_args(options.arguments)))


if __name__ == "__main__":
    main()
