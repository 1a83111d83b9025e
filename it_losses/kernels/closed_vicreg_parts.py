"""What the forms of VICReg for larger inputs share: the pull of the other view, the hinge and the sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def per_view(views: Sequence[Tensor]) -> float:
    """Share of one view and group in the covariance term."""
    return 2 / (len(views) * views[0].shape[0])


def fill_with_pull(block: Tensor, views: Sequence[Tensor], rows: slice, cols: slice, pull: Tensor, line: Tensor) -> None:
    """`block = pull (Z - Z') + line` for each of two views; the line for any other number, which have no invariance here."""
    if len(views) != 2:
        block.copy_(line.expand_as(block))
        return
    difference = _difference(views, rows, cols, block.dtype)
    for out, own, sign in zip(block.chunk(2), line.chunk(2), (1, -1), strict=True):
        torch.addcmul(own, difference, pull, value=sign, out=out)


def _difference(views: Sequence[Tensor], rows: slice, cols: slice, dtype: torch.dtype) -> Tensor:
    return views[0][:, rows, cols].to(dtype) - views[1][:, rows, cols].to(dtype)


def squared_distance(views: Sequence[Tensor], rows: slice, cols: slice, dtype: torch.dtype) -> Tensor | float:
    """`sum (z_a - z_b)^2` over a block of two views: []."""
    if len(views) != 2:
        return 0.0
    return _difference(views, rows, cols, dtype).square_().sum()


def hinge_and_slope(variance: Tensor, weight: float, margin: float, epsilon: float, batch: int) -> tuple[Tensor, Tensor]:
    """`mean relu(margin - std)` [] and its slope in Zc [V groups, 1, dim]; variance is [V groups, dim]."""
    std = (variance + epsilon).sqrt_()
    hinge = torch.relu(margin - std).mean()
    return hinge, _hinge_slope(std, weight, margin, batch, shares=len(variance))


def _hinge_slope(std: Tensor, weight: float, margin: float, batch: int, *, shares: int) -> Tensor:
    push = std.reciprocal().mul_(-weight / (shares * std.shape[1] * (batch - 1)))
    # not `std < margin`: a NaN must not pass for a spread that needs no push
    return torch.where(std >= margin, 0.0, push)[:, None]


def total(invariance: Tensor, hinge: Tensor, energy: Tensor, weights: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """The weighted sum [] and its terms [3]."""
    loss = weights[0] * invariance + weights[1] * hinge + weights[2] * energy
    return loss, torch.stack((invariance, hinge, energy))
