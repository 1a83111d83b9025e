"""Matrix operations on a CPU, block by block. Blocks fit in the cache, and large inputs are never centred as a whole.

Shapes are explained in `products`. Samples are centred as `(z - origin) - shift` with an origin near them, so that a large mean
is not rounded. A small input is centred once and kept. A block of a large input is centred again at each use.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from it_losses.kernels.batch import Batch
from it_losses.kernels.products.cholesky import jitter
from it_losses.precision import accumulated, accumulation_dtype, gradient_dtype

#: fewest rows of a strip of a symmetric product; fewer would be slower
STRIP_SIDE = 128
#: from this many multiplications on, matrix products are faster one by one than with bmm
LARGE_PRODUCT = 1 << 24
#: below this many multiplications, bmm for S = 1 adds the terms one by one, which loses digits
TINY_PRODUCT = 400
#: numbers in a block (twice as many for S > 1), and the most numbers of an input that is centred once and kept
BLOCK, KEPT = 1 << 18, 1 << 19
#: rows added to a matrix whose side is a multiple of 64, because LAPACK is four times slower for such strides
PADDING = 8
EVERYTHING = slice(None)


class Centred(NamedTuple):
    """Samples V x [groups, N or n, dim], and either the centred samples, or the means with which a block is centred."""

    views: list[Tensor]
    kept: Tensor | None = None  # [S, N or n, dim]
    #: a centred block is `(z - origin) - shift`; [S, 1, dim] each
    origin: Tensor | None = None
    shift: Tensor | None = None


def gram(batch: Batch, *, squares: bool = False, centre: bool = True) -> tuple[Tensor, Tensor | None, Centred]:
    """The rows of `Zc Zc^T` for this rank [S, n, N], squared column norms of Zc [S, 1, dim] if `squares`, and Zc."""
    views, own = [batch.all_samples(v) for v in range(len(batch.own))], batch.ranks.own
    if batch.stacks * batch.samples * batch.dim <= KEPT:
        zc = centred(views, centre=centre)
        return own_rows(zc, own), zc.square().sum(dim=1, keepdim=True) if squares else None, Centred(views, kept=zc)
    origin = torch.cat([z[:, :1] for z in views]).to(accumulation_dtype(views[0].dtype)).mul_(float(centre))
    shift, norms = torch.zeros_like(origin), torch.empty_like(origin)
    out = origin.new_empty(len(origin), own.stop - own.start, batch.samples)
    columns = _blocks(batch.dim, batch.samples, len(origin))
    scratch = _scratch(columns, batch.samples, origin)
    squared = torch.empty_like(scratch) if squares else scratch
    for cols in columns:
        zc = _less_origin(views, origin, EVERYTHING, cols, scratch)
        if centre:
            torch.mean(zc, dim=1, keepdim=True, out=shift[:, :, cols])
            zc.sub_(shift[:, :, cols])
        if squares:
            torch.sum(torch.mul(zc, zc, out=squared[: zc.numel()].view(zc.shape)), dim=1, keepdim=True, out=norms[:, :, cols])
        add_own_rows_(out, zc, own, fresh=cols.start == 0)
    mirror_(out, own)
    return out, norms if squares else None, Centred(views, origin=origin, shift=shift)


def covariance(batch: Batch, *, squares: bool = False, centre: bool = True) -> tuple[Tensor, Tensor | None, Centred]:
    """`Zc^T Zc` of all ranks [S, dim, dim], squared column norms of Zc [S, 1, dim] if `squares`, and this rank's Zc."""
    views, ranks, whole, n = batch.own, batch.ranks, slice(0, batch.dim), batch.own[0].shape[1]
    if batch.is_whole and batch.stacks * n * batch.dim <= KEPT:
        zc = centred(views, centre=centre)
        norms = zc.square().sum(dim=1, keepdim=True) if squares else None
        return own_rows(zc.mT, whole), norms, Centred(views, kept=zc)
    sums = torch.cat([z.sum(dim=1, keepdim=True, dtype=accumulation_dtype(z.dtype)) for z in views])
    origin = ranks.summed(sums.mul_(float(centre))) / batch.samples
    out = origin.new_empty(len(origin), batch.dim, batch.dim)
    remainder, norms = torch.zeros_like(origin), torch.zeros_like(origin)
    parts = _blocks(n, batch.dim, len(origin))
    scratch = _scratch(parts, batch.dim, origin)
    for rows in parts:
        zc = _less_origin(views, origin, rows, EVERYTHING, scratch)
        # the sum of zc is the rounding error of the mean, which the gradient subtracts
        remainder.add_(zc.sum(dim=1, keepdim=True), alpha=float(centre))
        add_own_rows_(out, zc.mT, whole, fresh=rows.start == 0)
        if squares:
            # not from the diagonal of the product, whose running sums lose digits
            norms.add_(zc.square_().sum(dim=1, keepdim=True))
    mirror_(out, whole)
    if not batch.is_whole:
        total = ranks.summed(torch.cat((out, remainder, norms), dim=1))
        out, remainder, norms = total[:, :-2], total[:, -2:-1], total[:, -1:]
    return out, norms if squares else None, Centred(views, origin=origin, shift=remainder / batch.samples)


