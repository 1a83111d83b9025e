"""VICReg of two views on a GPU: elementwise passes fused by Triton, products by cuBLAS on operands in the views' dtype.

The algebra is that of `closed_vicreg`; float32 sums, one rounding of the centred operand, variances that are subtracted taken
from what was rounded. Nothing waits for the device, and every launch can be captured in a CUDA graph.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from it_losses.kernels.cuda_products import gram, product
from it_losses.kernels.optional_triton import launches


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
    launch, (batch, dim) = launches(), z_a.shape
    uses_gram = saved.column.numel() > 0
    force = grad * (4 * weights[2] / ((batch - 1) * dim))
    pull, slope = grad * (2 * weights[0] / z_a.numel()), saved.slope * grad
    outer = (saved.column, saved.row * force) if uses_gram else None
    weight = force * (dim / (batch - 1)) if uses_gram else force
    if z_a.dtype == torch.float16:
        # weight * matrix would underflow: the product is taken as it is, and weighted in float32
        zc, _ = launch.centred(z_a, z_b, saved.mean)
        change = product(saved.matrix, zc) if uses_gram else product(zc, saved.matrix)
        gradient: Tensor = launch.add_product(z_a, z_b, saved.mean, pull, slope, outer, change, weight)
        return gradient
    gradient, zc = launch.gradient(z_a, z_b, saved.mean, pull, slope, outer)
    matrix = (saved.matrix * weight).to(z_a.dtype)
    return gradient.baddbmm_(matrix, zc) if uses_gram else gradient.baddbmm_(zc, matrix)
