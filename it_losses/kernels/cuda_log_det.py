"""Log-det entropy on a GPU: products on operands in the dtype of the samples, factor and inverse in float32.

The algebra is that of `closed_log_det`. Between the library calls stand one pass over the samples (centred, rounded once) and
one over each N x N or D x D matrix (both centrings, scale, identity). Nothing waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from it_losses.kernels.cuda_products import gram, product
from it_losses.kernels.optional_triton import entropy_launches


def forward(z: Tensor, scale: float, *, uses_gram: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`1/2 log det(I + scale Zc^T Zc)` [groups], column means [groups, 1, dim] and the factor: [groups, batch, dim]."""
    launch = entropy_launches()
    mean = z.mean(dim=1, keepdim=True, dtype=torch.float32)
    zc, _ = launch.centred(z, mean)
    matrix = gram(zc) if uses_gram else product(zc.mT, zc)
    # the operand was rounded after it was centred: its Gram matrix is not quite centred
    means = matrix.mean(dim=2) if uses_gram else None
    constants = launch.gram_constants(matrix, means, scale)
    factor, failed = torch.linalg.cholesky_ex(launch.doubly_centred(matrix, means, constants, out=matrix))
    # a failed factorization leaves finite numbers behind: make value and gradient say so
    factor.masked_fill_((failed != 0)[:, None, None], torch.nan)
    return launch.log_diagonal(factor, constants, centred=uses_gram), mean, factor


def backward(grad: Tensor, z: Tensor, mean: Tensor, factor: Tensor, scale: float, *, uses_gram: bool) -> Tensor:
    """Gradient of z for the values' gradient `grad` [groups]: [groups, batch, dim], in the dtype of z."""
    launch = entropy_launches()
    inverse = torch.cholesky_inverse(factor)
    # symmetric: whichever of the two is contiguous
    inverse = inverse if inverse.is_contiguous() else inverse.mT.contiguous()
    means = inverse.mean(dim=2) if uses_gram else None
    weight = grad.float() * scale
    # no element of the inverse is above 1, and those of float16 must not be far below: weighted after the product
    unit = inverse.diagonal(dim1=1, dim2=2).amax(dim=1) if z.dtype == torch.float16 else None
    operand = launch.scaled_inverse(inverse, means, weight if unit is None else unit.reciprocal(), z.dtype)
    zc, _ = launch.centred(z, mean)
    if z.dtype == torch.float32 and not uses_gram:
        # what rounding left of the means would add one vector to the gradient of all samples, whose sum is zero
        zc.sub_(zc.mean(dim=1, keepdim=True))
    left, right = (operand, zc) if uses_gram else (zc, operand)
    if unit is None:
        return torch.bmm(left, right)
    return product(left, right).mul_((weight * unit)[:, None, None]).to(z.dtype)
