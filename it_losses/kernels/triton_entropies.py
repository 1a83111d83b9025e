"""Triton kernels of the log-det and pairwise entropies: each is the plain expression in its first line, any size by masks.

Offsets of rows are int64 before they meet a stride; sums are float32. Launch sizes are in `entropy_launches`. UPCAST serves the
interpreter, whose tl.dot knows no bfloat16.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def centre_rows(
    z, group_stride, row_stride, mean, units, out, norms, rows, cols,
    HAS_UNITS: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """(z - mean) [unit], rounded once to the operand's dtype; and the sums of squares of each row of what was rounded."""
    row = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    group = tl.program_id(1).to(tl.int64)
    source = z + group * group_stride + row.to(tl.int64)[:, None] * row_stride
    target = out + (group * rows + row)[:, None] * cols
    unit = 1.0
    if HAS_UNITS:
        unit = tl.load(units + group)
    total = tl.zeros((TILE_ROWS,), tl.float32)
    for start in range(0, cols, TILE_COLS):
        col = start + tl.arange(0, TILE_COLS)
        mask = (row < rows)[:, None] & (col < cols)[None, :]
        tile = tl.load(source + col[None, :], mask=mask, other=0.0).to(tl.float32)
        average = tl.load(mean + group * cols + col, mask=col < cols, other=0.0)
        centred = tl.where(mask, (tile - average[None, :]) * unit, 0.0).to(out.dtype.element_ty)
        tl.store(target + col[None, :], centred, mask=mask)
        # distances must be those of the points that the product sees
        rounded = centred.to(tl.float32)
        total += tl.sum(rounded * rounded, axis=1)
    tl.store(norms + group * rows + row, total, mask=row < rows)


@triton.jit
def gram_constants(matrix, means, rounding, constants, side, scale, CENTRED: tl.constexpr, TILE: tl.constexpr):
    """(scale, mean, shift, lift) of a group, that `doubly_centred` turns the Gram matrix into I + scale H G H with.

    The lift of the diagonal is 1 and what keeps it definite (`definite`); the shift raises the vector of ones, the
    null vector of a centred matrix, by the mean of the diagonal.
    """
    group = tl.program_id(0).to(tl.int64)
    base = matrix + group * side * side
    whole = 0.0
    if CENTRED:
        for start in range(0, side, TILE):
            row = start + tl.arange(0, TILE)
            whole += tl.sum(tl.load(means + group * side + row, mask=row < side, other=0.0), axis=0)
        whole = whole / side
    total = 0.0
    for start in range(0, side, TILE):
        row = start + tl.arange(0, TILE)
        mask = row < side
        value = tl.load(base + row.to(tl.int64) * (side + 1), mask=mask, other=0.0)
        if CENTRED:
            value += whole - 2 * tl.load(means + group * side + row, mask=mask, other=0.0)
        value = tl.where(mask, scale * value, 0.0)
        total += tl.sum(value, axis=0)
    lift = 1 + tl.maximum(scale * tl.load(rounding + group) - 0.5, 0.0)
    tl.store(constants + group * 4, scale)
    tl.store(constants + group * 4 + 1, whole)
    tl.store(constants + group * 4 + 2, total / side / side if CENTRED else 0.0)
    tl.store(constants + group * 4 + 3, lift)


@triton.jit
def doubly_centred(matrix, means, constants, out, side, CENTRED: tl.constexpr, TILE: tl.constexpr):
    """H M H factor + shift 1 1^T + lift I, cast: one read of [groups, side, side]; without H where not CENTRED."""
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    col = tl.program_id(1) * TILE + tl.arange(0, TILE)
    group = tl.program_id(2).to(tl.int64)
    factor = tl.load(constants + group * 4)
    shift = tl.load(constants + group * 4 + 2)
    lift = tl.load(constants + group * 4 + 3)
    mask = (row < side)[:, None] & (col < side)[None, :]
    offsets = (group * side + row)[:, None] * side + col[None, :]
    tile = tl.load(matrix + offsets, mask=mask, other=0.0)
    if CENTRED:
        mean_i = tl.load(means + group * side + row, mask=row < side, other=0.0)
        mean_j = tl.load(means + group * side + col, mask=col < side, other=0.0)
        # halves first: the same for (i, j) and (j, i)
        half = tl.load(constants + group * 4 + 1) / 2
        tile = tile - ((mean_i - half)[:, None] + (mean_j - half)[None, :])
    tile = factor * tile + shift
    tile = tl.where(row[:, None] == col[None, :], tile + lift, tile)
    tl.store(out + offsets, tile.to(out.dtype.element_ty), mask=mask)


