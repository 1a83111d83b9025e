"""Import this first where a test needs the programs of `benchmarks`: it skips the file where a package of theirs is missing."""

import pytest

for name in ("kornia", "lightly", "lightning", "matplotlib", "numpy", "rich", "scipy", "sklearn", "timm", "torchvision"):
    pytest.importorskip(name, reason=f'{name} is not installed: pip install "it-losses[benchmarks]"')
