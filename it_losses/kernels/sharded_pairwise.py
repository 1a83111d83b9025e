"""Pairwise entropy over many ranks: H = dim/2 log(2 pi e s^2) - mean_i log mean_j e_ij, own rows of its gradient.

    e_ij      exp(-|z_i - z_j|^2 / (c s^2)), r_i = sum_j e_ij
    gradient  dH/dz_i = 2 / (N c s^2) sum_j W_ij (z_i - z_j),     W_ij = e_ij (1 / r_i + 1 / r_j)

e is symmetric, so own rows of W need own rows of e and the row sums of all. Of several s, H and W / s^2 are averaged. Derived.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from it_losses.kernels.sharded_ranks import Evaluation, Form, Ranks, centred_batches


def rows(views: Sequence[Tensor], ranks: Ranks, constants: Sequence[float]) -> Evaluation:
    """Own rows of e [n, samples]; the part is the smallest second summand of H over views, groups and scales, over log N.

    constants: c, the spread fraction, and the bandwidths s; none for those that follow the batch.
    """
    factor, spread_fraction, *bandwidths = constants
    batches, kernels, variances = [], [], []
    for z in centred_batches(views, ranks):  # [groups, samples, dim]
        batches.append(z)
        variances.append(_variances(z, factor, spread_fraction, bandwidths))  # [scales, groups, 1, 1]
        kernels.append((-_own_distances(z, ranks.own) / (factor * variances[-1])).exp_())  # [scales, groups, n, samples]
    own_sums = torch.stack([e.sum(dim=-1) for e in kernels])  # [V, scales, groups, n]
    (gathered,) = ranks.gathered([own_sums.movedim(3, 0)])
    sums = gathered.movedim(0, 3)  # [V, scales, groups, samples]
    gradients = []
    for z, e, s2, r in zip(batches, kernels, variances, sums, strict=True):
        pull = e.mul_(r[..., ranks.own, None].reciprocal() + r[..., None, :].reciprocal())
        pull = (pull / (factor * s2)).mean(dim=0)  # [groups, n, samples]
        # a sample does not pull at itself, but would dominate the difference below
        pull.diagonal(offset=ranks.own.start, dim1=1, dim2=2).zero_()
        own = z[:, ranks.own] * pull.sum(dim=-1, keepdim=True)
        scale = 2 / (ranks.samples * len(views) * len(z))
        gradients.append(own.baddbmm_(pull, z, alpha=-scale, beta=scale).movedim(0, 1))
    spread = math.log(ranks.samples) - sums.log().mean(dim=-1)  # [V, scales, groups]
    component = _component_entropy(torch.stack(variances)[..., 0, 0], batches[0].shape[-1])
    return Evaluation((spread + component).mean(), torch.stack(gradients), spread.amin().reshape(1) / math.log(ranks.samples))


def _own_distances(z: Tensor, own: slice) -> Tensor:
    """`|z_i - z_j|^2` for own i: [groups, samples, dim] -> [groups, n, samples]."""
    norms = z.square().sum(dim=-1)  # [groups, samples]
    distances: Tensor = norms[:, own, None] + norms[:, None, :]
    distances.baddbmm_(z[:, own], z.mT, alpha=-2)
    distances.diagonal(offset=own.start, dim1=1, dim2=2).zero_()
    distances.clamp_min_(0)
    return distances


def _variances(z: Tensor, factor: float, spread_fraction: float, bandwidths: Sequence[float]) -> Tensor:
    """`s^2`: centred [groups, samples, dim] -> [scales, groups, 1, 1]."""
    if bandwidths:
        return torch.stack([z.new_full((len(z), 1, 1), s * s) for s in bandwidths])
    spread = torch.linalg.vector_norm(z, dim=(1, 2)).square_() / (z.shape[1] - 1)
    # at exact collapse every distance is 0 and any positive scale gives 0
    smallest = torch.finfo(z.dtype).tiny ** 0.5
    variance: Tensor = (2 * spread_fraction / factor * spread).clamp_min_(smallest)
    return variance[None, :, None, None]


def _component_entropy(variance: Tensor, dim: int) -> Tensor:
    """Entropy in nats of one component: [V, scales, groups] -> [V, scales, groups]."""
    return dim / 2 * torch.log(2 * math.pi * math.e * variance)


#: distances are no function of the covariance
FORM = Form(rows, covariance=None, covariance_from=math.inf, parts=1)
