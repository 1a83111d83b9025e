"""Log-det entropy over many ranks, own rows of its gradient.

    value     H = 1/2 log det(I + beta/N Zc^T Zc) = 1/2 log det(I + beta/N Zc Zc^T)
    gradient  dH/dZ = beta/N (I + beta/N Zc Zc^T)^-1 Zc = beta/N Zc (I + beta/N Zc^T Zc)^-1

The products are shared out, the factorization of the smaller matrix is repeated on every rank. Derived.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from it_losses.kernels.definite import half_log_det_
from it_losses.kernels.sharded_ranks import Evaluation, Form, Ranks, centred_batches, centred_samples, per_view


def rows(views: Sequence[Tensor], ranks: Ranks, constants: Sequence[float]) -> Evaluation:
    """Own rows of the Gram matrix [n, samples], gathered; then own rows of its inverse."""
    beta, per_dimension = constants
    groups, dim = views[0].shape[1:]
    scale = beta / ranks.samples
    share = (1 / dim if per_dimension else 1.0) / (len(views) * groups)
    batches, pending = [], []
    for z in centred_batches(views, ranks):  # [groups, samples, dim]
        batches.append(z)
        block = torch.bmm(z[:, ranks.own] * scale, z.mT)  # [groups, n, samples]
        pending.append(ranks.gathered([block.movedim(1, 0)]))
    values, gradients = [], []
    for z, rows_of_all in zip(batches, pending, strict=True):
        (gathered,) = rows_of_all
        value, factor, _ = half_log_det_(_double_centred(gathered.movedim(0, 1)))
        inverse = _centred_rows_of_inverse(factor, ranks.own)  # [groups, n, samples]
        values.append(value.sum())
        gradients.append(torch.bmm(inverse, z).mul_(scale * share).movedim(0, 1))
    value = torch.stack(values).sum() * share
    return Evaluation(value, torch.stack(gradients), value.new_empty(0))


def covariance(views: Sequence[Tensor], ranks: Ranks, constants: Sequence[float]) -> Evaluation:
    """The covariance [dim, dim], the sum of what the ranks find in their own samples."""
    beta, per_dimension = constants
    scale = beta / ranks.samples
    z = centred_samples(views, ranks)  # [V groups, n, dim]
    share = (1 / z.shape[-1] if per_dimension else 1.0) / len(z)
    value, factor, _ = half_log_det_(ranks.summed(torch.bmm(z.mT, z).mul_(scale))())
    gradient = torch.bmm(z, torch.cholesky_inverse(factor)).mul_(scale * share)
    value = value.sum() * share
    return Evaluation(value, per_view(gradient, views), value.new_empty(0))


def _double_centred(gram: Tensor) -> Tensor:
    """H gram H: the null direction of centred samples is exact again, which the inverse would amplify."""
    gram = gram - gram.mean(dim=-1, keepdim=True)
    return gram.sub_(gram.mean(dim=-2, keepdim=True))


def _centred_rows_of_inverse(factor: Tensor, own: slice) -> Tensor:
    """The own rows of `H A^-1 H`, A = factor factor^T: [..., samples, samples] -> [..., n, samples]."""
    samples = factor.shape[-1]
    if 3 * (own.stop - own.start) < samples:
        # few rows are cheaper solved for, one more right-hand side gives the row means
        unit = torch.eye(samples, dtype=factor.dtype, device=factor.device)
        right = torch.cat((unit[:, own], factor.new_full((samples, 1), 1 / samples)), dim=1)
        solved = torch.cholesky_solve(right.expand(*factor.shape[:-2], *right.shape), factor).mT
        rows, means = solved[..., :-1, :], solved[..., -1, :]
    else:
        inverse = torch.cholesky_inverse(factor)
        rows, means = inverse[..., own, :], inverse.mean(dim=-1)
    total = means.mean(dim=-1)[..., None, None]
    return rows - means[..., own, None] - means[..., None, :] + total


#: the factorization decides: the smaller side
FORM = Form(rows, covariance, covariance_from=1, parts=0)
