"""EntropyEstimator: what every estimate of H(Z) promises, and the door all of them share."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from it_losses.views import check_views, full_precision, samples


class BoundWeights(NamedTuple):
    """Weights that make an estimator train with no tuning: of the invariance term and of the entropy term."""

    invariance: float
    #: None where no one weight serves every dim: the user has to name it
    entropy: float | None


class EntropyEstimator(nn.Module):
    """H(Z) from samples of Z: `estimator(z)` is `[batch, ..., dim] -> []`, higher where the batch is more spread.

    A subclass holds constants, declares the facts below, and defines `entropy` for samples `[..., batch, dim] -> [...]`,
    in float32 or float64. Dimensions between batch and dim are groups, whose entropies are averaged. Facts are tested.
    """

    #: what one unit of the value is
    unit: ClassVar[str]
    #: on which side of the entropy of Z (or of its smoothed law) the estimate lies, and under which assumption
    direction: ClassVar[str]
    #: whether a rotation of Z leaves the value as it is
    rotation_invariant: ClassVar[bool]
    #: leading cost of value and gradient, N = batch, D = dim
    cost: ClassVar[str]

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

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        # who redefines the entropy of an estimator has not redefined its form
        if "entropy" in vars(cls) and "sharded" not in vars(cls):
            cls.sharded = EntropyEstimator.sharded  # type: ignore[method-assign]

    def watch(self, parts: Tensor) -> None:
        """Look at what the entropy consisted of where many ranks computed it, `[parts]`; for warnings."""

    def forward(self, z: Tensor) -> Tensor:
        """Entropy of the batch this process holds, averaged over its groups: `[batch, ..., dim] -> []`.

        For that of all ranks see EntropyRegularizer and `functional.global_entropy`.
        """
        check_views([z])
        with full_precision(z):
            return self.entropy(samples(z)).mean()
