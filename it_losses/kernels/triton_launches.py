"""Launches of the Triton kernels of VICReg on tensors: shapes, grids, and scratch memory."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from it_losses.kernels import triton_kernels as kernels

#: rows of a chunk of statistics, tile of elementwise kernels, tile of products and their depth
CHUNK, TILE_ROWS, TILE_COLS = 256, 32, 64
#: rows of a tile of the gradient, which reads the most and would spill with more
GRADIENT_ROWS = 16
SQUARE_TILE, PRODUCT_TILE, DEPTH = 64, 64, 64
#: named, or Triton 3.9 warns about its default
OPTIONS: dict[str, Any] = {"enable_fp_fusion": True}
#: passes that hold much at once would spill with 4 warps
EIGHT_WARPS = OPTIONS | {"num_warps": 8}
#: columns that one program of a split product takes at least
SPLIT = 512


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU; it runs kernels on tensors of the CPU."""
    return bool(triton.knobs.runtime.interpret)


def unit_columns(z: Tensor) -> Tensor:
    """The same with unit stride along its rows."""
    return z if z.stride(-1) == 1 else z.contiguous()


def statistics(
    z_a: Tensor, z_b: Tensor, *, margin: float, epsilon: float, push: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mean, variance, slope of the hinge [2, 1, dim]; sums of the hinge [] and of (z_a - z_b)^2 []: 2 x [batch, dim]."""
    z_a, z_b = unit_columns(z_a), unit_columns(z_b)
    batch, dim = z_a.shape
    chunks, blocks = triton.cdiv(batch, CHUNK), triton.cdiv(dim, TILE_COLS)
    means, squares = z_a.new_empty(2, chunks, 2, dim, dtype=torch.float32)
    distances = means.new_empty(chunks, blocks)
    kernels.column_statistics[(blocks, chunks)](
        z_a, z_b, z_a.stride(0), z_b.stride(0), means, squares, distances, batch, dim,
        CHUNK=CHUNK, TILE_ROWS=TILE_ROWS, TILE_COLS=TILE_COLS, **OPTIONS,
    )  # fmt: skip
    mean, variance, slope = means.new_empty(3, 2, 1, dim)
    hinges = means.new_empty(2, blocks)
    kernels.finish_statistics[(blocks, 2)](
        means, squares, mean, variance, slope, hinges, batch, dim, chunks, margin, epsilon, push,
        CHUNK=CHUNK, TILE_COLS=TILE_COLS, **OPTIONS,
    )  # fmt: skip
    return mean, variance, slope, hinges.sum(), distances.sum()


def centred(z_a: Tensor, z_b: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Both views less their means, in their dtype [2, batch, dim], and the sums of squares of what was stored [2, 1, dim]."""
    z_a, z_b = unit_columns(z_a), unit_columns(z_b)
    batch, dim = z_a.shape
    grid = (triton.cdiv(dim, TILE_COLS), triton.cdiv(batch, TILE_ROWS))
    out, squares = z_a.new_empty(2, batch, dim), mean.new_empty(grid[1], 2, 1, dim)
    kernels.centre[grid](
        z_a,
        z_b,
        z_a.stride(0),
        z_b.stride(0),
        mean,
        out,
        squares,
        batch,
        dim,
        TILE_ROWS=TILE_ROWS,
        TILE_COLS=TILE_COLS,
        **OPTIONS,
    )
    return out, squares.sum(dim=0)


def squared(matrix: Tensor, factor: float, dtype: torch.dtype, *, zero_diagonal: bool) -> tuple[Tensor, Tensor]:
    """`factor * matrix` in a dtype [views, side, side], and the sum of its squares []."""
    views, side, _ = matrix.shape
    tiles = triton.cdiv(side, SQUARE_TILE)
    out, energies = matrix.new_empty(matrix.shape, dtype=dtype), matrix.new_empty(views, tiles, tiles)
    kernels.square_pass[(tiles, tiles, views)](
        matrix, out, energies, side, factor, ZERO_DIAGONAL=zero_diagonal, TILE=SQUARE_TILE, **EIGHT_WARPS
    )
    return out, energies.sum()


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
    z_a: Tensor, z_b: Tensor, mean: Tensor, pull: Tensor, slope: Tensor, outer: tuple[Tensor, Tensor] | None, *, out: Tensor
) -> Tensor:
    """`+-pull (z_a - z_b) + Zc slope + column row` into out, a part of a gradient; Zc [2, batch, dim] in the views' dtype."""
    centred_ = z_a.new_empty(2, *z_a.shape)
    _gradient(z_a, z_b, mean, pull, slope, outer, None, out, centred_)
    return centred_


def add_product(
    z_a: Tensor, z_b: Tensor, mean: Tensor, pull: Tensor, slope: Tensor, outer: tuple[Tensor, Tensor] | None,
    product: Tensor, weight: Tensor, *, out: Tensor,
) -> None:  # fmt: skip
    """The same gradient with `weight * product` added before anything is rounded, into out."""
    _gradient(z_a, z_b, mean, pull, slope, outer, (product, weight), out, out)


def _gradient(
    z_a: Tensor, z_b: Tensor, mean: Tensor, pull: Tensor, slope: Tensor, outer: tuple[Tensor, Tensor] | None,
    product: tuple[Tensor, Tensor] | None, out: Tensor, centred_: Tensor,
) -> None:  # fmt: skip
    z_a, z_b = unit_columns(z_a), unit_columns(z_b)
    batch, dim = z_a.shape
    grid = (triton.cdiv(dim, TILE_COLS), triton.cdiv(batch, GRADIENT_ROWS))
    kernels.gradient_pass[grid](
        z_a, z_b, z_a.stride(0), z_b.stride(0), mean, pull, slope, *(outer or (mean, mean)), *(product or (mean, pull)),
        out, out.stride(0), out.stride(1), centred_, batch, dim,
        HAS_COLUMN=outer is not None, HAS_PRODUCT=product is not None,
        TILE_ROWS=GRADIENT_ROWS, TILE_COLS=TILE_COLS, **OPTIONS,
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
