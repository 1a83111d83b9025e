"""Table 1: every method on real images, from one command."""

import importlib.util

_missing = [
    package
    for package in ("kornia", "lightly", "lightning", "matplotlib", "rich", "sklearn", "timm", "torchvision")
    if importlib.util.find_spec(package) is None
]
if _missing:
    raise ModuleNotFoundError(
        f"Table 1 needs {', '.join(_missing)}. Install them with: pip install 'it-losses[benchmarks]', or '.[benchmarks]' in a "
        "checkout.",
        name=_missing[0],
    )
