"""Log-det entropy with its gradient in closed form, by one Cholesky factor of the smaller side.

    value       1/2 log det A,   A = I + s Zc^T Zc (D x D)   or   I + s Zc Zc^T (N x N): equal determinants (Sylvester)
    gradient    s Zc A^-1   or   s A^-1 Zc

The N x N side has an exact null vector, the vector of ones: A is 1 there and large elsewhere, so A^-1 blows up what rounding
left of 1^T Zc. Centring the Gram matrix repairs the value; raising A along the ones before the factorization, and centring the
inverse after it, repair the gradient. Derived.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from it_losses.kernels import cuda_log_det, cuda_products
from it_losses.kernels.blocks import EVERYTHING, add_gram_, add_product_, blocks, centred, column_means, mirror_, scratch_for


class Saved(NamedTuple):
    """What the backward pass needs beside z."""

    mean: Tensor  # [groups, 1, dim]
    factor: Tensor  # [groups, side, side], lower triangular


def uses_gram(batch: int, dim: int) -> bool:
    """Whether the N x N side is factorized: the smaller one, in cost and in condition."""
    return batch < dim


def forward(z: Tensor, scale: float) -> tuple[Tensor, Saved]:
    """`1/2 log det(I + scale Zc^T Zc)` and Saved: [groups, batch, dim] -> [groups]."""
    groups, batch, dim = z.shape
    if cuda_products.serves(z):
        value, *parts = cuda_log_det.forward(z, scale, uses_gram=uses_gram(batch, dim))
        return value, Saved(*parts)
    mean = column_means([z])
    if uses_gram(batch, dim):
        matrix = mean.new_empty(groups, batch, batch)
        scratch = scratch_for(dim, batch, groups, mean)
        for cols in blocks(dim, batch, groups, z.device):
            add_gram_(matrix, centred([z], mean, EVERYTHING, cols, scratch), alpha=scale, fresh=cols.start == 0)
    else:
        matrix = mean.new_empty(groups, dim, dim)
        scratch = scratch_for(batch, dim, groups, mean)
        for rows in blocks(batch, dim, groups, z.device):
            add_gram_(matrix, centred([z], mean, rows, EVERYTHING, scratch).mT, alpha=scale, fresh=rows.start == 0)
    mirror_(matrix)
    if uses_gram(batch, dim):
        _centre_(matrix)
    null = _add_identity_(matrix)
    if uses_gram(batch, dim):
        raised = matrix.diagonal(dim1=1, dim2=2).mean(dim=1)
        # the vector of ones, whose eigenvalue is 1, is raised from the bottom of the spectrum to its middle
        matrix.add_((raised / batch)[:, None, None])
    factor, failed = torch.linalg.cholesky_ex(matrix)
    # a failed factorization leaves finite numbers behind: make value and gradient say so
    factor.masked_fill_((failed != 0)[:, None, None], torch.nan)
    value = factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    if uses_gram(batch, dim):
        # and what became of it is taken out again, the lift by the rounding included
        value.sub_(torch.log(raised + null), alpha=0.5)
    return value, Saved(mean, factor)


def backward(grad: Tensor, z: Tensor, saved: Saved, scale: float) -> Tensor:
    """Gradient of z for the values' gradient `grad` [groups]: [groups, batch, dim], in the dtype of z."""
    groups, batch, dim = z.shape
    if cuda_products.serves(z):
        return cuda_log_det.backward(grad, z, *saved, scale, uses_gram=uses_gram(batch, dim))
    inverse = torch.cholesky_inverse(saved.factor)
    if uses_gram(batch, dim):
        _centre_(inverse)
    inverse.mul_((grad * scale)[:, None, None])
    out = torch.empty_like(z, memory_format=torch.contiguous_format)
    if uses_gram(batch, dim):
        scratch = scratch_for(dim, batch, groups, saved.mean)
        for cols in blocks(dim, batch, groups, z.device):
            _product(inverse, centred([z], saved.mean, EVERYTHING, cols, scratch), out[:, :, cols])
    else:
        strips = list(blocks(batch, dim, groups, z.device))
        scratch = scratch_for(batch, dim, groups, saved.mean)
        # what rounding left of the means would add one vector to the gradient of all samples, whose sum is zero
        residual = torch.zeros_like(saved.mean)
        for rows in strips:
            zc = centred([z], saved.mean, rows, EVERYTHING, scratch)
            residual += zc.sum(dim=1, keepdim=True)
        residual /= batch
        for rows in strips:
            if len(strips) > 1:
                zc = centred([z], saved.mean, rows, EVERYTHING, scratch)
            _product(zc.sub_(residual), inverse, out[:, rows])
    return out


def _product(a: Tensor, b: Tensor, out: Tensor) -> None:
    if out.dtype == a.dtype:
        # beta = 0 writes through the strides of a block, where bmm(out=) would make a copy
        add_product_(out, a, b, beta=0)
    else:
        out.copy_(torch.bmm(a, b))


def _centre_(matrix: Tensor) -> None:
    """`H matrix H` in place, H = I - 1 1^T / side: [groups, side, side], symmetric."""
    row = matrix.mean(dim=2, keepdim=True)
    whole = row.mean(dim=1, keepdim=True)
    row.sub_(whole / 2)
    matrix.sub_(row).sub_(row.mT)


def _add_identity_(matrix: Tensor) -> Tensor:
    """`I + matrix` in place, lifted by the rounding of its products, without which singular data lose definiteness.

    Returns what was added to the diagonal: [groups].
    """
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    rounding = 2 * matrix.shape[1] ** 0.5 * torch.finfo(matrix.dtype).eps
    added = diagonal.amax(dim=1).mul_(rounding).add_(1)
    diagonal.add_(added[:, None])
    return added
