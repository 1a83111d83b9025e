"""One loss over many ranks: invariance_weight * mean squared distance - entropy_weight * mean entropy, and its gradient.

The global batch has N samples, this rank holds n of them and returns the gradient at those. FORMS are the entropies that can be
computed so, each in the layouts of `sharded_ranks`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from it_losses.kernels import sharded_log_det, sharded_pairwise, sharded_vicreg
from it_losses.kernels.sharded_ranks import Form, Layout, Ranks, accumulation_dtype

#: name -> form; an estimator names its form and the constants in `EntropyEstimator.sharded`
FORMS: dict[str, Form] = {
    "variance_covariance": sharded_vicreg.FORM,
    "log_det": sharded_log_det.FORM,
    "pairwise": sharded_pairwise.FORM,
}


def loss(
    evaluate: Layout,
    views: Sequence[Tensor],
    ranks: Ranks,
    weights: tuple[float, float],
    constants: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """(loss, invariance, entropy, *parts) [3 + parts] and own gradient [V, n, groups, dim]: V x [n, groups, dim]."""
    invariance_weight, entropy_weight = weights
    pull, distance = _invariance(views, ranks)
    # the few bytes of the distance travel while the entropy is computed
    total = ranks.summed(distance)
    entropy, gradient, parts = evaluate(views, ranks, constants)
    invariance = total()
    gradient.mul_(-entropy_weight)
    for own, towards_mean in zip(gradient, pull, strict=True):
        own.add_(towards_mean, alpha=invariance_weight)
    value = invariance_weight * invariance - entropy_weight * entropy
    return torch.cat((torch.stack((value, invariance, entropy)), parts)), gradient


def _invariance(views: Sequence[Tensor], ranks: Ranks) -> tuple[list[Tensor], Tensor]:
    """Own gradients of the mean squared distance over all pairs, V x [n, groups, dim], and own part of its value []."""
    dtype = accumulation_dtype(views[0].dtype)
    if len(views) == 1:
        return [views[0].new_zeros((), dtype=dtype)], views[0].new_zeros((), dtype=dtype)
    per_pair = 2 / ((len(views) - 1) * ranks.samples * views[0][:1].numel())
    if len(views) == 2:
        difference = views[0].to(dtype) - views[1].to(dtype)
        value = difference.square().sum() * (per_pair / 2)
        pull = difference.mul_(per_pair)
        return [pull, -pull], value
    wide = [z.to(dtype) for z in views]
    mean = torch.stack(wide).mean(dim=0)
    apart = [z - mean for z in wide]
    value = sum((d.square().sum() for d in apart), start=mean.new_zeros(())) * per_pair
    return [d.mul_(2 * per_pair) for d in apart], value
