"""Block sizes and symmetric products: what the closed forms share, written so that a block stays in the cache.

Groups of samples are stacked, `[groups, batch, dim]`; a sequence of views is several such stacks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

#: elements of a working block of one or of two stacks on a CPU: up to 2 MiB of float32, which the cache of one core holds.
#: One stack has half: scratch memory of 2 MiB beside a gradient of 2 MiB went back to the system, and came again page by page
CPU_BLOCK = 1 << 18
#: sides from which strips of a symmetric product are large enough for the matrix library to run at full speed
STRIP_SIDE = 128
#: multiplications from which a product is worth a call of its own, and below which torch has a plain loop for a batch of them
LARGE_PRODUCT, TINY_PRODUCT = 1 << 24, 400
#: the whole of an axis, where a block is cut along the other
EVERYTHING = slice(None)


def blocks(length: int, width: int, stacks: int, device: torch.device) -> Iterator[slice]:
    """Slices of `length` whose product with `width` and `stacks` fits the cache; one on a GPU, which hides its own latency."""
    step = length if device.type != "cpu" else max(CPU_BLOCK * min(stacks, 2) // max(width * stacks, 1), 64)
    # a last block of a few rows would waste a product: spread the rows evenly
    count = max(round(length / step), 1)
    step = -(-length // count)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def column_means(views: Sequence[Tensor]) -> Tensor:
    """Means over the batch of all views: V x [groups, batch, dim] -> [V groups, 1, dim]."""
    dtype = accumulation_dtype(views[0].dtype)
    return torch.cat([z.mean(dim=1, keepdim=True, dtype=dtype) for z in views])


def centred(views: Sequence[Tensor], mean: Tensor, rows: slice, cols: slice, scratch: Tensor) -> Tensor:
    """A block of all views, less its column means, in scratch: V x [groups, batch, dim] -> [V groups, rows, cols]."""
    parts = [z[:, rows, cols] for z in views]
    shape = (len(mean), *parts[0].shape[1:])
    block = scratch[: math.prod(shape)].view(shape)
    # subtracted before any product and rounded once: a Gram matrix of the raw samples loses all digits at mean = 100 sigma
    for part, average, out in zip(parts, mean.chunk(len(views)), block.chunk(len(views)), strict=True):
        torch.sub(part, average[:, :, cols], out=out)
    return block


def scratch_for(length: int, width: int, stacks: int, like: Tensor) -> Tensor:
    """Memory for the largest of `blocks(length, width, stacks)`, of like's dtype: fresh pages for each cost as much again."""
    first = next(blocks(length, width, stacks, like.device))
    return like.new_empty((first.stop - first.start) * width * stacks)


def add_product_(out: Tensor, a: Tensor, b: Tensor, *, alpha: float = 1, beta: float = 1) -> None:
    """`out = beta out + alpha a b`, through the strides of out: [groups, n, k] x [groups, k, m] -> [groups, n, m]."""
    smallest = TINY_PRODUCT if len(out) == 1 else 0
    if out.device.type != "cpu" or smallest <= out[0].numel() * a.shape[2] < LARGE_PRODUCT:
        out.baddbmm_(a, b, alpha=alpha, beta=beta)
        return
    # one by one, large products run faster than in a batch, and a tiny one is not summed term by term
    for result, left, right in zip(out, a, b, strict=True):
        result.addmm_(left, right, alpha=alpha, beta=beta)


def add_gram_(out: Tensor, x: Tensor, *, alpha: float, fresh: bool) -> None:
    """`out = alpha x x^T`, or `+=` unless fresh, of which only the lower triangle is promised: [groups, side, inner]."""
    side, beta = x.shape[1], 0.0 if fresh else 1.0
    if side < 2 * STRIP_SIDE or x.device.type != "cpu":
        add_product_(out, x, x.mT, alpha=alpha, beta=beta)
        return
    # row strips up to the diagonal block: with 4 strips 5/8 of the products of the full square
    strip = -(-side // min(side // STRIP_SIDE, 8))
    for result, factor in zip(out, x, strict=True):
        for start in range(0, side, strip):
            stop = min(start + strip, side)
            result[start:stop, :stop].addmm_(factor[start:stop], factor[:stop].mT, alpha=alpha, beta=beta)


def mirror_(out: Tensor) -> None:
    """Copy the lower triangle of what `add_gram_` wrote in strips over the upper one."""
    side = out.shape[-1]
    if side < 2 * STRIP_SIDE or out.device.type != "cpu":
        return
    strip = -(-side // min(side // STRIP_SIDE, 8))
    for start in range(strip, side, strip):
        stop = min(start + strip, side)
        out[:, :start, start:stop] = out[:, start:stop, :start].mT


def squared_norm(x: Tensor) -> Tensor:
    """Sum of all squares, row by row: one running sum of many millions in float32 would lose four digits."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norms.square_().sum()


def may_be_read(x: Tensor) -> bool:
    """Whether the host can look at the numbers: not on a GPU, where it would wait, nor in a tensor that has none."""
    return x.device.type == "cpu" and type(x) is Tensor


def under_torch_func() -> bool:
    """Whether a torch.func transform (grad, vmap, jvp, ...) is at work: torch has no public name for the question."""
    return torch._C._are_functorch_transforms_active()
