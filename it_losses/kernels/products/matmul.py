"""Matrix products on a CPU: written through the strides of their result, symmetric ones in strips of the lower triangle."""

from __future__ import annotations

import torch
from torch import Tensor

#: rows from which a strip of a symmetric product runs at the full speed of the matrix library
STRIP_SIDE = 128
#: multiplications from which a product is worth a call of its own, and below which torch has a plain loop for a batch of them
LARGE_PRODUCT, TINY_PRODUCT = 1 << 24, 400


def add_product_(out: Tensor, a: Tensor, b: Tensor, *, alpha: float = 1, beta: float = 1) -> None:
    """`out = beta out + alpha a b`: [S, n, k] x [S, k, m] -> [S, n, m]."""
    smallest = TINY_PRODUCT if len(out) == 1 else 0
    if smallest <= out[0].numel() * a.shape[2] < LARGE_PRODUCT:
        out.baddbmm_(a, b, alpha=alpha, beta=beta)
        return
    # large products run faster one by one than in a batch, and a tiny one in a batch is summed term by term
    for result, left, right in zip(out, a, b, strict=True):
        result.addmm_(left, right, alpha=alpha, beta=beta)


def own_rows(x: Tensor, own: slice) -> Tensor:
    """`x_own x^T`: [S, N, k] -> [S, n, N]."""
    if x.shape[1] < 2 * STRIP_SIDE and TINY_PRODUCT <= x[0].numel() * x.shape[1] < LARGE_PRODUCT:
        return torch.bmm(x[:, own], x.mT)
    out = x.new_empty(len(x), own.stop - own.start, x.shape[1])
    add_own_rows_(out, x, own, fresh=True)
    mirror_(out, own)
    return out


def add_own_rows_(out: Tensor, x: Tensor, own: slice, *, fresh: bool) -> None:
    """`out += x_own x^T`, or `=` where fresh; of all rows the lower triangle, which `mirror_` completes: [S, n, N]."""
    side, beta = x.shape[1], 0.0 if fresh else 1.0
    strip = _strip(side)
    if own.stop - own.start < side or strip == side:
        add_product_(out, x[:, own], x.mT, beta=beta)
        return
    for result, factor in zip(out, x, strict=True):
        for start in range(0, side, strip):
            stop = min(start + strip, side)
            result[start:stop, :stop].addmm_(factor[start:stop], factor[:stop].mT, beta=beta)


def mirror_(out: Tensor, own: slice) -> None:
    """The upper triangle of what `add_own_rows_` wrote in strips."""
    side = out.shape[-1]
    strip = _strip(side) if own.stop - own.start == side else side
    for start in range(strip, side, strip):
        stop = min(start + strip, side)
        out[:, :start, start:stop] = out[:, start:stop, :start].mT


def _strip(side: int) -> int:
    """Rows of a strip: with 4 strips, 5/8 of the products of the full square."""
    return -(-side // min(side // STRIP_SIDE, 8)) if side >= 2 * STRIP_SIDE else side
