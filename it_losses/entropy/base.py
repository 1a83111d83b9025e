"""EntropyEstimator, the base class of all estimators of H(Z), and SaturationWarning for values out of range."""

import importlib
import importlib.util
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import ModuleType
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from it_losses.checks import Check, Weight, check_views
from it_losses.constants import Checked
from it_losses.normalize import Normalization, check_normalization, normalized
from it_losses.precision import full_precision, samples


def _optional_kernels() -> ModuleType | None:
    """The package of fused implementations; None if it is missing, so that the reference runs."""
    if importlib.util.find_spec("it_losses.kernels") is None:
        return None
    return importlib.import_module("it_losses.kernels")


kernels = _optional_kernels()


class BoundWeights(NamedTuple):
    """Default weights of the invariance term and the entropy term for an estimator."""

    invariance: float
    #: None if no weight suits every dim; the user must then pass a weight
    entropy: float | None
    #: the likelihood to which the weight `invariance` belongs
    likelihood: str = "gaussian"


class EntropyEstimator(Checked, ABC):
    """An estimate of H(Z) from samples of Z: `estimator(z)` is `[batch, ..., dim] -> []`, higher if the batch is more spread.

    Dimensions between batch and dim are groups, whose entropies are averaged.

    A subclass sets the class attributes below, and defines `default_weights` and `entropy`. `entropy` gets float32 or float64
    samples `[..., batch, dim]` and returns `[...]`. Such an estimator works in every criterion, also over many ranks:

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

    #: the unit of the value
    unit: ClassVar[str]
    #: whether the estimate is an upper or a lower bound, on which entropy, and under which assumption
    direction: ClassVar[str]
    #: whether a rotation of Z leaves the value unchanged
    rotation_invariant: bool
    #: whether a translation of Z leaves the value unchanged
    translation_invariant: bool = True
    #: the effect of the scale of Z: the value "grows" with it, is "invariant", or is largest at one scale ("target")
    scaling: Literal["grows", "invariant", "target"] = "grows"
    #: whether each call in training draws new random numbers
    is_random: ClassVar[bool] = False
    #: order of the cost of value and gradient, N = batch, D = dim
    cost: ClassVar[str]
    #: name of the module in `kernels` with the fused implementation of this entropy; "" if there is none
    fused: ClassVar[str] = ""
    #: how the embeddings are normalized before their entropy is computed
    normalize: Normalization = None

    @property
    @abstractmethod
    def default_weights(self) -> BoundWeights:
        """The weights of invariance and entropy that VICRegEntropy uses by default."""

    @abstractmethod
    def entropy(self, z: Tensor) -> Tensor:
        """The entropy of each group of samples, by its definition: `[..., batch, dim] -> [...]`."""

    def constants(self) -> list[Weight] | None:
        """The constants of the fused implementation, in order. The reference runs if this is None or if one is a tensor."""
        return []

    def draw(self) -> int | Tensor | None:
        """The number of the current draw of a random estimator, counted up in training; None for other estimators."""
        return None

    def mean_entropy(self, views: Sequence[Tensor]) -> Tensor:
        """The mean entropy of the views, by the reference implementation: V x [batch, ..., dim] -> []."""
        with full_precision(views[0]):
            return torch.stack([self.entropy(normalized(samples(z), self.normalize)).mean() for z in views]).mean()

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        # a subclass or mixin that redefines the entropy must not inherit the fused implementation of the old entropy
        definitions = {"entropy", "mean_entropy", "variances", "fused"}
        first = next(base for base in cls.__mro__ if definitions & vars(base).keys())
        if "fused" not in vars(first):
            cls.fused = ""

    def warn_if_saturated(self, parts: Tensor) -> None:
        """Warn if the estimate has no gradient or only rounding errors; `parts` [k] are from the fused implementation."""

    def forward(self, z: Tensor) -> Tensor:
        """The entropy of the batch of this process, averaged over its groups: `[batch, ..., dim] -> []`.

        For the batch of all ranks use EntropyRegularizer or `functional.global_entropy`. In a subclass override `entropy`
        instead, because criteria do not call this method.
        """
        check_views([z])
        constants = self.constants()
        if kernels is None or not kernels.is_fused(self.fused, constants, z):
            return self.mean_entropy([z])
        assert kernels is not None and constants is not None
        # `loss` returns -weight * entropy, which is the entropy if the weight is -1
        entropy: Tensor
        entropy, terms = kernels.loss([z], self.fused, constants, (-1.0,), normalize=self.normalize, draw=self.draw())
        self.warn_if_saturated(terms[2:])
        return entropy


class NormalizingEstimator(EntropyEstimator):
    """Base of estimators with an argument `normalize`, on which their invariances depend."""

    checks: ClassVar[dict[str, Check]] = {"normalize": check_normalization}

    @property
    def rotation_invariant(self) -> bool:  # type: ignore[override]
        """Whether a rotation of Z leaves the value unchanged: not if columns are normalized."""
        return self.normalize in (None, "rows")

    @property
    def translation_invariant(self) -> bool:  # type: ignore[override]
        """Whether a translation of Z leaves the value unchanged: not for unit vectors or uncentred columns."""
        return self.normalize in (None, "columns")

    @property
    def scaling(self) -> Literal["grows", "invariant"]:  # type: ignore[override]
        """The effect of the scale of Z: "invariant" if normalized, otherwise "grows"."""
        return "grows" if self.normalize is None else "invariant"


class SaturationWarning:
    """Warns once, when the values of an estimate leave the range in which it can be trusted."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._calls = 0
        self._warned = False

    def warn_if_saturated(self, values: Sequence[Tensor], *, above: float) -> None:
        """Warn if every number of the tensors `values` is finite and larger than `above`."""
        # under a compiler or torch.func, tensors have no values that Python can read
        if self._warned or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return
        self._calls += 1
        if self._may_wait_for(values[0]) and above < _smallest(values) < math.inf:
            self._warned = True
            warnings.warn(self._message, stacklevel=2)

    def _may_wait_for(self, value: Tensor) -> bool:
        if not value.is_cuda:
            return value.device.type == "cpu" and type(value) is Tensor
        # reading a value makes the host wait for the GPU, so read only at calls 1, 2, 4, 8, ...
        return self._calls & (self._calls - 1) == 0 and not torch.cuda.is_current_stream_capturing()


def _smallest(values: Sequence[Tensor]) -> float:
    return min((number for value in values for number in value.detach().flatten().tolist()), default=0.0)
