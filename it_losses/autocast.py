"""Statistics keep their precision under autocast: the one context that every objective computes in."""

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
