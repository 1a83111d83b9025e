"""Passes over the samples on a GPU, each reading its inputs once: column moments, centred samples, differences of two views.

Launches of an evaluation of two views [n, dim]: `column_moments` and `centre` once a view, `differences` once. Masks
allow every size. Offsets of rows are int64 before they meet a stride, and sums are float32. `normal_numbers` draws
directions for SIGReg from the hashes of `it_losses.slices`.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from it_losses.slices import FIRST_COLUMN, key_of

#: rows of a chunk of moments, rows and columns of a tile
CHUNK, TILE_ROWS, TILE_COLS = 256, 32, 64
#: rows of a tile of random numbers, whose cosines take many registers
FEW_ROWS = 8
#: named, or Triton 3.9 warns about its default
OPTIONS: dict[str, Any] = {"enable_fp_fusion": True}


class Moments(NamedTuple):
    """For each chunk of rows and each column: a sample, the mean less that sample, and the squares about the mean."""

    shifts: Tensor  # [groups, chunks, dim] each
    means: Tensor
    squares: Tensor


def moments(z: Tensor) -> Moments:
    """Column moments of one view [groups, n, dim], chunk by chunk."""
    z = _with_unit_columns(z)
    groups, rows, cols = z.shape
    chunks = triton.cdiv(rows, CHUNK)
    parts = Moments(*z.new_empty(3, groups, chunks, cols, dtype=torch.float32))
    column_moments[triton.cdiv(cols, TILE_COLS), chunks, groups](
        z, z.stride(0), z.stride(1), *parts, rows, cols,
        CHUNK=CHUNK, TILE_ROWS=TILE_ROWS, TILE_COLS=TILE_COLS, **OPTIONS,
    )  # fmt: skip
    return parts


def centre_into(out: Tensor, z: Tensor, parts: Moments) -> Tensor:
    """`z - mean` into out [groups, n, dim], rounded once to its dtype: -> the squared norms of the columns [groups, 1, dim]."""
    z = _with_unit_columns(z)
    groups, rows, cols = z.shape
    norms = parts.means.new_empty(groups, 1, cols)
    centre[triton.cdiv(cols, TILE_COLS), triton.cdiv(rows, CHUNK), groups](
        z, z.stride(0), z.stride(1), *parts, out, out.stride(0), norms, rows, cols, parts.means.shape[1],
        CHUNK=CHUNK, TILE_ROWS=TILE_ROWS, TILE_COLS=TILE_COLS, **OPTIONS,
    )  # fmt: skip
    return norms


def differences_into(
    out: Tensor, z_a: Tensor, z_b: Tensor, weight: float, zc: Tensor | None = None, slope: Tensor | None = None
) -> Tensor:
    """`+-weight (z_a - z_b) [+ zc slope]` into out [2 groups, n, dim]: -> the squared distance [].

    zc is [2 groups, n, dim] with rows of dim elements, slope [2 groups, 1, dim].
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


def unit_directions(count: int, dim: int, *, seed: int, draw: int, like: Tensor) -> Tensor:
    """Directions that are uniform on the sphere, for the draw of that number: -> [count, dim] in float32."""
    out = like.new_empty(count, dim, dtype=torch.float32)
    key, half = key_of(seed, draw), (dim + 1) // 2
    # a number of 32 bits with a sign, so that every key has the same type
    key -= (key >> 31) << 32
    grid = triton.cdiv(count, FEW_ROWS), triton.cdiv(half, TILE_COLS)
    # products of hashes are meant to wrap around, also where Triton looks for overflows
    options = OPTIONS | {"sanitize_overflow": False}
    normal_numbers[grid](
        out, key, count, dim, half, FIRST_COLUMN=FIRST_COLUMN, TILE_ROWS=FEW_ROWS, TILE_COLS=TILE_COLS, **options
    )
    return torch.nn.functional.normalize(out, dim=1)


def _with_unit_columns(z: Tensor) -> Tensor:
    return z if z.stride(-1) == 1 else z.contiguous()


