"""Pairs of samples on a CPU, in strips. A strip has some rows i of this rank, and all columns j.

pair_sums            r_i = itself + sum_j e_ij,  e_ij = exp(-rate |x_i - x_j|^2)         [K, groups, n]
add_pair_gradient_   sum_j W_ij (x_i - x_j),  W_ij = sum_k e_kij (weight_ki + weight_kj)  [groups, n, dim]

If this rank has all rows, a strip omits the columns after its last row, by symmetry. Pairs within one image have e_ij = 0 and
lie in blocks on the diagonal. An image has one row, or one row for each view.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from it_losses.kernels.products.cpu import add_product_, centred, distance, empty_gradient, own_rows

__all__ = ["MOST_PAIRS_AT_ONCE", "add_pair_gradient_", "centred", "distance", "empty_gradient", "own_rows", "pair_sums"]

#: up to this many pairs, one call handles all views
MOST_PAIRS_AT_ONCE = 1 << 20
#: a strip has at most ROWS rows and STRIP numbers, but at least FEWEST_ROWS rows, because fewer rows are much slower
ROWS, STRIP, FEWEST_ROWS = 256, 1 << 21, 64


class Pairs(NamedTuple):
    """The samples, the rows of this rank, the rates, and values that are kept for the gradient."""

    x: Tensor  # [groups, N, dim], centred
    own: slice
    rates: float | Tensor  # one number, or [K, groups]
    norms: Tensor  # [groups, N, 1]
    image_rows: int
    #: sum_j e_ij
    sums: Tensor  # [K, groups, n]
    #: values of the first strips, for as many strips as memory allows
    kept: list[Tensor]

    @property
    def is_triangle(self) -> bool:
        """Whether this rank has all rows, so that the pair (i, j) follows from (j, i)."""
        return bool(self.own.stop - self.own.start == self.x.shape[1])

    def factors(self) -> list[float | Tensor]:
        """The K rates, each as a factor for a strip [groups, rows, cols]."""
        return [self.rates] if isinstance(self.rates, float) else list(self.rates[:, :, None, None].unbind())

    def strips(self) -> list[tuple[slice, slice]]:
        """The rows and columns of each strip."""
        groups, samples, _ = self.x.shape
        height = max(min(STRIP // (groups * samples), ROWS), FEWEST_ROWS)
        height = max(height // self.image_rows, 1) * self.image_rows
        rows = [slice(i, min(i + height, self.own.stop)) for i in range(self.own.start, self.own.stop, height)]
        return [(r, slice(0, r.stop if self.is_triangle else samples)) for r in rows]


def pair_sums(
    x: Tensor, own: slice, rates: float | Tensor, itself: float = 0.0, *, memory: int, image_rows: int = 1
) -> tuple[Tensor, Pairs]:
    """The sums of e_ij over all j of other images [K, groups, n], and the pairs for `add_pair_gradient_`.

    At most `memory` bytes of pairs are kept. `image_rows` adjacent rows belong to one image. `rates` is one number or
    [K, groups]. `itself` is added to each sum.
    """
    sums = x.new_empty(1 if isinstance(rates, float) else len(rates), len(x), own.stop - own.start)
    pairs = Pairs(x, own, rates, x.square().sum(dim=2, keepdim=True), image_rows, sums, [])
    factors, scratch = pairs.factors(), None
    for rows, cols in pairs.strips():
        memory -= len(x) * (rows.stop - rows.start) * cols.stop * x.element_size()
        if memory < 0 and scratch is None:
            scratch = _scratch(x, pairs.strips())
        known = _strip_values(pairs, rows, cols, scratch)
        for total, factor in zip(sums.unbind(), factors, strict=True):
            e = known if len(factors) == 1 else _similarities(known, pairs, rows, factor)
            torch.sum(e, dim=2, out=_rows(total, rows, own.start))
            if pairs.is_triangle and rows.start:
                total[:, : rows.start].add_(e[:, :, : rows.start].sum(dim=1))
        if scratch is None:
            pairs.kept.append(known)
    return sums + itself if itself else sums, pairs


def add_pair_gradient_(out: Tensor, pairs: Pairs, weights: Tensor) -> None:
    """Add `sum_j W_ij (x_i - x_j)` to out [groups, n, dim]; weights are [K, groups, N] or, if shared, [K, groups, 1]."""
    if weights.shape == (1, len(pairs.x), 1):
        _add_gradient_of_one_weight_(out, pairs, 2 * weights[0, :, :, None])
        return
    x, own, strips = pairs.x, pairs.own, pairs.strips()
    total = x.new_empty(len(x), own.stop - own.start, 1)
    # a single strip reuses no memory
    scratch = _scratch(x, strips) if len(strips) > 1 else None
    for rows, cols, known in _known_strips(pairs):
        w = _strip_weights(pairs, weights, rows, cols, known, _block(x, known.shape, scratch))
        torch.sum(w, dim=2, keepdim=True, out=_rows(total, rows, own.start))
        if pairs.is_triangle and rows.start:
            before = slice(0, rows.start)
            total[:, before].add_(w[:, :, before].sum(dim=1)[:, :, None])
        _subtract_product_(out, pairs, rows, cols, w, x)
    out.addcmul_(_rows(x, own), total)


def _add_gradient_of_one_weight_(out: Tensor, pairs: Pairs, weight: Tensor) -> None:
    """The gradient for `W_ij = weight e_ij`, with weight [groups, 1, 1]: its row sums are known, and W is not formed."""
    x = pairs.x * weight
    for rows, cols, known in _known_strips(pairs):
        _subtract_product_(out, pairs, rows, cols, known, x)
    out.addcmul_(_rows(x, pairs.own), pairs.sums[0, :, :, None])


def _subtract_product_(out: Tensor, pairs: Pairs, rows: slice, cols: slice, w: Tensor, x: Tensor) -> None:
    """Subtract `w x`. w is a strip of a symmetric matrix, or of its lower triangle if this rank has all rows."""
    add_product_(_rows(out, rows, pairs.own.start), w, _rows(x, cols), alpha=-1)
    if pairs.is_triangle and rows.start:
        before = slice(0, rows.start)
        add_product_(out[:, before], w[:, :, before].mT, x[:, rows], alpha=-1)


def _known_strips(pairs: Pairs) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, columns and values of each strip. Values that were not kept are computed again."""
    strips = pairs.strips()
    again = _scratch(pairs.x, strips) if len(strips) > max(len(pairs.kept), 1) else None
    for i, (rows, cols) in enumerate(strips):
        yield rows, cols, pairs.kept[i] if i < len(pairs.kept) else _strip_values(pairs, rows, cols, again)


