"""EntropyEstimator: what every estimate of H(Z) promises, and the door all of them share."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from it_losses.views import check_views, full_precision, samples


class BoundWeights(NamedTuple):
    """Weights that make an estimator train with no tuning: of the invariance term and of the entropy term."""

    invariance: float
    entropy: float


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

    def forward(self, z: Tensor) -> Tensor:
        """Entropy of a batch, averaged over its groups: `[batch, ..., dim] -> []`."""
        check_views([z])
        with full_precision(z):
            return self.entropy(samples(z)).mean()
