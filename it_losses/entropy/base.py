"""EntropyEstimator: what every estimate of H(Z) promises, and the door all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor

from it_losses import kernels
from it_losses.checks import check_views
from it_losses.constants import Checked
from it_losses.precision import full_precision, samples


class BoundWeights(NamedTuple):
    """Weights for a first run with an estimator: of the invariance term and of the entropy term."""

    invariance: float
    #: None where no one weight serves every dim: the user has to name it
    entropy: float | None


class EntropyEstimator(Checked, ABC):
    """H(Z) from samples of Z: `estimator(z)` is `[batch, ..., dim] -> []`, higher where the batch is more spread.

    A subclass holds constants, declares the facts below, and defines `entropy` for samples `[..., batch, dim] -> [...]`,
    in float32 or float64. Dimensions between batch and dim are groups, whose entropies are averaged. Facts are tested.

    An estimator of one's own works in every criterion, and over many ranks, as soon as it has the three:

    >>> from it_losses.checks import check_positive
    >>> class Marginal(EntropyEstimator):
    ...     unit, direction = "nats", "upper bound for a Gaussian"
    ...     rotation_invariant, cost = False, "N D"
    ...     checks = {"floor": check_positive}
    ...
    ...     def __init__(self, floor: float = 1e-4):
    ...         super().__init__()
    ...         self.floor = floor
    ...
    ...     @property
    ...     def default_weights(self):
    ...         return BoundWeights(invariance=25.0, entropy=1.0)
    ...
    ...     def entropy(self, z):
    ...         return 0.5 * (z.var(dim=-2) + self.floor).log().sum(dim=-1)
    >>> criterion = VICRegEntropy(Marginal())
    """

    #: what one unit of the value is
    unit: ClassVar[str]
    #: on which side of the entropy of Z (or of its smoothed law) the estimate lies, and under which assumption
    direction: ClassVar[str]
    #: whether a rotation of Z leaves the value as it is
    rotation_invariant: ClassVar[bool]
    #: leading cost of value and gradient, N = batch, D = dim
    cost: ClassVar[str]
    #: whether `entropy` takes half precision as it comes where fused twins run, which then use the units made for it
    takes_half: ClassVar[bool] = False

    @property
    @abstractmethod
    def default_weights(self) -> BoundWeights:
        """The weights of invariance and entropy that VICRegEntropy takes where the user names none."""

    @abstractmethod
    def entropy(self, z: Tensor) -> Tensor:
        """Entropy of each group of samples: `[..., batch, dim] -> [...]`."""

    def sharded(self) -> tuple[str, list[float]] | None:
        """The form in `kernels.sharded.FORMS` that computes this entropy over many ranks, and its constants; None for none.

        Without a form every rank gathers all samples and repeats the whole computation: as exact, and slower.
        """
        return None

    def mean_entropy(self, z: Tensor) -> Tensor:
        """Entropy of a view that has been checked, averaged over its groups: `[batch, ..., dim] -> []`."""
        with full_precision(z):
            as_it_comes = self.takes_half and kernels.is_fused(z)
            return self.entropy(z.movedim(0, -2) if as_it_comes else samples(z)).mean()

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if "entropy" not in vars(cls):
            return
        # who redefines the entropy of an estimator has not redefined what else computes it
        for name in ("sharded", "mean_entropy", "takes_half"):
            if name not in vars(cls):
                setattr(cls, name, getattr(EntropyEstimator, name))

    def warn_if_saturated(self, parts: Tensor) -> None:
        """Look at what the entropy consisted of where many ranks computed it, `[parts]`; for warnings."""

    def forward(self, z: Tensor) -> Tensor:
        """Entropy of the batch this process holds, averaged over its groups: `[batch, ..., dim] -> []`.

        For that of all ranks see EntropyRegularizer and `functional.global_entropy`.
        """
        check_views([z])
        return self.mean_entropy(z)
