"""Log-det entropy with its gradient in closed form, by one Cholesky factor of the smaller side.

    value       1/2 log det A,   A = I + s Zc^T Zc (D x D)   or   I + s Zc Zc^T (N x N): equal determinants (Sylvester)
    gradient    s Zc A^-1   or   s A^-1 Zc

The N x N side has an exact null vector, the vector of ones: A is 1 there and large elsewhere, so A^-1 blows up what rounding
left of 1^T Zc. Centring the Gram matrix repairs the value; raising A along the ones before the factorization, and centring the
inverse after it, repair the gradient. Derived.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from it_losses.kernels import cuda_log_det, cuda_products
from it_losses.kernels.blocks import (
    EVERYTHING,
    accumulation_dtype,
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
#: elements of the samples up to which they are kept centred for the backward pass, 2 MiB of float32: of more, a block that is
#: centred anew in the cache is as fast
KEPT = 1 << 19


class Saved(NamedTuple):
    """What the backward pass needs beside z."""

    #: column means [groups, 1, dim], or the centred samples [groups, batch, dim]: see `keeps`
    middle: Tensor
    factor: Tensor  # [groups, side, side], lower triangular


def uses_gram(batch: int, dim: int) -> bool:
    """Whether the N x N side is factorized: the smaller one, in cost and in condition."""
    return batch < dim


def keeps(z: Tensor) -> bool:
    """Whether the centred samples are kept: where they are small, and no copy in another precision."""
    same = z.dtype == accumulation_dtype(z.dtype)
    return same and z.device.type == "cpu" and z.numel() <= KEPT and z.shape[2] > FEW_COLUMNS


def forward(z: Tensor, scale: float) -> tuple[Tensor, Saved]:
    """`1/2 log det(I + scale Zc^T Zc)` and Saved: [groups, batch, dim] -> [groups]."""
    _, batch, dim = z.shape
    if cuda_products.serves(z):
        value, *parts = cuda_log_det.forward(z, scale, uses_gram=uses_gram(batch, dim))
        return value, Saved(*parts)
    middle = _middle(z)
    if not uses_gram(batch, dim):
        value, factor, _ = half_log_det_(_covariance(z, middle, scale))
        return value, Saved(middle, factor)
    matrix = _gram(z, middle, scale)
    _centre_(matrix)
    # the vector of ones, whose eigenvalue is 1, is raised from the bottom of the spectrum to its middle
    raised = matrix.diagonal(dim1=1, dim2=2).mean(dim=1)
    value, factor, lift = half_log_det_(matrix.add_((raised / batch)[:, None, None]))
    # and what became of it is taken out again
    return value.sub_(raised.add_(lift).log1p_(), alpha=0.5), Saved(middle, factor)


def _middle(z: Tensor) -> Tensor:
    """The means, or the centred samples."""
    mean = column_means([z])
    if not keeps(z):
        return mean
    zc = z - mean
    # what rounding left of the means would add one vector to the gradient of all samples, whose sum is zero
    return zc if uses_gram(*z.shape[1:]) else zc.sub_(zc.mean(dim=1, keepdim=True))


def _columns(z: Tensor, middle: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of columns of the centred samples: all at once where they are kept."""
    if keeps(z):
        yield EVERYTHING, middle
        return
    groups, batch, dim = z.shape
    scratch = scratch_for(dim, batch, groups, middle)
    for cols in blocks(dim, batch, groups, z.device):
        yield cols, centred([z], middle, EVERYTHING, cols, scratch)


def _rows(z: Tensor, middle: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows of the centred samples: all at once where they are kept."""
    if keeps(z):
        yield EVERYTHING, middle
        return
    groups, batch, dim = z.shape
    scratch = scratch_for(batch, dim, groups, middle.new_empty(0, dtype=dtype))
    for rows in blocks(batch, dim, groups, z.device):
        yield rows, centred([z], middle, rows, EVERYTHING, scratch)


def _gram(z: Tensor, middle: Tensor, scale: float) -> Tensor:
    """`scale Zc Zc^T`: [groups, batch, batch]."""
    groups, batch, _ = z.shape
    matrix = middle.new_empty(groups, batch, batch)
    for cols, zc in _columns(z, middle):
        add_gram_(matrix, zc, alpha=scale, fresh=not cols.start)
    mirror_(matrix)
    return matrix


def _covariance(z: Tensor, middle: Tensor, scale: float) -> Tensor:
    """`scale Zc^T Zc`: [groups, dim, dim]."""
    groups, _, dim = z.shape
    exact = torch.float64 if dim <= FEW_COLUMNS else middle.dtype
    matrix = middle.new_empty(groups, dim, dim, dtype=exact)
    for rows, zc in _rows(z, middle, exact):
        add_gram_(matrix, zc.mT, alpha=scale, fresh=not rows.start)
    mirror_(matrix)
    return matrix.to(middle.dtype)


def backward(grad: Tensor, z: Tensor, saved: Saved, scale: float) -> Tensor:
    """Gradient of z for the values' gradient `grad` [groups]: [groups, batch, dim], in the dtype of z."""
    _, batch, dim = z.shape
    if cuda_products.serves(z):
        return cuda_log_det.backward(grad, z, *saved, scale, uses_gram=uses_gram(batch, dim))
    inverse = torch.cholesky_inverse(saved.factor)
    if uses_gram(batch, dim):
        _centre_(inverse)
    inverse.mul_((grad * scale)[:, None, None])
    out = torch.empty_like(z, memory_format=torch.contiguous_format)
    (_write_from_gram if uses_gram(batch, dim) else _write_from_covariance)(out, z, saved.middle, inverse)
    return out


def _write_from_gram(out: Tensor, z: Tensor, middle: Tensor, inverse: Tensor) -> None:
    """`out = inverse Zc`: [groups, batch, dim]."""
    for cols, zc in _columns(z, middle):
        _product(inverse, zc, out[:, :, cols])


def _write_from_covariance(out: Tensor, z: Tensor, middle: Tensor, inverse: Tensor) -> None:
    """`out = Zc inverse`: [groups, batch, dim]."""
    if keeps(z):
        _product(middle, inverse, out)
        return
    # as where they are kept: what rounding left of the means
    residual = torch.zeros_like(middle)
    for _, zc in _rows(z, middle, middle.dtype):
        residual += zc.sum(dim=1, keepdim=True)
    residual /= z.shape[1]
    for rows, zc in _rows(z, middle, middle.dtype):
        _product(zc.sub_(residual), inverse, out[:, rows])


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
