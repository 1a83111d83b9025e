"""Launches of the Triton kernels of the log-det and pairwise entropies: shapes, grids, and scratch memory."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from it_losses.kernels import triton_entropies as kernels
from it_losses.kernels.definite import rounding_of_products
from it_losses.kernels.triton_launches import (
    EIGHT_WARPS,
    OPTIONS,
    PRODUCT_TILE,
    SQUARE_TILE,
    product_options,
    takes_tf32,
    unit_columns,
)

#: tile of passes that go along a row, and of sums over a diagonal
ROW_TILE, ROW_COLS = 4, 512
DIAGONAL_TILE = 1024
#: tile of passes over pairs
PAIR_ROWS, PAIR_COLS = 8, 128
#: tile of the last pass over the samples
OUT_ROWS, OUT_COLS = 32, 64


def centred(z: Tensor, mean: Tensor, units: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`(z - mean) [unit]` in the dtype of z [groups, batch, dim], and its squared norms [groups, batch] in float32."""
    z = unit_columns(z)
    groups, batch, dim = z.shape
    out, norms = z.new_empty(z.shape), z.new_empty(groups, batch, dtype=torch.float32)
    kernels.centre_rows[(triton.cdiv(batch, ROW_TILE), groups)](
        z, z.stride(0), z.stride(1), mean, mean if units is None else units, out, norms, batch, dim,
        HAS_UNITS=units is not None, TILE_ROWS=ROW_TILE, TILE_COLS=ROW_COLS, **OPTIONS,
    )  # fmt: skip
    return out, norms


def gram_constants(matrix: Tensor, means: Tensor | None, scale: float) -> Tensor:
    """What `doubly_centred` needs to turn a Gram matrix into `I + scale H G H`: [groups, side, side] -> [groups, 4]."""
    groups, side, _ = matrix.shape
    constants = matrix.new_empty(groups, 4)
    rounding = rounding_of_products(matrix)
    kernels.gram_constants[(groups,)](
        matrix, matrix if means is None else means, rounding, constants, side, scale,
        CENTRED=means is not None, TILE=DIAGONAL_TILE, **OPTIONS,
    )  # fmt: skip
    return constants


def doubly_centred(matrix: Tensor, means: Tensor | None, constants: Tensor, *, out: Tensor) -> Tensor:
    """`factor H M H + shift 1 1^T + lift I` in out, without H where there are no means: [groups, side, side]."""
    groups, side, _ = matrix.shape
    tiles = triton.cdiv(side, SQUARE_TILE)
    kernels.doubly_centred[(tiles, tiles, groups)](
        matrix,
        matrix if means is None else means,
        constants,
        out,
        side,
        CENTRED=means is not None,
        TILE=SQUARE_TILE,
        **EIGHT_WARPS,
    )
    return out


def scaled_inverse(inverse: Tensor, means: Tensor | None, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """`factor H M H` in a dtype: [groups, side, side], [groups, side], [groups] -> [groups, side, side]."""
    nothing = torch.zeros_like(factor)
    whole = nothing if means is None else means.mean(dim=1)
    constants = torch.stack((factor, whole, nothing, nothing), dim=1)
    # in place where it fits, each program reads what it writes
    out = inverse if dtype == inverse.dtype else inverse.new_empty(inverse.shape, dtype=dtype)
    return doubly_centred(inverse, means, constants, out=out)


def log_diagonal(factor: Tensor, constants: Tensor, *, centred: bool) -> Tensor:
    """`sum_i log L_ii` [groups], less what the shift added."""
    groups, side, _ = factor.shape
    values = constants.new_empty(groups)
    kernels.log_diagonal[(groups,)](factor, constants, values, side, CENTRED=centred, TILE=DIAGONAL_TILE, **OPTIONS)
    return values


def pair_sums(x: Tensor, norms: Tensor, rates: Tensor) -> Tensor:
    """`sum_j exp(-rate_k |x_i - x_j|^2)`: [groups, rows, cols], [groups, rows], [K, groups] -> [K, groups, rows]."""
    groups, rows, cols = x.shape
    sums = norms.new_zeros(len(rates), groups, rows)
    tiles = triton.cdiv(rows, PRODUCT_TILE)
    kernels.pair_sums[(tiles * (tiles + 1) // 2, groups)](
        x, norms, rates, sums, rows, cols, len(rates), **product_options(x.dtype, tf32=takes_tf32()), **OPTIONS
    )
    return sums


def similarity_sums(products: Tensor, norms: Tensor, rates: Tensor, sums: Tensor, first: int) -> None:
    """The same sums of the rows from first on, from their products with all [groups, height, rows], into sums."""
    groups, height, rows = products.shape
    kernels.similarity_sums[(triton.cdiv(height, PAIR_ROWS), groups)](
        products, products.stride(0), norms, rates, sums, first, height, rows, len(rates),
        SCALES=triton.next_power_of_2(len(rates)), TILE_ROWS=PAIR_ROWS, TILE_COLS=PAIR_COLS, **OPTIONS,
    )  # fmt: skip


def pair_weights(
    products: Tensor, norms: Tensor, rates: Tensor, pulls: Tensor, first: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`W_ij = sum_k e_kij (pull_ki + pull_kj)`, zero for j = i, in a dtype [groups, height, rows], and its row sums."""
    groups, height, rows = products.shape
    out, totals = products.new_empty(products.shape, dtype=dtype), norms.new_empty(groups, height)
    kernels.pair_weights[(triton.cdiv(height, PAIR_ROWS), groups)](
        products, products.stride(0), norms, rates, pulls, out, out.stride(0), totals, first, height, rows, len(rates),
        TILE_ROWS=PAIR_ROWS, TILE_COLS=PAIR_COLS, **OPTIONS,
    )  # fmt: skip
    return out, totals


def pulled(x: Tensor, product: Tensor, weights: Tensor, factors: Tensor, out: Tensor, first: int) -> None:
    """`factor (weight_i x_i - product_i)` of the rows from first on, into out [groups, rows, cols]."""
    groups, height, cols = product.shape
    grid = (triton.cdiv(height, OUT_ROWS), triton.cdiv(cols, OUT_COLS), groups)
    kernels.pulled[grid](
        x, product, weights, factors, out, first, height, x.shape[1], cols, TILE_ROWS=OUT_ROWS, TILE_COLS=OUT_COLS, **OPTIONS
    )
