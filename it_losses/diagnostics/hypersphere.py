"""Alignment and uniformity on the unit sphere (Wang & Isola): views close, everything else far apart."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from it_losses.diagnostics.entropies import CHUNK
from it_losses.diagnostics.moments import all_rows


@torch.no_grad()
def alignment(z_a: Tensor | Iterable[Tensor], z_b: Tensor | Iterable[Tensor], *, power: float = 2.0) -> Tensor:
    """`E |u_a - u_b|^power`, u the rows divided by their norms: 2 x [batch, dim] -> [], 0 where the views agree.

    Source: Wang & Isola (arXiv 2005.10242), section 4.1.
    """
    z_a, z_b = all_rows(z_a), all_rows(z_b)
    if z_a.shape != z_b.shape:
        raise ValueError(f"alignment needs two views of one shape, got {tuple(z_a.shape)} and {tuple(z_b.shape)}.")
    distance: Tensor = torch.linalg.vector_norm(normalize(z_a, dim=1) - normalize(z_b, dim=1), dim=1)
    return distance.pow(power).mean()


@torch.no_grad()
def uniformity(z: Tensor | Iterable[Tensor], *, t: float = 2.0) -> Tensor:
    """`log E_{i != j} exp(-t |u_i - u_j|^2)`, u the rows divided by their norms: [batch, dim] -> [], 0 at collapse.

    Source: Wang & Isola (arXiv 2005.10242), section 4.1.
    """
    u = normalize(all_rows(z), dim=1)
    if len(u) < 2:
        raise ValueError(f"uniformity needs at least 2 rows, got {len(u)}.")
    starts = range(0, len(u), CHUNK)
    log_potential = torch.cat([_log_potential(u, start, t=t) for start in starts]).logsumexp(dim=0)
    return log_potential - math.log(len(u) * (len(u) - 1))


def _log_potential(u: Tensor, start: int, *, t: float) -> Tensor:
    """`log sum_{j != i} exp(-t |u_i - u_j|^2)` of CHUNK rows i from start: [batch, dim] -> [CHUNK]."""
    block = u[start : start + CHUNK]
    exponent = -t * torch.cdist(block, u).square()
    exponent.diagonal(offset=start).fill_(-torch.inf)
    return exponent.logsumexp(dim=1)