@triton.jit
def column_moments(
    z, group_stride, row_stride, shifts, means, squares, rows, cols,
    CHUNK: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """A sample, mean_i (z_id - sample), and sum_i (z_id - mean)^2 of a chunk of rows, for a tile of columns."""
    col = tl.program_id(0) * TILE_COLS + tl.arange(0, TILE_COLS)
    chunk = tl.program_id(1)
    group = tl.program_id(2).to(tl.int64)
    first = chunk * CHUNK
    in_cols = col < cols
    base = z + group * group_stride + col
    # differences from a sample are of the order of sigma: squares of the samples themselves would lose the variance
    shift = tl.load(base + first.to(tl.int64) * row_stride, mask=in_cols, other=0.0).to(tl.float32)
    # summed over the rows of a tile at the end: threads need not wait for each other before
    totals = tl.zeros((TILE_ROWS, TILE_COLS), tl.float32)
    squared = tl.zeros((TILE_ROWS, TILE_COLS), tl.float32)
    for start in range(0, CHUNK, TILE_ROWS):
        row = first + start + tl.arange(0, TILE_ROWS)
        mask = (row < rows)[:, None] & in_cols[None, :]
        tile = tl.load(base[None, :] + row.to(tl.int64)[:, None] * row_stride, mask=mask, other=0.0).to(tl.float32)
        moved = tl.where(mask, tile - shift[None, :], 0.0)
        totals += moved
        squared += moved * moved
    total = tl.sum(totals, axis=0)
    square = tl.sum(squared, axis=0)
    count = tl.minimum(rows - first, CHUNK).to(tl.float32)
    here = (group * tl.num_programs(1) + chunk) * cols + col
    tl.store(shifts + here, shift, mask=in_cols)
    tl.store(means + here, total / count, mask=in_cols)
    tl.store(squares + here, square - total * total / count, mask=in_cols)


@triton.jit
def centre(
    z, group_stride, row_stride, shifts, means, squares, out, out_stride, norms, rows, cols, chunks,
    CHUNK: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """Z - mean of a chunk of rows, for a tile of columns; the first chunk also stores sum_i (z_id - mean)^2 over all rows."""
    col = tl.program_id(0) * TILE_COLS + tl.arange(0, TILE_COLS)
    group = tl.program_id(2).to(tl.int64)
    in_cols = col < cols
    origin = tl.load(shifts + group * chunks * cols + col, mask=in_cols, other=0.0)
    average = tl.zeros((TILE_COLS,), tl.float32)
    total = tl.zeros((TILE_COLS,), tl.float32)
    count = 0.0
    for chunk in range(chunks):
        here = (group * chunks + chunk) * cols + col
        n = tl.minimum(rows - chunk * CHUNK, CHUNK).to(tl.float32)
        moved = tl.load(shifts + here, mask=in_cols, other=0.0) - origin
        delta = moved + tl.load(means + here, mask=in_cols, other=0.0) - average
        total += tl.load(squares + here, mask=in_cols, other=0.0) + delta * delta * (count * n / (count + n))
        average += delta * (n / (count + n))
        count += n
    if tl.program_id(1) == 0:
        tl.store(norms + group * cols + col, total, mask=in_cols)
    for start in range(0, CHUNK, TILE_ROWS):
        row = tl.program_id(1) * CHUNK + start + tl.arange(0, TILE_ROWS)
        mask = (row < rows)[:, None] & in_cols[None, :]
        source = z + group * group_stride + row.to(tl.int64)[:, None] * row_stride + col[None, :]
        tile = tl.load(source, mask=mask, other=0.0).to(tl.float32)
        # two differences: the mean itself would be rounded, and move all samples alike
        zc = (tile - origin[None, :]) - average[None, :]
        target = out + group * out_stride + row.to(tl.int64)[:, None] * cols + col[None, :]
        tl.store(target, zc.to(out.dtype.element_ty), mask=mask)


@triton.jit
def differences(
    a, b, a_group, a_row, b_group, b_row, zc, zc_group, slope, out, distances, rows, cols, weight,
    HAS_SLOPE: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """+-weight (a - b) [+ zc slope] of both views, rounded once, and sum (a - b)^2 of a tile."""
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


@triton.jit
def hashed(x):
    """The hash of `slices`, in 32 bits whose products wrap around."""
    for _ in tl.static_range(2):
        x = ((x >> 16) ^ x) * 0x45D9F3B
    return (x >> 16) ^ x


@triton.jit(do_not_specialize=["key"])
def normal_numbers(out, key, count, dim, half, FIRST_COLUMN: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr):
    """Box-Muller: two normal numbers from each 32 bits, 16 for the radius and 16 for the angle."""
    row = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    col = tl.program_id(1) * TILE_COLS + tl.arange(0, TILE_COLS)
    of_row = hashed(row.to(tl.uint32) ^ key.to(tl.uint32))
    bits = hashed(of_row[:, None] ^ hashed((FIRST_COLUMN + col).to(tl.uint32))[None, :])
    radius = tl.sqrt(-2 * tl.log(((bits >> 16).to(tl.float32) + 0.5) / 65536))
    angle = ((bits & 0xFFFF).to(tl.float32) + 0.5) * (6.283185307179586 / 65536)
    place = out + row.to(tl.int64)[:, None] * dim + col[None, :]
    mask = (row < count)[:, None] & (col < half)[None, :]
    tl.store(place, radius * tl.cos(angle), mask=mask)
    tl.store(place + half, radius * tl.sin(angle), mask=mask & (half + col < dim)[None, :])
