"""The precision of every objective: autocast is off, and half precision is accumulated in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(z: Tensor) -> AbstractContextManager[object]:
    """A context without autocast on the device of z, so that no operand of a product is cast."""
    kind = z.device.type
    # device types are listed, because older compilers cannot trace a query for those with autocast
    if kind in ("cpu", "cuda", "mps", "xpu") and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def samples(z: Tensor) -> Tensor:
    """Samples in the accumulation dtype, with the batch before dim: `[batch, ..., dim] -> [..., batch, dim]`."""
    # half precision overflows in N * covariance, and loses the small eigenvalues that log-det needs
    return accumulated(z.movedim(0, -2))


def accumulated(z: Tensor) -> Tensor:
    """Z in the accumulation dtype, without the time of an operator if nothing changes."""
    dtype = accumulation_dtype(z.dtype)
    return z if z.dtype == dtype else z.to(dtype)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums are accumulated: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def gradient_dtype(z: Tensor) -> torch.dtype:
    """The dtype of the gradient in the forward pass: bfloat16 for bfloat16 on a GPU, otherwise the accumulation dtype."""
    return z.dtype if z.is_cuda and z.dtype == torch.bfloat16 else accumulation_dtype(z.dtype)
