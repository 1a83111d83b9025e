"""How many directions the embeddings use: functions of the eigenvalues of their covariance or second moment."""

import torch
from torch import Tensor

from it_losses.checks import check_count, check_positive
from it_losses.diagnostics.inputs import Batches, batches, checked, is_batch, rows
from it_losses.diagnostics.moments import Embeddings, Moments, mean_and_variance, moments_of

#: alpha_req fits eigenvalues FIRST_RANK to n; n is LAST_FRACTION of all, clamped to [LAST_AT_LEAST, LAST_AT_MOST]
FIRST_RANK, LAST_FRACTION, LAST_AT_LEAST, LAST_AT_MOST = 2, 0.2, 20, 50


@torch.no_grad()
def spectrum(z: Embeddings) -> Tensor:
    """Eigenvalues of the covariance (divided by batch), largest first: [batch, dim] -> [dim].

    Eigenvalues that rounding errors may have caused are set to 0. All are NaN if z is not finite.
    """
    if is_batch(z):
        z = rows(z)
        return _squared_singular_values(z - z.mean(dim=0)) / len(z)
    return _eigenvalues(moments_of(z).covariance)


@torch.no_grad()
def rank_me(z: Embeddings) -> Tensor:
    """RankMe, the effective rank of z (Roy & Vetterli), between 1 and min(batch, dim): [batch, dim] -> [].

        exp(-sum_k p_k log p_k),   p_k = s_k / sum s,   s the singular values of z, not centred

    Source: RankMe (arXiv 2210.02885), equation 1, without the 1e-7 that the paper adds to p to avoid log 0.
    """
    if is_batch(z):
        z = rows(z)
        eigenvalues = _squared_singular_values(z)
    else:
        eigenvalues = _eigenvalues(moments_of(z).second_moment)
    return rank_me_of_spectrum(eigenvalues)


@torch.no_grad()
def both_spectra(z: Tensor | Moments) -> tuple[Tensor, Tensor]:
    """Eigenvalues of the covariance and of the second moment, largest first: [batch, dim] -> 2 x [dim]."""
    if isinstance(z, Moments):
        return _eigenvalues(z.covariance), _eigenvalues(z.second_moment)
    mean = z.mean(dim=0)
    centred = z - mean
    gram = _gram(centred)
    if len(z) >= z.shape[1]:
        uncentred = gram + len(z) * mean.outer(mean)
    else:
        along = centred @ mean
        uncentred = gram + along + along[:, None] + mean.square().sum()
    return tuple(_padded(_eigenvalues(matrix), z.shape[1]) / len(z) for matrix in (gram, uncentred))  # type: ignore[return-value]


def rank_me_of_spectrum(eigenvalues: Tensor) -> Tensor:
    """RankMe from the eigenvalues of the second moment: [dim] -> []."""
    return _exponential_entropy(eigenvalues.sqrt())


@torch.no_grad()
def participation_ratio(z: Embeddings) -> Tensor:
    """Participation ratio `(tr S)^2 / tr S^2`, S the covariance: [batch, dim] -> []. It is 1 for rank 1, dim for S = I."""
    if is_batch(z):
        z = rows(z)
        matrix = _gram(z - z.mean(dim=0))
    else:
        matrix = moments_of(z).covariance
    return matrix.diagonal().sum().square() / _positive(matrix.square().sum())


def participation_ratio_of_spectrum(eigenvalues: Tensor) -> Tensor:
    """`(sum eigenvalue)^2 / sum eigenvalue^2`: [dim] -> []."""
    return eigenvalues.sum().square() / _positive(eigenvalues.square().sum())


@torch.no_grad()
def alpha_req(z: Embeddings, *, first: int = FIRST_RANK, last: int | None = None) -> Tensor:
    """Exponent alpha of the power law `eigenvalue_i ~ i^-alpha` of the covariance: [batch, dim] -> [].

    It is minus the slope of `log eigenvalue_i` over `log i`. The least-squares fit has weights `1 / i`, so every octave of i
    counts the same. It uses `first <= i <= last`. By default `first` is 2, and `last` a fifth of `min(batch - 1, dim)`, but at
    least 20 and at most 50. Later eigenvalues are left out, because they fall faster in a sample than in its distribution.

    With 256 rows the error is below 10 % if the true exponent is at least 1. Smaller exponents need more rows than dimensions.
    Source: alpha-ReQ (Agrawal et al., NeurIPS 2022), with the fit of Stringer et al. (Nature 2019).
    """
    first = check_count("first", first)
    z = rows(z) if is_batch(z) else moments_of(z)
    eigenvalues = spectrum(z)
    last = _default_last_rank(z) if last is None else check_count("last", last)
    if eigenvalues.isnan().any():
        return eigenvalues.sum()
    used = min(last, int((eigenvalues > 0).sum()))
    if used <= first:
        raise ValueError(
            f"alpha_req needs 2 positive eigenvalues from first={first} to last={last}, but the last positive one is "
            f"number {used}. Raise last, or use more rows."
        )
    ranks = torch.arange(first, used + 1, dtype=eigenvalues.dtype, device=eigenvalues.device)
    weights = 1 / (ranks * (1 / ranks).sum())
    log_rank = ranks.log() - weights @ ranks.log()
    return -(weights * log_rank) @ eigenvalues[first - 1 : used].log() / (weights @ log_rank.square())


