"""Normalize samples to unit rows or standardised columns, with the derivative of the normalization.

    rows      u = z / |z|               dL/dz = (g - u <u, g>) / |z|
    columns   u = (z - mean) / std      dL/dz = (g - mean(g) - u mean(u g)) / std,   means over the batch of all ranks

Here g = dL/du. For "uncentred_columns" neither mean(z) nor mean(g) is subtracted, and std is the root mean square. A norm
near zero is replaced by SMALLEST. A column counts as constant if its std is within the rounding error of its mean. It becomes
zero and gets no gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from it_losses.kernels.batch import Batch
from it_losses.precision import accumulated, gradient_dtype

#: a smaller norm is replaced by this number; a column with a smaller standard deviation counts as constant
SMALLEST = 1e-12
#: a column also counts as constant if its standard deviation is at most ROUNDING * eps * |mean|
ROUNDING = 16
#: function that turns dL/du [S, n, dim], the gradient of the normalized samples, into dL/dz in place
Derivative = Callable[[Tensor], Tensor]


def normalized(batch: Batch, normalization: str, *, rounded: bool) -> tuple[Batch, Derivative]:
    """The batch of normalized samples, rounded to the dtype of the gradient if `rounded`, and the Derivative."""
    z = torch.cat(batch.own)  # [S, n, dim]
    full = accumulated(z)
    u, derivative = _unit_rows(full) if normalization == "rows" else _columns(full, batch, normalization == "columns")
    u = u.to(gradient_dtype(z)) if rounded and u.dtype != gradient_dtype(z) else u
    return Batch(list(u.chunk(len(batch.own))), batch.ranks, stacked=u), derivative


def _unit_rows(z: Tensor) -> tuple[Tensor, Derivative]:
    norm = torch.linalg.vector_norm(z, dim=2, keepdim=True).clamp_min_(SMALLEST)
    u = z.div_(norm)

    def derivative(gradient: Tensor) -> Tensor:
        radial = torch.linalg.vecdot(u, gradient.to(u.dtype)).unsqueeze(2)
        # where SMALLEST replaced the norm, u is z times a constant, so no radial part is subtracted
        radial.masked_fill_(norm == SMALLEST, 0)
        return gradient.addcmul_(u, radial, value=-1).div_(norm)

    return u, derivative


def _columns(z: Tensor, batch: Batch, centre: bool) -> tuple[Tensor, Derivative]:
    ranks, samples = batch.ranks, batch.samples
    mean = ranks.summed(z.sum(dim=1, keepdim=True)) / samples
    centred = z - mean if centre else z
    std = (ranks.summed(centred.square().sum(dim=1, keepdim=True)) / samples).sqrt_()  # [S, 1, dim]
    floor = mean.abs_().mul_(ROUNDING * torch.finfo(z.dtype).eps).clamp_min_(SMALLEST)
    std.masked_fill_(std <= floor, torch.inf)
    u = centred / std

    def derivative(gradient: Tensor) -> Tensor:
        own = gradient.to(u.dtype)
        sums = torch.stack([x.sum(dim=1, keepdim=True) for x in (own, u, own * u)])
        mean, remainder, radial = ranks.summed(sums) / samples
        if not centre:
            return gradient.addcmul_(u, radial, value=-1).div_(std)
        # rounding leaves a small mean in u, which would shift all gradients equally, so remove it
        mean.addcmul_(remainder, radial, value=-1)
        return gradient.sub_(torch.addcmul(mean, u, radial)).div_(std)

    return u, derivative
