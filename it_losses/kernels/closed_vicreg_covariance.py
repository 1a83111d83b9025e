"""VICReg by its covariance, D x D: `dL/dZ = pull (Z - Z') + Zc matrix`, the slopes on the diagonal of the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from it_losses.kernels.blocks import (
    EVERYTHING,
    add_gram_,
    add_product_,
    blocks,
    centred,
    column_means,
    mirror_,
    scratch_for,
    squared_norm,
)
from it_losses.kernels.closed_vicreg_apart import write_among_
from it_losses.kernels.closed_vicreg_parts import fill_with_pull, hinge_and_slope, per_view, squared_distance, total


class Saved(NamedTuple):
    """What the backward pass needs beside the views."""

    #: column means, and the mean of what is left less them, their rounding: [V groups, 2, dim]
    mean: Tensor
    #: with a zero diagonal: [V groups, dim, dim]
    covariance: Tensor
    #: coefficient of Zc, per column: [V groups, 1, dim]
    slope: Tensor


def forward(
    views: Sequence[Tensor], weights: tuple[float, float, float], margin: float, epsilon: float
) -> tuple[Tensor, Tensor, Saved]:
    """Loss [], terms [3] and Saved, by blocks of rows: centring, products and squared distances read the samples once."""
    _, batch, dim = views[0].shape
    mean = column_means(views)
    covariance = mean.new_empty(len(mean), dim, dim)
    residual, variance, distance = torch.zeros_like(mean), torch.zeros_like(mean), mean.new_zeros(())
    scratch = scratch_for(batch, dim, len(mean), mean)
    for rows in blocks(batch, dim, len(mean), mean.device):
        zc = centred(views, mean, rows, EVERYTHING, scratch)
        residual += zc.sum(dim=1, keepdim=True)
        add_gram_(covariance, zc.mT, alpha=1 / (batch - 1), fresh=rows.start == 0)
        distance += squared_distance(views, rows, EVERYTHING, mean.dtype)
        # last, in place: a product adds up its samples one by one, which near the margin costs digits of the hinge
        variance += zc.square_().sum(dim=1, keepdim=True)
    variance = variance.div_(batch - 1)[:, 0]
    mirror_(covariance)
    write_among_(covariance, views, variance, scale=1 / (batch - 1))
    # zeroed, not subtracted: for decorrelated samples the diagonal is all there is, and the difference has no digits
    covariance.diagonal(dim1=1, dim2=2).zero_()
    hinge, slope = hinge_and_slope(variance, weights[1], margin, epsilon, batch)
    energy = squared_norm(covariance) * (per_view(views) / dim)
    loss, terms = total(distance / views[0].numel(), hinge, energy, weights)
    return loss, terms, Saved(torch.cat((mean, residual / batch), dim=1), covariance, slope)


def backward(grad: Tensor, views: Sequence[Tensor], saved: Saved, weights: tuple[float, float, float]) -> Tensor:
    """`grad dL/dZ`, block of rows by block of rows: [V groups, batch, dim]."""
    _, batch, dim = views[0].shape
    # the upstream gradient goes into the small tensors, before anything is rounded to the views' dtype
    matrix = saved.covariance * (grad * (4 * weights[2] / ((batch - 1) * dim) * per_view(views)))
    matrix.diagonal(dim1=1, dim2=2).copy_(saved.slope[:, 0] * grad)
    pull = grad * (2 * weights[0] / views[0].numel())
    mean, residual = saved.mean.chunk(2, dim=1)
    line = torch.bmm(residual, matrix).neg_()
    out = views[0].new_empty(len(mean), batch, dim)
    scratch = scratch_for(batch, dim, len(mean), mean)
    for rows in blocks(batch, dim, len(mean), mean.device):
        zc = centred(views, mean, rows, EVERYTHING, scratch)
        block = out[:, rows] if out.dtype == mean.dtype else torch.empty_like(zc)
        fill_with_pull(block, views, rows, EVERYTHING, pull, line)
        add_product_(block, zc, matrix)
        if out.dtype != mean.dtype:
            out[:, rows] = block
    return out
