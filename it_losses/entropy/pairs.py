"""Helpers of the pairwise entropies: distances of samples, and the bandwidth of the Gaussian around each sample."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from it_losses.checks import check_length
from it_losses.normalize import Normalization

#: the bandwidths s, or "auto" for one s that is proportional to the spread of the batch
Bandwidth: TypeAlias = Literal["auto"] | tuple[float, ...]
#: default `spread_fraction` of "auto"; below .05 and above 1 the gradient vanishes
SPREAD_FRACTION = 0.2
#: default memory for the matrix of all pairs, enough for 8192 samples in float32
MEMORY_MIB = 256.0
#: an entropy is saturated if its part that has a gradient is above this fraction of its limit, log batch
SATURATED = 0.999
#: largest x for which a sum of exp(-x) over pairs i != j is safe; float32 underflows near exp(-87)
MOST_EXPONENT = 70.0


def squared_distances(z: Tensor) -> Tensor:
    """`|z_i - z_j|^2`: [..., batch, dim] -> [..., batch, batch]."""
    # centre, because a large mean increases the rounding errors of distances
    centred = z - z.mean(dim=-2, keepdim=True)
    # centre again, because the mean was rounded too
    centred = centred - centred.mean(dim=-2, keepdim=True)
    norms = centred.square().sum(dim=-1)  # [..., batch]
    distances = norms[..., :, None] + norms[..., None, :] - 2 * centred @ centred.mT
    distances = distances.masked_fill(same_image(z, 1), 0)
    # clamp only the value: the gradient is right even where rounding made a distance negative
    return distances - distances.detach().clamp_max(0)


def same_image(z: Tensor, rows: int) -> Tensor:
    """Whether rows i and j belong to one image; each image has `rows` adjacent rows: [..., batch, dim] -> [batch, batch]."""
    image = torch.arange(z.shape[-2], device=z.device) // rows
    return image[:, None] == image


def total_variance(z: Tensor) -> Tensor:
    """`sum_j Var z_j` without a gradient: [..., batch, dim] -> [...]."""
    full = torch.promote_types(z.dtype, torch.float32)
    # subtract the first sample, so that equal samples have a variance of exactly 0
    moved = z.detach().to(full) - z[..., :1, :].detach()
    centred = moved - moved.mean(dim=-2, keepdim=True)
    # on a CPU, var() takes ten times as long as this sum
    return centred.square_().sum(dim=(-2, -1)) / (z.shape[-2] - 1)


def variances_of(z: Tensor, bandwidth: Bandwidth, spread_fraction: float, *, factor: float) -> list[Tensor | float]:
    """The variances s^2 of K bandwidths: [..., batch, dim] -> K x [...].

    "auto" is one bandwidth, with `s^2 = 2 spread_fraction total_variance / factor`.
    """
    if bandwidth != "auto":
        return [s * s for s in bandwidth]
    spread = total_variance(z)
    # at exact collapse every distance is 0, so any positive s^2 gives the same value
    smallest = torch.finfo(spread.dtype).tiny ** 0.5
    return [(2 * spread_fraction / factor * spread).clamp_min(smallest)]


def component_entropy(variance: Tensor | float, dim: int) -> Tensor | float:
    """The entropy in nats of one Gaussian, `dim/2 log(2 pi e variance)`: [...] -> [...]."""
    if isinstance(variance, float):
        return dim / 2 * math.log(2 * math.pi * math.e * variance)
    return dim / 2 * torch.log(2 * math.pi * math.e * variance)


def check_bandwidth(name: str, bandwidth: str | float | Sequence[float]) -> Bandwidth:
    """The bandwidths as floats, or "auto"; ValueError unless each is a number between 1e-12 and 1e12."""
    if isinstance(bandwidth, str | bytes):
        if bandwidth != "auto":
            raise ValueError(f'{name} must be "auto" or numbers, got {bandwidth!r}.')
        return "auto"
    try:
        several = tuple(bandwidth)  # type: ignore[arg-type]
    except TypeError:
        several = (bandwidth,)  # type: ignore[assignment]
    if len(several) == 0:
        raise ValueError(f"{name} needs at least one number, got none.")
    return tuple(check_length(name, s) for s in several)


def largest_exponent(bandwidth: Bandwidth, normalize: Normalization, *, factor: float) -> float:
    """An upper bound on `|z_i - z_j|^2 / (factor s^2)`, which is finite only for unit vectors and fixed s."""
    if bandwidth == "auto" or normalize != "rows":
        return math.inf
    return 4 / (factor * min(bandwidth) ** 2)
