"""Pairwise entropy with its gradient in closed form: H = dim/2 log(2 pi e s^2) - mean_i log mean_j e_ij.

    e_ij      exp(-rate |z_i - z_j|^2),   rate = 1 / (c s^2),   r_i = sum_j e_ij
    gradient  dH/dz_i = 2 rate / N sum_j W_ij (z_i - z_j),     W_ij = e_ij (1 / r_i + 1 / r_j)

With several s, H and rate * W are averaged. Own rows of W need own rows of e and the r of all samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from it_losses.kernels.batch import Batch, Evaluation, Request
from it_losses.kernels.dispatch import Plan

#: what is added to the name of a device for that of its products
PRODUCTS = "_pairs"
#: numbers for warnings beside the entropy: the smallest `-mean_i log mean_j e_ij` over views, groups and s, over log N
PARTS = 1


def prefers_gram(samples: int, dim: int, world: int) -> bool:
    """Distances between samples are N x N."""
    return True


def evaluate(batch: Batch, plan: Plan, constants: Sequence[float], request: Request) -> Evaluation:
    """Entropy and gradient; constants: c, spread_fraction, bytes for pairs, and the s; no s means that it follows the batch."""
    divergence_factor, spread_fraction, memory, *bandwidths = constants
    products, groups = plan.products, len(batch.own[0])
    gradient = products.empty_gradient(batch) if request.needs_gradient else None
    distance = products.distance(batch, request.difference_weight, out=gradient)
    spreads, logarithms = [], []
    # small views in one call: fewer operators
    views_at_once = len(batch.own) if batch.stacks * batch.samples**2 <= products.MOST_PAIRS_AT_ONCE else 1
    for first in range(0, len(batch.own), views_at_once):
        x = products.centred([batch.all_samples(view) for view in range(first, first + views_at_once)])  # [stacks, N, dim]
        scales = _scales(x, divergence_factor, spread_fraction, bandwidths)  # c s^2: [K, stacks]
        kept = int(memory) if request.needs_gradient else 0
        sums, pairs = products.pair_sums(x, batch.ranks.own, scales.reciprocal(), memory=kept)
        sums = batch.gathered_rows(sums, dim=2)  # [K, stacks, N]
        spreads.append(math.log(batch.samples) - sums.log().mean(dim=2))
        logarithms.append(scales.log())
        if gradient is not None:
            weight = -request.entropy_weight * 2 / (batch.samples * batch.stacks * len(scales))
            own = gradient[first * groups : (first + views_at_once) * groups]
            products.add_pair_gradient_(own, pairs, (weight / scales)[:, :, None] / sums)
        # the pairs of one view are freed before those of the next are formed
        del pairs
    spread, logarithm = torch.cat(spreads, dim=1), torch.cat(logarithms, dim=1)
    component = (logarithm + math.log(2 * math.pi * math.e / divergence_factor)).mul_(batch.dim / 2)
    entropy = (spread + component).mean()
    parts = (spread.amin() / math.log(batch.samples),)
    return Evaluation(entropy, parts, distance, entropy.new_empty(0) if gradient is None else gradient)


def _scales(x: Tensor, divergence_factor: float, spread_fraction: float, bandwidths: Sequence[float]) -> Tensor:
    """`c s^2` in the dtype of sums: centred samples [groups, N, dim] -> [K, groups]."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if bandwidths:
        return torch.stack([x.new_full((len(x),), divergence_factor * s * s, dtype=dtype) for s in bandwidths])
    # row by row: one running sum of all would lose two digits, and every exponent with them
    spread = torch.linalg.vector_norm(x, dim=2, dtype=dtype).square_().sum(dim=1) / (x.shape[1] - 1)
    # at exact collapse every distance is 0, and any positive scale gives a spread of 0
    scale: Tensor = 2 * spread_fraction * spread
    return scale.clamp_min_(divergence_factor * torch.finfo(dtype).tiny ** 0.5)[None]
