"""EntropyEstimator: what every estimate of H(Z) promises, and what all of them share."""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import ModuleType
from typing import ClassVar, NamedTuple

from torch import Tensor

from it_losses.checks import Weight, check_views
from it_losses.constants import Checked
from it_losses.precision import full_precision, samples


def _optional_kernels() -> ModuleType | None:
    """The folder of fused forms; without it everything works by the references, and takes longer."""
    if importlib.util.find_spec("it_losses.kernels") is None:
        return None
    return importlib.import_module("it_losses.kernels")


kernels = _optional_kernels()


def is_fused(form: str, constants: Sequence[Weight], z: Tensor) -> bool:
    """Whether the fused form of that name runs; the derivative by a constant that trains is the reference's alone."""
    if kernels is None or not form or any([isinstance(constant, Tensor) for constant in constants]):
        return False
    runs: bool = kernels.is_fused(form, z.dtype, z.device)
    return runs


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
    #: name of the module in `kernels` that computes this entropy in closed form; "" where only the reference does
    fused: ClassVar[str] = ""

    @property
    @abstractmethod
    def default_weights(self) -> BoundWeights:
        """The weights of invariance and entropy that VICRegEntropy takes where the user names none."""

    @abstractmethod
    def entropy(self, z: Tensor) -> Tensor:
        """Entropy of each group of samples: `[..., batch, dim] -> [...]`."""

    def constants(self) -> list[Weight]:
        """The constants of the fused form, in its order; a tensor that trains among them takes the reference."""
        return []

    def mean_entropy(self, z: Tensor) -> Tensor:
        """The reference for a view that has been checked, averaged over its groups: `[batch, ..., dim] -> []`."""
        with full_precision(z):
            return self.entropy(samples(z)).mean()

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        # a subclass that computes another entropy must not inherit the fused form of its parent
        if {"entropy", "mean_entropy", "variances"} & vars(cls).keys() and "fused" not in vars(cls):
            cls.fused = ""

    def warn_if_saturated(self, parts: Tensor) -> None:
        """Warn where the parts [k] that the fused form returns say that the estimate has no gradient or no digits left."""

    def forward(self, z: Tensor) -> Tensor:
        """Entropy of the batch this process holds, averaged over its groups: `[batch, ..., dim] -> []`.

        For that of all ranks see EntropyRegularizer and `functional.global_entropy`.
        """
        check_views([z])
        constants = self.constants()
        if not is_fused(self.fused, constants, z):
            return self.mean_entropy(z)
        assert kernels is not None
        # the loss is minus the weight times the entropy
        entropy: Tensor
        entropy, terms = kernels.loss([z], self.fused, constants, (-1.0,))
        self.warn_if_saturated(terms[2:])
        return entropy
