"""The criteria: modules that are called with views and return a loss."""

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from it_losses import bound
from it_losses.bound import Terms, VICRegTerms
from it_losses.checks import Check, Weight, check_name, check_positive, check_weight
from it_losses.constants import Checked
from it_losses.distributed import DistributedOptions, distributed_options
from it_losses.entropy import BoundWeights, EntropyEstimator, estimator
from it_losses.likelihood import LIKELIHOODS
from it_losses.observe import OBSERVERS, can_be_seen, tell
from it_losses.vicreg_conventions import CONVENTIONS


def _check_entropy(name: str, value: str | EntropyEstimator) -> EntropyEstimator:
    return estimator(value)


def _check_distributed(name: str, value: object) -> DistributedOptions:
    if not isinstance(value, DistributedOptions):
        raise ValueError(f"{name} must be DistributedOptions, got {value!r}. To change an option, assign {name}._replace(...).")
    return distributed_options(*value)


class VICRegEntropy(Checked):
    """A self-supervised loss: the distance of the views, minus an entropy of your choice that keeps them from collapsing.

        invariance_weight * distance of the views - entropy_weight * H(Z)

    `criterion(z_a, z_b, *more_views)`: V x [batch, ..., dim] -> [], float32 (float64 for float64). The value is minus a lower
    bound on the mutual information, so lower is better and it may be negative. H(Z) is the mean entropy of the views.
    Dimensions between batch and dim are groups; the entropies of all groups are averaged.

    Args:
        entropy: a name in ESTIMATORS, such as "log_det" or "pairwise", or an EntropyEstimator. If you set another entropy
            later, the weights keep their values.
        invariance: the likelihood q(z | z') of one view given the other, which sets the distance. "gaussian": the mean
            squared distance after the estimator's normalization. "von_mises_fisher": one minus the cosine, as in BYOL,
            SimSiam and SimCLR. None: the estimator's default.
        invariance_weight: weight of the distance; None for the estimator's default. It may be a trainable Parameter.
        entropy_weight: weight of the entropy; also None or a Parameter.
        gather_distributed: if torch.distributed is initialised, compute the loss from the samples of all ranks. Training
            then equals training in one process with the whole batch.
        process_group: the group of ranks that share one batch, or its name; None for all ranks.
        gradient_reduction: how the training loop combines the gradients of the ranks: "mean" (DDP, FSDP) or "sum".
        estimator_options: arguments of the estimator if `entropy` is a name.

    Raises:
        ValueError: an unknown name or a negative weight, also if it is set later.
        ViewError (a ValueError): views that differ in shape or device, are not dense floating-point tensors, or hold only
            one sample. Views of different floating dtypes are promoted.

    Source: arXiv 2303.00633, the bound and its two terms.

    >>> criterion = VICRegEntropy("log_det")
    >>> z_a, z_b = torch.randn(2, 64, 32, requires_grad=True)
    >>> criterion(z_a, z_b).backward()
    """

    checks: ClassVar[dict[str, Check]] = {
        "entropy": _check_entropy,
        "invariance": check_name(*LIKELIHOODS),
        "invariance_weight": check_weight,
        "entropy_weight": check_weight,
        "distributed": _check_distributed,
    }

    def __init__(
        self,
        entropy: str | EntropyEstimator = "log_det",
        *,
        invariance: Literal["gaussian", "von_mises_fisher"] | None = None,
        invariance_weight: Weight | None = None,
        entropy_weight: Weight | None = None,
        gather_distributed: bool = True,
        process_group: object = None,
        gradient_reduction: Literal["mean", "sum"] = "mean",
        **estimator_options: object,
    ) -> None:
        super().__init__()
        self.entropy = estimator(entropy, **estimator_options)
        default = self.entropy.default_weights
        self.invariance = default.likelihood if invariance is None else invariance
        self.invariance_weight = _weight("invariance_weight", invariance_weight, _default_invariance(self.invariance, default))
        self.entropy_weight = _weight("entropy_weight", entropy_weight, default.entropy)
        self.distributed = distributed_options(gather_distributed, process_group, gradient_reduction)

    def weights_for(self, views: Sequence[Tensor]) -> tuple[Weight, Weight]:
        """The weights of the distance and of the entropy; a subclass may compute them from the views."""
        return self.invariance_weight, self.entropy_weight

    def terms(self, z_a: Tensor, z_b: Tensor | None = None, *more_views: Tensor) -> Terms:
        """The loss, and its unweighted terms for logging. Only the loss has a gradient."""
        views = bound.accepted_views((z_a, z_b, *more_views), self.distributed)
        invariance_weight, entropy_weight = self.weights_for(views)
        terms = bound.lower_bound(
            views,
            self.entropy,
            invariance_weight=invariance_weight,
            entropy_weight=entropy_weight,
            likelihood=self.invariance,
            distributed=self.distributed,
        )
        if OBSERVERS and can_be_seen():
            tell(self, views, terms._asdict())
        return terms

    def forward(self, z_a: Tensor, z_b: Tensor | None = None, *more_views: Tensor) -> Tensor:
        """The loss: V x [batch, ..., dim] -> []."""
        return self.terms(z_a, z_b, *more_views).loss


