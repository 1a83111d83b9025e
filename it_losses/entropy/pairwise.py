"""Pairwise entropy: a bound on the entropy of a mixture of Gaussians, one around each sample, from all pairwise distances.

H = H(p_i) - mean_i log mean_j exp(-D(p_i || p_j)) with p_i = N(z_i, s^2 I). With the Kullback-Leibler divergence for D it is an
upper bound on the entropy of the mixture, with the Bhattacharyya distance a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from it_losses.checks import Check, Weight, check_name, check_not_negative, check_positive
from it_losses.entropy.base import BoundWeights, EntropyEstimator
from it_losses.entropy.saturation import SaturationWarning

#: s^2 of "auto", in units of the total variance: inside the window (.05, 1) in which there is a gradient
SPREAD_FRACTION = 0.2
#: the memory of the pairs of 8192 samples in float32
MEMORY_MIB = 256.0
#: the part with a gradient counts as saturated above this fraction of its limit, log batch
SATURATED = 0.999
#: range of a bandwidth s: float32 can hold its square, and the square of an embedding divided by it
SMALLEST, LARGEST = 1e-12, 1e12
#: D(p_i || p_j) = |z_i - z_j|^2 / (factor * s^2) between Gaussians of one variance s^2
DIVERGENCES = {"kl": 2.0, "bhattacharyya": 8.0}


def squared_distances(z: Tensor) -> Tensor:
    """`|z_i - z_j|^2`: [..., batch, dim] -> [..., batch, batch]."""
    # distances do not depend on the mean, but their rounding does
    centred = _centred(z)
    norms = centred.square().sum(dim=-1)  # [..., batch]
    distances = norms[..., :, None] + norms[..., None, :] - 2 * centred @ centred.mT
    itself = torch.eye(z.shape[-2], dtype=torch.bool, device=z.device)
    return distances.masked_fill(itself, 0).clamp_min(0)


def _centred(z: Tensor) -> Tensor:
    """`z - mean`, by way of differences from a sample, so that samples that coincide become exactly zero."""
    moved = z - z[..., :1, :].detach()
    return moved - moved.mean(dim=-2, keepdim=True)


def spread_entropy(distances: Tensor, *, scale: Tensor | float) -> Tensor:
    """`-mean_i log mean_j exp(-distances_ij / scale)`, within [0, log batch]: [..., batch, batch] -> [...]."""
    if isinstance(scale, Tensor):
        scale = scale[..., None, None]
    return math.log(distances.shape[-1]) - torch.logsumexp(-distances / scale, dim=-1).mean(dim=-1)


def component_entropy(variance: Tensor | float, dim: int) -> Tensor | float:
    """The entropy of one component in nats, `dim/2 log(2 pi e variance)`: [...] -> [...]."""
    if isinstance(variance, float):
        return dim / 2 * math.log(2 * math.pi * math.e * variance)
    return dim / 2 * torch.log(2 * math.pi * math.e * variance)


def check_bandwidth(name: str, bandwidth: str | float | Sequence[float]) -> Literal["auto"] | tuple[float, ...]:
    """Every bandwidth as a float, or "auto"; ValueError unless each is a number between 1e-12 and 1e12."""
    if isinstance(bandwidth, str | bytes):
        if bandwidth != "auto":
            raise ValueError(f'{name} must be "auto", a number or several, got {bandwidth!r}.')
        return "auto"
    try:
        several = tuple(bandwidth)  # type: ignore[arg-type]
    except TypeError:
        several = (bandwidth,)  # type: ignore[assignment]
    if len(several) == 0:
        raise ValueError(f"{name} must name at least one number, got none.")
    numbers = tuple(check_positive(name, s) for s in several)
    for s in numbers:
        if not SMALLEST <= s <= LARGEST:
            raise ValueError(f"{name} must be between {SMALLEST:g} and {LARGEST:g}, got {s!r}. Rescale the embeddings.")
    return numbers


class Pairwise(EntropyEstimator):
    """An entropy that grows as samples move away from each other, without assuming that they are Gaussian.

        H(z) = dim/2 log(2 pi e s^2) - mean_i log mean_j exp(-|z_i - z_j|^2 / (c s^2)),   j = i included

    c = 2 for the Kullback-Leibler divergence (an upper bound on the entropy of the mixture of N(z_i, s^2 I)) and 8 for the
    Bhattacharyya distance (a lower bound). Only the second part has a gradient; it lies within [0, log batch].

    Args:
        bandwidth: s, the standard deviation of a component, in the unit of z, between 1e-12 and 1e12. For several, the
            entropies are averaged. "auto" follows the batch, `c s^2 = 2 spread_fraction * sum_j Var z_j`, without a gradient
            through it. It shrinks with the spread, so near collapse the gradient grows as 1 / spread: clip it.
        divergence: "kl" or "bhattacharyya".
        spread_fraction: used by "auto". Near .05 the second part saturates at log batch; above 1 it vanishes.
        memory_mib: working memory for pairs in the forward pass. Pairs that do not fit are computed twice.

    Source: Kolchinsky & Tracey (arXiv 1706.02419), equation 10 and section 4.
    """

    unit, direction, rotation_invariant = "nats", "kl: upper, bhattacharyya: lower bound on the smoothed entropy", True
    cost = "N^2 D"
    fused = "pairwise"
    checks: ClassVar[dict[str, Check]] = {
        "bandwidth": check_bandwidth,
        "divergence": check_name(*DIVERGENCES),
        "spread_fraction": check_positive,
        "memory_mib": check_not_negative,
    }

    def __init__(
        self,
        bandwidth: Literal["auto"] | float | Sequence[float] = "auto",
        divergence: Literal["kl", "bhattacharyya"] = "kl",
        *,
        spread_fraction: float = SPREAD_FRACTION,
        memory_mib: float = MEMORY_MIB,
    ) -> None:
        super().__init__()
        self.bandwidth = check_bandwidth("bandwidth", bandwidth)
        self.divergence = divergence
        self.spread_fraction = spread_fraction
        self.memory_mib = memory_mib
        self._saturation = SaturationWarning(
            "pairwise entropy stands at log(batch): the bandwidth is so small that no two samples overlap, "
            'and there is no gradient. Increase the bandwidth, or use bandwidth="auto".'
        )

    @property
    def default_weights(self) -> BoundWeights:
        """`1 / (2 spread_fraction)` for the invariance and 1 for the entropy: equal slopes in units of the spread."""
        return BoundWeights(invariance=1 / (2 * self.spread_fraction), entropy=1.0)

    def variances(self, z: Tensor) -> list[Tensor | float]:
        """`s^2` for each bandwidth, a number or a tensor [...], from samples [..., batch, dim]."""
        if self.bandwidth != "auto":
            return [s * s for s in self.bandwidth]
        full = torch.promote_types(z.dtype, torch.float32)
        centred = _centred(z.detach().to(full))
        # the total variance; var() of each column takes ten times as long on a CPU
        spread = centred.square_().sum(dim=(-2, -1)) / (z.shape[-2] - 1)
        # at exact collapse every distance is 0, and any positive scale gives 0
        smallest = torch.finfo(full).tiny ** 0.5
        return [(2 * self.spread_fraction / DIVERGENCES[self.divergence] * spread).clamp_min(smallest)]

    def entropy(self, z: Tensor) -> Tensor:
        """[..., batch, dim] -> [...]."""
        variances, distances = self.variances(z), squared_distances(z)
        spread = [spread_entropy(distances, scale=DIVERGENCES[self.divergence] * s2) for s2 in variances]
        if self.bandwidth != "auto":
            self._saturation.look_at(spread, above=SATURATED * math.log(z.shape[-2]))
        nats = [h + component_entropy(s2, z.shape[-1]) for h, s2 in zip(spread, variances, strict=True)]
        return torch.stack(nats).mean(dim=0)

    def constants(self) -> list[Weight]:
        """c, the spread fraction, bytes for pairs, and the bandwidths; no bandwidth for "auto"."""
        bandwidths = () if self.bandwidth == "auto" else self.bandwidth
        return [DIVERGENCES[self.divergence], self.spread_fraction, self.memory_mib * 2**20, *bandwidths]

    def warn_if_saturated(self, parts: Tensor) -> None:
        """Warn if the part with a gradient has reached its limit."""
        if self.bandwidth != "auto":
            self._saturation.look_at([parts], above=SATURATED)
