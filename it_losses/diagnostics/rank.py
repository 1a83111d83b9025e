"""How many directions the embeddings use: functions of the eigenvalues of their covariance or second moment."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from it_losses.diagnostics.moments import Embeddings, Moments, mean_and_variance, moments_of, rows


@torch.no_grad()
def spectrum(z: Embeddings) -> Tensor:
    """Eigenvalues of the covariance (divided by batch), largest first: [batch, dim] -> [dim].

    Eigenvalues below the rounding of the largest are 0; all are NaN where z is not finite.
    """
    if isinstance(z, Tensor):
        z = rows(z)
        return _squared_singular_values(z - z.mean(dim=0)) / len(z)
    return _eigenvalues(moments_of(z).covariance)


@torch.no_grad()
def rank_me(z: Embeddings) -> Tensor:
    """`exp(-sum_k p_k log p_k)`, `p_k = s_k / sum s`, s the singular values of z, not centred: [batch, dim] -> [].

    Between 1 and min(batch, dim): the effective rank of Roy & Vetterli. Source: RankMe (arXiv 2210.02885), equation 1, as
    recalled; it adds 1e-7 to p against log 0, for which there is no need here.
    """
    if isinstance(z, Tensor):
        z = rows(z)
        eigenvalues = _squared_singular_values(z)
    else:
        eigenvalues = _eigenvalues(moments_of(z).second_moment)
    return _exponential_entropy(eigenvalues.sqrt())


@torch.no_grad()
def participation_ratio(z: Embeddings) -> Tensor:
    """`(tr S)^2 / tr S^2`, S the covariance: [batch, dim] -> []. 1 for one direction, dim for a round cloud."""
    if isinstance(z, Tensor):
        z = rows(z)
        matrix = _gram(z - z.mean(dim=0))
    else:
        matrix = moments_of(z).covariance
    return matrix.diagonal().sum().square() / _positive(matrix.square().sum())


def participation_ratio_of_spectrum(eigenvalues: Tensor) -> Tensor:
    """`(sum eigenvalue)^2 / sum eigenvalue^2`: [dim] -> []."""
    return eigenvalues.sum().square() / _positive(eigenvalues.square().sum())


@torch.no_grad()
def alpha_req(z: Embeddings, *, first: int = 1, last: int | None = None) -> Tensor:
    """Exponent of the power law `eigenvalue_i ~ i^-alpha`, least squares of the logarithms: [batch, dim] -> [].

    `first` and `last` bound the ranks i that are fitted (both included; default all positive eigenvalues): the tail of a
    small batch falls faster than that of its law. Source: alpha-ReQ (Agrawal et al., NeurIPS 2022), as recalled.
    """
    eigenvalues = spectrum(z)
    if eigenvalues.isnan().any():
        return eigenvalues.sum()
    used = min(last or len(eigenvalues), int((eigenvalues > 0).sum()))
    if used - first < 1:
        raise ValueError(f"alpha needs at least 2 positive eigenvalues, got ranks {first} to {used}. Raise the batch, or last.")
    log_rank = torch.arange(first, used + 1, dtype=eigenvalues.dtype, device=eigenvalues.device).log()
    log_eigenvalue = eigenvalues[first - 1 : used].log()
    log_rank = log_rank - log_rank.mean()
    return -(log_rank @ log_eigenvalue) / log_rank.square().sum()


@torch.no_grad()
def lidar(views: Tensor | Iterable[Tensor], *, ridge: float = 1e-4) -> Tensor:
    """`exp(-sum_k p_k log p_k)`, p the normalised eigenvalues of `W^-1/2 B W^-1/2`: [images, views, dim] -> [].

    B is the covariance of the images' mean embeddings, W the mean covariance of the views of one image plus `ridge I`: the
    effective rank of what tells images apart, in units of what tells views apart. Takes a tensor or an iterable of them.
    Source: LiDAR (arXiv 2312.04000), section 3, as recalled; it adds 1e-7 to p against log 0.
    """
    between, within = Moments(), Moments()
    for batch in [views] if isinstance(views, Tensor) else views:
        if batch.ndim != 3 or batch.shape[1] < 2:
            raise ValueError(
                f"lidar needs shape (images, views >= 2, dim), got {tuple(batch.shape)}. Stack the views on dim 1."
            )
        centres = batch.detach().double().mean(dim=1)
        between.update(centres)
        within.update((batch - centres[:, None]).flatten(0, 1))
    noise = within.covariance + ridge * torch.eye(len(within.mean), dtype=within.mean.dtype, device=within.mean.device)
    factor = torch.linalg.cholesky_ex(noise).L
    whitened = torch.linalg.solve_triangular(factor, between.covariance, upper=False)
    whitened = torch.linalg.solve_triangular(factor, whitened.mT, upper=False)
    return _exponential_entropy(_eigenvalues(whitened))


@torch.no_grad()
def spread(z: Embeddings) -> Tensor:
    """`tr S / E |z|^2`, S the covariance: [batch, dim] -> []. 0 where all rows are equal, 1 where their mean is 0."""
    mean, variance = mean_and_variance(z)
    return variance.sum() / _positive(variance.sum() + mean.square().sum())


def _squared_singular_values(z: Tensor) -> Tensor:
    """Those of z, largest first, zeros up to dim: [batch, dim] -> [dim]."""
    eigenvalues = _eigenvalues(_gram(z))
    return torch.nn.functional.pad(eigenvalues, (0, z.shape[1] - len(eigenvalues)))


def _gram(z: Tensor) -> Tensor:
    """`Z^T Z` or `Z Z^T`, which share their positive eigenvalues: the smaller one, [batch, dim] -> [side, side]."""
    return z.mT @ z if len(z) >= z.shape[1] else z @ z.mT


def _eigenvalues(matrix: Tensor) -> Tensor:
    """Of a positive semi-definite matrix, largest first: [side, side] -> [side]."""
    if not matrix.isfinite().all():
        return torch.full_like(matrix[0], torch.nan)
    eigenvalues = torch.linalg.eigvalsh((matrix + matrix.mT) / 2).flip(0)
    rounding = len(matrix) * torch.finfo(matrix.dtype).eps * eigenvalues[0]
    return torch.where(eigenvalues > rounding, eigenvalues, 0)


def _exponential_entropy(weights: Tensor) -> Tensor:
    """`exp H(p)`, p the normalised weights: [n] -> []. 1 where all weights are 0."""
    entropy: Tensor = torch.special.entr(weights / _positive(weights.sum())).sum()
    return entropy.exp()


def _positive(x: Tensor) -> Tensor:
    return x.clamp_min(torch.finfo(x.dtype).tiny)
