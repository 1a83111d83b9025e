"""What may enter an objective: views of one shape and device, weights that are finite, constants that are positive."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


class ViewError(ValueError, AssertionError):
    """Views that no objective accepts; an AssertionError too, since the classes replaced by ours assert."""


def check_views(views: Sequence[Tensor], *, at_least: int = 1, min_batch: int = 2) -> None:
    """Raise ViewError unless all views are floating-point `[batch, ..., dim]` of one shape, dtype and device."""
    if len(views) < at_least:
        raise ViewError(f"needs at least {at_least} views, got {len(views)}. Pass one tensor for each view of the batch.")
    first = views[0]
    _check_view(first, min_batch)
    for other in views[1:]:
        _check_alike(first, other)


def _check_view(z: Tensor, min_batch: int) -> None:
    if not isinstance(z, Tensor):
        raise ViewError(f"needs tensors, got {type(z).__name__}. Convert it with torch.as_tensor.")
    if not z.is_floating_point():
        raise ViewError(f"needs a floating-point tensor, got {z.dtype}. Convert it with .float().")
    if z.ndim < 2:
        raise ViewError(f"needs a tensor of shape (batch, ..., dim), got {tuple(z.shape)}. Stack the samples: one row each.")
    if len(z) < min_batch:
        raise ViewError(
            f"needs batch size > {min_batch - 1} for its statistics, got z of shape {tuple(z.shape)}. "
            "Raise the batch size, or drop the last batch."
        )
    if z.numel() == 0:
        raise ViewError(f"needs at least one dimension, got z of shape {tuple(z.shape)}.")


def _check_alike(first: Tensor, other: Tensor) -> None:
    if not isinstance(other, Tensor):
        raise ViewError(f"needs tensors, got {type(other).__name__}. Convert it with torch.as_tensor.")
    for trait in ("shape", "dtype", "device"):
        ours, theirs = getattr(first, trait), getattr(other, trait)
        if ours != theirs:
            raise ViewError(f"views must have the same {trait}, got {ours} and {theirs}. Bring them to one {trait} first.")


def check_weight(name: str, value: float) -> float:
    """The weight as a float; ValueError if it is negative or not a finite number."""
    if not (_is_finite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}. Terms are added; their sign is fixed.")
    return float(value)


def check_positive(name: str, value: float, *, or_zero: bool = False) -> float:
    """The constant as a float; ValueError unless it is a finite number > 0, or 0 where that is allowed."""
    if not (_is_finite(value) and (value > 0 or (or_zero and value == 0))):
        raise ValueError(f"{name} must be a finite number {'>=' if or_zero else '>'} 0, got {value!r}.")
    return float(value)


def _is_finite(value: object) -> bool:
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        # a string, None, a tensor of many
        return False
