"""Cholesky factors of I + G, for a Gram matrix G whose products were rounded."""

from __future__ import annotations

import torch
from torch import Tensor

#: what a CPU adds to a side that is a multiple of 64: at such strides LAPACK takes four times as long
PADDING = 8


def add_jitter_(gram: Tensor) -> Tensor:
    """Add the identity, and jitter where rounding could exceed half of the smallest eigenvalue, which is 1: -> both [S].

    Rounding may lower the spectrum by 8 eps of the Frobenius norm, whose squares may overflow; `side * max diagonal` bounds it.
    """
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    bound = diagonal.amax(dim=-1).mul_(gram.shape[-1])
    rounding = torch.linalg.matrix_norm(gram).minimum(bound).mul_(8 * torch.finfo(gram.dtype).eps)
    identity = rounding.add_(0.5).clamp_min_(1)
    diagonal.add_(identity[:, None])
    return identity


def cholesky(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Lower factor [S, side, side], and an integer other than 0 where it failed [S]."""
    return torch.linalg.cholesky_ex(matrix)


def padded_cholesky(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The same on a CPU, which pads the matrix with an identity where the stride of its rows would be slow."""
    side = matrix.shape[1]
    if side % 64 or side < 128:
        return cholesky(matrix)
    padded = torch.eye(side + PADDING, dtype=matrix.dtype).repeat(len(matrix), 1, 1)
    padded[:, :side, :side] = matrix
    factor, failed = cholesky(padded)
    return factor[:, :side, :side], failed