@triton.jit
def log_diagonal(factor, constants, values, side, CENTRED: tl.constexpr, TILE: tl.constexpr):
    """sum_i log L_ii of a Cholesky factor, less the part of the vector of ones, which is no part of det(I + scale H G H)."""
    group = tl.program_id(0).to(tl.int64)
    total = 0.0
    for start in range(0, side, TILE):
        row = start + tl.arange(0, TILE)
        mask = row < side
        value = tl.load(factor + group * side * side + row.to(tl.int64) * (side + 1), mask=mask, other=1.0)
        total += tl.sum(tl.log(value), axis=0)
    if CENTRED:
        raised = tl.load(constants + group * 4 + 2) * side
        total -= 0.5 * tl.log(raised + tl.load(constants + group * 4 + 3))
    tl.store(values + group, total)


@triton.jit
def pair_sums(
    x, norms, rates, sums, rows, cols, scales,
    TILE: tl.constexpr, TILE_K: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Adds sum_j exp(-rate_k |x_i - x_j|^2) to sums, k = 1..scales, from lower tiles that give to their rows and columns."""
    pair = tl.program_id(0)
    group = tl.program_id(1)
    i = ((tl.sqrt(8.0 * pair + 1.0) - 1.0) / 2.0).to(tl.int32)
    i += tl.where((i + 1) * (i + 2) // 2 <= pair, 1, 0) - tl.where(i * (i + 1) // 2 > pair, 1, 0)
    j = pair - i * (i + 1) // 2
    row = i * TILE + tl.arange(0, TILE)
    col = j * TILE + tl.arange(0, TILE)
    base = x + group.to(tl.int64) * rows * cols
    product = tl.zeros((TILE, TILE), tl.float32)
    for k in range(0, cols, TILE_K):
        depth = k + tl.arange(0, TILE_K)
        left_mask = (row < rows)[:, None] & (depth < cols)[None, :]
        right_mask = (col < rows)[:, None] & (depth < cols)[None, :]
        left = tl.load(base + row.to(tl.int64)[:, None] * cols + depth[None, :], mask=left_mask, other=0.0)
        right = tl.load(base + col.to(tl.int64)[:, None] * cols + depth[None, :], mask=right_mask, other=0.0)
        if UPCAST:
            left = left.to(tl.float32)
            right = right.to(tl.float32)
        product = tl.dot(left, tl.trans(right), product, input_precision=PRECISION)
    mask = (row < rows)[:, None] & (col < rows)[None, :]
    norm_i = tl.load(norms + group * rows + row, mask=row < rows, other=0.0)
    norm_j = tl.load(norms + group * rows + col, mask=col < rows, other=0.0)
    # a distance is no less than zero, and zero to itself, whatever rounding says; written so that NaN stays
    distance = norm_i[:, None] + norm_j[None, :] - 2 * product
    distance = tl.where((distance < 0) | (row[:, None] == col[None, :]), 0.0, distance)
    for scale in range(scales):
        rate = tl.load(rates + scale * tl.num_programs(1) + group)
        similar = tl.where(mask, tl.exp(-rate * distance), 0.0)
        line = sums + (scale * tl.num_programs(1) + group) * rows
        tl.atomic_add(line + row, tl.sum(similar, axis=1), mask=row < rows)
        if i != j:
            tl.atomic_add(line + col, tl.sum(similar, axis=0), mask=col < rows)


@triton.jit
def similarity_sums(
    products, group_stride, norms, rates, sums, first, height, rows, scales,
    SCALES: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """sum_j exp(-rate_k |x_i - x_j|^2), k = 1..scales, for the rows first..first + height, of which products has x_i x_j."""
    row = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    group = tl.program_id(1).to(tl.int64)
    groups = tl.num_programs(1)
    own = first + row
    scale_of = tl.arange(0, SCALES)
    norm_i = tl.load(norms + group * rows + own, mask=row < height, other=0.0)
    total = tl.zeros((SCALES, TILE_ROWS), tl.float32)
    for start in range(0, rows, TILE_COLS):
        col = start + tl.arange(0, TILE_COLS)
        mask = (row < height)[:, None] & (col < rows)[None, :]
        here = products + group * group_stride + row.to(tl.int64)[:, None] * rows + col[None, :]
        norm_j = tl.load(norms + group * rows + col, mask=col < rows, other=0.0)
        distance = norm_i[:, None] + norm_j[None, :] - 2 * tl.load(here, mask=mask, other=0.0)
        distance = tl.where((distance < 0) | (own[:, None] == col[None, :]), 0.0, distance)
        for scale in range(scales):
            rate = tl.load(rates + scale * groups + group)
            part = tl.sum(tl.where(mask, tl.exp(-rate * distance), 0.0), axis=1)
            total += tl.where(scale_of[:, None] == scale, part[None, :], 0.0)
    target = sums + (scale_of.to(tl.int64)[:, None] * groups + group) * rows + own[None, :]
    tl.store(target, total, mask=(scale_of < scales)[:, None] & (row < height)[None, :])


@triton.jit
def pair_weights(
    products, group_stride, norms, rates, pulls, out, out_stride, weights, first, height, rows, scales,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """sum_k exp(-rate_k |x_i - x_j|^2) (pull_ki + pull_kj), 0 for j = i, rounded once; and the row sums of what was rounded."""
    row = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    group = tl.program_id(1).to(tl.int64)
    groups = tl.num_programs(1)
    own = first + row
    norm_i = tl.load(norms + group * rows + own, mask=row < height, other=0.0)
    total = tl.zeros((TILE_ROWS,), tl.float32)
    for start in range(0, rows, TILE_COLS):
        col = start + tl.arange(0, TILE_COLS)
        mask = (row < height)[:, None] & (col < rows)[None, :]
        place = row.to(tl.int64)[:, None] * rows + col[None, :]
        norm_j = tl.load(norms + group * rows + col, mask=col < rows, other=0.0)
        product = tl.load(products + group * group_stride + place, mask=mask, other=0.0)
        distance = norm_i[:, None] + norm_j[None, :] - 2 * product
        distance = tl.where(distance < 0, 0.0, distance)
        weight = tl.zeros((TILE_ROWS, TILE_COLS), tl.float32)
        for scale in range(scales):
            rate = tl.load(rates + scale * groups + group)
            line = pulls + (scale * groups + group) * rows
            pull_i = tl.load(line + own, mask=row < height, other=0.0)
            pull_j = tl.load(line + col, mask=col < rows, other=0.0)
            weight += tl.exp(-rate * distance) * (pull_i[:, None] + pull_j[None, :])
        # a point does not move its own similarity to itself, which would drown all others in the difference
        weight = tl.where(mask & (own[:, None] != col[None, :]), weight, 0.0).to(out.dtype.element_ty)
        tl.store(out + group * out_stride + place, weight, mask=mask)
        total += tl.sum(weight.to(tl.float32), axis=1)
    tl.store(weights + group * height + row, total, mask=row < height)


@triton.jit
def pulled(
    x, product, weights, factors, out, first, height, rows, cols, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr
):  # fmt: skip
    """(weight_i x_i - product_i) factor, rounded once, for the rows first..first + height."""
    row = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    col = tl.program_id(1) * TILE_COLS + tl.arange(0, TILE_COLS)
    group = tl.program_id(2).to(tl.int64)
    mask = (row < height)[:, None] & (col < cols)[None, :]
    weight = tl.load(weights + group * height + row, mask=row < height, other=0.0)
    here = (group * rows + first + row)[:, None] * cols + col[None, :]
    own = tl.load(x + here, mask=mask, other=0.0).to(tl.float32)
    other = tl.load(product + (group * height + row)[:, None] * cols + col[None, :], mask=mask, other=0.0)
    result = tl.load(factors + group) * (weight[:, None] * own - other)
    tl.store(out + here, result.to(out.dtype.element_ty), mask=mask)
