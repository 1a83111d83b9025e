"""The objectives as pure functions of tensors."""

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from it_losses import bound
from it_losses.checks import Weight, accepted, check_positive, check_views, check_weight
from it_losses.distributed import distributed_options
from it_losses.entropy import (
    EntropyEstimator,
    KoLeo,
    LogDet,
    MatrixRenyi,
    Pairwise,
    QuadraticRenyi,
    SIGReg,
    Spacings,
    estimator,
)
from it_losses.entropy.pairs import MEMORY_MIB, SPREAD_FRACTION, component_entropy
from it_losses.entropy.quadratic import UNIFORMITY_BANDWIDTH
from it_losses.likelihood import mean_squared_distance
from it_losses.normalize import Normalization
from it_losses.precision import full_precision, samples


def vicreg(
    z_a: Tensor,
    z_b: Tensor | None = None,
    *more_views: Tensor,
    invariance_weight: Weight = 25.0,
    variance_weight: Weight = 25.0,
    covariance_weight: Weight = 1.0,
    margin: float = 1.0,
    epsilon: float = 1e-4,
    convention: str = "official",
) -> Tensor:
    """The VICReg loss of the samples of this process: V x [batch, ..., dim] -> [].

        invariance_weight * s + variance_weight * v + covariance_weight * c

    s is the mean squared distance of the views, v is the mean hinge on their standard deviations, and c is the sum of their
    squared off-diagonal covariances, divided by dim. See the class VICReg.
    """
    weights = (
        check_weight("invariance_weight", invariance_weight),
        check_weight("variance_weight", variance_weight),
        check_weight("covariance_weight", covariance_weight),
    )
    return bound.vicreg_bound(
        accepted(z_a, z_b, *more_views),
        weights,
        convention=convention,
        margin=check_positive("margin", margin),
        epsilon=check_positive("epsilon", epsilon),
    ).loss


def log_det_entropy(z: Tensor, *, beta: float = 1.0, per_dimension: bool = False, anchor: bool = False) -> Tensor:
    """Log-det entropy `1/2 log det(I + beta Cov(z))` in nats, or in nats per dimension: [batch, ..., dim] -> []. See LogDet."""
    entropy: Tensor = LogDet(beta, per_dimension=per_dimension, anchor=anchor)(z)
    return entropy


def pairwise_entropy(
    z: Tensor,
    *,
    bandwidth: Literal["auto"] | float | Sequence[float] = "auto",
    divergence: Literal["kl", "bhattacharyya"] | float = "kl",
    exclude_self: bool = False,
    normalize: Normalization = None,
    spread_fraction: float = SPREAD_FRACTION,
    memory_mib: float = MEMORY_MIB,
) -> Tensor:
    """A bound in nats on the entropy of the mixture of `N(z_i, bandwidth^2 I)`: [batch, ..., dim] -> []. See Pairwise."""
    estimate = Pairwise(
        bandwidth,
        divergence,
        exclude_self=exclude_self,
        normalize=normalize,
        spread_fraction=spread_fraction,
        memory_mib=memory_mib,
    )
    entropy: Tensor = estimate(z)
    return entropy


def koleo_entropy(z: Tensor, *, normalize: Normalization = "rows", epsilon: float = 1e-8) -> Tensor:
    """Minus the KoLeo loss, the mean log distance to the nearest neighbour: [batch, ..., dim] -> []. See KoLeo."""
    entropy: Tensor = KoLeo(normalize, epsilon=epsilon)(z)
    return entropy


def spacings_entropy(
    z: Tensor, *, covariance_weight: Weight = 0.25, window: int | None = None, epsilon: float = 1e-8
) -> Tensor:
    """The mean entropy of the dimensions minus a penalty on their covariances: [batch, ..., dim] -> []. See Spacings."""
    entropy: Tensor = Spacings(covariance_weight, window=window, epsilon=epsilon)(z)
    return entropy


