"""Triton kernels of VICReg: each is the plain expression in its first line, tiled so that it reads its inputs once.

Rows and columns have masks, so any size goes; offsets of rows are int64 before they meet a stride; sums are float32. Launch
sizes are in `triton_launches`. UPCAST serves the interpreter, whose tl.dot knows no bfloat16.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def column_statistics(
    a, b, a_stride, b_stride, shifts, means, squares, distances, rows, cols,
    CHUNK: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """A sample, the mean less it, sum_i (z_id - mean)^2 of both views, sum (a - b)^2, of a chunk of rows, a tile of columns."""
    col = tl.program_id(0) * TILE_COLS + tl.arange(0, TILE_COLS)
    chunk = tl.program_id(1)
    first = chunk * CHUNK
    in_cols = col < cols
    # deviations from one sample are of the order of sigma: squares of the samples themselves would lose the variance
    shift_a = tl.load(a + first.to(tl.int64) * a_stride + col, mask=in_cols, other=0.0).to(tl.float32)
    shift_b = tl.load(b + first.to(tl.int64) * b_stride + col, mask=in_cols, other=0.0).to(tl.float32)
    sum_a = tl.zeros((TILE_COLS,), tl.float32)
    sum_b = tl.zeros((TILE_COLS,), tl.float32)
    square_a = tl.zeros((TILE_COLS,), tl.float32)
    square_b = tl.zeros((TILE_COLS,), tl.float32)
    distance = tl.zeros((TILE_COLS,), tl.float32)
    for start in range(0, CHUNK, TILE_ROWS):
        row = first + start + tl.arange(0, TILE_ROWS)
        mask = (row < rows)[:, None] & in_cols[None, :]
        offsets = row.to(tl.int64)[:, None]
        tile_a = tl.load(a + offsets * a_stride + col[None, :], mask=mask, other=0.0).to(tl.float32)
        tile_b = tl.load(b + offsets * b_stride + col[None, :], mask=mask, other=0.0).to(tl.float32)
        distance += tl.sum(tl.where(mask, (tile_a - tile_b) * (tile_a - tile_b), 0.0), axis=0)
        from_a = tl.where(mask, tile_a - shift_a[None, :], 0.0)
        from_b = tl.where(mask, tile_b - shift_b[None, :], 0.0)
        sum_a += tl.sum(from_a, axis=0)
        sum_b += tl.sum(from_b, axis=0)
        square_a += tl.sum(from_a * from_a, axis=0)
        square_b += tl.sum(from_b * from_b, axis=0)
    count = tl.minimum(rows - first, CHUNK).to(tl.float32)
    line = chunk * 2 * cols
    tl.store(shifts + line + col, shift_a, mask=in_cols)
    tl.store(shifts + line + cols + col, shift_b, mask=in_cols)
    tl.store(means + line + col, sum_a / count, mask=in_cols)
    tl.store(means + line + cols + col, sum_b / count, mask=in_cols)
    tl.store(squares + line + col, square_a - sum_a * sum_a / count, mask=in_cols)
    tl.store(squares + line + cols + col, square_b - sum_b * sum_b / count, mask=in_cols)
    tl.store(distances + chunk * tl.num_programs(0) + tl.program_id(0), tl.sum(distance, axis=0))


@triton.jit
def finish_statistics(
    shifts, means, squares, mean, variance, slope, hinges, rows, cols, chunks, margin, epsilon, push,
    CHUNK: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """Mean and variance of all rows from those of chunks; sum of relu(margin - std); its slope push / std where it acts.

    The mean comes as a number and its rounding, which far from zero is more than the rounding of a deviation.
    """
    col = tl.program_id(0) * TILE_COLS + tl.arange(0, TILE_COLS)
    view = tl.program_id(1)
    in_cols = col < cols
    count = 0.0
    origin = tl.load(shifts + view * cols + col, mask=in_cols, other=0.0)
    average = tl.zeros((TILE_COLS,), tl.float32)
    total = tl.zeros((TILE_COLS,), tl.float32)
    for chunk in range(chunks):
        line = (chunk * 2 + view) * cols + col
        n = tl.minimum(rows - chunk * CHUNK, CHUNK).to(tl.float32)
        moved = tl.load(shifts + line, mask=in_cols, other=0.0) - origin
        delta = moved + tl.load(means + line, mask=in_cols, other=0.0) - average
        total += tl.load(squares + line, mask=in_cols, other=0.0) + delta * delta * (count * n / (count + n))
        average += delta * (n / (count + n))
        count += n
    spread = total / (rows - 1)
    std = tl.sqrt(spread + epsilon)
    gap = margin - std
    # written so that NaN is not at rest
    hinge = tl.where(gap <= 0, 0.0, gap)
    whole = origin + average
    moved = whole - origin
    rounding = (origin - (whole - moved)) + (average - moved)
    tl.store(mean + 2 * view * cols + col, whole, mask=in_cols)
    tl.store(mean + (2 * view + 1) * cols + col, rounding, mask=in_cols)
    tl.store(variance + view * cols + col, spread, mask=in_cols)
    tl.store(slope + view * cols + col, tl.where(gap > 0, push / std, 0.0), mask=in_cols)
    tl.store(hinges + view * tl.num_programs(0) + tl.program_id(0), tl.sum(tl.where(in_cols, hinge, 0.0), axis=0))


@triton.jit
def deviation(tile, mean, view, col, cols, mask):
    """A tile less the means of its columns in a view, and less their rounding."""
    whole = tl.load(mean + 2 * view * cols + col, mask=mask, other=0.0)
    return (tile - whole[None, :]) - tl.load(mean + (2 * view + 1) * cols + col, mask=mask, other=0.0)[None, :]


@triton.jit
def is_apart(top, view, count, col, LINES: tl.constexpr):
    """Which columns are among the `count` of a view that are taken apart."""
    line = tl.arange(0, LINES)
    places = tl.load(top + view * count + line, mask=line < count, other=-1)
    return tl.max((col[:, None] == places[None, :]).to(tl.int32), axis=1) > 0


@triton.jit
def centre(
    a, b, a_stride, b_stride, mean, top, out, squares, rows, cols, count,
    LINES: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """Views less their means, rounded once to the operand's dtype, in one buffer: zc.

    With LINES, zeros in the columns `top`, and for each tile of rows the sums of squares of what was rounded.
    """
    col = tl.program_id(0) * TILE_COLS + tl.arange(0, TILE_COLS)
    row = tl.program_id(1) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    in_cols = col < cols
    mask = (row < rows)[:, None] & in_cols[None, :]
    for view in tl.static_range(2):
        source = (a if view == 0 else b) + row.to(tl.int64)[:, None] * (a_stride if view == 0 else b_stride)
        tile = tl.load(source + col[None, :], mask=mask, other=0.0).to(tl.float32)
        centred = tl.where(mask, deviation(tile, mean, view, col, cols, in_cols), 0.0)
        if LINES:
            centred = tl.where(is_apart(top, view, count, col, LINES)[None, :], 0.0, centred)
        operand = centred.to(out.dtype.element_ty)
        if LINES:
            # variances that are subtracted from a product must come from what the product saw
            rounded = operand.to(tl.float32)
            line = (tl.program_id(1) * 2 + view) * cols + col
            tl.store(squares + line, tl.sum(rounded * rounded, axis=0), mask=in_cols)
        tl.store(out + (view * rows + row.to(tl.int64)[:, None]) * cols + col[None, :], operand, mask=mask)


@triton.jit
def take_apart(
    a, b, a_stride, b_stride, mean, top, lines, operands, rows, cols, count,
    LINES: tl.constexpr, TILE_ROWS: tl.constexpr,
):  # fmt: skip
    """The columns `top` of each view less their means, as lines, zeros after the last; and rounded to the operand's dtype."""
    line = tl.program_id(0)
    row = tl.program_id(1) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    mask = row < tl.where(line < count, rows, 0)
    for view in tl.static_range(2):
        place = tl.load(top + view * count + tl.minimum(line, count - 1))
        source = (a if view == 0 else b) + row.to(tl.int64) * (a_stride if view == 0 else b_stride)
        column = tl.load(source + place, mask=mask, other=0.0).to(tl.float32)
        whole, rounding = tl.load(mean + 2 * view * cols + place), tl.load(mean + (2 * view + 1) * cols + place)
        column = tl.where(mask, (column - whole) - rounding, 0.0)
        here = (view * LINES + line) * rows + row
        tl.store(lines + here, column, mask=row < rows)
        tl.store(operands + here, column.to(operands.dtype.element_ty), mask=row < rows)


