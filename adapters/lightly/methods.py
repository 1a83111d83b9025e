"""register(METHODS): add our methods to the dict of lightly's benchmark scripts."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import partial
from typing import Any

from it_losses.adapters import framework
from it_losses.adapters.lightly.patch import PIP

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


def register(methods: MutableMapping[str, dict[str, Any]], **options: Any) -> None:
    """Add our methods to a METHODS dict of `benchmarks/imagenet/*/main.py`; ValueError if a name is taken.

    Each entry is `{"model": LightningModule class, "transform": transform}`.

    Args:
        methods: the dict, changed in place.
        options: arguments of every module, such as `backbone="vit_base_patch16_224"`; a ResNet-50 otherwise.
    """
    transforms = framework("lightly.transforms", install=PIP)
    framework("timm", install="pip install timm")
    from it_losses.adapters.lightly import modules

    for name, (model, transform) in CLASSES.items():
        ours = getattr(modules, model)
        taken = methods[name]["model"] if name in methods else ours
        if getattr(taken, "func", taken) is not ours:
            raise ValueError(f"method {name!r} is already {taken!r}. Rename it before registering ours.")
        methods[name] = {"model": partial(ours, **options) if options else ours, "transform": getattr(transforms, transform)()}