def sigreg_entropy(z: Tensor, *, convention: str = "it_losses", slices: int | Tensor | None = None, seed: int = 0) -> Tensor:
    """Minus the SIGReg loss, which measures how far random projections are from N(0, 1): [batch, ..., dim] -> []. See SIGReg.

    The same seed gives the same directions in every call.
    """
    entropy: Tensor = SIGReg(convention, slices=slices, seed=seed)(z)
    return entropy


def renyi_entropy(
    z: Tensor,
    *,
    order: float = 2.0,
    normalize: Literal["columns", "uncentred_columns", "rows"] | None = None,
) -> Tensor:
    """Renyi entropy of the eigenvalues of the covariance, scaled to sum to 1: [batch, ..., dim] -> []. See MatrixRenyi."""
    entropy: Tensor = MatrixRenyi(order, normalize=normalize)(z)
    return entropy


def quadratic_entropy(
    z: Tensor,
    *,
    bandwidth: Literal["auto"] | float | Sequence[float] = UNIFORMITY_BANDWIDTH,
    exclude_self: bool = True,
    normalize: Normalization = "rows",
    nats: bool = True,
    spread_fraction: float = SPREAD_FRACTION,
    memory_mib: float = MEMORY_MIB,
) -> Tensor:
    """The quadratic Renyi entropy of the mixture of `N(z_i, bandwidth^2 I)` in nats: [batch, ..., dim] -> [].

    By default it is a constant minus the uniformity loss of the unit vectors. See QuadraticRenyi.
    """
    estimate = QuadraticRenyi(
        bandwidth,
        exclude_self=exclude_self,
        normalize=normalize,
        nats=nats,
        spread_fraction=spread_fraction,
        memory_mib=memory_mib,
    )
    entropy: Tensor = estimate(z)
    return entropy


def nt_xent(z_a: Tensor, z_b: Tensor, *, temperature: float = 0.5) -> Tensor:
    """SimCLR's loss (NT-Xent) of the samples of this process: 2 x [batch, ..., dim] -> [].

        -mean_i log (exp(<u_i, u_i'> / temperature) / sum_{j != i} exp(<u_i, u_j> / temperature))

    The u_i are the unit vectors of both views, and u_i' is the other view of u_i. With several ranks, use
    VICRegEntropy("pairwise", bandwidth=temperature**0.5, normalize="rows", exclude_self=True, pool_views=True), which differs
    by a constant. Source: SimCLR (arXiv 2002.05709), equation 1.
    """
    variance, views = check_positive("temperature", temperature), accepted(z_a, z_b)
    entropy = Pairwise(variance**0.5, exclude_self=True, pool_views=True, normalize="rows")
    weights = entropy.default_weights
    minus_bound = bound.lower_bound(
        views, entropy, invariance_weight=weights.invariance, entropy_weight=1.0, likelihood=weights.likelihood
    ).loss
    return minus_bound + component_entropy(variance, z_a.shape[-1]) + math.log(2 * len(z_a) - 1)


def global_entropy(
    z: Tensor,
    *more_views: Tensor,
    entropy: str | EntropyEstimator,
    process_group: object = None,
    gradient_reduction: Literal["mean", "sum"] = "mean",
    **estimator_options: object,
) -> Tensor:
    """The entropy of the samples of all ranks, averaged over the views: V x [batch, ..., dim] -> [].

    If you call an estimator itself, it uses only the samples of its own process. EntropyRegularizer explains the arguments.
    """
    ranks = distributed_options(True, process_group, gradient_reduction)
    views = bound.accepted_views((z, *more_views), ranks)
    value, _ = bound.regularizer(views, estimator(entropy, **estimator_options), weight=-1.0, distributed=ranks)
    return value


def invariance(z_a: Tensor, z_b: Tensor | None = None, *more_views: Tensor) -> Tensor:
    """The mean over pairs of views of `mean (z_a - z_b)^2`, as in the code of VICReg's authors: V x [batch, ..., dim] -> []."""
    views = accepted(z_a, z_b, *more_views)
    check_views(views, at_least=2)
    with full_precision(views[0]):
        return mean_squared_distance([samples(z) for z in views])