def _default_last_rank(z: Tensor | Moments) -> int:
    count, dim = z.shape if isinstance(z, Tensor) else (z.count, len(z.mean))
    return max(LAST_AT_LEAST, min(LAST_AT_MOST, int(LAST_FRACTION * min(count - 1, dim))))


@torch.no_grad()
def lidar(views: Batches, *, ridge: float = 1e-4) -> Tensor:
    """LiDAR, the effective rank of the differences between images, whitened by those between views: [images, views, dim] -> [].

        exp(-sum_k p_k log p_k),   p the eigenvalues of W^-1/2 B W^-1/2, divided by their sum

    B is the covariance of the mean embeddings of the images. W is the mean covariance of the views of one image, plus
    `ridge I`. If W is singular, the result is NaN: increase `ridge`. Fewer images than views raise ValueError, because the two
    dimensions may be swapped. Source: LiDAR (arXiv 2312.04000), section 3, without the 1e-7 that the paper adds to p.
    """
    check_positive("ridge", ridge, or_zero=True)
    between, within, most_views = Moments(), Moments(), 0
    for batch in batches(views):
        z = checked(batch, ("images", "views", "dim"), advice="Stack the views of an image: torch.stack((z_a, z_b), dim=1).")
        if z.shape[1] < 2:
            raise ValueError(f"lidar needs at least 2 views of each image, got shape (images, views, dim) = {tuple(z.shape)}.")
        centres = z.mean(dim=1)
        between.update(centres)
        within.update((z - centres[:, None]).flatten(0, 1))
        most_views = max(most_views, z.shape[1])
    if between.count < most_views:
        raise ValueError(
            f"lidar needs at least as many images as views, got {between.count} images of {most_views} views. "
            "If dim 0 holds the views, pass z.transpose(0, 1)."
        )
    return _exponential_entropy(_relative_eigenvalues(between.covariance, within.covariance, ridge))


def _relative_eigenvalues(between: Tensor, within: Tensor, ridge: float) -> Tensor:
    """Eigenvalues of `W^-1/2 between W^-1/2`, `W = within + ridge I`: [dim]. NaN if W is singular up to rounding."""
    noise = within + ridge * torch.eye(len(within), dtype=within.dtype, device=within.device)
    if not noise.isfinite().all():
        return torch.full_like(noise[0], torch.nan)
    variances, directions = torch.linalg.eigh(noise)
    if variances[0] <= _rounding_of(variances):
        return torch.full_like(noise[0], torch.nan)
    whitening = directions / variances.sqrt()
    return _eigenvalues(whitening.mT @ between @ whitening)


@torch.no_grad()
def spread(z: Embeddings) -> Tensor:
    """Variance as a fraction of the mean squared norm, `tr S / E |z|^2`, S the covariance: [batch, dim] -> [].

    It is 0 if all rows are equal, and 1 if their mean is 0.
    """
    mean, variance = mean_and_variance(z)
    return spread_of(variance.sum(), mean)


def spread_of(variance: Tensor, mean: Tensor) -> Tensor:
    """The spread, from the sum of the variances [] and the mean [dim]."""
    return variance / _positive(variance + mean.square().sum())


def _squared_singular_values(z: Tensor) -> Tensor:
    """Squared singular values of z, largest first, padded with zeros: [batch, dim] -> [dim]."""
    return _padded(_eigenvalues(_gram(z)), z.shape[1])


def _padded(eigenvalues: Tensor, dim: int) -> Tensor:
    """Append zeros, since a Gram matrix [batch, batch] has fewer eigenvalues than dim: [side] -> [dim]."""
    return torch.nn.functional.pad(eigenvalues, (0, dim - len(eigenvalues)))


def _gram(z: Tensor) -> Tensor:
    """The smaller of `Z^T Z` and `Z Z^T`, which have the same positive eigenvalues: [batch, dim] -> [side, side]."""
    return z.mT @ z if len(z) >= z.shape[1] else z @ z.mT


def _eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues of a positive semi-definite matrix, largest first: [side, side] -> [side]."""
    if not matrix.isfinite().all():
        return torch.full_like(matrix[0], torch.nan)
    eigenvalues = torch.linalg.eigvalsh((matrix + matrix.mT) / 2).flip(0)
    return torch.where(eigenvalues > _rounding_of(eigenvalues), eigenvalues, 0)


def _rounding_of(eigenvalues: Tensor) -> Tensor:
    """The rounding error of an eigenvalue: [side] -> []."""
    return len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * eigenvalues.max()


def _exponential_entropy(weights: Tensor) -> Tensor:
    """`exp H(p)`, p the normalised weights: [n] -> []. 1 if all weights are 0."""
    entropy: Tensor = torch.special.entr(weights / _positive(weights.sum())).sum()
    return entropy.exp()


def _positive(x: Tensor) -> Tensor:
    return x.clamp_min(torch.finfo(x.dtype).tiny)
