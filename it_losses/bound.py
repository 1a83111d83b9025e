"""I(Z; X') >= H(Z) + E[log q(z | z')]: every objective is an entropy plus an invariance, and this file adds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from it_losses import fused
from it_losses.checks import check_views
from it_losses.distributed import LOCAL, DistributedOptions, distributed_options, gathered_views
from it_losses.entropy import EntropyEstimator
from it_losses.entropy.variance_covariance import VarianceCovariance, covariance_penalty, variance_hinge
from it_losses.likelihood import mean_squared_distance
from it_losses.precision import accumulation_dtype, full_precision, samples
from it_losses.vicreg_conventions import VICRegWeights, official_weights

__all__ = [
    "LOCAL",
    "DistributedOptions",
    "Terms",
    "VICRegTerms",
    "distributed_options",
    "entropy_of",
    "lower_bound",
    "vicreg_bound",
]


class Terms(NamedTuple):
    """What one evaluation is made of: scalars; `loss` back-propagates, the others are for logging."""

    loss: Tensor
    #: mean squared distance of the views, unweighted
    invariance: Tensor
    #: mean entropy of the views, unweighted, in the unit of the estimator
    entropy: Tensor


class VICRegTerms(NamedTuple):
    """The terms of VICReg, the entropy also in its two parts: scalars; `loss` back-propagates, the others are for logging."""

    loss: Tensor
    #: mean squared distance of the views, unweighted
    invariance: Tensor
    #: the surrogate of H(Z): minus the weighted variance and covariance terms
    entropy: Tensor
    #: mean over the views of the hinge on the standard deviations, unweighted
    variance: Tensor
    #: sum over two views of the squared covariances divided by dim, unweighted
    covariance: Tensor


def lower_bound(
    views: Sequence[Tensor],
    estimator: EntropyEstimator,
    *,
    invariance_weight: float,
    entropy_weight: float,
    distributed: DistributedOptions = LOCAL,
) -> Terms:
    """The bound at the views of a batch, as terms to minimise: V x [batch, ..., dim] -> 3 x []."""
    if _runs_fused(estimator.fused, views, distributed, at_least=2):
        weights = invariance_weight, entropy_weight
        loss, terms = fused.loss(views, estimator.fused, estimator.constants(), weights, distributed)
        estimator.warn_if_saturated(terms[2:])
        return Terms(loss, terms[0], terms[1])
    views = gathered_views(views, distributed)
    check_views(views, at_least=2)
    with full_precision(views[0]):
        views = _full_precision_views(views)
        invariance = mean_squared_distance(views)
        entropy = _mean_over_views([estimator.mean_entropy(z) for z in views])
        log_likelihood = -invariance_weight * invariance
        bound = entropy_weight * entropy + log_likelihood
        # the bound is maximised, a loss is minimised
        return Terms(loss=-bound, invariance=invariance.detach(), entropy=entropy.detach())


def vicreg_bound(
    views: Sequence[Tensor],
    weights: VICRegWeights,
    *,
    convention: str,
    margin: float,
    epsilon: float,
    distributed: DistributedOptions = LOCAL,
) -> VICRegTerms:
    """The same sum with VICReg's surrogate for H(Z), its two parts kept apart: V x [batch, ..., dim] -> 5 x []."""
    if _runs_fused(VarianceCovariance.fused, views, distributed, at_least=2):
        weights = official_weights(weights, dim=views[0].shape[-1], convention=convention)
        constants = weights.variance, weights.covariance, margin, epsilon
        loss, terms = fused.loss(views, VarianceCovariance.fused, constants, (weights.invariance, 1.0), distributed)
        invariance, entropy, variance, penalty = terms.unbind()
        return VICRegTerms(loss, invariance, entropy, variance, 2 * penalty)
    views = gathered_views(views, distributed)
    check_views(views, at_least=2)
    weights = official_weights(weights, dim=views[0].shape[-1], convention=convention)
    with full_precision(views[0]):
        views = [samples(z) for z in _full_precision_views(views)]
        invariance = mean_squared_distance(views)
        variance = _mean_over_views([variance_hinge(z, margin=margin, epsilon=epsilon) for z in views])
        # the authors average the hinges of the two views, but add their covariances
        covariance = 2 * _mean_over_views([covariance_penalty(z) for z in views])
        entropy = -(weights.variance * variance + weights.covariance * covariance)
        loss = weights.invariance * invariance - entropy
        return VICRegTerms(loss, *(term.detach() for term in (invariance, entropy, variance, covariance)))


def entropy_of(views: Sequence[Tensor], estimator: EntropyEstimator, *, distributed: DistributedOptions = LOCAL) -> Tensor:
    """H(Z) alone, averaged over the views: V x [batch, ..., dim] -> []."""
    if not _runs_fused(estimator.fused, views, distributed):
        views = gathered_views(views, distributed)
        check_views(views)
        return _mean_over_views([estimator.mean_entropy(z) for z in views])
    entropy, terms = fused.loss(views, estimator.fused, estimator.constants(), (0.0, -1.0), distributed)
    estimator.warn_if_saturated(terms[2:])
    return entropy


def _runs_fused(form: str, views: Sequence[Tensor], distributed: DistributedOptions, *, at_least: int = 1) -> bool:
    """Whether a fused form runs for views that are checked: here, or where ranks share a batch by all of them together."""
    if not distributed.is_active():
        check_views(views, at_least=at_least)
    # anything but a tensor goes on to the errors of `check_views`
    return isinstance(views[0], Tensor) and fused.is_fused(form, views[0])


def _full_precision_views(views: Sequence[Tensor]) -> Sequence[Tensor]:
    """The views in the dtype of sums, once for all terms: their gradients are then added before they are rounded."""
    return [z.to(accumulation_dtype(z.dtype)) for z in views]


def _mean_over_views(values: Sequence[Tensor]) -> Tensor:
    """Mean over views and groups: V x [...] -> []."""
    return torch.stack([value.mean() for value in values]).mean()
