"""Skips the importing test file if a package that the programs in `benchmarks` need is missing. Import this file first."""

import pytest

PACKAGES = ("joblib", "kornia", "lightly", "lightning", "matplotlib", "numpy", "pandas", "rich", "scipy", "sklearn", "timm")
for name in (*PACKAGES, "torchvision"):
    pytest.importorskip(name, reason=f"{name} is not installed: pip install '.[benchmarks]'")

#: command-line options that make a run of `benchmarks.table1` as small as possible
TINY = ["--limit-images", "70", "--batch-size", "32", "--epochs", "1", "--seeds", "1", "--width", "0.125", "--image-size", "16"]
TINY += ["--jobs", "1", "--accelerator", "cpu"]


def told(text):
    """The printed text as one line, so that a test can search for words across line breaks."""
    return " ".join(text.split())
