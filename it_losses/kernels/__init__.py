"""Fused twins of the objectives: the same numbers and gradients, in closed form and by the smaller side.

    vicreg      weights . (invariance, variance, covariance) of two or more views
    log_det     1/2 log det(I + beta Cov)
    pairwise    -mean_i log mean_j exp(-|z_i - z_j|^2 / scale)
    choose      which twin runs for an op, shape, dtype and device, and why

Samples are `[..., batch, dim]` of any floating-point dtype; what is in front of them are groups with statistics of their own.
Statistics are accumulated in float32 at least (float64 for float64), the gradient comes in the dtype of the samples. Nothing
here imports the rest of the package, and the rest works without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from it_losses.kernels import operators
from it_losses.kernels.choice import Choice, choose, is_fused
from it_losses.kernels.operators import grouped

__all__ = ["Choice", "choose", "is_fused", "log_det", "pairwise", "vicreg"]

#: pairs kept between forward and backward, unless the caller names another bound
PAIRS_BYTES = 256 * 2**20


def vicreg(
    views: Sequence[Tensor], *, weights: tuple[float, float, float], margin: float = 1.0, epsilon: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """Loss and its terms (invariance, variance, covariance), unweighted and detached: V x [..., batch, dim] -> [], [3].

    The invariance is that of two views; for any other number of them it is 0, and its weight has no effect.
    """
    if operators.is_compiling():
        loss, terms = operators.vicreg_op([grouped(z) for z in views], list(weights), margin, epsilon)[:2]
        return loss, terms.detach()
    loss, terms = operators.VICReg.apply(weights, margin, epsilon, *views)
    return loss, terms


def log_det(z: Tensor, *, beta: float) -> Tensor:
    """`1/2 log det(I + beta Zc^T Zc / batch)` in nats: [..., batch, dim] -> [...]."""
    scale = beta / z.shape[-2]
    if operators.is_compiling():
        value: Tensor = operators.log_det_op(grouped(z), scale)[0].reshape(z.shape[:-2])
    else:
        value = operators.LogDet.apply(z, scale)
    return value


def pairwise(z: Tensor, scales: Sequence[Tensor | float], *, memory_bytes: int | None = None) -> Tensor:
    """`-mean_i log mean_j exp(-|z_i - z_j|^2 / scale)` for each of K scales: [..., batch, dim] -> [K, ...].

    A scale is a number or one number a group, [...]; none receives a gradient. The pairs are kept for the backward pass if they
    take no more than memory_bytes (default 256 MiB), and computed again otherwise.
    """
    lines = torch.stack([_line(scale, z) for scale in scales])
    bound = PAIRS_BYTES if memory_bytes is None else memory_bytes
    if operators.is_compiling():
        values: Tensor = operators.pairwise_op(grouped(z), lines, bound)[0].reshape(len(lines), *z.shape[:-2])
    else:
        values = operators.Pairwise.apply(z, lines, bound)
    return values


def _line(scale: Tensor | float, z: Tensor) -> Tensor:
    """One scale for each group, [groups]."""
    dtype, groups = torch.promote_types(z.dtype, torch.float32), math.prod(z.shape[:-2])
    if isinstance(scale, Tensor):
        return scale.detach().to(dtype).expand(groups) if scale.ndim == 0 else scale.detach().to(dtype).flatten()
    return z.new_full((groups,), scale, dtype=dtype)
