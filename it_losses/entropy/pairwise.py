"""Pairwise entropy: a bound on the entropy of a mixture of Gaussians, one around each sample, from all pairwise distances.

H = H(p_i) - mean_i log mean_j exp(-D(p_i || p_j)),   p_i = N(z_i, s^2 I), D a divergence
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar, Literal, SupportsFloat, cast

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
from it_losses.normalize import Normalization, normalized
from it_losses.precision import full_precision, samples

#: range of the order of a Chernoff divergence in which float32 can hold the divergence
LEAST_ORDER, MOST_ORDER = 1e-6, 1 - 1e-6
#: divergence -> factor in D(p_i || p_j) = |z_i - z_j|^2 / (factor * s^2), for Gaussians of equal variance s^2
DIVERGENCES = {"kl": 2.0, "bhattacharyya": 8.0}
FLAGS = ("exclude_self", "pool_views", "exclude_positives")


def divergence_factor(divergence: str | float) -> float:
    """The factor c of a divergence `|z_i - z_j|^2 / (c s^2)`; `2 / (alpha (1 - alpha))` for the Chernoff order alpha."""
    if isinstance(divergence, str):
        return DIVERGENCES[divergence]
    return 2 / (divergence * (1 - divergence))


def check_divergence(name: str, divergence: object) -> str | float:
    """The name of a divergence, or the Chernoff order as a float; ValueError for other names and orders."""
    if isinstance(divergence, str) and divergence in DIVERGENCES:
        return divergence
    with suppress(ValueError):
        order = check_positive(name, cast(SupportsFloat, divergence))
        if LEAST_ORDER <= order <= MOST_ORDER:
            return order
    raise ValueError(f"{name} must be one of {sorted(DIVERGENCES)}, or a number between 0 and 1, got {divergence!r}.")


def spread_entropy(distances: Tensor, *, scale: Tensor | float, counted: int) -> Tensor:
    """The part of the entropy that has a gradient: [..., batch, batch] -> [...].

    It is `-mean_i log (1/counted sum_j exp(-distances_ij / scale))`. Each row has `counted` pairs that are not excluded. If no
    pair is excluded, it lies within [0, log batch].
    """
    if isinstance(scale, Tensor):
        scale = scale[..., None, None]
    return math.log(counted) - torch.logsumexp(-distances / scale, dim=-1).mean(dim=-1)


class Pairwise(NormalizingEstimator):
    """An entropy that grows as samples move away from each other, without assuming that they are Gaussian.

        H(z) = dim/2 log(2 pi e s^2) - mean_i log mean_j exp(-|z_i - z_j|^2 / (c s^2)),   j = i included by default

    H bounds the entropy of the mixture of all N(z_i, s^2 I). The Kullback-Leibler divergence (c = 2) gives an upper bound. The
    Bhattacharyya distance (c = 8) and the Chernoff divergence of order alpha (c = 2 / (alpha (1 - alpha))) give lower bounds.
    The first part of H has no gradient. The second lies within [0, log batch]. With `exclude_self` the mean leaves out j = i.
    H is then the leave-one-out estimate, which is no bound, and the second part has no limit.

    With `normalize="rows", exclude_self=True, pool_views=True`, the von Mises-Fisher likelihood and the default weights, the
    loss is SimCLR's at temperature `c s^2 / 2`, less a constant. See `functional.nt_xent`.

    Args:
        bandwidth: s, the standard deviation of a Gaussian, in the unit of z, between 1e-12 and 1e12. For several s the
            entropies are averaged. "auto" sets `c s^2 = 2 spread_fraction * sum_j Var z_j` in each batch, without a gradient
            through s. Near collapse the gradient then grows as 1 / spread, so clip it.
        divergence: "kl", "bhattacharyya" (the Chernoff divergence of order 1/2), or the order alpha between 0 and 1.
        exclude_self: leave out the pair of each sample with itself. The fused implementation then needs unit vectors with
            `4 / (c s^2) <= 70`, so that its sums cannot underflow. Otherwise the slower reference runs.
        pool_views: take the entropy of all views together, instead of the mean of the entropies of the views.
        exclude_positives: leave out all pairs of views of one image, as in decoupled contrastive learning. It
            needs `exclude_self` and `pool_views`.
        normalize: "rows" for unit vectors z / |z|, "columns" for unit variance of each dimension, None for z as it is.
        spread_fraction: used by "auto". Near .05 the second part of H saturates at log batch; above 1 it vanishes.
        memory_mib: working memory for pairs in the forward pass. Pairs that do not fit are computed twice.

    Source: Kolchinsky & Tracey (arXiv 1706.02419), equation 10 and section 4; SimCLR (arXiv 2002.05709), equation 1; decoupled
    contrastive learning (arXiv 2110.06848), equation 6.
    """

    unit = "nats"
    direction = "kl: upper, bhattacharyya and chernoff: lower bound on the smoothed entropy"
    cost = "N^2 D"
    fused = "pairwise"
    checks: ClassVar[dict[str, Check]] = {
        "bandwidth": check_bandwidth,
        "divergence": check_divergence,
        "exclude_self": check_flag,
        "pool_views": check_flag,
        "exclude_positives": check_flag,
        "spread_fraction": check_positive,
        "memory_mib": check_not_negative,
    }

    def __init__(
        self,
        bandwidth: Literal["auto"] | float | Sequence[float] = "auto",
        divergence: Literal["kl", "bhattacharyya"] | float = "kl",
        *,
        exclude_self: bool = False,
        pool_views: bool = False,
        exclude_positives: bool = False,
        normalize: Normalization = None,
        spread_fraction: float = SPREAD_FRACTION,
        memory_mib: float = MEMORY_MIB,
    ) -> None:
        super().__init__()
        self.bandwidth = check_bandwidth("bandwidth", bandwidth)
        self.divergence = divergence
        self.exclude_self = exclude_self
        self.pool_views = pool_views
        self.exclude_positives = exclude_positives
        self.normalize = normalize
        self.spread_fraction = spread_fraction
        self.memory_mib = memory_mib
        self._saturation = SaturationWarning(
            "pairwise entropy has reached its limit, log(batch): the bandwidth is so small that no two samples overlap, "
            'and there is no gradient. Increase the bandwidth, or use bandwidth="auto".'
        )

    def __setattr__(self, name: str, value: Any) -> None:
        flags = {flag: getattr(self, flag, False) for flag in FLAGS} | {name: value}
        if name in FLAGS and flags["exclude_positives"] is True and not (flags["exclude_self"] and flags["pool_views"]):
            raise ValueError(
                "exclude_positives needs exclude_self=True and pool_views=True, because positives are two views of one image."
            )
        super().__setattr__(name, value)

    @property
    def factor(self) -> float:
        """The factor c of the divergence."""
        return divergence_factor(self.divergence)

    @property
    def default_weights(self) -> BoundWeights:
        """The invariance has weight `1 / (2 spread_fraction)`, the entropy 1.

        With "auto" and unit variances, both terms then have the same derivative by the squared distances of a sample.

        For unit vectors the invariance is one minus the cosine. Its weight is `2 / (c s^2)`, SimCLR's inverse temperature. With
        "auto" this weight is `1 / spread_fraction`, which assumes a total variance of 1.
        """
        if self.normalize != "rows":
            return BoundWeights(invariance=1 / (2 * self.spread_fraction), entropy=1.0)
        scales = [2 * self.spread_fraction] if self.bandwidth == "auto" else [self.factor * s * s for s in self.bandwidth]
        return BoundWeights(sum(2 / scale for scale in scales) / len(scales), entropy=1.0, likelihood="von_mises_fisher")

    def variances(self, z: Tensor) -> list[Tensor | float]:
        """The variance s^2 for each bandwidth: [..., batch, dim] -> K numbers, or one tensor [...]."""
        return variances_of(z, self.bandwidth, self.spread_fraction, factor=self.factor)

    def entropy(self, z: Tensor) -> Tensor:
        """The entropy: [..., batch, dim] -> [...]."""
        return self._entropy(z, views=1)

    def mean_entropy(self, views: Sequence[Tensor]) -> Tensor:
        """The mean entropy of the views, or with `pool_views` that of all views together: V x [batch, ..., dim] -> []."""
        if not self.pool_views:
            return super().mean_entropy(views)
        with full_precision(views[0]):
            pool = torch.stack([normalized(samples(z), self.normalize) for z in views], dim=-2)
            return self._entropy(pool.flatten(-3, -2), views=len(views)).mean()

    def _entropy(self, z: Tensor, *, views: int) -> Tensor:
        """The entropy of samples; each image has `views` adjacent rows: [..., batch, dim] -> [...]."""
        variances, distances = self.variances(z), squared_distances(z)
        excluded = views if self.exclude_positives else int(self.exclude_self)
        if excluded:
            distances = distances.masked_fill(same_image(z, excluded), math.inf)
        counted = z.shape[-2] - excluded
        spread = [spread_entropy(distances, scale=self.factor * s2, counted=counted) for s2 in variances]
        if self.bandwidth != "auto" and not excluded:
            self._saturation.warn_if_saturated(spread, above=SATURATED * math.log(counted))
        nats = [h + component_entropy(s2, z.shape[-1]) for h, s2 in zip(spread, variances, strict=True)]
        return torch.stack(nats).mean(dim=0)

    def constants(self) -> list[Weight] | None:
        """The constants of the fused implementation, or None if a sum without the pair (i, i) may underflow.

        They are c, spread fraction, bytes for pairs, 1 to pool views, the excluded pairs (0: none, 1: (i, i), 2: all pairs of
        one image), and the bandwidths (none for "auto").
        """
        if self.exclude_self and largest_exponent(self.bandwidth, self.normalize, factor=self.factor) > MOST_EXPONENT:
            return None
        bandwidths = () if self.bandwidth == "auto" else self.bandwidth
        excluded = float(self.exclude_self) + float(self.exclude_positives)
        memory = self.memory_mib * 2**20
        return [self.factor, self.spread_fraction, memory, float(self.pool_views), excluded, *bandwidths]

    def warn_if_saturated(self, parts: Tensor) -> None:
        """Warn if the part with a gradient has reached its limit, `log(batch)`."""
        if self.bandwidth != "auto" and not self.exclude_self:
            self._saturation.warn_if_saturated([parts], above=SATURATED)
