"""1/2 log det(I + G) by a Cholesky factor, for a Gram matrix G whose products were rounded."""

from __future__ import annotations

import torch
from torch import Tensor

from it_losses.kernels.blocks import may_be_read

#: of x: below it, 1 + x has lost more than four bits of x
SMALL = 1 / 16


def rounding_of_products(gram: Tensor) -> Tensor:
    """How far rounding may lower the spectrum of a Gram matrix: [..., side, side] -> [...].

    8 eps of its Frobenius norm: of its largest eigenvalue where one outweighs all, sqrt(side) times that where all are equal.
    """
    # whose squares may overflow
    most = gram.diagonal(dim1=-2, dim2=-1).amax(dim=-1).mul_(gram.shape[-1])
    norm: Tensor = torch.linalg.matrix_norm(gram)
    return norm.minimum(most).mul_(8 * torch.finfo(gram.dtype).eps)


def half_log_det_(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`1/2 log det((1 + lift) I + G)` [...], the Cholesky factor of that matrix, and the lift [...]: [..., side, side].

    The matrix is written over G; value and factor are NaN where it is not positive definite.
    """
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    # what keeps it positive definite: nothing until rounding may take half of the least eigenvalue, which is 1
    lift = rounding_of_products(gram).sub_(0.5).clamp_min_(0)
    excess = diagonal + lift[..., None]
    diagonal.add_(1 + lift[..., None])
    factor, failed = torch.linalg.cholesky_ex(gram)
    # a failed factorization leaves finite numbers behind: make value and gradient say so
    factor.masked_fill_((failed != 0)[..., None, None], torch.nan)
    return _half_log_pivots(factor, excess).sum(dim=-1), factor, lift


def _half_log_pivots(factor: Tensor, excess: Tensor) -> Tensor:
    """`log L_ii`, where `L L^T - I` has the diagonal `excess` [..., side]: [..., side, side] -> [..., side].

    A pivot is `1 + x`, `x = excess_i - sum_{j < i} L_ij^2`; of a small x that sum would leave few digits.
    """
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    if not may_be_small(excess):
        return diagonal.log()
    roots = diagonal.clone()
    diagonal.zero_()
    x = excess - torch.linalg.vector_norm(factor, dim=-1).square_()
    diagonal.copy_(roots)
    return torch.where(excess < SMALL, x.log1p_().div_(2), roots.log_())


def may_be_small(excess: Tensor) -> bool:
    """Whether any is below SMALL, as far as the host can tell."""
    return not may_be_read(excess) or bool(excess.amin() < SMALL)
