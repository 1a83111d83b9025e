"""VICReg and entropies with lightly's constructors and calls: `criterion(z_a, z_b)`.

`VICRegLoss` replaces lightly's class. Like that class, it gathers over ranks only if asked. The others are new, and gather by
default.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from it_losses import EntropyRegularizer, VICReg, VICRegEntropy, functional
from it_losses.adapters.conventions import ARGUMENTS, translated
from it_losses.adapters.drop_in import HostNames, as_ours, check_can_gather, in_host_dtype
from it_losses.bound import accepted_views
from it_losses.checks import check_views
from it_losses.entropy.variance_covariance import covariance_penalty, variance_hinge
from it_losses.precision import samples


class VICRegLoss(HostNames, VICReg):
    """lightly's `VICRegLoss`, with the same value and gradient: [batch, ..., dim] x 2 -> [].

    With `gather_distributed` every rank returns the loss of the batch of all ranks, including its invariance. DDP's averaged
    gradients then equal those of one process. Otherwise each rank uses its own samples. The dtype of the result is lightly's.

    Args:
        lambda_param: weight of the invariance.
        mu_param: weight of the variance hinge.
        nu_param: weight of the covariances.
        gather_distributed: whether the statistics use the samples of all ranks.
        eps: added to the variances under the square root.

    Raises:
        ValueError: gathering without torch.distributed. ViewError (also an AssertionError): views of different shapes, or a
            batch of one sample.
    """

    host_names: ClassVar[Mapping[str, str]] = {name: ours for name, ours in ARGUMENTS["lightly"].items() if name != ours}

    def __init__(
        self,
        lambda_param: float = 25.0,
        mu_param: float = 25.0,
        nu_param: float = 1.0,
        gather_distributed: bool = False,
        eps: float = 0.0001,
    ) -> None:
        check_can_gather(gather_distributed)
        theirs = {"lambda_param": lambda_param, "mu_param": mu_param, "nu_param": nu_param, "eps": eps}
        super().__init__(**translated("lightly", **theirs, gather_distributed=gather_distributed))  # type: ignore[arg-type]

    def forward(self, z_a: Tensor, z_b: Tensor | None = None, *more_views: Tensor) -> Tensor:
        """The loss: V x [batch, ..., dim] -> []."""
        return in_host_dtype(self.terms(z_a, z_b, *more_views).loss, z_a, z_b, *more_views)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        # pickles of lightly's class lack this attribute
        if "distributed" not in state:
            known = {**state["_parameters"], **state}
            theirs = {name: known[name] for name in ARGUMENTS["lightly"] if name in known}
            state = as_ours(self, VICRegLoss, state, **theirs)
        super().__setstate__(state)


class LogDetLoss(HostNames, VICRegEntropy):
    """VICReg with its variance and covariance terms replaced by log-det entropy: [batch, ..., dim] x 2 -> [].

    Args:
        lambda_param: weight of the invariance; None for the default of LogDet.
        mu_param: weight of the entropy; None for the default of LogDet.
        gather_distributed: whether the statistics use the samples of all ranks.
        beta: inverse of the noise variance, see LogDet; None for its default.
    """

    host_names: ClassVar[Mapping[str, str]] = {"lambda_param": "invariance_weight", "mu_param": "entropy_weight"}

    def __init__(
        self,
        lambda_param: float | None = None,
        mu_param: float | None = None,
        gather_distributed: bool = True,
        beta: float | None = None,
    ) -> None:
        super().__init__(
            "log_det",
            invariance_weight=lambda_param,
            entropy_weight=mu_param,
            gather_distributed=gather_distributed,
            **({} if beta is None else {"beta": beta}),
        )


class PairwiseLoss(HostNames, VICRegEntropy):
    """VICReg with its variance and covariance terms replaced by pairwise entropy: [batch, ..., dim] x 2 -> [].

    Args:
        lambda_param: weight of the invariance; None for the default of Pairwise.
        mu_param: weight of the entropy; None for the default of Pairwise.
        gather_distributed: whether pairs use the samples of all ranks.
        bandwidth: standard deviation of the Gaussian around each sample, or "auto", see Pairwise.
        divergence: "kl" (upper bound) or "bhattacharyya" (lower bound).
    """

    host_names: ClassVar[Mapping[str, str]] = {"lambda_param": "invariance_weight", "mu_param": "entropy_weight"}

    def __init__(
        self,
        lambda_param: float | None = None,
        mu_param: float | None = None,
        gather_distributed: bool = True,
        bandwidth: Literal["auto"] | float | Sequence[float] = "auto",
        divergence: Literal["kl", "bhattacharyya"] = "kl",
    ) -> None:
        super().__init__(
            "pairwise",
            invariance_weight=lambda_param,
            entropy_weight=mu_param,
            gather_distributed=gather_distributed,
            bandwidth=bandwidth,
            divergence=divergence,
        )


class EntropyRegularized(nn.Module):
    """A criterion of lightly with an entropy term: `criterion(z_a, z_b) - weight * H(z)`, z l2-normalised.

    Use it for criteria that compare two projections (`NTXentLoss`, `DCLLoss`). BYOL and SimSiam compare a prediction with a
    target. Add an `EntropyRegularizer` of the projections to their loss, as in `modules`.

    Args:
        criterion: any module called as `criterion(z_a, z_b)`.
        entropy: a name in ESTIMATORS or an EntropyEstimator.
        weight: weight of the entropy. The default was not tuned.
        gather_distributed: whether the entropy uses the samples of all ranks.
        options: arguments of the estimator if `entropy` is a name.
    """

    def __init__(
        self,
        criterion: nn.Module,
        entropy: Any = "pairwise",
        weight: float = 0.2,
        gather_distributed: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self.criterion = criterion
        self.regularizer = EntropyRegularizer(entropy, weight, gather_distributed=gather_distributed, **options)

    def forward(self, z_a: Tensor, z_b: Tensor | None = None) -> Tensor:
        """The loss: 2 x [batch, dim] -> []."""
        z_a, z_b = accepted_views((z_a, z_b), self.regularizer.distributed)
        loss: Tensor = self.criterion(z_a, z_b)
        return loss + self.regularizer(*(nn.functional.normalize(z, dim=-1) for z in (z_a, z_b)))


def invariance_loss(x: Tensor, y: Tensor | None = None) -> Tensor:
    """The invariance of lightly's VICReg, `mean (x - y)^2`: [batch, ..., dim] x 2 -> []."""
    return in_host_dtype(functional.invariance(x, y), x, y)


def variance_loss(x: Tensor, eps: float = 0.0001) -> Tensor:
    """The variance term of lightly's VICReg, `mean_j max(0, 1 - sqrt(Var x_j + eps))`: [batch, ..., dim] -> []."""
    check_views([x])
    return in_host_dtype(variance_hinge(samples(x), margin=1.0, epsilon=eps).mean(), x)


def covariance_loss(x: Tensor) -> Tensor:
    """The covariance term of lightly's VICReg, `sum_{i != j} Cov(x)_ij^2 / dim`, mean over groups: [batch, ..., dim] -> []."""
    check_views([x])
    return in_host_dtype(covariance_penalty(samples(x)).mean(), x)