def gradient(
    batch: Batch,
    centred: Centred,
    difference_weight: float | None,
    *,
    left: Tensor | None = None,
    right: Tensor | None = None,
    slope: Tensor | None = None,
    alpha: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Squared distance [], and gradient `difference_weight (Z - Z') + Zc slope + alpha (left Zc or Zc right)` [S, n, dim]."""
    own, out, distances = batch.ranks.own, empty_gradient(batch), []
    has_differences = _has_differences(batch, difference_weight)
    # beta multiplies the differences in `block`; without differences `block` is uninitialised, so beta is 0
    beta = difference_weight if has_differences and difference_weight is not None else 0.0
    for rows, cols, zc in _blocks_of(centred, by_columns=right is None):
        block = _part(out, rows, cols)
        if has_differences:
            distances.append(_differences(batch.own, rows, cols, out=block))
        factors = (cast(Tensor, left), zc) if right is None else (zc, right)
        add_product_(block, *factors, alpha=alpha, beta=beta)
        if slope is not None:
            own_zc = zc if left is None or batch.is_whole else zc[:, own]
            block.addcmul_(own_zc, _part(slope, EVERYTHING, cols))
    return _sum(distances, out), out


def distance(batch: Batch, difference_weight: float | None, out: Tensor | None = None) -> Tensor:
    """Squared distance of this rank's views []. If `out` is given, write `difference_weight (Z - Z')` [S, n, dim] to it."""
    if not _has_differences(batch, difference_weight):
        return batch.own[0].new_zeros((), dtype=gradient_dtype(batch.own[0])) if out is None else _sum([], out.zero_())
    if out is not None:
        total = _differences(batch.own, EVERYTHING, EVERYTHING, out=out)
        out.mul_(cast(float, difference_weight))
        return total
    parts = _blocks(batch.own[0].shape[1], batch.dim, batch.stacks)
    scratch = batch.own[0].new_empty(batch.stacks, parts[0].stop, batch.dim, dtype=gradient_dtype(batch.own[0]))
    return _sum([_differences(batch.own, p, EVERYTHING, out=scratch[:, : p.stop - p.start]) for p in parts], scratch)


def empty_gradient(batch: Batch) -> Tensor:
    """Memory for the gradient of this rank's samples: [S, n, dim]."""
    z = batch.own[0]
    return z.new_empty(batch.stacks, z.shape[1], batch.dim, dtype=accumulation_dtype(z.dtype))


def factorize_(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `cholesky.factorize_`, with fewer operators if the jitter is zero, which a CPU can test without waiting."""
    side = gram.shape[1]
    diagonal = gram.diagonal(dim1=1, dim2=2)
    largest = diagonal.amax()
    # no jitter up to 0.5, and none for NaN, where the factorization fails anyway
    if largest.item() * side * 8 * torch.finfo(gram.dtype).eps > 0.5:
        identity = jitter(gram, diagonal.amax(dim=1)).add_(1)
        diagonal.add_(identity[:, None])
    else:
        identity = torch.ones_like(largest)
        diagonal.add_(1)
    factor, failed = torch.linalg.cholesky_ex(_padded(gram))
    if failed.any():
        factor.diagonal(dim1=1, dim2=2).masked_fill_((failed != 0)[:, None], torch.nan)
    return factor[:, :side, :side], identity, largest


def inverse(factor: Tensor) -> Tensor:
    """`(factor factor^T)^-1`: [S, side, side]."""
    return torch.cholesky_inverse(factor)


def solve(right: Tensor, factor: Tensor) -> Tensor:
    """`(factor factor^T)^-1 right`, the same `right` for each factor: [side, n], [S, side, side] -> [S, side, n]."""
    return torch.cholesky_solve(right.expand(len(factor), -1, -1), factor)


def squared_norm(x: Tensor) -> Tensor:
    """The sum of all squares []. For large x it is summed row by row: one running sum in float32 would lose four digits."""
    return x.square().sum() if x.numel() <= KEPT else torch.linalg.vector_norm(x, dim=-1).square_().sum()


def centred(views: list[Tensor], *, centre: bool = True) -> Tensor:
    """All views in one tensor, centred if `centre`: V x [groups, N, dim] -> [S, N, dim]."""
    zc = accumulated(views[0] if len(views) == 1 else torch.cat(views))
    if not centre:
        return zc
    # subtract a sample first, so that a large mean is not rounded, and equal samples become exactly zero
    zc = zc - zc[:, :1]
    return zc.sub_(zc.sum(dim=1, keepdim=True), alpha=1 / zc.shape[1])


def _has_differences(batch: Batch, difference_weight: float | None) -> bool:
    """Whether the loss has a distance, and there are two views or more."""
    return difference_weight is not None and len(batch.own) > 1


def _sum(parts: list[Tensor], like: Tensor) -> Tensor:
    """The sum of a list of scalars, which may be empty: []."""
    if len(parts) < 2:
        return parts[0] if parts else like.new_zeros(())
    return torch.stack(parts).sum()


def _differences(views: Sequence[Tensor], rows: slice, cols: slice, *, out: Tensor) -> Tensor:
    """Write `Z - Z'` to out (`2 (Z - mean view)` for more views). Return the squared distance []; its gradient is 2 out."""
    blocks = [_part(z, rows, cols) for z in views]
    if views[0].dtype != out.dtype:
        blocks = [z.to(out.dtype) for z in blocks]
    if len(views) == 2:
        difference, opposite = out.chunk(2)
        torch.sub(*blocks, out=difference)
        torch.neg(difference, out=opposite)
        return squared_norm(difference)
    mean = sum(blocks[1:], blocks[0]) / len(blocks)
    for part, z in zip(out.chunk(len(views)), blocks, strict=True):
        torch.sub(z, mean, out=part)
    out.mul_(2)
    return squared_norm(out).div_(2)


