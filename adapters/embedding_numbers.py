"""The numbers that are logged for the embeddings of a step: entropies, ranks, spread, and the collapse alarm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from it_losses import diagnostics
from it_losses.diagnostics.inputs import rows as in_float64
from it_losses.diagnostics.summary import alarm_of


def numbers(views: Sequence[Tensor], *, beta: float = 1.0) -> tuple[dict[str, float], str | None]:
    """Numbers by name, averaged over the views, and an alarm or None: V x [rows, dim] -> ({name: float}, alarm).

    Each view is measured by itself, as criteria do, because rows of two views may belong to the same image.
    """
    each = [_numbers_of_view(z, beta) for z in views]
    alarms = [alarm_of(found, len(z), z.shape[1]) for found, z in zip(each, views, strict=True)]
    means = {name: sum(found[name] for found in each) / len(each) for name in each[0]}
    return means, next((alarm for alarm in alarms if alarm is not None), None)


def _numbers_of_view(z: Tensor, beta: float) -> dict[str, float]:
    # converted once for both functions below
    z = in_float64(z)
    bounds = diagnostics.sphere_entropy_bounds(z)
    return diagnostics.measure(z, beta=beta) | {
        "pairwise_lower_nats": float(bounds.lower),
        "pairwise_upper_nats": float(bounds.upper),
    }


def mean_spectrum(views: Sequence[Tensor]) -> Tensor:
    """Eigenvalues of the covariance, largest first, averaged over the views: V x [rows, dim] -> [dim]."""
    return torch.stack([diagnostics.spectrum(z) for z in views]).mean(dim=0)
