"""VICReg of two views on a GPU: elementwise passes fused by Triton, products by cuBLAS on operands in the views' dtype.

The algebra is that of `closed_vicreg`; float32 sums, one rounding of the centred operand, variances that are subtracted taken
from what was rounded. Nothing waits for the device, and every launch can be captured in a CUDA graph.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from it_losses.kernels.blocks import EVERYTHING
from it_losses.kernels.cuda_products import gram, product
from it_losses.kernels.optional_triton import launches

#: what the backward pass may take beside the gradient: enough to fill a GPU, and a part of the samples of a large batch
PART_BYTES = 32 * 2**20


class Saved(NamedTuple):
    """What backward needs beside the views."""

    mean: Tensor  # [2, 1, dim]
    #: covariances with a zero diagonal [2, dim, dim], or products of samples / dim [2, batch, batch]; in the views' dtype
    matrix: Tensor
    slope: Tensor  # [2, 1, dim]
    column: Tensor  # [2, batch, 1], or empty
    row: Tensor  # [2, 1, dim], or empty


def forward(
    z_a: Tensor, z_b: Tensor, weights: tuple[float, float, float], margin: float, epsilon: float, *, uses_gram: bool
) -> tuple[Tensor, Tensor, Saved]:
    """Loss [], terms [3] and Saved of two views [batch, dim]."""
    launch, (batch, dim) = launches(), z_a.shape
    push = -weights[1] / (2 * dim * (batch - 1))
    mean, variance, slope, hinge, distance = launch.statistics(z_a, z_b, margin=margin, epsilon=epsilon, push=push)
    zc, squares = launch.centred(z_a, z_b, mean)
    column, row = mean.new_empty(0), mean.new_empty(0)
    if uses_gram:
        # the column of the largest variance stays out, see closed_vicreg
        top = variance.argmax(dim=2, keepdim=True)
        column = zc.gather(2, top.expand(-1, batch, 1))
        zc.scatter_(2, top.expand(-1, batch, 1), 0)
        row = product(column.mT, zc).mul_(1 / (batch - 1))
        apart = squares.scatter(2, top, 0).mul_(1 / (batch - 1))
        products = gram(zc)
        # divided by dim the products are of the order of a variance, in float16 too
        matrix, energy = launch.squared(products, 1 / dim, z_a.dtype, zero_diagonal=False)
        energy = energy * (dim / (batch - 1)) ** 2 - apart.square().sum() + 2 * row.square().sum()
        slope.sub_(apart, alpha=4 * weights[2] / ((batch - 1) * dim))
        column = column.to(mean.dtype)
    else:
        products = product(zc.mT, zc)
        matrix, energy = launch.squared(products, 1 / (batch - 1), z_a.dtype, zero_diagonal=True)
    terms = torch.stack((distance / z_a.numel(), hinge / (2 * dim), energy / dim))
    loss = weights[0] * terms[0] + weights[1] * terms[1] + weights[2] * terms[2]
    return loss, terms, Saved(mean, matrix, slope, column, row)


def backward(grad: Tensor, z_a: Tensor, z_b: Tensor, saved: Saved, weights: tuple[float, float, float]) -> Tensor:
    """Gradient of both views: [2, batch, dim], in their dtype."""
    batch, dim = z_a.shape
    uses_gram = saved.column.numel() > 0
    force = grad * (4 * weights[2] / ((batch - 1) * dim))
    pull, slope, row = grad * (2 * weights[0] / z_a.numel()), saved.slope * grad, saved.row * force
    weight = force * (dim / (batch - 1)) if uses_gram else force
    # weighted before it is rounded; but in float16 that would underflow
    weighted = None if z_a.dtype == torch.float16 else (saved.matrix * weight).to(z_a.dtype)
    gradient = z_a.new_empty(2, batch, dim)
    for rows, cols in _parts(z_a, by_columns=uses_gram):
        views = z_a[rows, cols], z_b[rows, cols]
        mean, out = saved.mean[..., cols].contiguous(), gradient[:, rows, cols]
        lines = mean, pull, slope[..., cols].contiguous(), (saved.column, row[..., cols].contiguous()) if uses_gram else None
        if weighted is None:
            zc, _ = launches().centred(*views, mean)
            change = product(saved.matrix, zc) if uses_gram else product(zc, saved.matrix)
            launches().add_product(*views, *lines, change, weight, out=out)
        else:
            zc = launches().gradient(*views, *lines, out=out)
            out.baddbmm_(weighted, zc) if uses_gram else out.baddbmm_(zc, weighted)
    return gradient


def _parts(z: Tensor, *, by_columns: bool) -> list[tuple[slice, slice]]:
    """Rows and columns of parts of two views whose centred copies, or products in float32, take no more than PART_BYTES."""
    batch, dim = z.shape
    length, bytes_each = (dim, batch) if by_columns else (batch, dim)
    bytes_each *= 2 * (4 if z.dtype == torch.float16 else z.element_size())
    count = min(max(-(-length * bytes_each // PART_BYTES), 1), length)
    # whole tiles of columns, which also keeps the alignment that tensor cores need
    step = -(-length // (64 * count)) * 64
    parts = [slice(start, min(start + step, length)) for start in range(0, length, step)]
    return [(EVERYTHING, part) if by_columns else (part, EVERYTHING) for part in parts]
