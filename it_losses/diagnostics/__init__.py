"""Measurements of embeddings, in float64 and without gradients.

Every function takes tensors or NumPy arrays of any floating-point dtype: one batch, or an iterable of batches. Tensors on a
device without float64, such as MPS, are measured on the CPU.

Some functions need only the mean and the covariance: `spectrum`, `gaussian_entropy`, `log_det_entropy`, `renyi_entropy`,
`participation_ratio`, `alpha_req`, `rank_me`, `spread`, `collapse_alarm` and `measure`. They also take a `Moments` object.
The other functions, except `lidar`, keep all rows in memory.
"""

from it_losses.diagnostics.entropies import (
    EntropyBounds,
    gaussian_entropy,
    log_det_entropy,
    marginal_entropies,
    nearest_neighbour_entropy,
    pairwise_entropy_bounds,
    quadratic_entropy,
    renyi_entropy,
    sigreg_statistic,
)
from it_losses.diagnostics.hypersphere import alignment, sphere_entropy_bounds, uniformity
from it_losses.diagnostics.moments import Moments
from it_losses.diagnostics.rank import alpha_req, lidar, participation_ratio, rank_me, spectrum, spread
from it_losses.diagnostics.summary import collapse_alarm, measure

__all__ = [
    "EntropyBounds",
    "Moments",
    "alignment",
    "alpha_req",
    "collapse_alarm",
    "gaussian_entropy",
    "lidar",
    "log_det_entropy",
    "marginal_entropies",
    "measure",
    "nearest_neighbour_entropy",
    "pairwise_entropy_bounds",
    "participation_ratio",
    "quadratic_entropy",
    "rank_me",
    "renyi_entropy",
    "sigreg_statistic",
    "spectrum",
    "sphere_entropy_bounds",
    "spread",
    "uniformity",
]
