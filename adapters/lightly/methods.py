"""register(METHODS): our methods in the dict that lightly's benchmark scripts choose from."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

#: method -> (class in modules, transform in lightly.transforms)
CLASSES = {
    "vicreg_fused": ("VICReg", "VICRegTransform"),
    "vicreg_logdet": ("VICRegLogDet", "VICRegTransform"),
    "vicreg_pairdist": ("VICRegPairDist", "VICRegTransform"),
    "byol_logdet": ("BYOLLogDet", "BYOLTransform"),
    "byol_pairdist": ("BYOLPairDist", "BYOLTransform"),
    "simsiam_entropy": ("SimSiamEntropy", "SimSiamTransform"),
    "simclr_entropy": ("SimCLREntropy", "SimCLRTransform"),
}


def register(methods: MutableMapping[str, dict[str, Any]]) -> None:
    """Add our methods to a METHODS dict of `benchmarks/imagenet/*/main.py`; ValueError if one of the names is taken.

    Each is `{"model": LightningModule class, "transform": transform}`, on the backbone its class names.
    """
    from lightly import transforms

    from it_losses.adapters.lightly import modules

    for name, (model, transform) in CLASSES.items():
        ours = getattr(modules, model)
        if name in methods and methods[name]["model"] is not ours:
            raise ValueError(f"method {name!r} is already {methods[name]['model']!r}. Rename it before registering ours.")
        methods[name] = {"model": ours, "transform": getattr(transforms, transform)()}
