"""VICReg's columns of the largest variances, whose products among themselves are summed in float64.

Where a few dominant features are decorrelated, their covariances are all rounding, eps times a variance, and push them with
that times their size: more than what the definition asks of every other feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from it_losses.kernels.blocks import accumulation_dtype, may_be_read

#: columns that are taken apart below some batch, and from there on: with a row of sums their products have 8 or 16 rows, a few
#: percent of all
FEW_APART, APART_BATCH, APART = 7, 512, 15
#: columns that the Triton kernels may take apart: the smallest side of a product on a GPU
LINES = 16
#: columns of which all are taken apart on the D x D side of a CPU
FEW_COLUMNS = 3
#: times the smallest variance, from which on a CPU the largest is dominant: below, rounding is a few eps of the gradient
DOMINANT = 16.0


def columns_apart(batch: int) -> int:
    """How many columns the N x N side takes apart, and the D x D side unless it has fewer."""
    return APART if batch >= APART_BATCH else min(FEW_APART, batch)


def largest(variance: Tensor, batch: int) -> Tensor:
    """Places of the columns to take apart: [V groups, dim] -> [V groups, k, 1]."""
    return variance.topk(min(columns_apart(batch), variance.shape[1]), dim=1).indices[:, :, None]


def columns(views: Sequence[Tensor], places: Tensor) -> Tensor:
    """Columns of each view: V x [groups, batch, dim], [V groups, k, 1] -> [V groups, k, batch], in the dtype of sums."""
    parts = places.expand(-1, -1, views[0].shape[1]).chunk(len(views))
    found = torch.cat([z.mT.gather(1, place) for z, place in zip(views, parts, strict=True)])
    return found.to(accumulation_dtype(found.dtype))


def centred_columns(views: Sequence[Tensor], places: Tensor) -> Tensor:
    """Columns of each view less their means, in float64: [V groups, k, batch]."""
    lines = columns(views, places).double()
    return lines.sub_(lines.mean(dim=2, keepdim=True))


def products_among(lines: Tensor) -> Tensor:
    """Products of lines, off the diagonal: [V groups, k, batch] -> [V groups, k, k]."""
    among = torch.bmm(lines, lines.mT)
    among.diagonal(dim1=1, dim2=2).zero_()
    return among


def write_among_(matrix: Tensor, views: Sequence[Tensor], variance: Tensor, *, scale: float) -> None:
    """`scale Zc^T Zc` off the diagonal, and 0 on it, among the columns of the largest variances, where one may dominate.

    It is written over what one large product gave: [V groups, dim, dim], contiguous; the variances are [V groups, dim].
    """
    if not may_dominate(variance):
        return
    places = largest(variance, views[0].shape[1])
    among = products_among(centred_columns(views, places)).mul_(scale).to(matrix.dtype)
    elements = torch.add(places.mT, places, alpha=variance.shape[1])
    matrix.view(len(matrix), -1).scatter_(1, elements.flatten(1), among.flatten(1))


def may_dominate(variance: Tensor) -> bool:
    """Whether any column may be dominant, as far as the host can tell, and its products are not summed in float64 anyway.

    So few columns have so few covariances that nothing outweighs the rounding of one.
    """
    if variance.dtype == torch.float64:
        return False
    if variance.shape[1] <= FEW_COLUMNS or not may_be_read(variance):
        return True
    low, high = torch.aminmax(variance)
    return float(high) > DOMINANT * float(low)
