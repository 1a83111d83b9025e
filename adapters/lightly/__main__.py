"""`python -m it_losses.adapters.lightly .../benchmarks/imagenet/resnet50/main.py ARGUMENTS` runs the script with our methods.

`--backbone NAME` before the script trains that timm model instead of a ResNet-50. `benchmarks/imagenet/vitb16/main.py` needs
`--backbone vit_base_patch16_224`.
"""

import argparse
import importlib
import sys
from pathlib import Path

from it_losses.adapters.lightly import register


def main() -> None:
    """Load the script, add our methods to its METHODS, and run its main with its own parser."""
    parser = argparse.ArgumentParser(prog="python -m it_losses.adapters.lightly", description=__doc__)
    parser.add_argument("--backbone", default="resnet50", help="name of a timm model")
    parser.add_argument("script", type=Path, help="main.py of one of lightly's benchmarks")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the script")
    options = parser.parse_args()
    if not options.script.is_file():
        parser.error(f"script must be main.py of one of lightly's benchmarks, but {options.script} is not a file.")
    try:
        register({})
    except ImportError as error:
        parser.error(str(error))
    # leave sys.argv unchanged, because Lightning starts the other ranks with it
    script = options.script.resolve()
    # the script imports files from its own folder
    sys.path.insert(0, str(script.parent))
    benchmark = importlib.import_module(script.stem)
    register(benchmark.METHODS, backbone=options.backbone)
    benchmark.main(**vars(benchmark.parser.parse_args(options.arguments)))


if __name__ == "__main__":
    main()