def _rows(x: Tensor, rows: slice, start: int = 0) -> Tensor:
    """Rows of x, whose first row has the index `start`; x itself for all rows, because slicing takes time."""
    return x if rows.stop - rows.start == x.shape[1] else x[:, rows.start - start : rows.stop - start]


def _scratch(x: Tensor, strips: list[tuple[slice, slice]]) -> Tensor:
    """Memory for all strips in turn, because allocating a strip takes as long as its arithmetic."""
    return x.new_empty(len(x) * max((rows.stop - rows.start) * cols.stop for rows, cols in strips))


def _block(x: Tensor, shape: Sequence[int], scratch: Tensor | None) -> Tensor:
    """Memory of this shape, in scratch if it is given."""
    return x.new_empty(shape) if scratch is None else scratch[: math.prod(shape)].view(shape)


def _strip_values(pairs: Pairs, rows: slice, cols: slice, scratch: Tensor | None) -> Tensor:
    """e_ij of a strip if there is only one rate, else -|x_i - x_j|^2: [groups, rows, cols]."""
    x, norms, factors = pairs.x, pairs.norms, pairs.factors()
    out = _block(x, (len(x), rows.stop - rows.start, cols.stop), scratch)
    torch.add(_rows(norms, rows), _rows(norms, cols).mT, out=out)
    # pairs between the upper and the lower half of the rows are computed once, and their transpose is copied
    half = (rows.stop - rows.start) // 2 if pairs.is_triangle and rows.stop - rows.start > FEWEST_ROWS else 0
    middle = rows.start + half
    if half:
        add_product_(out[:, :half, :middle], x[:, rows.start : middle], x[:, :middle].mT, beta=-1, alpha=2)
    lower = _rows(out, slice(half, out.shape[1]))
    add_product_(lower, _rows(x, slice(middle, rows.stop)), _rows(x, cols).mT, beta=-1, alpha=2)
    if half:
        out[:, :half, middle:] = lower[:, :, rows.start : middle].mT
    # rounding may make a squared distance negative
    out.clamp_max_(0)
    return out if len(factors) > 1 else _of_other_images_(out.mul_(factors[0]).exp_(), pairs, rows)


def _strip_weights(pairs: Pairs, weights: Tensor, rows: slice, cols: slice, known: Tensor, out: Tensor) -> Tensor:
    """Write W_ij of a strip to out [groups, rows, cols]; `known` comes from `_strip_values`."""
    factors = pairs.factors()
    if len(factors) > 1:
        out.zero_()
    weights = weights.expand(-1, -1, pairs.x.shape[1])
    for weight, factor in zip(weights.unbind(), factors, strict=True):
        of_rows, of_columns = _rows(weight, rows).unsqueeze(2), _rows(weight, cols).unsqueeze(1)
        if len(factors) == 1:
            torch.add(of_rows, of_columns, out=out).mul_(known)
        else:
            out.addcmul_(_similarities(known, pairs, rows, factor), of_rows + of_columns)
    return out


def _similarities(known: Tensor, pairs: Pairs, rows: slice, factor: float | Tensor) -> Tensor:
    """e_ij = exp(factor * known_ij) of a strip, where known_ij is -|x_i - x_j|^2."""
    return _of_other_images_((known * factor).exp_(), pairs, rows)


def _of_other_images_(e: Tensor, pairs: Pairs, rows: slice) -> Tensor:
    """Set e_ij to zero within an image. In the gradient, the rounding error of e_ii could exceed the terms of other pairs."""
    if pairs.image_rows == 1:
        e.diagonal(offset=rows.start, dim1=1, dim2=2).zero_()
        return e
    images = (rows.stop - rows.start) // pairs.image_rows
    blocks = e[:, :, rows].view(len(e), images, pairs.image_rows, images, pairs.image_rows)
    blocks.diagonal(dim1=1, dim2=3).zero_()
    return e
