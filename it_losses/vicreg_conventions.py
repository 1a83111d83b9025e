"""What "VICReg (25, 25, 1)" means in five published codes, as weights of the authors' code.

The authors' code minimises, for two views,

    invariance * mean (z_a - z_b)^2 + variance * (hinge_a + hinge_b) / 2 + covariance * (energy_a + energy_b)

with `hinge = mean_j max(0, 1 - std_j)` and `energy = sum_{i != j} Cov_ij^2 / dim`. Every other convention is the same three
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
    # VICRegL averages the energies of the views
    return weights._replace(covariance=weights.covariance / 2)


def _eb_jepa(weights: VICRegWeights, dim: int) -> VICRegWeights:
    # eb_jepa adds the hinges, and averages squared covariances over the dim (dim - 1) pairs
    return VICRegWeights(weights.invariance, 2 * weights.variance, weights.covariance / max(dim - 1, 1))


def _paper(weights: VICRegWeights, dim: int) -> VICRegWeights:
    # in print, squared distances are summed over dimensions, and hinge terms over views
    return VICRegWeights(dim * weights.invariance, 2 * weights.variance, weights.covariance)


#: name -> function that converts weights of that convention into weights of the authors' code
CONVENTIONS: dict[str, Callable[[VICRegWeights, int], VICRegWeights]] = {
    "official": _official,
    "solo-learn": _solo_learn,
    "vicregl": _vicregl,
    "eb_jepa": _eb_jepa,
    "paper": _paper,
}


def check_convention(convention: str) -> str:
    """The name; ValueError unless it is a known convention."""
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {list(CONVENTIONS)}, got {convention!r}.")
    return convention


def official_weights(weights: VICRegWeights, *, dim: int, convention: str) -> VICRegWeights:
    """The weights for which the authors' loss equals the loss of that convention."""
    return CONVENTIONS[check_convention(convention)](weights, dim)
