"""Cholesky factors of I + G, for a Gram matrix G with rounding errors."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def jitter(gram: Tensor, largest: Tensor) -> Tensor:
    """The jitter for each matrix [S]: zero unless rounding could exceed half the smallest eigenvalue of I + G, which is 1.

    Rounding may lower an eigenvalue by 8 eps times the Frobenius norm. The norm is at most side times the largest diagonal
    element. This bound is used if the squares in the norm overflow.
    """
    norm: Tensor = torch.linalg.vector_norm(gram, dim=(1, 2)).minimum(largest * gram.shape[1])
    return norm.mul_(8 * torch.finfo(gram.dtype).eps).sub_(0.5).clamp_min_(0)


def factorize_(
    gram: Tensor, cholesky_ex: Callable[[Tensor], Sequence[Tensor]] = torch.linalg.cholesky_ex
) -> tuple[Tensor, Tensor, Tensor]:
    """Lower Cholesky factor of `identity * I + G`; `identity = 1 + jitter` [S]; largest diagonal element of G [].

    G [S, side, side] is overwritten. If the factorization fails, the diagonal of the factor is NaN.
    """
    diagonal = gram.diagonal(dim1=1, dim2=2)
    largest = diagonal.amax(dim=1)
    identity = jitter(gram, largest).add_(1)
    diagonal.add_(identity[:, None])
    factor, failed = cholesky_ex(gram)
    factor.diagonal(dim1=1, dim2=2).masked_fill_((failed != 0)[:, None], torch.nan)
    return factor, identity, largest.amax()