def _blocks(length: int, width: int, stacks: int) -> list[slice]:
    """Slices of nearly equal size that cover range(length). A block of size x width x stacks numbers fits in the cache."""
    fitting = max(BLOCK * min(stacks, 2) // max(width * stacks, 1), 64)
    # integer arithmetic, because sizes are tensors in torch.jit.trace
    count = max((2 * length + fitting) // (2 * fitting), 1)
    step = -(-length // count)
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _blocks_of(centred: Centred, *, by_columns: bool) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the rows, the columns and Zc [S, rows, columns] of each block."""
    if centred.kept is not None:
        yield EVERYTHING, EVERYTHING, centred.kept
        return
    origin, shift = cast(Tensor, centred.origin), cast(Tensor, centred.shift)
    (_, rows, dim), stacks = centred.views[0].shape, len(origin)
    length, width = (dim, rows) if by_columns else (rows, dim)
    parts = _blocks(length, width, stacks)
    scratch = _scratch(parts, width, origin)
    for part in parts:
        place = (EVERYTHING, part) if by_columns else (part, EVERYTHING)
        yield *place, _less_origin(centred.views, origin, *place, scratch).sub_(shift[:, :, place[1]])


def _part(z: Tensor, rows: slice, cols: slice) -> Tensor:
    return z if rows is EVERYTHING and cols is EVERYTHING else z[:, rows, cols]


def _less_origin(views: Sequence[Tensor], origin: Tensor, rows: slice, cols: slice, scratch: Tensor) -> Tensor:
    """A block of all views minus the origin, in the memory of `scratch`: [S, rows, cols]."""
    parts = [z[:, rows, cols] for z in views]
    shape = (len(origin), *parts[0].shape[1:])
    block = scratch[: math.prod(shape)].view(shape)
    for part, o, out in zip(parts, origin.chunk(len(views)), block.chunk(len(views)), strict=True):
        torch.sub(part, o[:, :, cols], out=out)
    return block


def _scratch(parts: Sequence[slice], width: int, like: Tensor) -> Tensor:
    """Memory for all blocks in turn, because allocating a block takes as long as its arithmetic."""
    return like.new_empty((parts[0].stop - parts[0].start) * width * len(like))


def _padded(matrix: Tensor) -> Tensor:
    """The matrix, padded with an identity block if its side is 128 or a larger multiple of 64."""
    side = matrix.shape[1]
    if side % 64 or side < 128:
        return matrix
    padded = torch.eye(side + PADDING, dtype=matrix.dtype, device=matrix.device).repeat(len(matrix), 1, 1)
    padded[:, :side, :side] = matrix
    return padded


def add_product_(out: Tensor, a: Tensor, b: Tensor, *, alpha: float = 1, beta: float = 1) -> None:
    """`out = beta out + alpha a b`: [S, n, k] x [S, k, m] -> [S, n, m]."""
    stacks, rows, columns = out.shape
    smallest = TINY_PRODUCT if stacks == 1 else 0
    if smallest <= rows * columns * a.shape[2] < LARGE_PRODUCT:
        # not baddbmm_, because torch's FlopCounterMode does not count it
        torch.baddbmm(out, a, b, alpha=alpha, beta=beta, out=out)
        return
    for result, left, right in zip(out, a, b, strict=True):
        torch.addmm(result, left, right, alpha=alpha, beta=beta, out=result)


def own_rows(x: Tensor, own: slice, out: Tensor | None = None) -> Tensor:
    """The rows `own` of `x x^T`: [S, N, k] -> [S, n, N]."""
    stacks, side, length = x.shape
    if side < 2 * STRIP_SIDE and TINY_PRODUCT <= side**2 * length < LARGE_PRODUCT:
        return torch.bmm(x if own.stop - own.start == side else x[:, own], x.mT, out=out)
    out = x.new_empty(stacks, own.stop - own.start, side) if out is None else out
    add_own_rows_(out, x, own, fresh=True)
    mirror_(out, own)
    return out


def add_own_rows_(out: Tensor, x: Tensor, own: slice, *, fresh: bool) -> None:
    """Add the rows `own` of `x x^T` to out [S, n, N], or overwrite out if `fresh`. Call `mirror_` once afterwards."""
    side, beta = x.shape[1], 0.0 if fresh else 1.0
    strip = _strip(side)
    if own.stop - own.start < side or strip == side:
        add_product_(out, x[:, own], x.mT, beta=beta)
        return
    for result, factor in zip(out, x, strict=True):
        for start in range(0, side, strip):
            stop = min(start + strip, side)
            strip_of = result[start:stop, :stop]
            torch.addmm(strip_of, factor[start:stop], factor[:stop].mT, beta=beta, out=strip_of)


def mirror_(out: Tensor, own: slice) -> None:
    """Fill the upper triangle, which `add_own_rows_` leaves out if it computes strips."""
    side = out.shape[-1]
    strip = _strip(side) if own.stop - own.start == side else side
    for start in range(strip, side, strip):
        stop = min(start + strip, side)
        out[:, :start, start:stop] = out[:, start:stop, :start].mT


def _strip(side: int) -> int:
    """The number of rows in a strip. By symmetry, four strips need 5/8 of the multiplications of the full square."""
    return -(-side // min(side // STRIP_SIDE, 8)) if side >= 2 * STRIP_SIDE else side
