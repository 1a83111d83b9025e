"""The loss of every criterion: minus the lower bound H(Z) + E[log q(z | z')] on I(Z; X').

The fused implementation computes it where it can run, else the reference implementation.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from it_losses.checks import ViewError, Weight, accepted, check_views
from it_losses.constants import factor
from it_losses.distributed import (
    LOCAL,
    DistributedOptions,
    evaluating,
    gathered_views,
    is_initialized,
    process_group,
    tell_ranks_of_refusal,
)
from it_losses.entropy import EntropyEstimator
from it_losses.entropy.base import kernels
from it_losses.entropy.variance_covariance import VarianceCovariance, covariance_penalty, variance_hinge
from it_losses.likelihood import distance, mean_squared_distance
from it_losses.normalize import Normalization, normalized
from it_losses.precision import accumulation_dtype, full_precision, samples
from it_losses.vicreg_conventions import VICRegWeights, official_weights


class Terms(NamedTuple):
    """The loss and its terms, as scalars. Only `loss` has a gradient; the terms are for logging."""

    loss: Tensor
    #: mean squared distance of the views, or one minus their cosine, unweighted
    invariance: Tensor
    #: mean entropy of the views, unweighted, in the unit of the estimator
    entropy: Tensor


class VICRegTerms(NamedTuple):
    """The loss of VICReg and its terms, as scalars. Only `loss` has a gradient; the terms are for logging."""

    loss: Tensor
    #: mean squared distance of the views, unweighted
    invariance: Tensor
    #: the surrogate of H(Z): minus the weighted variance and covariance terms
    entropy: Tensor
    #: mean over the views of the hinge on the standard deviations, unweighted
    variance: Tensor
    #: twice the mean over the views of `sum_{i != j} Cov_ij^2 / dim`, unweighted
    covariance: Tensor


def accepted_views(views: Sequence[Tensor | None], distributed: DistributedOptions) -> tuple[Tensor, ...]:
    """The views, converted to one dtype. If the views of one rank are invalid, every rank raises an error."""
    try:
        return accepted(*views)
    except ViewError:
        tell_ranks_of_refusal(distributed)
        raise


def lower_bound(
    views: Sequence[Tensor],
    estimator: EntropyEstimator,
    *,
    invariance_weight: Weight,
    entropy_weight: Weight,
    likelihood: str = "gaussian",
    distributed: DistributedOptions = LOCAL,
) -> Terms:
    """The loss, which is minus the lower bound on I(Z; X'), and its two terms: V x [batch, ..., dim] -> 3 x []."""
    if isinstance(invariance_weight, Tensor) or isinstance(entropy_weight, Tensor):
        # the gradient of a trainable weight is the unweighted term, so each term is evaluated separately
        minus_entropy, entropy = regularizer(views, estimator, weight=entropy_weight, distributed=distributed)
        invariance = _invariance(views, estimator, likelihood, distributed)
        return Terms(weighted(invariance, invariance_weight, distributed) + minus_entropy, invariance.detach(), entropy)
    if _is_fused(estimator.fused, estimator.constants(), views, distributed):
        return _fused_bound(views, estimator, (invariance_weight, entropy_weight), likelihood, distributed)
    views = gathered_views(views, distributed, estimator, invariance_weight, entropy_weight, likelihood)
    with full_precision(views[0]):
        views = _full_precision_views(views)
        invariance = _reference_invariance(views, estimator, likelihood)
        entropy = estimator.mean_entropy(views)
        log_likelihood = -invariance_weight * invariance
        bound = entropy_weight * entropy + log_likelihood
        return Terms(_for_reduction(-bound, distributed), invariance.detach(), entropy.detach())


def _fused_bound(
    views: Sequence[Tensor],
    estimator: EntropyEstimator,
    weights: tuple[float, float],
    likelihood: str,
    distributed: DistributedOptions,
) -> Terms:
    normalize = _distance_normalization(likelihood, estimator)
    if normalize == estimator.normalize:
        loss, terms = _fused_entropy(views, estimator, weights, distributed, likelihood=likelihood)
        return Terms(loss, terms[0], terms[1])
    # invariance and entropy normalize the views differently, so each needs its own call
    invariance, distance = _fused_invariance(views, estimator, weights[0], likelihood, distributed)
    minus_entropy, terms = _fused_entropy(views, estimator, weights[1:], distributed)
    return Terms(invariance + minus_entropy, distance, terms[1])


def _fused_invariance(
    views: Sequence[Tensor], estimator: EntropyEstimator, weight: float, likelihood: str, distributed: DistributedOptions
) -> tuple[Tensor, Tensor]:
    """The weighted invariance, with a gradient, and the unweighted invariance, without a gradient: -> [], []."""
    normalize = _distance_normalization(likelihood, estimator)
    loss, terms = _fused_loss(views, "", (), (weight, 0.0), distributed, estimator, normalize=normalize, likelihood=likelihood)
    return loss, terms[0]


def _invariance(
    views: Sequence[Tensor], estimator: EntropyEstimator, likelihood: str, distributed: DistributedOptions
) -> Tensor:
    """The unweighted invariance, with a gradient: V x [batch, ..., dim] -> []."""
    if _is_fused(estimator.fused, estimator.constants(), views, distributed):
        return _fused_invariance(views, estimator, 1.0, likelihood, distributed)[0]
    views = gathered_views(views, distributed, estimator, likelihood)
    with full_precision(views[0]):
        return _for_reduction(_reference_invariance(_full_precision_views(views), estimator, likelihood), distributed)


def _reference_invariance(views: Sequence[Tensor], estimator: EntropyEstimator, likelihood: str) -> Tensor:
    normalize = _distance_normalization(likelihood, estimator)
    return distance([normalized(samples(z), normalize) for z in views], likelihood)


def _distance_normalization(likelihood: str, estimator: EntropyEstimator) -> Normalization:
    """The normalization of the views before their distance: unit vectors for the cosine, else that of the estimator."""
    return "rows" if likelihood == "von_mises_fisher" else estimator.normalize


def _fused_entropy(
    views: Sequence[Tensor],
    estimator: EntropyEstimator,
    weights: Sequence[float],
    distributed: DistributedOptions,
    *,
    likelihood: str = "gaussian",
) -> tuple[Tensor, Tensor]:
    """Call `_fused_loss` for this estimator, and warn if its entropy is saturated."""
    constants, normalize = estimator.constants(), estimator.normalize
    draw = estimator.draw() if estimator.is_random else None
    arguments = views, estimator.fused, constants, weights, distributed, estimator
    loss, terms = _fused_loss(*arguments, normalize=normalize, likelihood=likelihood, draw=draw)
    if len(terms) > 2:
        estimator.warn_if_saturated(terms[2:])
    return loss, terms


def vicreg_bound(
    views: Sequence[Tensor],
    weights: tuple[Weight, Weight, Weight],
    *,
    convention: str,
    margin: float,
    epsilon: float,
    distributed: DistributedOptions = LOCAL,
) -> VICRegTerms:
    """The loss of VICReg and its terms: V x [batch, ..., dim] -> 5 x []. Weights are (invariance, variance, covariance)."""
    evaluated = partial(_vicreg_bound, views, convention=convention, margin=margin, epsilon=epsilon, distributed=distributed)
    invariance, variance, covariance = weights
    if isinstance(invariance, Tensor) or isinstance(variance, Tensor) or isinstance(covariance, Tensor):
        return _vicreg_with_trainable_weights(weights, evaluated, distributed)
    return evaluated(VICRegWeights(invariance, variance, covariance))


def _vicreg_bound(
    views: Sequence[Tensor],
    weights: VICRegWeights,
    *,
    convention: str,
    margin: float,
    epsilon: float,
    distributed: DistributedOptions,
) -> VICRegTerms:
    if _is_fused(VarianceCovariance.fused, (), views, distributed):
        weights = official_weights(weights, dim=views[0].shape[-1], convention=convention)
        constants = weights.variance, weights.covariance, margin, epsilon
        loss, terms = _fused_loss(views, VarianceCovariance.fused, constants, (weights.invariance, 1.0), distributed, "VICReg")
        return VICRegTerms(loss, *terms.unbind())
    views = gathered_views(views, distributed, "VICReg", *weights, convention, margin, epsilon)
    weights = official_weights(weights, dim=views[0].shape[-1], convention=convention)
    with full_precision(views[0]):
        views = [samples(z) for z in _full_precision_views(views)]
        invariance = mean_squared_distance(views)
        variance = _mean_over_views([variance_hinge(z, margin=margin, epsilon=epsilon) for z in views])
        # VICReg's authors average the hinges of two views, but add the covariance terms
        covariance = 2 * _mean_over_views([covariance_penalty(z) for z in views])
        entropy = -(weights.variance * variance + weights.covariance * covariance)
        loss = _for_reduction(weights.invariance * invariance - entropy, distributed)
        return VICRegTerms(loss, *(term.detach() for term in (invariance, entropy, variance, covariance)))


def regularizer(
    views: Sequence[Tensor], estimator: EntropyEstimator, *, weight: Weight, distributed: DistributedOptions = LOCAL
) -> tuple[Tensor, Tensor]:
    """The loss `-weight * H`, and H without a gradient: V x [batch, ..., dim] -> [], []. H is the mean entropy of the views."""
    if isinstance(weight, Tensor):
        minus_entropy, entropy = regularizer(views, estimator, weight=1.0, distributed=distributed)
        return weighted(minus_entropy, weight, distributed), entropy
    if _is_fused(estimator.fused, estimator.constants(), views, distributed):
        loss, terms = _fused_entropy(views, estimator, (weight,), distributed)
        return loss, terms[1]
    views = gathered_views(views, distributed, estimator, weight)
    entropy = estimator.mean_entropy(views)
    return _for_reduction(-weight * entropy, distributed), entropy.detach()


def weighted(term: Tensor, weight: Weight, distributed: DistributedOptions) -> Tensor:
    """`weight * term` in the dtype of the term, for a weight that may be trainable: [] -> []."""
    return factor(_for_reduction(weight, distributed), term) * term if isinstance(weight, Tensor) else weight * term


def _for_reduction(value: Tensor, distributed: DistributedOptions) -> Tensor:
    """The same value. Its gradient is divided by the number of ranks if the training loop sums gradients over ranks."""
    if not _has_ranks(distributed) or distributed.gradient_reduction == "mean":
        return value
    ranks = process_group(distributed.process_group).size()
    return value.detach() + (value - value.detach()) / ranks


def _has_ranks(distributed: DistributedOptions) -> bool:
    """Whether there may be other ranks. The first two tests are fast, and usually decide."""
    return distributed.gather_distributed and is_initialized() and distributed.is_active()


def _is_fused(fused: str, constants: Sequence[Weight] | None, views: Sequence[Tensor], distributed: DistributedOptions) -> bool:
    """Whether the fused implementation runs. In a single process this also checks the views."""
    if not _has_ranks(distributed):
        check_views(views)
    try:
        return kernels is not None and kernels.is_fused(fused, constants, views[0])
    except (RuntimeError, ValueError):
        tell_ranks_of_refusal(distributed)
        raise


def _fused_loss(
    views: Sequence[Tensor],
    fused: str,
    constants: Sequence[Weight] | None,
    weights: Sequence[float],
    distributed: DistributedOptions,
    objective: object,
    *,
    normalize: Normalization = None,
    likelihood: str = "gaussian",
    draw: int | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss [] from the fused implementation, and (invariance, entropy, *parts) [2 + k] without a gradient.

    The loss is `weights[0] * invariance - weights[1] * entropy`. With one weight it is `-weights[0] * entropy`. The k parts
    depend on the entropy. Error messages of collectives name `objective`, which is an estimator or "VICReg".
    """
    assert kernels is not None and constants is not None
    group = distributed.process_group if _has_ranks(distributed) else kernels.NO_GROUP
    named = nullcontext() if group == kernels.NO_GROUP or torch.compiler.is_compiling() else evaluating(objective)
    options = {"normalize": normalize, "likelihood": likelihood, "draw": draw}
    with named:
        loss, terms = kernels.loss(
            views, fused, constants, weights, group=group, reduction=distributed.gradient_reduction, **options
        )
    return loss, terms


def _vicreg_with_trainable_weights(
    weights: tuple[Weight, Weight, Weight],
    evaluated: Callable[[VICRegWeights], VICRegTerms],
    distributed: DistributedOptions,
) -> VICRegTerms:
    """Evaluate each term with weight 1, because the gradient of a weight is its unweighted term."""
    invariance, variance, covariance = map(evaluated, (VICRegWeights(1, 0, 0), VICRegWeights(0, 1, 0), VICRegWeights(0, 0, 1)))
    terms = [term.loss for term in (invariance, variance, covariance)]
    loss = torch.stack([weighted(term, weight, distributed) for term, weight in zip(terms, weights, strict=True)]).sum()
    parts = [
        factor(weight, term) * term for weight, term in zip(weights[1:], (variance.entropy, covariance.entropy), strict=True)
    ]
    entropy = torch.stack(parts).sum().detach()
    return VICRegTerms(loss, invariance.invariance, entropy, variance.variance, covariance.covariance)


def _full_precision_views(views: Sequence[Tensor]) -> Sequence[Tensor]:
    """The views in the accumulation dtype, so that the gradients of the terms are added before rounding."""
    return [z.to(accumulation_dtype(z.dtype)) for z in views]


def _mean_over_views(values: Sequence[Tensor]) -> Tensor:
    """Mean over views and groups: V x [...] -> []."""
    return torch.stack([value.mean() for value in values]).mean()
