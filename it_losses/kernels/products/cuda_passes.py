"""Triton kernels for column moments, centred samples, and differences of two views. Each kernel reads its inputs once.

An evaluation of two views [n, dim] launches `column_moments`, `centre` and `differences` once. Row offsets are int64, so they
cannot overflow. Sums are float32.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

#: rows of a chunk (see Moments), rows and columns of a tile
CHUNK, TILE_ROWS, TILE_COLS = 256, 32, 64
#: set explicitly, because Triton 3.9 warns about the default
OPTIONS: dict[str, Any] = {"enable_fp_fusion": True}


class Moments(NamedTuple):
    """For each chunk of rows and each column: one sample, the mean minus this sample, and the sum of squares about the mean."""

    shifts: Tensor  # [S, chunks, dim] each
    means: Tensor
    squares: Tensor


def moments(views: list[Tensor]) -> Moments:
    """The Moments of views [groups, n, dim]."""
    z_a, z_b = _one_or_two(views)
    groups, rows, cols = z_a.shape
    stacks, chunks = len(views) * len(views[0]), triton.cdiv(rows, CHUNK)
    parts = Moments(*z_a.new_empty(3, stacks, chunks, cols, dtype=torch.float32))
    column_moments[triton.cdiv(cols, TILE_COLS), chunks, stacks](
        z_a, z_b, z_a.stride(0), z_a.stride(1), z_b.stride(0), z_b.stride(1), *parts, groups, rows, cols,
        CHUNK=CHUNK, TILE_ROWS=TILE_ROWS, TILE_COLS=TILE_COLS, **OPTIONS,
    )  # fmt: skip
    return parts


def centre_into(out: Tensor, views: list[Tensor], parts: Moments) -> Tensor:
    """Write `z - mean` to out [S, n, dim]. Return the squared norms of the columns [S, 1, dim]."""
    z_a, z_b = _one_or_two(views)
    groups, rows, cols = z_a.shape
    norms = parts.means.new_empty(len(out), 1, cols)
    centre[triton.cdiv(cols, TILE_COLS), triton.cdiv(rows, CHUNK), len(out)](
        z_a, z_b, z_a.stride(0), z_a.stride(1), z_b.stride(0), z_b.stride(1), *parts, out, norms,
        groups, rows, cols, parts.means.shape[1], CHUNK=CHUNK, TILE_ROWS=TILE_ROWS, TILE_COLS=TILE_COLS, **OPTIONS,
    )  # fmt: skip
    return norms


def differences_into(
    out: Tensor, z_a: Tensor, z_b: Tensor, weight: float, zc: Tensor | None = None, slope: Tensor | None = None
) -> Tensor:
    """Write `weight (z_a - z_b)` and `weight (z_b - z_a)` to out [2 groups, n, dim]. Return the squared distance [].

    With a slope [2 groups, 1, dim], add `zc slope`; zc is [2 groups, n, dim], contiguous in each group.
    """
    z_a, z_b = _with_unit_columns(z_a), _with_unit_columns(z_b)
    groups, rows, cols = z_a.shape
    grid = triton.cdiv(cols, TILE_COLS), triton.cdiv(rows, TILE_ROWS), groups
    distances = out.new_empty(grid, dtype=torch.float32)
    there = out if zc is None else zc
    differences[grid](
        z_a, z_b, z_a.stride(0), z_a.stride(1), z_b.stride(0), z_b.stride(1),
        there, there.stride(0), distances if slope is None else slope, out, distances, rows, cols, weight,
        HAS_SLOPE=slope is not None, TILE_ROWS=TILE_ROWS, TILE_COLS=TILE_COLS, num_warps=8, **OPTIONS,
    )  # fmt: skip
    return distances.sum()


def _one_or_two(views: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Two views as they are, or one view twice. More than two views are first joined to one, [S, n, dim]."""
    views = [_with_unit_columns(z) for z in (views if len(views) <= 2 else [torch.cat(views)])]
    return views[0], views[-1]


def _with_unit_columns(z: Tensor) -> Tensor:
    return z if z.stride(-1) == 1 else z.contiguous()


@triton.jit
def rows_of(a, b, a_group, a_row, b_group, b_row, stack, groups):
    """Pointer and row stride of a stack, which is one group in one of two views a and b. The stacks of a come first."""
    is_first = stack < groups
    start = tl.where(is_first, a + stack * a_group, b + (stack - groups) * b_group)
    return start, tl.where(is_first, a_row, b_row)


