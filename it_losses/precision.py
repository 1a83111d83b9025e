"""The precision of every objective: autocast is off, and half-precision inputs are accumulated in float32."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(z: Tensor) -> AbstractContextManager[object]:
    """A context that turns autocast off on the device of z, so that matrix products run in full precision."""
    kind = z.device.type
    # device types are listed, because older versions of torch.compile cannot trace a query for them
    if kind in ("cpu", "cuda", "mps", "xpu") and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def samples(z: Tensor) -> Tensor:
    """Samples in the accumulation dtype, with the batch axis moved: `[batch, ..., dim] -> [..., batch, dim]`."""
    # half precision may overflow in sums over the batch, and loses the small eigenvalues that log-det needs
    return accumulated(z.movedim(0, -2))


def accumulated(z: Tensor) -> Tensor:
    """The tensor in the accumulation dtype."""
    dtype = accumulation_dtype(z.dtype)
    return z if z.dtype == dtype else z.to(dtype)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums are accumulated: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def gradient_dtype(z: Tensor) -> torch.dtype:
    """The dtype of the fused gradient: bfloat16 for bfloat16 on a GPU, else the accumulation dtype."""
    return z.dtype if z.is_cuda and z.dtype == torch.bfloat16 else accumulation_dtype(z.dtype)
