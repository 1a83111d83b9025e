"""Estimators of the entropy H(Z), by name. A new estimator needs a file in this folder and an entry in ESTIMATORS."""

from it_losses.entropy.base import BoundWeights, EntropyEstimator
from it_losses.entropy.koleo import KoLeo
from it_losses.entropy.log_det import LogDet
from it_losses.entropy.pairwise import Pairwise
from it_losses.entropy.quadratic import QuadraticRenyi
from it_losses.entropy.renyi import MatrixRenyi
from it_losses.entropy.sigreg import SIGReg
from it_losses.entropy.spacings import Spacings
from it_losses.entropy.variance_covariance import VarianceCovariance

#: name -> class of every entropy that a criterion accepts by name
ESTIMATORS: dict[str, type[EntropyEstimator]] = {
    "variance_covariance": VarianceCovariance,
    "log_det": LogDet,
    "pairwise": Pairwise,
    "quadratic": QuadraticRenyi,
    "renyi": MatrixRenyi,
    "sigreg": SIGReg,
    "koleo": KoLeo,
    "spacings": Spacings,
}


def estimator(entropy: str | EntropyEstimator, **options: object) -> EntropyEstimator:
    """The estimator with this name and these options; an EntropyEstimator is returned unchanged."""
    if isinstance(entropy, EntropyEstimator):
        if options:
            raise ValueError(
                f"options {sorted(options)} are allowed only with the name of an entropy. "
                f"Pass them to {type(entropy).__name__}(...)."
            )
        return entropy
    if not isinstance(entropy, str) or entropy not in ESTIMATORS:
        raise ValueError(f"entropy must be an EntropyEstimator or one of {sorted(ESTIMATORS)}, got {entropy!r}.")
    return ESTIMATORS[entropy](**options)


__all__ = [
    "ESTIMATORS",
    "BoundWeights",
    "EntropyEstimator",
    "KoLeo",
    "LogDet",
    "MatrixRenyi",
    "Pairwise",
    "QuadraticRenyi",
    "SIGReg",
    "Spacings",
    "VarianceCovariance",
    "estimator",
]
