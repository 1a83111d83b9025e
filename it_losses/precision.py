"""The precision of every objective: autocast is off, and half precision is accumulated in float32."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(z: Tensor) -> AbstractContextManager[object]:
    """A context without autocast on the device of z, so that no operand of a product is cast."""
    kind = z.device.type
    # older compilers cannot trace a query for the device types with autocast
    if kind in ("cpu", "cuda", "mps", "xpu") and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def samples(z: Tensor) -> Tensor:
    """Samples in the accumulation dtype, with the batch before dim: `[batch, ..., dim] -> [..., batch, dim]`."""
    # half precision overflows in N * covariance, and loses the small eigenvalues that log-det needs
    return accumulated(z.movedim(0, -2))


def accumulated(z: Tensor) -> Tensor:
    """The tensor in the accumulation dtype; no operator runs if it already has that dtype."""
    dtype = accumulation_dtype(z.dtype)
    return z if z.dtype == dtype else z.to(dtype)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums are accumulated: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def gradient_dtype(z: Tensor) -> torch.dtype:
    """The dtype of gradients that the forward pass computes: bfloat16 for bfloat16 on a GPU, else the accumulation dtype."""
    return z.dtype if z.is_cuda and z.dtype == torch.bfloat16 else accumulation_dtype(z.dtype)
