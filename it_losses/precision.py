"""The precision of every objective: autocast off, half precision accumulated in float32, samples as `[..., batch, dim]`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(z: Tensor) -> AbstractContextManager[object]:
    """Context without autocast on the device of z, so that no product inside falls back to half precision."""
    kind = z.device.type
    # named, not asked for: older compilers cannot trace the question
    if kind in ("cpu", "cuda", "mps", "xpu") and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def samples(z: Tensor) -> Tensor:
    """`[batch, ..., dim] -> [..., batch, dim]` in the precision of the statistics: float32, or float64 for float64."""
    # half precision overflows in N * covariance and loses the small eigenvalues that log det needs
    return z.movedim(0, -2).to(accumulation_dtype(z.dtype))


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)
