"""Quadratic Renyi entropy of a mixture of Gaussians, one around each sample, in closed form from all pairwise distances.

H_2 = -log integral p^2,   p the mean of all N(z_i, s^2 I)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from it_losses.checks import Check, Weight, check_flag, check_not_negative, check_positive
from it_losses.entropy.base import BoundWeights, NormalizingEstimator, SaturationWarning
from it_losses.entropy.pairs import (
    MEMORY_MIB,
    MOST_EXPONENT,
    SATURATED,
    SPREAD_FRACTION,
    check_bandwidth,
    component_entropy,
    largest_exponent,
    same_image,
    squared_distances,
    variances_of,
)
from it_losses.normalize import Normalization

#: the integral of the product of two Gaussians is proportional to `exp(-|z_i - z_j|^2 / (FACTOR s^2))`
FACTOR = 4.0
#: default s, which gives `t = 1 / (4 s^2) = 2` as in the code of Wang & Isola
UNIFORMITY_BANDWIDTH = 8**-0.5


def overlap_entropy(distances: Tensor, *, scale: Tensor | float, counted: int) -> Tensor:
    """The part of the entropy that has a gradient: [..., batch, batch] -> [...].

    It is `-log mean_ij exp(-distances_ij / scale)` over the `counted` pairs of each row that are not excluded. Excluded pairs
    have infinite distances. It lies within [0, log batch] if no pair is excluded.
    """
    if isinstance(scale, Tensor):
        scale = scale[..., None, None]
    return math.log(distances.shape[-1] * counted) - torch.logsumexp(-distances / scale, dim=(-2, -1))


def gaussian_entropy(variance: Tensor | float, dim: int) -> Tensor | float:
    """The quadratic entropy of one Gaussian in nats, `dim/2 log(4 pi variance)`: [...] -> [...]."""
    # it equals the Shannon entropy of a Gaussian with 2/e times the variance
    return component_entropy(variance * (2 / math.e), dim)


class QuadraticRenyi(NormalizingEstimator):
    """An entropy that is largest if embeddings are uniform on the unit sphere: the uniformity loss of Wang & Isola, negated.

        H(z) = dim/2 log(4 pi s^2) - log mean_ij exp(-t |z_i - z_j|^2),   t = 1 / (4 s^2)

    By default z are unit vectors and the mean is over i != j. The loss with default weights is alignment plus uniformity less
    the constant `dim/2 log(4 pi s^2)`. In many dimensions the constant is large, and float32 keeps few digits of the rest. So
    `nats=False` leaves it out.

    With `exclude_self=False`, H is the quadratic Renyi entropy in nats of the mixture of N(z_i, s^2 I), a lower bound on its
    Shannon entropy. For one Gaussian the bound is `dim/2 (1 - log 2)` nats too low.

    Args:
        bandwidth: s, the standard deviation of a Gaussian, between 1e-12 and 1e12; `(4 t)^(-1/2)` for the t of Wang & Isola.
            For several s the entropies are averaged. "auto" sets `4 s^2 = 2 spread_fraction * sum_j Var z_j` in each batch,
            without a gradient through s.
        exclude_self: leave out the pairs (i, i). The fused implementation then needs "auto", or unit vectors with
            `1 / s^2 <= 70`. Otherwise the slower reference runs.
        normalize: "rows" for unit vectors z / |z|, "columns" for unit variance of each dimension, None for z as it is.
        nats: False to leave out the constant `dim/2 log(4 pi s^2)`.
        spread_fraction: used by "auto".
        memory_mib: working memory for pairs in the forward pass. Pairs that do not fit are computed twice.

    Source: Wang & Isola (arXiv 2005.10242), equation 5; Principe, Information Theoretic Learning (2010), section 2.2.
    """

    unit, direction = "nats, or nats less a constant", "with exclude_self=False lower bound on the smoothed entropy"
    cost = "N^2 D"
    fused = "quadratic"
    checks: ClassVar[dict[str, Check]] = {
        "bandwidth": check_bandwidth,
        "exclude_self": check_flag,
        "nats": check_flag,
        "spread_fraction": check_positive,
        "memory_mib": check_not_negative,
    }

    def __init__(
        self,
        bandwidth: Literal["auto"] | float | Sequence[float] = UNIFORMITY_BANDWIDTH,
        *,
        exclude_self: bool = True,
        normalize: Normalization = "rows",
        nats: bool = True,
        spread_fraction: float = SPREAD_FRACTION,
        memory_mib: float = MEMORY_MIB,
    ) -> None:
        super().__init__()
        self.bandwidth = check_bandwidth("bandwidth", bandwidth)
        self.exclude_self = exclude_self
        self.normalize = normalize
        self.nats = nats
        self.spread_fraction = spread_fraction
        self.memory_mib = memory_mib
        self._saturation = SaturationWarning(
            "quadratic entropy has reached its limit: the bandwidth is so small that no two samples overlap, "
            'and there is no gradient. Increase the bandwidth, or use bandwidth="auto".'
        )

    @classmethod
    def of_uniformity(cls, t: float = 2.0) -> QuadraticRenyi:
        """The estimator whose value is minus the uniformity at t, without an additive constant. lightly's default is t = 1."""
        return cls((FACTOR * check_positive("t", t)) ** -0.5, nats=False)

    @property
    def default_weights(self) -> BoundWeights:
        """The entropy has weight 1. For unit vectors the invariance has t: at t = 2 the loss is alignment plus uniformity.

        A nearly collapsed batch then spreads if the views of an image differ less than independent views. Without unit vectors
        the invariance has the weight `1 / (2 spread_fraction)`, as in Pairwise.
        """
        if self.normalize != "rows":
            return BoundWeights(invariance=1 / (2 * self.spread_fraction), entropy=1.0)
        scales = [2 * self.spread_fraction] if self.bandwidth == "auto" else [FACTOR * s * s for s in self.bandwidth]
        return BoundWeights(sum(1 / scale for scale in scales) / len(scales), entropy=1.0, likelihood="von_mises_fisher")

    def variances(self, z: Tensor) -> list[Tensor | float]:
        """The variance s^2 for each bandwidth: [..., batch, dim] -> K numbers, or one tensor [...]."""
        return variances_of(z, self.bandwidth, self.spread_fraction, factor=FACTOR)

    def entropy(self, z: Tensor) -> Tensor:
        """The entropy: [..., batch, dim] -> [...]."""
        (batch, dim), distances = z.shape[-2:], squared_distances(z)
        if self.exclude_self:
            distances = distances.masked_fill(same_image(z, 1), math.inf)
        variances, counted = self.variances(z), batch - int(self.exclude_self)
        spread = [overlap_entropy(distances, scale=FACTOR * s2, counted=counted) for s2 in variances]
        if self.bandwidth != "auto" and not self.exclude_self:
            self._saturation.warn_if_saturated(spread, above=SATURATED * math.log(batch))
        if self.nats:
            spread = [h + gaussian_entropy(s2, dim) for h, s2 in zip(spread, variances, strict=True)]
        return torch.stack(spread).mean(dim=0)

    def constants(self) -> list[Weight] | None:
        """The constants of the fused implementation, or None if the sum without the pairs (i, i) may underflow.

        They are spread fraction, bytes for pairs, 1 to leave out (i, i), 1 for nats, and the bandwidths (none for "auto").
        """
        if self.exclude_self and self._least_mean_exponent() > MOST_EXPONENT:
            return None
        bandwidths = () if self.bandwidth == "auto" else self.bandwidth
        return [self.spread_fraction, self.memory_mib * 2**20, float(self.exclude_self), float(self.nats), *bandwidths]

    def _least_mean_exponent(self) -> float:
        """An upper bound on the smallest `t |z_i - z_j|^2` of a batch; for "auto" the bound is the mean of all pairs."""
        if self.bandwidth == "auto":
            return 1 / self.spread_fraction
        return largest_exponent(self.bandwidth, self.normalize, factor=FACTOR)

    def warn_if_saturated(self, parts: Tensor) -> None:
        """Warn if the entropy is at its limit, where it has no gradient."""
        if self.bandwidth != "auto" and not self.exclude_self:
            self._saturation.warn_if_saturated([parts], above=SATURATED)
