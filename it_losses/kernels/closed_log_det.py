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
from it_losses.kernels.blocks import (
    EVERYTHING,
    add_gram_,
    add_product_,
    blocks,
    centred,
    column_means,
    mirror_,
    scratch_for,
)
from it_losses.kernels.definite import half_log_det_

#: columns whose covariances are summed in float64: so few have so few that nothing outweighs the rounding of one
FEW_COLUMNS = 8


class Saved(NamedTuple):
    """What the backward pass needs beside z."""

    mean: Tensor  # [groups, 1, dim]
    factor: Tensor  # [groups, side, side], lower triangular


def uses_gram(batch: int, dim: int) -> bool:
    """Whether the N x N side is factorized: the smaller one, in cost and in condition."""
    return batch < dim


def forward(z: Tensor, scale: float) -> tuple[Tensor, Saved]:
    """`1/2 log det(I + scale Zc^T Zc)` and Saved: [groups, batch, dim] -> [groups]."""
    _, batch, dim = z.shape
    if cuda_products.serves(z):
        value, *parts = cuda_log_det.forward(z, scale, uses_gram=uses_gram(batch, dim))
        return value, Saved(*parts)
    mean = column_means([z])
    if not uses_gram(batch, dim):
        value, factor, _ = half_log_det_(_covariance(z, mean, scale))
        return value, Saved(mean, factor)
    matrix = _gram(z, mean, scale)
    _centre_(matrix)
    # the vector of ones, whose eigenvalue is 1, is raised from the bottom of the spectrum to its middle
    raised = matrix.diagonal(dim1=1, dim2=2).mean(dim=1)
    value, factor, lift = half_log_det_(matrix.add_((raised / batch)[:, None, None]))
    # and what became of it is taken out again
    return value.sub_(raised.add_(lift).log1p_(), alpha=0.5), Saved(mean, factor)


def _gram(z: Tensor, mean: Tensor, scale: float) -> Tensor:
    """`scale Zc Zc^T`: [groups, batch, batch]."""
    groups, batch, dim = z.shape
    matrix = mean.new_empty(groups, batch, batch)
    scratch = scratch_for(dim, batch, groups, mean)
    for cols in blocks(dim, batch, groups, z.device):
        add_gram_(matrix, centred([z], mean, EVERYTHING, cols, scratch), alpha=scale, fresh=cols.start == 0)
    mirror_(matrix)
    return matrix


def _covariance(z: Tensor, mean: Tensor, scale: float) -> Tensor:
    """`scale Zc^T Zc`: [groups, dim, dim]."""
    groups, batch, dim = z.shape
    exact = torch.float64 if dim <= FEW_COLUMNS else mean.dtype
    matrix = mean.new_empty(groups, dim, dim, dtype=exact)
    scratch = scratch_for(batch, dim, groups, matrix)
    for rows in blocks(batch, dim, groups, z.device):
        add_gram_(matrix, centred([z], mean, rows, EVERYTHING, scratch).mT, alpha=scale, fresh=rows.start == 0)
    mirror_(matrix)
    return matrix.to(mean.dtype)


def backward(grad: Tensor, z: Tensor, saved: Saved, scale: float) -> Tensor:
    """Gradient of z for the values' gradient `grad` [groups]: [groups, batch, dim], in the dtype of z."""
    _, batch, dim = z.shape
    if cuda_products.serves(z):
        return cuda_log_det.backward(grad, z, *saved, scale, uses_gram=uses_gram(batch, dim))
    inverse = torch.cholesky_inverse(saved.factor)
    if uses_gram(batch, dim):
        _centre_(inverse)
    inverse.mul_((grad * scale)[:, None, None])
    return (_from_gram if uses_gram(batch, dim) else _from_covariance)(z, saved.mean, inverse)


def _from_gram(z: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """`inverse Zc`: [groups, batch, dim], in the dtype of z."""
    groups, batch, dim = z.shape
    out = torch.empty_like(z, memory_format=torch.contiguous_format)
    scratch = scratch_for(dim, batch, groups, mean)
    for cols in blocks(dim, batch, groups, z.device):
        _product(inverse, centred([z], mean, EVERYTHING, cols, scratch), out[:, :, cols])
    return out


def _from_covariance(z: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """`Zc inverse`: [groups, batch, dim], in the dtype of z."""
    groups, batch, dim = z.shape
    out = torch.empty_like(z, memory_format=torch.contiguous_format)
    strips = list(blocks(batch, dim, groups, z.device))
    scratch = scratch_for(batch, dim, groups, mean)
    # what rounding left of the means would add one vector to the gradient of all samples, whose sum is zero
    residual = torch.zeros_like(mean)
    for rows in strips:
        zc = centred([z], mean, rows, EVERYTHING, scratch)
        residual += zc.sum(dim=1, keepdim=True)
    residual /= batch
    for rows in strips:
        if len(strips) > 1:
            zc = centred([z], mean, rows, EVERYTHING, scratch)
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
