"""Measurements of embeddings, without gradient and in float64.

Every function takes tensors or NumPy arrays of any floating-point dtype. Tensors on a device without float64, such as MPS, are
measured on the CPU.

Functions of the covariance (`spectrum`, `gaussian_entropy`, `log_det_entropy`, `renyi_entropy`, `participation_ratio`,
`alpha_req`, `rank_me`, `spread`, `collapse_alarm`, `measure`) take a batch `[batch, dim]`, any iterable of batches, or a
`Moments` that was updated during a run. The other functions take a batch or an iterable. They keep
every row in memory, except `lidar`.
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
