"""The fused forms, where they are there: without the folder `kernels` everything works, by the references, and takes longer."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from it_losses.distributed import LOCAL, DistributedOptions


def _kernels() -> ModuleType | None:
    """The folder of fused forms, or None where it is missing."""
    if importlib.util.find_spec("it_losses.kernels") is None:
        return None
    from it_losses import kernels

    return kernels


#: environment variable that overrides the rule: auto | reference | fused
VARIABLE = "IT_LOSSES_BACKEND"
_KERNELS = _kernels()


def is_fused(form: str, z: Tensor) -> bool:
    """Whether a fused form of that name runs for samples like z."""
    return _KERNELS is not None and bool(form) and _KERNELS.is_fused(form, z.dtype, z.device)


def why_not_fused(form: str, dtype: torch.dtype, device: torch.device) -> str:
    """Why the reference runs; an empty string where the fused form can."""
    if _KERNELS is None:
        return "the folder kernels is missing"
    if os.environ.get(VARIABLE) == "reference":
        return f"{VARIABLE}=reference"
    reason: str = _KERNELS.why_not_fused(form, dtype, device)
    return reason


def loss(
    views: Sequence[Tensor],
    form: str,
    constants: Sequence[float],
    weights: tuple[float, float],
    distributed: DistributedOptions = LOCAL,
) -> tuple[Tensor, Tensor]:
    """`weights[0] * invariance - weights[1] * entropy` [], and (invariance, entropy, *parts) [2 + k], detached.

    V x [n, ..., dim]; the loss of the batch of all ranks where the options say so. `is_fused` must hold.
    """
    assert _KERNELS is not None
    group = distributed.process_group if distributed.is_active() else _KERNELS.NO_GROUP
    value, terms = _KERNELS.loss(views, form, constants, weights, group=group, reduction=distributed.gradient_reduction)
    return value, terms
