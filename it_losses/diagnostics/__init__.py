"""What a run measures of its embeddings: no gradient, float64 inside, one number or vector each.

Every function takes tensors or NumPy arrays of any floating-point dtype. What lies on a device without float64, such as MPS,
is measured on the CPU.

Functions of the covariance (`spectrum`, `gaussian_entropy`, `log_det_entropy`, `participation_ratio`, `alpha_req`, `rank_me`,
`spread`, `collapse_alarm`, `measure`) take a batch `[batch, dim]`, any iterable of batches, or a `Moments` that was filled
while the run went on. Functions of all pairs take a batch or an iterable, of which they keep every row.
"""

from it_losses.diagnostics.entropies import EntropyBounds, gaussian_entropy, log_det_entropy, pairwise_entropy_bounds
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
    "measure",
    "pairwise_entropy_bounds",
    "participation_ratio",
    "rank_me",
    "spectrum",
    "sphere_entropy_bounds",
    "spread",
    "uniformity",
]
