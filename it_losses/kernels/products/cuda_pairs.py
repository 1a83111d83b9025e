"""Pairs of samples on a GPU, in strips of this rank's rows: cuBLAS computes x x^T, and Triton kernels read it.

    similarity_sums   r_i = sum_j e_ij,  e_ij = exp(-rate |x_i - x_j|^2)                    [K, groups, n]
    pair_weights      W_ij = sum_k e_kij (weight_ki + weight_kj) in the dtype of x, and its row sums

Pairs within one image have e_ij = 0 and lie in blocks on the diagonal. An image has one row, or one row for each view.
Norms are computed from the rounded x, and row sums from the rounded W, so that rounding errors cancel for near points.
Row offsets are int64, so they cannot overflow.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from it_losses.kernels.products.cuda import centred, distance, empty_gradient, largest_magnitude, product
from it_losses.kernels.products.cuda_passes import OPTIONS

__all__ = ["MOST_PAIRS_AT_ONCE", "add_pair_gradient_", "centred", "distance", "empty_gradient", "own_rows", "pair_sums"]

#: up to this many pairs, one call handles all views
MOST_PAIRS_AT_ONCE = 1 << 26
TILE_ROWS, TILE_COLS = 8, 128
#: fewest rows in a strip over all groups, even if memory is short, because fewer rows do not fill a GPU
FEWEST_ROWS = 256


class Pairs(NamedTuple):
    """The samples, the rows of this rank, the rates, and x x^T of all strips if it is kept."""

    x: Tensor  # [groups, N, dim], centred
    own: slice
    rates: Tensor  # [K, groups]
    norms: Tensor  # [groups, N]
    height: int  # of a strip
    image_rows: int
    kept: list[Tensor]  # [groups, rows, N] each

    def strips(self) -> list[slice]:
        """The rows of each strip."""
        starts = range(self.own.start, self.own.stop, self.height)
        return [slice(start, min(start + self.height, self.own.stop)) for start in starts]


def pair_sums(
    x: Tensor, own: slice, rates: float | Tensor, itself: float = 0.0, *, memory: int, image_rows: int = 1
) -> tuple[Tensor, Pairs]:
    """The sums of e_ij over all j of other images [K, groups, n], and the pairs for `add_pair_gradient_`.

    x x^T is kept if it takes at most `memory` bytes. `image_rows` adjacent rows belong to one image. `rates` is one number or
    [K, groups]. `itself` is added to each sum.
    """
    groups, samples, _ = x.shape
    if isinstance(rates, float):
        rates = x.new_full((1, groups), rates, dtype=torch.float32)
    n = own.stop - own.start
    # a strip has x x^T in float32, and weights in the dtype of x
    fits = 4 * groups * n * samples <= memory
    height = n if fits else min(max(memory // ((4 + x.element_size()) * groups * samples), FEWEST_ROWS // groups, 1), n)
    norms = torch.linalg.vector_norm(x, dim=2, dtype=torch.float32).square_()
    pairs = Pairs(x, own, rates, norms, height, image_rows, [])
    sums = norms.new_empty(len(rates), groups, n)
    for rows in pairs.strips():
        products = product(x[:, rows], x.mT)
        similarity_sums[triton.cdiv(products.shape[1], TILE_ROWS), groups, len(rates)](
            products, norms, rates, sums, rows.start, own.start, n, products.shape[1], samples, image_rows,
            TILE_ROWS=TILE_ROWS, TILE_COLS=TILE_COLS, **OPTIONS,
        )  # fmt: skip
        if fits:
            pairs.kept.append(products)
    return sums.add_(itself), pairs


def add_pair_gradient_(out: Tensor, pairs: Pairs, weights: Tensor) -> None:
    """Add `sum_j W_ij (x_i - x_j)` to out [groups, n, dim]; weights are [K, groups, N] or, if shared, [K, groups, 1]."""
    x, own = pairs.x, pairs.own
    groups, samples, _ = x.shape
    weights = weights.expand(-1, -1, samples)
    # float16 would lose small weights, so divide by the largest before rounding and multiply afterwards
    unit = largest_magnitude(weights, dim=(0, 2)) if out.dtype != x.dtype else None  # [1, groups, 1]
    weights = (weights if unit is None else weights / unit).contiguous()
    for i, rows in enumerate(pairs.strips()):
        products = pairs.kept[i] if pairs.kept else product(x[:, rows], x.mT)
        w = products.new_empty(products.shape, dtype=x.dtype)
        totals = products.new_empty(groups, products.shape[1], 1)
        pair_weights[triton.cdiv(products.shape[1], TILE_ROWS), groups](
            products, pairs.norms, pairs.rates, weights, w, totals, rows.start, products.shape[1], samples, pairs.image_rows,
            len(pairs.rates), TILE_ROWS=TILE_ROWS, TILE_COLS=TILE_COLS, **OPTIONS,
        )  # fmt: skip
        # the two terms nearly cancel, so subtract in float32
        difference = (x[:, rows] * totals).sub_(product(w, x))
        if unit is not None:
            difference.mul_(unit[0, :, :, None])
        out[:, rows.start - own.start : rows.stop - own.start].add_(difference)


def own_rows(x: Tensor, own: slice, out: Tensor | None = None) -> Tensor:
    """The rows `own` of `x x^T`: [groups, N, dim] -> [groups, n, N]."""
    return torch.bmm(x[:, own], x.mT, out=out)


@triton.jit
def similarity_sums(
    products, norms, rates, sums, first, own_start, own_rows, height, samples, image_rows,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """r_i for one rate, summed over j of other images. `products` holds x_i^T x_j for rows i = first .. first + height - 1."""
    row = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    group = tl.program_id(1).to(tl.int64)
    rate_index = tl.program_id(2) * tl.num_programs(1) + group
    own = first + row
    image = own // image_rows
    rate = tl.load(rates + rate_index)
    norm_i = tl.load(norms + group * samples + own, mask=row < height, other=0.0)
    # sum the columns after the loop, so that threads do not wait for each other
    total = tl.zeros((TILE_ROWS, TILE_COLS), tl.float32)
    for start in range(0, samples, TILE_COLS):
        col = start + tl.arange(0, TILE_COLS)
        mask = (row < height)[:, None] & (col < samples)[None, :]
        here = products + (group * height + row)[:, None] * samples + col[None, :]
        norm_j = tl.load(norms + group * samples + col, mask=col < samples, other=0.0)
        distance = norm_i[:, None] + norm_j[None, :] - 2 * tl.load(here, mask=mask, other=0.0)
        # rounding may make a squared distance negative; `where` keeps NaN
        distance = tl.where(distance < 0, 0.0, distance)
        counts = mask & (image[:, None] != (col // image_rows)[None, :])
        total += tl.where(counts, tl.exp(-rate * distance), 0.0)
    tl.store(sums + rate_index * own_rows + own - own_start, tl.sum(total, axis=1), mask=row < height)


@triton.jit
def pair_weights(
    products, norms, rates, weights, out, totals, first, height, samples, image_rows, scales,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """Write W_ij, which is 0 within an image, to out in its dtype, and the row sums to totals."""
    row = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    group = tl.program_id(1).to(tl.int64)
    groups = tl.num_programs(1)
    own = first + row
    image = own // image_rows
    norm_i = tl.load(norms + group * samples + own, mask=row < height, other=0.0)
    total = tl.zeros((TILE_ROWS, TILE_COLS), tl.float32)
    for start in range(0, samples, TILE_COLS):
        col = start + tl.arange(0, TILE_COLS)
        mask = (row < height)[:, None] & (col < samples)[None, :]
        place = (group * height + row)[:, None] * samples + col[None, :]
        norm_j = tl.load(norms + group * samples + col, mask=col < samples, other=0.0)
        distance = norm_i[:, None] + norm_j[None, :] - 2 * tl.load(products + place, mask=mask, other=0.0)
        distance = tl.where(distance < 0, 0.0, distance)
        w = tl.zeros((TILE_ROWS, TILE_COLS), tl.float32)
        for scale in range(scales):
            rate = tl.load(rates + scale * groups + group)
            group_weights = weights + (scale * groups + group) * samples
            weight_i = tl.load(group_weights + own, mask=row < height, other=0.0)
            weight_j = tl.load(group_weights + col, mask=col < samples, other=0.0)
            w += tl.exp(-rate * distance) * (weight_i[:, None] + weight_j[None, :])
        # the pair (i, i) has no gradient, but its rounding error could exceed the terms of all other pairs
        counts = mask & (image[:, None] != (col // image_rows)[None, :])
        w = tl.where(counts, w, 0.0).to(out.dtype.element_ty)
        tl.store(out + place, w, mask=mask)
        total += w.to(tl.float32)
    tl.store(totals + group * height + row, tl.sum(total, axis=1), mask=row < height)
