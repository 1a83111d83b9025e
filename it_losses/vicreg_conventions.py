"""What "VICReg (25, 25, 1)" means in five published sources, as weights of the authors' code.

For two views, the authors' code minimises

    invariance * mean (z_a - z_b)^2 + variance * (hinge_a + hinge_b) / 2 + covariance * (penalty_a + penalty_b)

with `hinge = mean_j max(0, 1 - std_j)` and `penalty = sum_{i != j} Cov_ij^2 / dim`. The other sources minimise the same three
terms with other weights.
"""

from collections.abc import Callable
from typing import NamedTuple


class VICRegWeights(NamedTuple):
    """Weights of VICReg's three terms."""

    invariance: float
    variance: float
    covariance: float


def _official(weights: VICRegWeights, dim: int) -> VICRegWeights:
    return weights


def _solo_learn(weights: VICRegWeights, dim: int) -> VICRegWeights:
    # solo-learn adds the hinges of the views
    return weights._replace(variance=2 * weights.variance)


def _vicregl(weights: VICRegWeights, dim: int) -> VICRegWeights:
    # VICRegL averages the penalties of the views
    return weights._replace(covariance=weights.covariance / 2)


def _eb_jepa(weights: VICRegWeights, dim: int) -> VICRegWeights:
    # eb_jepa adds the hinges, and takes the mean of the dim (dim - 1) squared covariances of a view
    return VICRegWeights(weights.invariance, 2 * weights.variance, weights.covariance / max(dim - 1, 1))


def _paper(weights: VICRegWeights, dim: int) -> VICRegWeights:
    # the paper sums squared distances over dimensions, and hinges over views
    return VICRegWeights(dim * weights.invariance, 2 * weights.variance, weights.covariance)


#: name -> function from weights of this convention to weights of the authors' code
CONVENTIONS: dict[str, Callable[[VICRegWeights, int], VICRegWeights]] = {
    "official": _official,
    "solo-learn": _solo_learn,
    "vicregl": _vicregl,
    "eb_jepa": _eb_jepa,
    "paper": _paper,
}


def check_convention(convention: str) -> str:
    """The name of the convention; ValueError if it is unknown."""
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {list(CONVENTIONS)}, got {convention!r}.")
    return convention


def official_weights(weights: VICRegWeights, *, dim: int, convention: str) -> VICRegWeights:
    """The weights with which the authors' code gives the loss of this convention."""
    return CONVENTIONS[check_convention(convention)](weights, dim)