class VICReg(Checked):
    """The VICReg loss, with the value and gradient of any of five published conventions.

        invariance_weight * s + variance_weight * v + covariance_weight * c

    For two views [batch, ..., dim], `s = mean (z_a - z_b)^2`. v is the mean over the views of `mean_j max(0, margin -
    sqrt(Var z_j + epsilon))`, and c the sum over the views of `sum_{i != j} Cov(z)_ij^2 / dim`. With more than two views, s is
    the mean over all pairs, and c is twice the mean over the views.

    Args:
        invariance_weight: weight of s. Each of the three weights may be a trainable Parameter.
        variance_weight: weight of v.
        covariance_weight: weight of c.
        margin: the standard deviation above which a dimension adds nothing to v.
        epsilon: added to the variances under the root.
        convention: the source whose loss you get with these weights: "official" (the authors' code, lightly,
            stable-pretraining), "solo-learn", "vicregl", "eb_jepa" or "paper" (the printed formula).
        gather_distributed, process_group, gradient_reduction: as for VICRegEntropy.

    Raises:
        ValueError: an unknown convention or a negative weight, also if it is set later.
        ViewError: as for VICRegEntropy.

    Source: VICReg (arXiv 2105.04906), equations 1 to 6, and the code its authors published.

    >>> z_a, z_b = torch.randn(2, 64, 32, requires_grad=True)
    >>> VICReg(convention="solo-learn")(z_a, z_b).backward()
    """

    checks: ClassVar[dict[str, Check]] = {
        "invariance_weight": check_weight,
        "variance_weight": check_weight,
        "covariance_weight": check_weight,
        "margin": check_positive,
        "epsilon": check_positive,
        "convention": check_name(*CONVENTIONS),
        "distributed": _check_distributed,
    }

    def __init__(
        self,
        invariance_weight: Weight = 25.0,
        variance_weight: Weight = 25.0,
        covariance_weight: Weight = 1.0,
        *,
        margin: float = 1.0,
        epsilon: float = 1e-4,
        convention: str = "official",
        gather_distributed: bool = True,
        process_group: object = None,
        gradient_reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        self.invariance_weight = invariance_weight
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight
        self.margin = margin
        self.epsilon = epsilon
        self.convention = convention
        self.distributed = distributed_options(gather_distributed, process_group, gradient_reduction)

    def terms(self, z_a: Tensor, z_b: Tensor | None = None, *more_views: Tensor) -> VICRegTerms:
        """The loss, and for logging its unweighted terms and the surrogate of H(Z). Only the loss has a gradient."""
        views = bound.accepted_views((z_a, z_b, *more_views), self.distributed)
        terms = bound.vicreg_bound(
            views,
            (self.invariance_weight, self.variance_weight, self.covariance_weight),
            convention=self.convention,
            margin=self.margin,
            epsilon=self.epsilon,
            distributed=self.distributed,
        )
        if OBSERVERS and can_be_seen():
            tell(self, views, terms._asdict())
        return terms

    def forward(self, z_a: Tensor, z_b: Tensor | None = None, *more_views: Tensor) -> Tensor:
        """The loss: V x [batch, ..., dim] -> []."""
        return self.terms(z_a, z_b, *more_views).loss


class EntropyTerms(NamedTuple):
    """The loss of a regularizer and its entropy, as scalars. Only `loss` has a gradient."""

    loss: Tensor
    #: mean entropy of the views, unweighted, in the unit of the estimator
    entropy: Tensor


class EntropyRegularizer(Checked):
    """A term that keeps embeddings spread out: `-weight * H(Z)`. Add it to BYOL, SimSiam, DINO or any other loss.

    `regularizer(z, *more_views)`: V x [batch, ..., dim] -> []. The entropy is averaged over the views.

    Args:
        entropy: a name in ESTIMATORS or an EntropyEstimator.
        weight: weight of the entropy. It may be a trainable Parameter.
        gather_distributed, process_group, gradient_reduction: as for VICRegEntropy.
        estimator_options: arguments of the estimator if `entropy` is a name.

    Raises:
        ValueError: as for VICRegEntropy.

    Source: arXiv 2303.00633, BYOL with an entropy term.

    >>> z = torch.randn(64, 32, requires_grad=True)
    >>> EntropyRegularizer("pairwise", weight=0.05)(torch.nn.functional.normalize(z, dim=-1)).backward()
    """

    checks: ClassVar[dict[str, Check]] = {
        "entropy": _check_entropy,
        "weight": check_weight,
        "distributed": _check_distributed,
    }

    def __init__(
        self,
        entropy: str | EntropyEstimator,
        weight: Weight = 1.0,
        *,
        gather_distributed: bool = True,
        process_group: object = None,
        gradient_reduction: Literal["mean", "sum"] = "mean",
        **estimator_options: object,
    ) -> None:
        super().__init__()
        self.entropy = estimator(entropy, **estimator_options)
        self.weight = weight
        self.distributed = distributed_options(gather_distributed, process_group, gradient_reduction)

    def terms(self, z: Tensor, *more_views: Tensor) -> EntropyTerms:
        """The loss, and the unweighted entropy for logging. Only the loss has a gradient."""
        views = bound.accepted_views((z, *more_views), self.distributed)
        terms = EntropyTerms(*bound.regularizer(views, self.entropy, weight=self.weight, distributed=self.distributed))
        if OBSERVERS and can_be_seen():
            tell(self, views, {"entropy": terms.entropy})
        return terms

    def forward(self, z: Tensor, *more_views: Tensor) -> Tensor:
        """The loss: V x [batch, ..., dim] -> []."""
        return self.terms(z, *more_views).loss


def _weight(name: str, named: Weight | None, default: float | None) -> Weight:
    weight = default if named is None else named
    if weight is None:
        raise ValueError(f"{name} has no default for this entropy and invariance. Pass {name}.")
    return weight


def _default_invariance(likelihood: str, default: BoundWeights) -> float | None:
    """The default weight of the distance. At unit variance `1 - cos` is half the squared distance, so its weight is doubled."""
    if likelihood == default.likelihood:
        return default.invariance
    return 2 * default.invariance if likelihood == "von_mises_fisher" else None
