"""Launches of the Triton kernels of VICReg on tensors: shapes, grids, and scratch memory."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from it_losses.kernels import triton_kernels as kernels
from it_losses.kernels.closed_vicreg_apart import LINES

#: rows of a chunk of statistics, tile of elementwise kernels, tile of products and their depth
CHUNK, TILE_ROWS, TILE_COLS = 256, 32, 64
#: rows of a tile of the gradient, which reads the most and would spill with more
GRADIENT_ROWS = 16
#: samples of a column taken apart at a time
LINE_ROWS = 128
SQUARE_TILE, PRODUCT_TILE, DEPTH, TOTAL_TILE = 64, 64, 64, 1024
#: named, or Triton 3.9 warns about its default
OPTIONS: dict[str, Any] = {"enable_fp_fusion": True}
#: passes that hold much at once would spill with 4 warps
EIGHT_WARPS = OPTIONS | {"num_warps": 8}
#: columns that one program of a split product takes at least
SPLIT = 512

#: lines, rows, and the factor of their product
Outer = tuple[Tensor, Tensor, float]


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU; it runs kernels on tensors of the CPU."""
    return bool(triton.knobs.runtime.interpret)


def unit_columns(z: Tensor) -> Tensor:
    """The same with unit stride along its rows."""
    return z if z.stride(-1) == 1 else z.contiguous()


