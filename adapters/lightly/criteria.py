"""Criteria with lightly's constructors and calls: `criterion(z_a, z_b)`, gathering off unless asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch.distributed as dist
from torch import Tensor, nn

from it_losses import EntropyRegularizer, VICReg, VICRegEntropy, functional
from it_losses.adapters.conventions import translated
from it_losses.checks import check_positive, check_weight
from it_losses.entropy.variance_covariance import covariance_penalty, variance_hinge
from it_losses.precision import samples


def _alias(name: str, check: Callable[[str, float], float] = check_weight) -> Any:
    """A constant under lightly's name; setting one sets the other."""
    return property(
        lambda self: getattr(self, name), lambda self, value: setattr(self, name, check(name, value)), doc=f"`{name}`."
    )


def _set_gather(criterion: Any, gather_distributed: bool) -> None:
    criterion.distributed = criterion.distributed._replace(gather_distributed=gather_distributed)


#: the constant under lightly's name, as its own classes have it
_GATHER = property(lambda self: self.distributed.gather_distributed, _set_gather, doc="Whether all ranks' views count.")


def _check_gather(gather_distributed: bool) -> bool:
    if gather_distributed and not dist.is_available():
        raise ValueError(
            "gather_distributed=True needs torch.distributed, which this build of torch has not. "
            "Pass gather_distributed=False, or install a torch with distributed support."
        )
    return gather_distributed


class VICRegLoss(VICReg):
    """lightly's `VICRegLoss`, number for number: [batch, ..., dim] x 2 -> [].

    With `gather_distributed` every rank returns the loss of the batch of all ranks, its invariance included, and DDP's
    averaged gradients are those of one process; without it each rank is on its own, as in lightly.

    Args:
        lambda_param: weight of the invariance.
        mu_param: weight of the variance hinge.
        nu_param: weight of the covariances.
        gather_distributed: whether the statistics are those of all ranks.
        eps: added to the variances under the root.

    Raises:
        ValueError: gathering without torch.distributed; views that are not alike or a batch of one (AssertionError too).
    """

    def __init__(
        self,
        lambda_param: float = 25.0,
        mu_param: float = 25.0,
        nu_param: float = 1.0,
        gather_distributed: bool = False,
        eps: float = 0.0001,
    ) -> None:
        _check_gather(gather_distributed)
        theirs = {"lambda_param": lambda_param, "mu_param": mu_param, "nu_param": nu_param, "eps": eps}
        super().__init__(**translated("lightly", **theirs, gather_distributed=gather_distributed))  # type: ignore[arg-type]

    lambda_param = _alias("invariance_weight")
    mu_param = _alias("variance_weight")
    nu_param = _alias("covariance_weight")
    eps = _alias("epsilon", check_positive)
    gather_distributed = _GATHER


class LogDetLoss(VICRegEntropy):
    """VICReg with its variance and covariance terms replaced by log-det entropy: [batch, ..., dim] x 2 -> [].

    Args:
        lambda_param: weight of the invariance; None for what trains with this entropy.
        mu_param: weight of the entropy; None likewise.
        gather_distributed: whether the statistics are those of all ranks.
        beta: inverse of the noise variance, see LogDet; None for its default.
    """

    def __init__(
        self,
        lambda_param: float | None = None,
        mu_param: float | None = None,
        gather_distributed: bool = False,
        beta: float | None = None,
    ) -> None:
        super().__init__(
            "log_det",
            invariance_weight=lambda_param,
            entropy_weight=mu_param,
            gather_distributed=_check_gather(gather_distributed),
            **({} if beta is None else {"beta": beta}),
        )

    lambda_param = _alias("invariance_weight")
    mu_param = _alias("entropy_weight")
    gather_distributed = _GATHER


class PairwiseLoss(VICRegEntropy):
    """VICReg with its variance and covariance terms replaced by pairwise entropy: [batch, ..., dim] x 2 -> [].

    Args:
        lambda_param: weight of the invariance; None for what trains with this entropy.
        mu_param: weight of the entropy; None likewise.
        gather_distributed: whether the pairs are those of all ranks.
        bandwidth: standard deviation of a component, or "auto" to follow the batch, see Pairwise.
        divergence: "kl" (upper bound) or "bhattacharyya" (lower bound).
    """

    def __init__(
        self,
        lambda_param: float | None = None,
        mu_param: float | None = None,
        gather_distributed: bool = False,
        bandwidth: Literal["auto"] | float | Sequence[float] = "auto",
        divergence: Literal["kl", "bhattacharyya"] = "kl",
    ) -> None:
        super().__init__(
            "pairwise",
            invariance_weight=lambda_param,
            entropy_weight=mu_param,
            gather_distributed=_check_gather(gather_distributed),
            bandwidth=bandwidth,
            divergence=divergence,
        )

    lambda_param = _alias("invariance_weight")
    mu_param = _alias("entropy_weight")
    gather_distributed = _GATHER


class EntropyRegularized(nn.Module):
    """`criterion(z_a, z_b) - weight * H(z)` of l2-normalised embeddings: an entropy beside a criterion of lightly's.

    For criteria called with two views of one kind (`NTXentLoss`, `DCLLoss`). BYOL and SimSiam compare a prediction with a
    target: there, add `EntropyRegularizer` at the projection, as `modules` does.

    Args:
        criterion: any module called as `criterion(z_a, z_b)`.
        entropy: a name in ESTIMATORS or an EntropyEstimator.
        weight: weight of the entropy.
        gather_distributed: whether the entropy is that of all ranks' batch.
        options: arguments of the estimator, where `entropy` is a name.
    """

    def __init__(
        self,
        criterion: nn.Module,
        entropy: Any = "pairwise",
        weight: float = 0.2,
        gather_distributed: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.criterion = criterion
        self.regularizer = EntropyRegularizer(entropy, weight, gather_distributed=_check_gather(gather_distributed), **options)

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """2 x [batch, dim] -> []."""
        loss: Tensor = self.criterion(z_a, z_b)
        return loss + self.regularizer(*(nn.functional.normalize(z, dim=-1) for z in (z_a, z_b)))


def invariance_loss(x: Tensor, y: Tensor) -> Tensor:
    """The term of lightly's VICReg, `mean (x - y)^2`: [batch, ..., dim] x 2 -> []."""
    return functional.invariance(x, y)


def variance_loss(x: Tensor, eps: float = 0.0001) -> Tensor:
    """The term of lightly's VICReg, `mean_j max(0, 1 - sqrt(Var x_j + eps))`: [batch, ..., dim] -> []."""
    return variance_hinge(samples(x), margin=1.0, epsilon=eps).mean()


def covariance_loss(x: Tensor) -> Tensor:
    """The term of lightly's VICReg, `sum_{i != j} Cov(x)_ij^2 / dim`, mean over groups: [batch, ..., dim] -> []."""
    return covariance_penalty(samples(x)).mean()
