"""Entropies of embeddings in nats, and SIGReg's statistic."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from it_losses.checks import check_flag, check_length, check_positive
from it_losses.diagnostics.inputs import Batches
from it_losses.diagnostics.moments import Embeddings, all_rows
from it_losses.diagnostics.rank import spectrum
from it_losses.entropy import spacings
from it_losses.entropy.pairs import SPREAD_FRACTION, component_entropy
from it_losses.entropy.pairwise import DIVERGENCES
from it_losses.entropy.renyi import check_order
from it_losses.entropy.sigreg import SIGReg

#: matrices of all pairs are computed this many rows at a time
CHUNK = 1024


class EntropyBounds(NamedTuple):
    """A lower and an upper bound on an entropy in nats, as scalars."""

    lower: Tensor
    upper: Tensor


@torch.no_grad()
def gaussian_entropy(z: Embeddings, *, ridge: float = 1e-4) -> Tensor:
    """The entropy in nats of a Gaussian with the covariance of z + N(0, ridge I): [batch, dim] -> [].

        1/2 log det(S + ridge I) + dim/2 log(2 pi e),   S the covariance of z, divided by batch

    It is an upper bound on the entropy of z + N(0, ridge I). With `ridge=0` and fewer than dim + 1 rows it is -inf.
    Source: Cover & Thomas, theorems 8.4.1 and 8.6.5.
    """
    return gaussian_entropy_of_spectrum(spectrum(z), ridge=check_positive("ridge", ridge, or_zero=True))


@torch.no_grad()
def log_det_entropy(z: Embeddings, *, beta: float = 1.0) -> Tensor:
    """The log-det entropy in nats, as in `LogDet(beta, per_dimension=False)`: [batch, dim] -> [].

        1/2 log det(I + beta S),   S the covariance of z, divided by batch

    `gaussian_entropy(z, ridge=1 / beta)` is this value plus `dim/2 log(2 pi e / beta)`.
    """
    return log_det_entropy_of_spectrum(spectrum(z), beta=check_positive("beta", beta))


@torch.no_grad()
def marginal_entropies(z: Batches, *, window: int | None = None) -> Tensor:
    """The entropy of each dimension in nats, from the spacings of its sorted values: [batch, dim] -> [dim].

        mean_i log(batch / (2 m) (x_(i+m) - x_(i-m))),   m the window, by default sqrt(batch)

    x_(1) <= x_(2) <= ... are the sorted values of one dimension, and indices clamp to [1, batch]. The estimate is too low for
    few rows, and -inf if a spacing is 0. Source: Vasicek (1976).
    """
    z = all_rows(z)
    if len(z) < 2:
        raise ValueError(f"marginal_entropies needs at least 2 rows, got {len(z)}.")
    m = spacings.check_window("window", window) or spacings.automatic_window(len(z))
    return spacings.marginal_entropies(z, window=min(m, len(z) - 1), epsilon=0.0)


@torch.no_grad()
def renyi_entropy(z: Embeddings, *, order: float = 2.0) -> Tensor:
    """The Renyi entropy of the normalised eigenvalues of the covariance: [batch, dim] -> [].

        log sum_k p_k^order / (1 - order),   for order 1   -sum_k p_k log p_k,   p = eigenvalues / their sum

    It is the value of `MatrixRenyi(order, normalize=None)`: 0 if one direction has all variance, log dim if all have the same.
    Its exponential is `participation_ratio` for order 2, and the effective rank for order 1.
    """
    eigenvalues, order = spectrum(z), check_order("order", order)
    p = eigenvalues / eigenvalues.sum().clamp_min(torch.finfo(eigenvalues.dtype).tiny)
    powers: Tensor = p.pow(order).sum()
    shannon: Tensor = -torch.special.xlogy(p, p).sum()
    return shannon if order == 1 else powers.masked_fill(powers == 0, 1).log() / (1 - order)


def gaussian_entropy_of_spectrum(eigenvalues: Tensor, *, ridge: float) -> Tensor:
    """`1/2 sum log(2 pi e (eigenvalue + ridge))`: [dim] -> []."""
    return 0.5 * (2 * math.pi * math.e * (eigenvalues + ridge)).log().sum()


def log_det_entropy_of_spectrum(eigenvalues: Tensor, *, beta: float) -> Tensor:
    """`1/2 sum log(1 + beta eigenvalue)`: [dim] -> []."""
    return 0.5 * torch.log1p(beta * eigenvalues).sum()


@torch.no_grad()
def pairwise_entropy_bounds(z: Batches, *, bandwidth: float | None = None) -> EntropyBounds:
    """Bounds in nats on the entropy of a mixture of Gaussians, one around each row: [batch, dim] -> 2 x [].

        dim/2 log(2 pi e s^2) - mean_i log mean_j exp(-|z_i - z_j|^2 / (c s^2)),   s the bandwidth

    c is 8 (Bhattacharyya) for the lower bound and 2 (Kullback-Leibler) for the upper. By default `s^2 = 0.2 * sum_j Var z_j`,
    which changes with every batch. To compare values during a run, pass a fixed bandwidth.
    Source: Kolchinsky & Tracey (arXiv 1706.02419), equation 10 and section 4.
    """
    z = all_rows(z)
    variance = _data_driven_variance(z) if bandwidth is None else check_length("bandwidth", bandwidth) ** 2
    constant = component_entropy(variance, z.shape[1])
    bounds = entropy_above_one_point(z, variance=variance)
    return EntropyBounds(lower=bounds.lower + constant, upper=bounds.upper + constant)


@torch.no_grad()
def quadratic_entropy(z: Batches, *, bandwidth: float | None = None) -> Tensor:
    """The quadratic Renyi entropy in nats of a mixture of Gaussians, one around each row: [batch, dim] -> [].

        dim/2 log(4 pi s^2) - log mean_ij exp(-|z_i - z_j|^2 / (4 s^2)),   s the bandwidth

    It is a lower bound on the Shannon entropy of the mixture. By default `s^2 = 0.2 * sum_j Var z_j`.
    """
    z = all_rows(z)
    variance = _data_driven_variance(z) if bandwidth is None else check_length("bandwidth", bandwidth) ** 2
    overlaps = [(distances / (-4 * variance)).logsumexp(dim=(0, 1)) for distances in _squared_distances(z)]
    constant = z.shape[1] / 2 * math.log(4 * math.pi * variance)
    return constant + 2 * math.log(len(z)) - torch.stack(overlaps).logsumexp(dim=0)


def entropy_above_one_point(z: Tensor, *, variance: float) -> EntropyBounds:
    """`pairwise_entropy_bounds` for `s^2 = variance`, without `dim/2 log(2 pi e s^2)`: [batch, dim] -> 2 x []."""
    kinds: dict[str, list[Tensor]] = {"bhattacharyya": [], "kl": []}
    for distances in _squared_distances(z):
        for kind, found in kinds.items():
            found.append((distances / (-DIVERGENCES[kind] * variance)).logsumexp(dim=1))
    lower, upper = (math.log(len(z)) - torch.cat(found).mean() for found in kinds.values())
    return EntropyBounds(lower=lower, upper=upper)


def _squared_distances(z: Tensor) -> Iterator[Tensor]:
    """Yield `|z_i - z_j|^2` for all j and CHUNK rows i at a time: [batch, dim] -> [CHUNK, batch]."""
    # centre, because a large mean increases the rounding errors of distances
    z = z - z.mean(dim=0)
    squared_norms = torch.linalg.vector_norm(z, dim=1).square()
    for start in range(0, len(z), CHUNK):
        rows, norms = z[start : start + CHUNK], squared_norms[start : start + CHUNK]
        distances = torch.addmm(norms[:, None] + squared_norms, rows, z.mT, alpha=-2).clamp_min_(0)
        # rounding makes the distance of a row to itself differ from 0
        distances.diagonal(offset=start).zero_()
        yield distances


def _data_driven_variance(z: Tensor) -> float:
    if len(z) < 2:
        raise ValueError(f"the default bandwidth needs at least 2 rows, got {len(z)}. Pass a bandwidth.")
    variance = SPREAD_FRACTION * float(z.var(dim=0).sum())
    if variance == 0:
        raise ValueError("the default bandwidth is 0, because all rows are equal. Pass a bandwidth.")
    return variance


@torch.no_grad()
def sigreg_statistic(z: Batches, *, slices: int = 1024, seed: int = 0) -> Tensor:
    """How far the embeddings are from N(0, I), as in SIGReg: [batch, dim] -> [].

    It is the statistic of Epps and Pulley, averaged over random projections (slices). It is about 1.05 / batch for samples of
    N(0, I), 0.40 if all samples are at the origin, and 1.45 if they are far apart. The same seed draws the same slices.
    Source: Balestriero & LeCun (arXiv 2511.08544), Algorithm 1.
    """
    entropy: Tensor = SIGReg(slices=slices, seed=seed)(all_rows(z))
    return -entropy


@torch.no_grad()
def nearest_neighbour_entropy(z: Batches, *, on_sphere: bool = False) -> Tensor:
    """The entropy of z in nats, from the distance rho_i of each row to the nearest other row: [batch, dim] -> [].

        psi(batch) - psi(1) + log V_dim + dim * mean_i log rho_i,   log V_dim = dim/2 log pi - log Gamma(dim/2 + 1)

    psi is the digamma function and V_dim the volume of the unit ball. With `on_sphere` the rows are divided by their norms, dim
    is replaced by `dim - 1`, and the density is per area of the sphere.

    The estimate is consistent, but no bound. Its error grows with dim: for 1024 rows of N(0, I) in 32 dimensions it is 2.6 nats
    too high. From 16 dimensions on, use it only for comparison. If two rows are equal it is -inf.
    Source: Kozachenko & Leonenko (1987), with psi(batch) for log(batch - 1).
    """
    z = all_rows(z)
    if check_flag("on_sphere", on_sphere):
        z = normalize(z, dim=1)
    batch, dim = len(z), z.shape[1] - on_sphere
    if batch < 2 or dim < 1:
        raise ValueError(f"nearest_neighbour_entropy needs batch >= 2 and dim >= {1 + on_sphere}, got shape {tuple(z.shape)}.")
    log_distance = torch.cat([_nearest_distances(z, start) for start in range(0, batch, CHUNK)]).log().mean()
    log_volume = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)
    psi_batch, psi_one = torch.special.digamma(z.new_tensor([batch, 1.0]))
    nats: Tensor = psi_batch - psi_one + log_volume + dim * log_distance
    return nats


def _nearest_distances(z: Tensor, start: int) -> Tensor:
    """The distance to the nearest other row, for the CHUNK rows from `start` on: [batch, dim] -> [CHUNK]."""
    # subtract rows: |a|^2 + |b|^2 - 2 a b has large rounding errors for near rows
    distances = torch.cdist(z[start : start + CHUNK], z, compute_mode="donot_use_mm_for_euclid_dist")
    distances.diagonal(offset=start).fill_(torch.inf)
    return distances.amin(dim=1)