def statistics(
    z_a: Tensor, z_b: Tensor, *, margin: float, epsilon: float, push: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mean and its rounding [2, 2, dim], variance, slope of the hinge [2, 1, dim]; parts of the sums of the hinge and of
    (z_a - z_b)^2: 2 x [batch, dim].
    """
    z_a, z_b = unit_columns(z_a), unit_columns(z_b)
    batch, dim = z_a.shape
    chunks, blocks = triton.cdiv(batch, CHUNK), triton.cdiv(dim, TILE_COLS)
    shifts, means, squares = z_a.new_empty(3, chunks, 2, dim, dtype=torch.float32)
    distances = means.new_empty(chunks, blocks)
    kernels.column_statistics[(blocks, chunks)](
        z_a, z_b, z_a.stride(0), z_b.stride(0), shifts, means, squares, distances, batch, dim,
        CHUNK=CHUNK, TILE_ROWS=TILE_ROWS, TILE_COLS=TILE_COLS, **OPTIONS,
    )  # fmt: skip
    mean, variance, slope = (means.new_empty(2, parts, dim) for parts in (2, 1, 1))
    hinges = means.new_empty(2, blocks)
    kernels.finish_statistics[(blocks, 2)](
        shifts, means, squares, mean, variance, slope, hinges, batch, dim, chunks, margin, epsilon, push,
        CHUNK=CHUNK, TILE_COLS=TILE_COLS, **OPTIONS,
    )  # fmt: skip
    return mean, variance, slope, hinges, distances


def centred(z_a: Tensor, z_b: Tensor, mean: Tensor) -> Tensor:
    """Both views less their means, in their dtype: [2, batch, dim]."""
    out = z_a.new_empty(2, *z_a.shape)
    _centre(z_a, z_b, mean, mean, out, mean, lines=0)
    return out


def centred_without(z_a: Tensor, z_b: Tensor, mean: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """Zc [2, batch, dim] with zeros in the columns `top` [2, 1, k], and parts of the sums of squares of what was rounded."""
    out = z_a.new_empty(2, *z_a.shape)
    squares = mean.new_empty(triton.cdiv(len(z_a), TILE_ROWS), 2, z_a.shape[1])
    _centre(z_a, z_b, mean, top, out, squares, lines=LINES)
    return out, squares


def _centre(z_a: Tensor, z_b: Tensor, mean: Tensor, top: Tensor, out: Tensor, squares: Tensor, *, lines: int) -> None:
    z_a, z_b = unit_columns(z_a), unit_columns(z_b)
    batch, dim = z_a.shape
    kernels.centre[(triton.cdiv(dim, TILE_COLS), triton.cdiv(batch, TILE_ROWS))](
        z_a, z_b, z_a.stride(0), z_b.stride(0), mean, top, out, squares, batch, dim, top.shape[-1],
        LINES=lines, TILE_ROWS=TILE_ROWS, TILE_COLS=TILE_COLS, **EIGHT_WARPS,
    )  # fmt: skip


def taken_apart(z_a: Tensor, z_b: Tensor, mean: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """The columns `top` [2, 1, k] of the views less their means, then zeros: [2, LINES, batch], in float32 and in theirs."""
    z_a, z_b = unit_columns(z_a), unit_columns(z_b)
    batch, dim = z_a.shape
    lines = mean.new_empty(2, LINES, batch)
    operands = lines if z_a.dtype == torch.float32 else z_a.new_empty(lines.shape)
    kernels.take_apart[(LINES, triton.cdiv(batch, LINE_ROWS))](
        z_a, z_b, z_a.stride(0), z_b.stride(0), mean, top, lines, operands, batch, dim, top.shape[-1],
        LINES=LINES, TILE_ROWS=LINE_ROWS, **OPTIONS,
    )  # fmt: skip
    return lines, operands


def finish_columns(squares: Tensor, lines: Tensor, products: Tensor, top: Tensor, slope: Tensor, *, pull: float) -> Tensor:
    """Parts of `sum_d (2 |row_d|^2 - var_d^2)` and of the squared covariances among the columns taken apart.

    Of the `products` [2, LINES, dim] of the lines and Zc, which lacks their columns, those of these columns are filled in;
    `row = products / (batch - 1)`, var is that of what was rounded, and `pull var` is taken from slope; both in place.
    """
    batch, dim = lines.shape[2], slope.shape[2]
    blocks = triton.cdiv(dim, TILE_COLS)
    energies = slope.new_empty(2, blocks + LINES)
    kernels.finish_columns[(blocks + LINES, 2)](
        squares, lines, products, top, slope, energies, batch, dim, len(squares), top.shape[-1], 1 / (batch - 1), pull,
        LINES=LINES, TILE_ROWS=LINE_ROWS, TILE_COLS=TILE_COLS, **OPTIONS,
    )  # fmt: skip
    return energies


def squared(matrix: Tensor, factor: float, dtype: torch.dtype, *, zero_diagonal: bool) -> tuple[Tensor, Tensor]:
    """`factor * matrix` in a dtype [views, side, side], and parts of the sum of its squares."""
    views, side, _ = matrix.shape
    tiles = triton.cdiv(side, SQUARE_TILE)
    out, energies = matrix.new_empty(matrix.shape, dtype=dtype), matrix.new_empty(views, tiles, tiles)
    kernels.square_pass[(tiles, tiles, views)](
        matrix, out, energies, side, factor, ZERO_DIAGONAL=zero_diagonal, TILE=SQUARE_TILE, **EIGHT_WARPS
    )
    return out, energies


def total(
    parts: tuple[Tensor, Tensor, Tensor, Tensor], factors: tuple[float, float, float, float], weights: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Loss [] and terms [3]: factors times the sums of the parts of distance, hinge and energy, the latter in two kinds."""
    loss, terms = parts[0].new_empty(()), parts[0].new_empty(3)
    kernels.total[(1,)](*parts, loss, terms, *(part.numel() for part in parts), *factors, *weights, TILE=TOTAL_TILE, **OPTIONS)
    return loss, terms


def scaled(matrix: Tensor, grad: Tensor, factor: float) -> Tensor:
    """`grad factor matrix`, in the dtype of the matrix; grad is []."""
    out = matrix.new_empty(matrix.shape)
    kernels.scaled[(triton.cdiv(matrix.numel(), TOTAL_TILE),)](
        matrix, grad, factor, out, matrix.numel(), TILE=TOTAL_TILE, **OPTIONS
    )
    return out


def gram(x: Tensor) -> Tensor:
    """`x x^T` of few rows and many columns: [views, rows, cols] -> [views, rows, rows], float32."""
    views, rows, cols = x.shape
    out = x.new_zeros(views, rows, rows, dtype=torch.float32)
    tiles, splits = triton.cdiv(rows, PRODUCT_TILE), max(cols // SPLIT, 1)
    options = product_options(x.dtype, tf32=takes_tf32())
    per_split = triton.cdiv(triton.cdiv(cols, splits), DEPTH) * DEPTH
    grid = (tiles * (tiles + 1) // 2, triton.cdiv(cols, per_split), views)
    kernels.gram_split[grid](x, out, rows, cols, per_split, **options, **OPTIONS)
    return out


def gradient(
    z_a: Tensor, z_b: Tensor, mean: Tensor, grad: Tensor, pull: float, slope: Tensor, outer: Outer | None, *, out: Tensor
) -> Tensor:
    """`grad (+-pull (z_a - z_b) + Zc slope + force lines^T rows)` into out, part of a gradient; and Zc in the views' dtype."""
    centred_ = z_a.new_empty(2, *z_a.shape)
    _gradient(z_a, z_b, mean, grad, pull, slope, outer, None, out, centred_)
    return centred_


def add_product(
    z_a: Tensor, z_b: Tensor, mean: Tensor, grad: Tensor, pull: float, slope: Tensor, outer: Outer | None,
    product: Tensor, weight: float, *, out: Tensor,
) -> None:  # fmt: skip
    """The same gradient with `grad weight product` added before anything is rounded, into out."""
    _gradient(z_a, z_b, mean, grad, pull, slope, outer, (product, weight), out, out)


def _gradient(
    z_a: Tensor, z_b: Tensor, mean: Tensor, grad: Tensor, pull: float, slope: Tensor, outer: Outer | None,
    product: tuple[Tensor, float] | None, out: Tensor, centred_: Tensor,
) -> None:  # fmt: skip
    z_a, z_b = unit_columns(z_a), unit_columns(z_b)
    batch, dim = z_a.shape
    grid = (triton.cdiv(dim, TILE_COLS), triton.cdiv(batch, GRADIENT_ROWS))
    kernels.gradient_pass[grid](
        z_a, z_b, z_a.stride(0), z_b.stride(0), mean, grad, pull, slope, *(outer or (mean, mean, 0.0)),
        *(product or (mean, 0.0)), out, out.stride(0), out.stride(1), centred_, batch, dim,
        LINES=LINES if outer else 0, HAS_PRODUCT=product is not None,
        TILE_ROWS=GRADIENT_ROWS, TILE_COLS=TILE_COLS, **EIGHT_WARPS,
    )  # fmt: skip


def product_options(dtype: torch.dtype, *, tf32: bool) -> dict[str, Any]:
    """Tile, precision and warps of products of operands of a dtype: 8 warps, 4 have too few registers for odd sizes."""
    # without tensor cores a thread holds its part of both operands beside its sums
    exact = dtype == torch.float32 and not tf32
    tile = {"TILE": PRODUCT_TILE, "TILE_K": DEPTH // 2 if exact else DEPTH, "num_warps": 8}
    return tile | {"PRECISION": "ieee" if exact else "tf32", "UPCAST": interpreted()}


def takes_tf32() -> bool:
    """Whether torch takes TF32 for float32 operands on a GPU."""
    matmul = torch.backends.cuda.matmul
    # the newer of two settings; to read the older raises where the newer has been set
    newer = getattr(matmul, "fp32_precision", None)
    return bool(matmul.allow_tf32) if newer is None else newer == "tf32"
