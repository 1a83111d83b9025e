"""Import this first where a test needs the programs of `benchmarks`: it skips the file where a package of theirs is missing."""

import pytest

PACKAGES = ("joblib", "kornia", "lightly", "lightning", "matplotlib", "numpy", "pandas", "rich", "scipy", "sklearn", "timm")
for name in (*PACKAGES, "torchvision"):
    pytest.importorskip(name, reason=f"{name} is not installed: pip install '.[benchmarks]'")

#: options of Table 1 for the smallest run
TINY = ["--limit-images", "70", "--batch-size", "32", "--epochs", "1", "--seeds", "1", "--width", "0.125", "--image-size", "16"]
TINY += ["--jobs", "1", "--accelerator", "cpu"]


def told(text):
    """What was printed, without the breaks of lines."""
    return " ".join(text.split())