@triton.jit
def finish_columns(
    squares, lines, products, top, slope, energies, rows, cols, tiles, count, over, pull,
    LINES: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """Columns not apart: var = over sum squares, slope - pull var, and sum_d (2 sum_k (over products_kd)^2 - var^2).

    The last LINES programs write the products of the lines among themselves, off the diagonal, where those of their columns
    stand, and the sums of their squares. They are summed in float64: decorrelated columns would push each other with rounding.
    """
    blocks = tl.num_programs(0) - LINES
    view = tl.program_id(1)
    line = tl.arange(0, LINES)
    if tl.program_id(0) < blocks:
        col = tl.program_id(0) * TILE_COLS + tl.arange(0, TILE_COLS)
        in_cols = col < cols
        variance = tl.zeros((TILE_COLS,), tl.float32)
        for tile in range(tiles):
            variance += tl.load(squares + (tile * 2 + view) * cols + col, mask=in_cols, other=0.0)
        variance *= over
        here = view * cols + col
        tl.store(slope + here, tl.load(slope + here, mask=in_cols, other=0.0) - pull * variance, mask=in_cols)
        others = in_cols & (is_apart(top, view, count, col, LINES) == 0)
        crossed = products + (view * LINES + line)[:, None] * cols + col[None, :]
        crossed = over * tl.load(crossed, mask=others[None, :], other=0.0)
        energy = tl.sum(2 * tl.sum(crossed * crossed, axis=0) - variance * variance, axis=0)
        tl.store(energies + view * tl.num_programs(0) + tl.program_id(0), energy)
    else:
        own = tl.program_id(0) - blocks
        among = tl.zeros((LINES,), tl.float64)
        for start in range(0, rows, TILE_ROWS):
            row = start + tl.arange(0, TILE_ROWS)
            mine = tl.load(lines + (view * LINES + own) * rows + row, mask=row < rows, other=0.0).to(tl.float64)
            every = lines + (view * LINES + line)[:, None] * rows + row[None, :]
            every = tl.load(every, mask=(row < rows)[None, :], other=0.0).to(tl.float64)
            among += tl.sum(every * mine[None, :], axis=1)
        apart = tl.where(line == own, 0.0, among).to(tl.float32)
        place = tl.load(top + view * count + tl.minimum(own, count - 1))
        tl.store(products + (view * LINES + line) * cols + place, apart, mask=line < tl.where(own < count, LINES, 0))
        tl.store(energies + view * tl.num_programs(0) + tl.program_id(0), tl.sum(over * apart * (over * apart), axis=0))


@triton.jit
def total(
    distances, hinges, energies, others, loss, terms, distance_count, hinge_count, energy_count, other_count,
    distance_factor, hinge_factor, energy_factor, other_factor, distance_weight, hinge_weight, energy_weight,
    TILE: tl.constexpr,
):  # fmt: skip
    """Terms [3], each a factor times a sum of parts, the last of two such; and their weighted sum: one program."""
    offsets = tl.arange(0, TILE)
    distance = tl.zeros((TILE,), tl.float32)
    for start in range(0, distance_count, TILE):
        distance += tl.load(distances + start + offsets, mask=start + offsets < distance_count, other=0.0)
    hinge = tl.zeros((TILE,), tl.float32)
    for start in range(0, hinge_count, TILE):
        hinge += tl.load(hinges + start + offsets, mask=start + offsets < hinge_count, other=0.0)
    energy = tl.zeros((TILE,), tl.float32)
    for start in range(0, energy_count, TILE):
        energy += energy_factor * tl.load(energies + start + offsets, mask=start + offsets < energy_count, other=0.0)
    for start in range(0, other_count, TILE):
        energy += other_factor * tl.load(others + start + offsets, mask=start + offsets < other_count, other=0.0)
    first = distance_factor * tl.sum(distance, axis=0)
    second = hinge_factor * tl.sum(hinge, axis=0)
    third = tl.sum(energy, axis=0)
    tl.store(terms, first)
    tl.store(terms + 1, second)
    tl.store(terms + 2, third)
    tl.store(loss, distance_weight * first + hinge_weight * second + energy_weight * third)


@triton.jit
def scaled(matrix, grad, factor, out, count, TILE: tl.constexpr):
    """Matrix times grad and factor, rounded once."""
    place = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    value = tl.load(matrix + place, mask=place < count, other=0.0).to(tl.float32) * (tl.load(grad) * factor)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=place < count)


