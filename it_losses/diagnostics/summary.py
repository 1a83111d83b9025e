"""What to log of embeddings in one call, and the sentence that says that they have collapsed."""

from __future__ import annotations

import torch
from torch import Tensor

from it_losses.diagnostics.entropies import gaussian_entropy_of_spectrum, log_det_entropy_of_spectrum
from it_losses.diagnostics.moments import Embeddings, mean_and_variance, moments_of
from it_losses.diagnostics.rank import participation_ratio, participation_ratio_of_spectrum, rank_me, spectrum, spread


def measure(z: Embeddings, *, ridge: float = 1e-4, beta: float = 1.0) -> dict[str, float]:
    """Numbers for a log, by name: [batch, dim] -> {name: float}. Same names for a batch, an iterable and Moments."""
    if not isinstance(z, Tensor):
        z = moments_of(z)
    mean, variance = mean_and_variance(z)
    # the spectrum is what costs
    eigenvalues = spectrum(z)
    return {
        "gaussian_entropy_nats": float(gaussian_entropy_of_spectrum(eigenvalues, ridge=ridge)),
        "log_det_entropy_nats": float(log_det_entropy_of_spectrum(eigenvalues, beta=beta)),
        "rank_me": float(rank_me(z)),
        "participation_ratio": float(participation_ratio_of_spectrum(eigenvalues)),
        "spread": float(spread(z)),
        "std": float(variance.mean().sqrt()),
        "mean_norm": float(mean.norm()),
    }


@torch.no_grad()
def collapse_alarm(z: Embeddings, *, least_spread: float = 1e-3, least_rank_fraction: float = 0.01) -> str | None:
    """A sentence that names the collapse of z, or None: [batch, dim] -> str.

    Complete: `spread < least_spread`, every row is nearly the same. Dimensional: the participation ratio is below
    `least_rank_fraction` of min(batch - 1, dim), and in any case below 1.5: nearly all variance lies in few directions.
    """
    if not isinstance(z, Tensor):
        z = moments_of(z)
    count = len(z) if isinstance(z, Tensor) else z.count
    mean, variance = mean_and_variance(z)
    if count < 2:
        raise ValueError(f"a collapse needs at least 2 rows to be seen, got {count}.")
    if not variance.isfinite().all():
        return "embeddings hold NaN or inf: lower the learning rate, or look for the first bad batch."
    spread_of_rows, rank = float(spread(z)), float(participation_ratio(z))
    if spread_of_rows < least_spread:
        return f"complete collapse: only {spread_of_rows:.1e} of the squared norm is not the mean. Raise the entropy weight."
    least_rank = max(1.5, least_rank_fraction * min(count - 1, len(mean)))
    if rank < least_rank:
        return f"dimensional collapse: {rank:.2f} of {len(mean)} directions carry the variance. Raise the entropy weight."
    return None
