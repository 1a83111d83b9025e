"""I(Z; X') >= H(Z) + E[log q(z | z')]: every objective is an entropy plus an invariance, and this file adds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from it_losses import kernels
from it_losses.checks import Weight, check_views
from it_losses.constants import factor
from it_losses.distributed import LOCAL, DistributedOptions, accepted_views, distributed_options, process_group
from it_losses.entropy import EntropyEstimator
from it_losses.entropy.variance_covariance import VarianceCovariance, covariance_penalty, variance_hinge
from it_losses.global_batch import gathered, shared_loss
from it_losses.likelihood import mean_squared_distance
from it_losses.precision import full_precision, samples
from it_losses.vicreg_conventions import VICRegWeights, official_weights

__all__ = [
    "LOCAL",
    "DistributedOptions",
    "Terms",
    "VICRegTerms",
    "accepted_views",
    "distributed_options",
    "entropy_of",
    "lower_bound",
    "vicreg_bound",
    "weighted",
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
    invariance_weight: Weight,
    entropy_weight: Weight,
    distributed: DistributedOptions = LOCAL,
) -> Terms:
    """The bound at the views of a batch, as terms to minimise: V x [batch, ..., dim] -> 3 x []."""
    if isinstance(invariance_weight, Tensor) or isinstance(entropy_weight, Tensor):
        return _bound_with_trainable_weights(views, estimator, invariance_weight, entropy_weight, distributed)
    shared = estimator.sharded() if _is_shared(views, distributed) else None
    if shared is not None:
        loss, terms = shared_loss(views, *shared, weights=(invariance_weight, entropy_weight), distributed=distributed)
        estimator.warn_if_saturated(terms[2:])
        return Terms(loss, *terms[:2].unbind())
    views = gathered_views(views, distributed)
    check_views(views, at_least=2)
    views = _rounded_after_the_sum(views)
    with full_precision(views[0]):
        invariance = mean_squared_distance([samples(z) for z in views])
        entropy = _mean_over_views([estimator.mean_entropy(z) for z in views])
        log_likelihood = -invariance_weight * invariance
        bound = entropy_weight * entropy + log_likelihood
        # the bound is maximised, a loss is minimised
        return Terms(loss=-bound, invariance=invariance.detach(), entropy=entropy.detach())


def vicreg_bound(
    views: Sequence[Tensor],
    weights: tuple[Weight, Weight, Weight],
    *,
    convention: str,
    margin: float,
    epsilon: float,
    distributed: DistributedOptions = LOCAL,
) -> VICRegTerms:
    """The same sum with VICReg's surrogate for H(Z), its two parts kept apart: V x [batch, ..., dim] -> 5 x [].

    The weights are those of invariance, variance and covariance in the convention.
    """
    evaluated = partial(_vicreg_bound, views, convention=convention, margin=margin, epsilon=epsilon, distributed=distributed)
    if any(isinstance(weight, Tensor) for weight in weights):
        return _vicreg_with_trainable_weights(weights, evaluated, distributed)
    return evaluated(VICRegWeights(*map(float, weights)))


def _vicreg_bound(
    views: Sequence[Tensor],
    weights: VICRegWeights,
    *,
    convention: str,
    margin: float,
    epsilon: float,
    distributed: DistributedOptions,
) -> VICRegTerms:
    if _is_shared(views, distributed):
        weights = official_weights(weights, dim=views[0].shape[-1], convention=convention)
        surrogate = VarianceCovariance(weights.variance, weights.covariance, margin=margin, epsilon=epsilon)
        form = surrogate.sharded()
        assert form is not None
        loss, terms = shared_loss(views, *form, weights=(weights.invariance, 1.0), distributed=distributed)
        invariance, entropy, hinge, energy = terms.unbind()
        return VICRegTerms(loss, invariance, entropy, variance=hinge, covariance=2 * energy)
    views = gathered_views(views, distributed)
    check_views(views, at_least=2)
    weights = official_weights(weights, dim=views[0].shape[-1], convention=convention)
    if kernels.is_fused(views[0]):
        return _fused_vicreg(views, weights, margin, epsilon)
    with full_precision(views[0]):
        views = [samples(z) for z in views]
        invariance = mean_squared_distance(views)
        variance = _mean_over_views([variance_hinge(z, margin=margin, epsilon=epsilon) for z in views])
        # the authors average the hinges of the two views, but add their covariances
        covariance = 2 * _mean_over_views([covariance_penalty(z) for z in views])
        loss = weights.invariance * invariance + weights.variance * variance + weights.covariance * covariance
        entropy = -(weights.variance * variance + weights.covariance * covariance)
        return VICRegTerms(loss, *(term.detach() for term in (invariance, entropy, variance, covariance)))


def _fused_vicreg(views: Sequence[Tensor], weights: VICRegWeights, margin: float, epsilon: float) -> VICRegTerms:
    """VICReg by its fused twin, which knows the invariance of two views and the entropies of any number of them."""
    if len(views) != 2:
        views = _rounded_after_the_sum(views)
    stacks = [z if z.ndim == 2 else z.movedim(0, -2) for z in views]
    loss, terms = kernels.vicreg(stacks, weights=weights, margin=margin, epsilon=epsilon)
    invariance, variance, covariance = terms.unbind()
    if len(views) != 2:
        with full_precision(views[0]):
            distance = mean_squared_distance([samples(z) for z in views])
        loss, invariance = loss + weights.invariance * distance, distance.detach()
    entropy = (-weights.variance * variance).sub_(covariance, alpha=weights.covariance)
    return VICRegTerms(loss, invariance, entropy, variance, covariance)


def entropy_of(views: Sequence[Tensor], estimator: EntropyEstimator, *, distributed: DistributedOptions = LOCAL) -> Tensor:
    """H(Z) alone, averaged over the views: V x [batch, ..., dim] -> []."""
    shared = estimator.sharded() if _is_shared(views, distributed) else None
    if shared is not None:
        minus_entropy, terms = shared_loss(views, *shared, weights=(0.0, 1.0), distributed=distributed)
        estimator.warn_if_saturated(terms[2:])
        return -minus_entropy
    views = gathered_views(views, distributed)
    check_views(views)
    return _mean_over_views([estimator.mean_entropy(z) for z in views])


def weighted(term: Tensor, weight: Weight, distributed: DistributedOptions) -> Tensor:
    """`weight * term`, where the weight may train: [] -> [], in the dtype of the term."""
    if isinstance(weight, Tensor) and distributed.is_active() and distributed.gradient_reduction == "sum":
        # each of W ranks gives the weight the gradient of the whole batch, and the sum counts it W times
        ranks = process_group(distributed.process_group).size()
        weight = weight.detach() + (weight - weight.detach()) / ranks
    return factor(weight, term) * term


def _bound_with_trainable_weights(
    views: Sequence[Tensor],
    estimator: EntropyEstimator,
    invariance_weight: Weight,
    entropy_weight: Weight,
    distributed: DistributedOptions,
) -> Terms:
    """The bound from its two terms, each evaluated with a weight of 1: the derivative by a weight is its term."""
    invariance = lower_bound(views, estimator, invariance_weight=1.0, entropy_weight=0.0, distributed=distributed)
    entropy = lower_bound(views, estimator, invariance_weight=0.0, entropy_weight=1.0, distributed=distributed)
    of_invariance = weighted(invariance.loss, invariance_weight, distributed)
    of_entropy = weighted(entropy.loss, entropy_weight, distributed)
    return Terms(of_invariance + of_entropy, invariance.invariance, entropy.entropy)


def _vicreg_with_trainable_weights(
    weights: tuple[Weight, Weight, Weight],
    evaluated: Callable[[VICRegWeights], VICRegTerms],
    distributed: DistributedOptions,
) -> VICRegTerms:
    """VICReg from its three terms, each evaluated with a weight of 1."""
    invariance, variance, covariance = map(evaluated, (VICRegWeights(1, 0, 0), VICRegWeights(0, 1, 0), VICRegWeights(0, 0, 1)))
    terms = [term.loss for term in (invariance, variance, covariance)]
    loss = torch.stack([weighted(term, weight, distributed) for term, weight in zip(terms, weights, strict=True)]).sum()
    parts = [
        factor(weight, term) * term for weight, term in zip(weights[1:], (variance.entropy, covariance.entropy), strict=True)
    ]
    entropy = torch.stack(parts).sum().detach()
    return VICRegTerms(loss, invariance.invariance, entropy, variance.variance, covariance.covariance)


def gathered_views(views: Sequence[Tensor], distributed: DistributedOptions) -> Sequence[Tensor]:
    """The views with the samples of all ranks: V x [batch, ..., dim] -> V x [global batch, ..., dim]."""
    return gathered(views, distributed) if distributed.is_active() else views


def _is_shared(views: Sequence[Tensor], distributed: DistributedOptions) -> bool:
    """Whether each rank computes its share; the reference is the definition, repeated by each on the samples of all."""
    return distributed.is_active() and kernels.is_fused(views[0])


def _rounded_after_the_sum(views: Sequence[Tensor]) -> Sequence[Tensor]:
    """The views as two terms may take them, whose gradients then are added in full precision and rounded once.

    On a GPU they stay as they come: products of half precision, which are many times as fast, round as much as the sum does.
    """
    return [z if z.is_cuda else z.to(torch.promote_types(z.dtype, torch.float32)) for z in views]


def _mean_over_views(values: Sequence[Tensor]) -> Tensor:
    """Mean over views and groups: V x [...] -> []."""
    return torch.stack([value.mean() for value in values]).mean()
