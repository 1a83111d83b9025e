"""What to log of embeddings in one call, and the sentence that says that they have collapsed."""

from __future__ import annotations

import torch

from it_losses.diagnostics.entropies import gaussian_entropy, log_det_entropy
from it_losses.diagnostics.moments import Embeddings, moments_of
from it_losses.diagnostics.rank import participation_ratio, rank_me, spread


def measure(z: Embeddings, *, ridge: float = 1e-4, beta: float = 1.0) -> dict[str, float]:
    """Numbers for a log, by name: [batch, dim] -> {name: float}. Same names for a batch, an iterable and Moments."""
    moments = moments_of(z)
    return {
        "gaussian_entropy_nats": float(gaussian_entropy(moments, ridge=ridge)),
        "log_det_entropy_nats": float(log_det_entropy(moments, beta=beta)),
        "rank_me": float(rank_me(moments)),
        "participation_ratio": float(participation_ratio(moments)),
        "spread": float(spread(moments)),
        "std": float(moments.covariance.diagonal().mean().sqrt()),
        "mean_norm": float(moments.mean.norm()),
    }


@torch.no_grad()
def collapse_alarm(z: Embeddings, *, least_spread: float = 1e-3, least_rank_fraction: float = 0.01) -> str | None:
    """A sentence that names the collapse of z, or None: [batch, dim] -> str.

    Complete: `spread < least_spread`, every row is nearly the same. Dimensional: the participation ratio is below
    `least_rank_fraction` of min(batch - 1, dim), and in any case below 1.5: nearly all variance lies in few directions.
    """
    moments = moments_of(z)
    if moments.count < 2:
        raise ValueError(f"a collapse needs at least 2 rows to be seen, got {moments.count}.")
    if not moments.covariance.isfinite().all():
        return "embeddings hold NaN or inf: lower the learning rate, or look for the first bad batch."
    spread_of_rows, rank = float(spread(moments)), float(participation_ratio(moments))
    if spread_of_rows < least_spread:
        return f"complete collapse: only {spread_of_rows:.1e} of the squared norm is not the mean. Raise the entropy weight."
    least_rank = max(1.5, least_rank_fraction * min(moments.count - 1, len(moments.mean)))
    if rank < least_rank:
        return (
            f"dimensional collapse: {rank:.2f} of {len(moments.mean)} directions carry the variance. Raise the entropy weight."
        )
    return None
