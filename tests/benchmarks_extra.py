"""Import this file first in tests of `benchmarks`: it skips the test file if a package that they need is not installed."""

import pytest

PACKAGES = ("joblib", "kornia", "lightly", "lightning", "matplotlib", "numpy", "pandas", "rich", "scipy", "sklearn", "timm")
for name in (*PACKAGES, "torchvision"):
    pytest.importorskip(name, reason=f"{name} is not installed: pip install '.[benchmarks]'")

#: command-line options for the smallest run of `benchmarks.table1`
TINY = ["--limit-images", "70", "--batch-size", "32", "--epochs", "1", "--seeds", "1", "--width", "0.125", "--image-size", "16"]
TINY += ["--jobs", "1", "--accelerator", "cpu"]


def told(text):
    """The text on one line, so that a test finds a phrase that was printed on two lines."""
    return " ".join(text.split())
