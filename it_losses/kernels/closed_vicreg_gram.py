"""VICReg by the Gram matrix, N x N: `dL/dZ = pull (Z - Z') + Zc slope + matrix Zc`, the columns of most variance apart.

The N x N side costs N / D of the other, but subtracts the variances where that one zeroes them. Let R be the columns that
are left when those of the largest variances are taken apart (`columns_apart`). Rounding moves the covariance term of a view
by about eps sqrt(D) |C_R|_F^2 / D at most, the gradient of a column z of R by eps sqrt(N) 4 |C_R| |z| / ((N-1) D); sqrt(D)
and sqrt(N) are what random rounding makes of sums of so many products. By the rank bound |C_R|_F^2 >= tr(C_R)^2 / (N-1) the
former is at most the fraction eps sqrt(D) / (1 - (N-1) / n) of the term where n = tr(C_R)^2 / sum_R var^2, the number of
columns of R that matter, is N or more. Nothing bounds the fraction where fewer, but more than are taken apart, outweigh all
others and are decorrelated among themselves: that takes float64.
"""

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
from it_losses.kernels.closed_vicreg_apart import centred_columns, columns, largest, products_among
from it_losses.kernels.closed_vicreg_parts import fill_with_pull, hinge_and_slope, per_view, squared_distance, total


class Saved(NamedTuple):
    """What the backward pass needs beside the views."""

    #: column means, and the mean of what is left less them, their rounding: [V groups, 2, dim]
    mean: Tensor
    #: products of the samples: [V groups, batch, batch]
    gram: Tensor
    #: coefficient of Zc, per column: [V groups, 1, dim]
    slope: Tensor
    #: the gradient of the columns of the largest variances, finished: [V groups, apart, batch]
    apart: Tensor
    #: and which columns they are: [V groups, apart, 1]
    place: Tensor


def forward(
    views: Sequence[Tensor], weights: tuple[float, float, float], margin: float, epsilon: float
) -> tuple[Tensor, Tensor, Saved]:
    """Loss [], terms [3] and Saved, by blocks of columns; statistics first, which tell the columns to take apart."""
    _, batch, dim = views[0].shape
    freedom, force = batch - 1, 4 * weights[2] / ((batch - 1) * dim) * per_view(views)
    mean = column_means(views)
    variance = torch.empty_like(mean)
    distance = mean.new_zeros(())
    strips = list(blocks(dim, batch, len(mean), mean.device))
    scratch = scratch_for(dim, batch, len(mean), mean)
    for cols in strips:
        zc = centred(views, mean, EVERYTHING, cols, scratch)
        torch.sum(zc.square_() if len(strips) > 1 else zc.square(), dim=1, keepdim=True, out=variance[:, :, cols])
        distance += squared_distance(views, EVERYTHING, cols, mean.dtype)
    variance.div_(freedom)
    # dominant features would fill |G|^2 and cancel against their own variances
    top = largest(variance[:, 0], batch)  # [V groups, apart, 1]
    exact = centred_columns(views, top)
    lines = exact.to(mean.dtype)
    others = torch.ones_like(variance).scatter_(2, top.mT, 0)
    # with ones below them, whose products are sums: what rounding of the means left
    left = torch.cat((lines, torch.ones_like(lines[:, :1])), dim=1)
    gram, rows = mean.new_empty(len(mean), batch, batch), mean.new_empty(len(mean), left.shape[1], dim)
    for cols in strips:
        if len(strips) > 1:
            zc = centred(views, mean, EVERYTHING, cols, scratch)
        zc.mul_(others[:, :, cols])
        add_product_(rows[:, :, cols], left, zc, alpha=1 / freedom, beta=0)
        add_gram_(gram, zc, alpha=1 / freedom, fresh=cols.start == 0)
    mirror_(gram)
    among = products_among(exact).div_(freedom)
    others.mul_(variance)
    energy = squared_norm(gram) - squared_norm(others) + 2 * squared_norm(rows[:, :-1])
    energy += squared_norm(among)
    hinge, slope = hinge_and_slope(variance[:, 0], weights[1], margin, epsilon, batch)
    # lines G + among lines, centred as G is not
    apart = torch.bmm(among, exact).to(mean.dtype).baddbmm_(lines, gram)
    apart = apart.sub_(apart.mean(dim=2, keepdim=True)).mul_(force).addcmul_(lines, slope.mT.gather(1, top))
    if len(views) == 2:
        apart.add_(columns(views, top).sub_(columns(views[::-1], top)), alpha=2 * weights[0] / views[0].numel())
    # the others feel all columns, and subtract their own variance alone
    gram.baddbmm_(lines.mT, lines, alpha=1 / freedom)
    slope.sub_(others, alpha=force)
    loss, terms = total(distance / views[0].numel(), hinge, energy * (per_view(views) / dim), weights)
    means = torch.cat((mean, rows[:, -1:] * (freedom / batch)), dim=1)
    return loss, terms, Saved(means, gram, slope, apart, top)


def backward(grad: Tensor, views: Sequence[Tensor], saved: Saved, weights: tuple[float, float, float]) -> Tensor:
    """`grad dL/dZ`, block of columns by block of columns: [V groups, batch, dim]."""
    _, batch, dim = views[0].shape
    # the upstream gradient goes into the small tensors, before anything is rounded to the views' dtype
    force = grad * (4 * weights[2] / ((batch - 1) * dim) * per_view(views))
    # H G: what rounding left of the means is in G too, and would move all samples alike
    matrix = torch.addcmul(saved.gram.mean(dim=1, keepdim=True) * -force, saved.gram, force)
    slope, pull = saved.slope * grad, grad * (2 * weights[0] / views[0].numel())
    mean, residual = saved.mean.chunk(2, dim=1)
    line = residual * -slope
    out = views[0].new_empty(len(mean), batch, dim)
    scratch = scratch_for(dim, batch, len(mean), mean)
    for cols in blocks(dim, batch, len(mean), mean.device):
        zc = centred(views, mean, EVERYTHING, cols, scratch)
        block = out[:, :, cols] if out.dtype == zc.dtype else torch.empty_like(zc)
        fill_with_pull(block, views, EVERYTHING, cols, pull, line[:, :, cols])
        block.addcmul_(zc, slope[:, :, cols])
        add_product_(block, matrix, zc)
        if out.dtype != zc.dtype:
            out[:, :, cols] = block
    apart = (saved.apart * grad).to(out.dtype)
    out.mT.scatter_(1, saved.place.expand_as(apart), apart)
    return out
