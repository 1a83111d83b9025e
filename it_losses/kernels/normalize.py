"""Unit rows or standardised columns before an objective, and their derivative after it.

    rows      u = z / |z|               dL/dz = (g - u <u, g>) / |z|
    columns   u = (z - mean) / std      dL/dz = (g - mean(g) - u mean(u g)) / std,   means over the batch of all ranks

where g = dL/du. A norm or standard deviation of zero is replaced by a tiny number, which no gradient passes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from it_losses.kernels.batch import Batch
from it_losses.kernels.dispatch import gradient_dtype
from it_losses.precision import accumulation_dtype

#: what a norm or a standard deviation is at least
SMALLEST = 1e-12
#: takes the gradient [S, n, dim] with respect to normalized samples to that with respect to the samples, in place
Derivative = Callable[[Tensor], Tensor]


def normalized(batch: Batch, normalization: str) -> tuple[Batch, Derivative]:
    """The batch of normalized samples, and the derivative of the step."""
    z = torch.cat(batch.own)  # [S, n, dim]
    full = z.to(accumulation_dtype(z.dtype))
    u, derivative = _unit_rows(full) if normalization == "rows" else _standardised_columns(full, batch)
    own = list(u.to(gradient_dtype(z)).chunk(len(batch.own)))
    return Batch(own, batch.ranks), derivative


def _unit_rows(z: Tensor) -> tuple[Tensor, Derivative]:
    norm = torch.linalg.vector_norm(z, dim=2, keepdim=True).clamp_min_(SMALLEST)
    u = z / norm

    def derivative(gradient: Tensor) -> Tensor:
        radial = torch.linalg.vecdot(u, gradient.to(u.dtype))[:, :, None]
        # where the norm was replaced, u is shorter than 1 and what is radial stays
        radial.masked_fill_(norm == SMALLEST, 0)
        return gradient.sub_(u * radial).div_(norm)

    return u, derivative


def _standardised_columns(z: Tensor, batch: Batch) -> tuple[Tensor, Derivative]:
    ranks, samples = batch.ranks, batch.samples
    centred = z - ranks.summed(z.sum(dim=1, keepdim=True))() / samples
    variance = ranks.summed(centred.square().sum(dim=1, keepdim=True))() / samples
    std = variance.sqrt_().clamp_min_(SMALLEST)  # [S, 1, dim]
    u = centred / std

    def derivative(gradient: Tensor) -> Tensor:
        own = gradient.to(u.dtype)
        sums = torch.cat((own.sum(dim=1, keepdim=True), (own * u).sum(dim=1, keepdim=True)), dim=1)
        mean, radial = (ranks.summed(sums)() / samples).chunk(2, dim=1)
        radial = radial.masked_fill(std == SMALLEST, 0)
        return gradient.sub_(mean).sub_(u * radial).div_(std)

    return u, derivative
