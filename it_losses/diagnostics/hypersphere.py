"""Measurements of directions z / |z|: alignment, uniformity, and bounds on their entropy."""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from it_losses.checks import check_positive
from it_losses.diagnostics.entropies import CHUNK, EntropyBounds, entropy_above_one_point
from it_losses.diagnostics.inputs import Batches, check_together
from it_losses.diagnostics.moments import all_rows

#: standard deviation of the Gaussian around each direction
SPHERE_BANDWIDTH = 0.5


@torch.no_grad()
def alignment(z_a: Batches, z_b: Batches, *, power: float = 2.0) -> Tensor:
    """Alignment of two views on the unit sphere: 2 x [batch, dim] -> []. It is 0 if the views agree.

        E |u_a - u_b|^power,   u the rows divided by their norms

    Source: Wang & Isola (arXiv 2005.10242), section 4.1.
    """
    check_positive("power", power)
    z_a, z_b = all_rows(z_a), all_rows(z_b)
    if z_a.shape != z_b.shape:
        raise ValueError(f"alignment needs two views of the same shape, got {tuple(z_a.shape)} and {tuple(z_b.shape)}.")
    check_together(z_a, z_b)
    distance: Tensor = torch.linalg.vector_norm(normalize(z_a, dim=1) - normalize(z_b, dim=1), dim=1)
    return distance.pow(power).mean()


@torch.no_grad()
def uniformity(z: Batches, *, t: float = 2.0) -> Tensor:
    """Uniformity on the unit sphere: [batch, dim] -> []. It is 0 at collapse, otherwise negative.

        log E_{i != j} exp(-t |u_i - u_j|^2),   u the rows divided by their norms

    Source: Wang & Isola (arXiv 2005.10242), section 4.1.
    """
    check_positive("t", t)
    u = normalize(all_rows(z), dim=1)
    if len(u) < 2:
        raise ValueError(f"uniformity needs at least 2 rows, got {len(u)}.")
    starts = range(0, len(u), CHUNK)
    log_potential = torch.cat([_log_potential(u, start, t=t) for start in starts]).logsumexp(dim=0)
    return log_potential - math.log(len(u) * (len(u) - 1))


@torch.no_grad()
def sphere_entropy_bounds(z: Batches, *, bandwidth: float = SPHERE_BANDWIDTH) -> EntropyBounds:
    """Bounds in nats on the entropy of the directions of z, relative to a collapsed batch: [batch, dim] -> 2 x [].

        -mean_i log mean_j exp(-|u_i - u_j|^2 / (c bandwidth^2)),   u the rows divided by their norms

    c is 8 for the lower bound and 2 for the upper. Both are 0 if all rows have the same direction, and at most `log batch`. The
    bandwidth is fixed, so you can compare values of equal batch sizes.
    """
    u = normalize(all_rows(z), dim=1)
    return entropy_above_one_point(u, variance=check_positive("bandwidth", bandwidth) ** 2)


def _log_potential(u: Tensor, start: int, *, t: float) -> Tensor:
    """`log sum_{j != i} exp(-t |u_i - u_j|^2)` for the CHUNK rows i from `start` on: [batch, dim] -> [CHUNK]."""
    block = u[start : start + CHUNK]
    exponent = -t * torch.cdist(block, u).square()
    exponent.diagonal(offset=start).fill_(-torch.inf)
    return exponent.logsumexp(dim=1)
