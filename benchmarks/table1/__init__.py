"""Table 1: train and compare every method on real images with one command."""

import importlib.util

_needed = ["joblib", "kornia", "lightly", "lightning", "matplotlib", "pandas", "rich", "sklearn", "timm", "torchvision"]
_missing = [package for package in _needed if importlib.util.find_spec(package) is None]
if _missing:
    install = "pip install '.[benchmarks]' in a checkout"
    raise ModuleNotFoundError(f"Table 1 needs {', '.join(_missing)}. Install them with: {install}.", name=_missing[0])