@triton.jit
def square_pass(matrix, out, energies, side, factor, ZERO_DIAGONAL: tl.constexpr, TILE: tl.constexpr):
    """Times factor, cast, with or without its diagonal; and the sum of its squares: one read of [views, side, side]."""
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    col = tl.program_id(1) * TILE + tl.arange(0, TILE)
    view = tl.program_id(2)
    mask = (row < side)[:, None] & (col < side)[None, :]
    offsets = (view * side + row).to(tl.int64)[:, None] * side + col[None, :]
    tile = tl.load(matrix + offsets, mask=mask, other=0.0) * factor
    if ZERO_DIAGONAL:
        tile = tl.where(row[:, None] == col[None, :], 0.0, tile)
    tl.store(out + offsets, tile.to(out.dtype.element_ty), mask=mask)
    place = (view * tl.num_programs(0) + tl.program_id(0)) * tl.num_programs(1) + tl.program_id(1)
    tl.store(energies + place, tl.sum(tl.sum(tile * tile, axis=1), axis=0))


@triton.jit
def gradient_pass(
    a, b, a_stride, b_stride, mean, grad, pull, slope, lines, products, force, product, weight,
    out, out_view_stride, out_stride, centred, rows, cols,
    LINES: tl.constexpr, HAS_PRODUCT: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """(+-pull (a - b) + zc slope [+ force lines^T products] [+ weight product]) grad of the views; zc if a product follows."""
    col = tl.program_id(0) * TILE_COLS + tl.arange(0, TILE_COLS)
    row = tl.program_id(1) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    in_cols = col < cols
    mask = (row < rows)[:, None] & in_cols[None, :]
    offsets = row.to(tl.int64)[:, None]
    upstream = tl.load(grad)
    tile_a = tl.load(a + offsets * a_stride + col[None, :], mask=mask, other=0.0).to(tl.float32)
    tile_b = tl.load(b + offsets * b_stride + col[None, :], mask=mask, other=0.0).to(tl.float32)
    pulled = pull * (tile_a - tile_b)
    for view in tl.static_range(2):
        tile = tile_a if view == 0 else tile_b
        sign = 1.0 if view == 0 else -1.0
        zc = deviation(tile, mean, view, col, cols, in_cols)
        here = (view * rows + offsets) * cols + col[None, :]
        result = sign * pulled + zc * tl.load(slope + view * cols + col, mask=in_cols, other=0.0)[None, :]
        if LINES:
            line = view * LINES + tl.arange(0, LINES)
            own = tl.load(lines + line[None, :] * rows + row[:, None], mask=(row < rows)[:, None], other=0.0)
            crossed = tl.load(products + line[:, None] * cols + col[None, :], mask=in_cols[None, :], other=0.0)
            result += force * tl.dot(own, crossed, input_precision="ieee")
        if HAS_PRODUCT:
            result += weight * tl.load(product + here, mask=mask, other=0.0)
        else:
            tl.store(centred + here, zc.to(centred.dtype.element_ty), mask=mask)
        there = out + view * out_view_stride.to(tl.int64) + offsets * out_stride + col[None, :]
        tl.store(there, (upstream * result).to(out.dtype.element_ty), mask=mask)


@triton.jit
def gram_split(
    x, out, rows, cols, per_split,
    TILE: tl.constexpr, TILE_K: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Adds x x^T to out, for few rows and many columns: lower tiles, split over the columns, mirrored into the upper half."""
    pair = tl.program_id(0)
    view = tl.program_id(2)
    # the tiles (i, j <= i) in one line: i(i+1)/2 + j
    i = ((tl.sqrt(8.0 * pair + 1.0) - 1.0) / 2.0).to(tl.int32)
    i += tl.where((i + 1) * (i + 2) // 2 <= pair, 1, 0) - tl.where(i * (i + 1) // 2 > pair, 1, 0)
    j = pair - i * (i + 1) // 2
    row = i * TILE + tl.arange(0, TILE)
    col = j * TILE + tl.arange(0, TILE)
    base = x + view.to(tl.int64) * rows * cols
    start = tl.program_id(1) * per_split
    stop = tl.minimum(start + per_split, cols)
    total = tl.zeros((TILE, TILE), tl.float32)
    for k in range(start, stop, TILE_K):
        depth = k + tl.arange(0, TILE_K)
        left_mask = (row < rows)[:, None] & (depth < stop)[None, :]
        right_mask = (col < rows)[:, None] & (depth < stop)[None, :]
        left = tl.load(base + row.to(tl.int64)[:, None] * cols + depth[None, :], mask=left_mask, other=0.0)
        right = tl.load(base + col.to(tl.int64)[:, None] * cols + depth[None, :], mask=right_mask, other=0.0)
        if UPCAST:
            left = left.to(tl.float32)
            right = right.to(tl.float32)
        total = tl.dot(left, tl.trans(right), total, input_precision=PRECISION)
    mask = (row < rows)[:, None] & (col < rows)[None, :]
    here = out + view.to(tl.int64) * rows * rows
    tl.atomic_add(here + row[:, None] * rows + col[None, :], total, mask=mask)
    if i != j:
        tl.atomic_add(here + col[None, :] * rows + row[:, None], total, mask=mask)
