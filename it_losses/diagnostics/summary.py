"""All numbers to log for embeddings in one call, and a warning of collapse."""

from collections.abc import Mapping

import torch
from torch import Tensor

from it_losses.checks import check_positive
from it_losses.diagnostics.entropies import gaussian_entropy_of_spectrum, log_det_entropy_of_spectrum
from it_losses.diagnostics.inputs import is_batch, rows
from it_losses.diagnostics.moments import Embeddings, Moments, moments_of
from it_losses.diagnostics.rank import (
    both_spectra,
    participation_ratio,
    participation_ratio_of_spectrum,
    rank_me_of_spectrum,
    spread,
    spread_of,
)

#: collapse_alarm warns below these values
LEAST_SPREAD, LEAST_RANK_FRACTION = 1e-3, 0.01
#: with fewer directions a low rank is no sign of collapse: a random map to 3 dimensions has the participation ratio 1.5
FEWEST_DIRECTIONS = 8


@torch.no_grad()
def measure(z: Embeddings, *, ridge: float = 1e-4, beta: float = 1.0) -> dict[str, float]:
    """All numbers to log for embeddings, by name: [batch, dim] -> {name: float}.

    `gaussian_entropy_nats`, `log_det_entropy_nats`, `rank_me`, `participation_ratio` and `spread` are the functions of these
    names. `std` is the root of the mean variance of a coordinate, `norm_of_mean` the norm of the mean embedding.
    """
    ridge, beta = check_positive("ridge", ridge, or_zero=True), check_positive("beta", beta)
    z = _checked(z)
    mean = z.mean(dim=0) if isinstance(z, Tensor) else z.mean
    # the spectra cost the most, so compute them once; eigenvalues and variances have the same sum
    eigenvalues, of_second_moment = both_spectra(z)
    variance = eigenvalues.sum()
    return {
        "gaussian_entropy_nats": float(gaussian_entropy_of_spectrum(eigenvalues, ridge=ridge)),
        "log_det_entropy_nats": float(log_det_entropy_of_spectrum(eigenvalues, beta=beta)),
        "rank_me": float(rank_me_of_spectrum(of_second_moment)),
        "participation_ratio": float(participation_ratio_of_spectrum(eigenvalues)),
        "spread": float(spread_of(variance, mean)),
        "std": float((variance / len(mean)).sqrt()),
        "norm_of_mean": float(mean.norm()),
    }


@torch.no_grad()
def collapse_alarm(
    z: Embeddings, *, least_spread: float = LEAST_SPREAD, least_rank_fraction: float = LEAST_RANK_FRACTION
) -> str | None:
    """A warning if the embeddings have collapsed or are not finite, else None: [batch, dim] -> str | None.

    Complete collapse is `spread < least_spread`: all rows are nearly equal. Dimensional collapse means that nearly all variance
    lies in few directions: the participation ratio is below 1.5, or below `least_rank_fraction` of min(batch - 1, dim). It is
    not reported if min(batch - 1, dim) is below 8.
    """
    check_positive("least_spread", least_spread, or_zero=True)
    check_positive("least_rank_fraction", least_rank_fraction, or_zero=True)
    z = _checked(z)
    count, dim = z.shape if isinstance(z, Tensor) else (z.count, len(z.mean))
    measured = {"spread": float(spread(z)), "participation_ratio": float(participation_ratio(z))}
    return alarm_of(measured, count, dim, least_spread=least_spread, least_rank_fraction=least_rank_fraction)


def alarm_of(
    measured: Mapping[str, float],
    count: int,
    dim: int,
    *,
    least_spread: float = LEAST_SPREAD,
    least_rank_fraction: float = LEAST_RANK_FRACTION,
) -> str | None:
    """The result of `collapse_alarm`, from the measured `spread` and `participation_ratio` of `count` rows of width `dim`."""
    if count < 2:
        raise ValueError(f"collapse_alarm needs at least 2 rows, got {count}.")
    spread_of_rows, rank = measured["spread"], measured["participation_ratio"]
    # true for NaN only
    if spread_of_rows != spread_of_rows:
        return "embeddings contain NaN or inf. Lower the learning rate, or look for the first bad batch."
    if spread_of_rows < least_spread:
        return f"complete collapse: the variance is {spread_of_rows:.1e} of the mean squared norm. Raise the entropy weight."
    most = min(count - 1, dim)
    if most >= FEWEST_DIRECTIONS and rank < max(1.5, least_rank_fraction * most):
        return f"dimensional collapse: the participation ratio is {rank:.2f} in {dim} dimensions. Raise the entropy weight."
    return None


def _checked(z: Embeddings) -> Tensor | Moments:
    """A batch in float64, or Moments."""
    return rows(z) if is_batch(z) else moments_of(z)
