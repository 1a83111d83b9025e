"""1/2 log det(I + G) by a Cholesky factor, for a Gram matrix G whose products were rounded."""

from __future__ import annotations

import torch
from torch import Tensor


def rounding_of_products(gram: Tensor) -> Tensor:
    """How far rounding may lower the spectrum of a Gram matrix: [..., side, side] -> [...].

    8 eps of its Frobenius norm: of its largest eigenvalue where one outweighs all, sqrt(side) times that where all are equal.
    """
    # whose squares may overflow
    most = gram.diagonal(dim1=-2, dim2=-1).amax(dim=-1).mul_(gram.shape[-1])
    norm: Tensor = torch.linalg.matrix_norm(gram)
    return norm.minimum(most).mul_(8 * torch.finfo(gram.dtype).eps)


def half_log_det_(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`1/2 log det((1 + lift) I + G)` [groups], that matrix's Cholesky factor, and the lift [groups]: [groups, side, side].

    G is written over; the value and the factor's diagonal are NaN where it is not positive definite.
    """
    diagonal = gram.diagonal(dim1=1, dim2=2)
    # what keeps it positive definite: nothing until rounding may take half of the least eigenvalue, which is 1
    lift = rounding_of_products(gram).sub_(0.5).clamp_min_(0)
    excess = diagonal + lift[:, None]
    torch.add(excess, 1, out=diagonal)
    factor, failed = torch.linalg.cholesky_ex(gram)
    # LAPACK summed these squares to get its pivots, one by one: behind a large one each small one lost to rounding, and of a
    # pivot 1 + x near 1 its root has few digits of x. A factor is stored column by column
    torch.mul(factor, factor, out=gram.mT)
    diagonal.zero_()
    # without rounding none is below 0
    x = excess.sub_(gram.sum(dim=1)).clamp_min_(-0.5)
    value = x.log1p_().sum(dim=1).div_(2)
    # a failed factorization leaves finite numbers behind: make value and gradient say so
    bad = failed != 0
    factor.diagonal(dim1=1, dim2=2).masked_fill_(bad[:, None], torch.nan)
    return value.masked_fill_(bad, torch.nan), factor, lift
