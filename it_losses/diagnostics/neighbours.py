"""An estimate of entropy in nats from the distances to nearest neighbours, by Kozachenko and Leonenko."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from it_losses.checks import check_flag
from it_losses.diagnostics.entropies import CHUNK
from it_losses.diagnostics.inputs import Batches
from it_losses.diagnostics.moments import all_rows


@torch.no_grad()
def nearest_neighbour_entropy(z: Batches, *, on_sphere: bool = False) -> Tensor:
    """The entropy of Z in nats, from the distance of each row to the nearest other row: [batch, dim] -> [].

        psi(batch) - psi(1) + log V_dim + dim * mean_i log rho_i,   log V_dim = dim/2 log pi - log Gamma(dim/2 + 1)

    psi is the digamma function and V_dim the volume of the unit ball. With `on_sphere` the rows are divided by their norms, dim
    is replaced by `dim - 1`, and the entropy is relative to the area of the sphere. The estimate is consistent and bounds
    nothing. Its error grows with dim: do not read it as nats from 32 dimensions on, where it is 2.6 too high for 1024 rows of
    N(0, I). If two rows are equal it is -inf. Source: Kozachenko & Leonenko (1987), with psi(batch) for log(batch - 1).
    """
    z = all_rows(z)
    if check_flag("on_sphere", on_sphere):
        z = normalize(z, dim=1)
    batch, dim = len(z), z.shape[1] - on_sphere
    if batch < 2 or dim < 1:
        raise ValueError(
            f"nearest_neighbour_entropy needs at least 2 rows of {1 + on_sphere} dimensions, got {tuple(z.shape)}."
        )
    log_distance = torch.cat([_nearest_distances(z, start) for start in range(0, batch, CHUNK)]).log().mean()
    log_volume = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)
    psi_batch, psi_one = torch.special.digamma(z.new_tensor([batch, 1.0]))
    nats: Tensor = psi_batch - psi_one + log_volume + dim * log_distance
    return nats


def _nearest_distances(z: Tensor, start: int) -> Tensor:
    """The distance to the nearest other row, of CHUNK rows from start: [batch, dim] -> [CHUNK]."""
    # products of near rows would lose the digits of their distance
    distances = torch.cdist(z[start : start + CHUNK], z, compute_mode="donot_use_mm_for_euclid_dist")
    distances.diagonal(offset=start).fill_(torch.inf)
    return distances.amin(dim=1)
