"""VICReg of two views on a GPU: elementwise passes fused by Triton, products by cuBLAS on operands in the views' dtype.

The algebra is that of `closed_vicreg`; float32 sums, one rounding of the centred operand, variances that are subtracted taken
from what was rounded. On the D x D side, unlike on a CPU, covariances of dominant features that are decorrelated are rounding,
as the reference's. Nothing waits for the device, and every launch can be captured in a CUDA graph.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from it_losses.kernels.blocks import EVERYTHING
from it_losses.kernels.closed_vicreg_apart import LINES
from it_losses.kernels.cuda_products import gram, product
from it_losses.kernels.optional_triton import launches

#: what the backward pass may take beside the gradient: enough to fill a GPU, and a part of the samples of a large batch
PART_BYTES = 32 * 2**20


class Saved(NamedTuple):
    """What backward needs beside the views."""

    mean: Tensor  # and its rounding: [2, 2, dim]
    #: covariances with a zero diagonal [2, dim, dim], or products of samples / dim [2, batch, batch]; in the views' dtype
    matrix: Tensor
    slope: Tensor  # [2, 1, dim]
    #: on the N x N side, the columns of the largest variances, centred, and their products with all columns
    lines: Tensor | None = None  # [2, LINES, batch]
    rows: Tensor | None = None  # [2, LINES, dim]


def forward(
    z_a: Tensor, z_b: Tensor, weights: tuple[float, float, float], margin: float, epsilon: float, *, uses_gram: bool
) -> tuple[Tensor, Tensor, Saved]:
    """Loss [], terms [3] and Saved of two views [batch, dim]."""
    launch, (batch, dim) = launches(), z_a.shape
    push = -weights[1] / (2 * dim * (batch - 1))
    mean, variance, slope, hinges, distances = launch.statistics(z_a, z_b, margin=margin, epsilon=epsilon, push=push)
    # energy / dim is the sum of the parts of two kinds times their factors
    factors = 1 / z_a.numel(), 1 / (2 * dim), 1 / dim, 0.0
    if uses_gram:
        # the columns of the largest variances stay out, see closed_vicreg_gram
        top = variance.topk(min(LINES, batch, dim), dim=2).indices
        zc, squares = launch.centred_without(z_a, z_b, mean, top)
        lines, operands = launch.taken_apart(z_a, z_b, mean, top)
        rows = product(operands, zc)
        others = launch.finish_columns(squares, lines, rows, top, slope, pull=4 * weights[2] / ((batch - 1) * dim))
        # divided by dim the products are of the order of a variance, in float16 too
        matrix, energies = launch.squared(gram(zc), 1 / dim, z_a.dtype, zero_diagonal=False)
        factors = *factors[:2], dim / (batch - 1) ** 2, 1 / dim
        saved = Saved(mean, matrix, slope, lines, rows)
    else:
        zc = launch.centred(z_a, z_b, mean)
        matrix, energies = launch.squared(product(zc.mT, zc), 1 / (batch - 1), z_a.dtype, zero_diagonal=True)
        others, saved = mean.new_empty(0), Saved(mean, matrix, slope)
    loss, terms = launch.total((distances, hinges, energies, others), factors, weights)
    return loss, terms, saved


def backward(grad: Tensor, z_a: Tensor, z_b: Tensor, saved: Saved, weights: tuple[float, float, float]) -> Tensor:
    """Gradient of both views: [2, batch, dim], in their dtype."""
    launch, (batch, dim) = launches(), z_a.shape
    uses_gram = saved.lines is not None
    force, pull = 4 * weights[2] / ((batch - 1) * dim), 2 * weights[0] / z_a.numel()
    weight = force * (dim / (batch - 1)) if uses_gram else force
    # weighted before it is rounded; but in float16 that would underflow
    weighted = None if z_a.dtype == torch.float16 else launch.scaled(saved.matrix, grad, weight)
    gradient = z_a.new_empty(2, batch, dim)
    for rows, cols in _parts(z_a, by_columns=uses_gram):
        views, out = (z_a[rows, cols], z_b[rows, cols]), gradient[:, rows, cols]
        mean, slope = saved.mean[..., cols].contiguous(), saved.slope[..., cols].contiguous()
        outer = None
        if saved.lines is not None and saved.rows is not None:
            outer = saved.lines, saved.rows[..., cols].contiguous(), force / (batch - 1)
        if weighted is None:
            zc = launch.centred(*views, mean)
            change = product(saved.matrix, zc) if uses_gram else product(zc, saved.matrix)
            launch.add_product(*views, mean, grad, pull, slope, outer, change, weight, out=out)
        else:
            zc = launch.gradient(*views, mean, grad, pull, slope, outer, out=out)
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