@triton.jit
def column_moments(
    a, b, a_group, a_row, b_group, b_row, shifts, means, squares, groups, rows, cols,
    CHUNK: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """Store a sample, mean_i (z_id - sample) and sum_i (z_id - mean)^2 of a chunk of rows, for a tile of columns d."""
    col = tl.program_id(0) * TILE_COLS + tl.arange(0, TILE_COLS)
    chunk = tl.program_id(1)
    stack = tl.program_id(2).to(tl.int64)
    first = chunk * CHUNK
    in_cols = col < cols
    start, row_stride = rows_of(a, b, a_group, a_row, b_group, b_row, stack, groups)
    base = start + col
    # subtract a sample: with a large mean, squares would lose the variance
    shift = tl.load(base + first.to(tl.int64) * row_stride, mask=in_cols, other=0.0).to(tl.float32)
    # sum the rows after the loop, so that threads do not wait for each other
    totals = tl.zeros((TILE_ROWS, TILE_COLS), tl.float32)
    squared = tl.zeros((TILE_ROWS, TILE_COLS), tl.float32)
    for tile_row in range(0, CHUNK, TILE_ROWS):
        row = first + tile_row + tl.arange(0, TILE_ROWS)
        mask = (row < rows)[:, None] & in_cols[None, :]
        tile = tl.load(base[None, :] + row.to(tl.int64)[:, None] * row_stride, mask=mask, other=0.0).to(tl.float32)
        moved = tl.where(mask, tile - shift[None, :], 0.0)
        totals += moved
        squared += moved * moved
    total = tl.sum(totals, axis=0)
    square = tl.sum(squared, axis=0)
    count = tl.minimum(rows - first, CHUNK).to(tl.float32)
    here = (stack * tl.num_programs(1) + chunk) * cols + col
    tl.store(shifts + here, shift, mask=in_cols)
    tl.store(means + here, total / count, mask=in_cols)
    tl.store(squares + here, square - total * total / count, mask=in_cols)


@triton.jit
def centre(
    a, b, a_group, a_row, b_group, b_row, shifts, means, squares, out, norms, groups, rows, cols, chunks,
    CHUNK: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """Store z - mean for a chunk of rows and a tile of columns. The first chunk also stores sum_i (z_id - mean)^2."""
    col = tl.program_id(0) * TILE_COLS + tl.arange(0, TILE_COLS)
    stack = tl.program_id(2).to(tl.int64)
    in_cols = col < cols
    base, row_stride = rows_of(a, b, a_group, a_row, b_group, b_row, stack, groups)
    origin = tl.load(shifts + stack * chunks * cols + col, mask=in_cols, other=0.0)
    average = tl.zeros((TILE_COLS,), tl.float32)
    total = tl.zeros((TILE_COLS,), tl.float32)
    count = 0.0
    for chunk in range(chunks):
        here = (stack * chunks + chunk) * cols + col
        n = tl.minimum(rows - chunk * CHUNK, CHUNK).to(tl.float32)
        moved = tl.load(shifts + here, mask=in_cols, other=0.0) - origin
        delta = moved + tl.load(means + here, mask=in_cols, other=0.0) - average
        total += tl.load(squares + here, mask=in_cols, other=0.0) + delta * delta * (count * n / (count + n))
        average += delta * (n / (count + n))
        count += n
    if tl.program_id(1) == 0:
        tl.store(norms + stack * cols + col, total, mask=in_cols)
    for start in range(0, CHUNK, TILE_ROWS):
        row = tl.program_id(1) * CHUNK + start + tl.arange(0, TILE_ROWS)
        mask = (row < rows)[:, None] & in_cols[None, :]
        tile = tl.load(base + row.to(tl.int64)[:, None] * row_stride + col[None, :], mask=mask, other=0.0).to(tl.float32)
        # subtract in two steps, because rounding the sum of both would shift all samples equally
        zc = (tile - origin[None, :]) - average[None, :]
        target = out + (stack * rows + row[:, None]) * cols + col[None, :]
        tl.store(target, zc.to(out.dtype.element_ty), mask=mask)


@triton.jit
def differences(
    a, b, a_group, a_row, b_group, b_row, zc, zc_group, slope, out, distances, rows, cols, weight,
    HAS_SLOPE: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """For a tile, store weight (a - b) and weight (b - a), plus zc slope if HAS_SLOPE, and the sum of (a - b)^2."""
    col = tl.program_id(0) * TILE_COLS + tl.arange(0, TILE_COLS)
    row = tl.program_id(1) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    group = tl.program_id(2).to(tl.int64)
    in_cols = col < cols
    mask = (row < rows)[:, None] & in_cols[None, :]
    row_64 = row.to(tl.int64)[:, None]
    here = row_64 * cols + col[None, :]
    tile_a = tl.load(a + group * a_group + row_64 * a_row + col[None, :], mask=mask, other=0.0).to(tl.float32)
    tile_b = tl.load(b + group * b_group + row_64 * b_row + col[None, :], mask=mask, other=0.0).to(tl.float32)
    difference = tile_a - tile_b
    place = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(2) + tl.program_id(2)
    tl.store(distances + place, tl.sum(tl.sum(difference * difference, axis=1), axis=0))
    for view in tl.static_range(2):
        stack = view * tl.num_programs(2) + group
        result = (weight if view == 0 else -weight) * difference
        if HAS_SLOPE:
            centred = tl.load(zc + stack * zc_group + here, mask=mask, other=0.0).to(tl.float32)
            result += centred * tl.load(slope + stack * cols + col, mask=in_cols, other=0.0)[None, :]
        tl.store(out + stack * rows * cols + here, result.to(out.dtype.element_ty), mask=mask)
