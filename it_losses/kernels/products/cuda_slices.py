"""The characteristic function of samples along random directions, in Triton. A slice is the projections on one direction.

    normal_numbers   random directions before they are scaled to length 1, from the hashes of `it_losses.slices`
    sums_of_waves    sum_i cos(t_k x_i) and sum_i sin(t_k x_i) of every slice x and knot t_k
    slopes_of_waves  d/dx_i sum_k a_k cos(t_k x_i) + b_k sin(t_k x_i)

The last two recompute cosines and sines (waves), because storing them would need 2 K times the memory of x.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from it_losses.kernels.products.cuda import distance, empty_gradient
from it_losses.kernels.products.cuda_passes import OPTIONS
from it_losses.slices import FIRST_COLUMN, key_of

__all__ = ["MOST_WAVES_AT_ONCE", "distance", "empty_gradient", "largest_projection", "unit_directions", "wave_slopes_", "waves"]

#: no limit, because waves are not stored
MOST_WAVES_AT_ONCE = 1 << 62
#: a tile of random numbers is small, because cosines need many registers
TILE_ROWS, TILE_COLS = 8, 64
TILE = 256


class Waves(NamedTuple):
    """The projections x and the knots t, from which each kernel recomputes the waves cos(t x) and sin(t x)."""

    x: Tensor  # [S, slices, n]
    knots: Tensor  # [K]


def unit_directions(count: int, dim: int, *, seed: int, draw: int, like: Tensor) -> Tensor:
    """Random directions, uniform on the unit sphere, for a seed and a draw number: -> [count, dim] in float32."""
    out = like.new_empty(count, dim, dtype=torch.float32)
    key, half = key_of(seed, draw), (dim + 1) // 2
    # make the key a signed 32-bit number, so that every key has the same type in Triton
    key -= (key >> 31) << 32
    grid = triton.cdiv(count, TILE_ROWS), triton.cdiv(half, TILE_COLS)
    # products in the hash overflow on purpose, so Triton must not check for overflow
    options = OPTIONS | {"sanitize_overflow": False}
    normal_numbers[grid](
        out, key, count, dim, half, FIRST_COLUMN=FIRST_COLUMN, TILE_ROWS=TILE_ROWS, TILE_COLS=TILE_COLS, **options
    )
    return out.div_(torch.linalg.vector_norm(out, dim=1, keepdim=True))


def largest_projection(x: Tensor) -> Tensor:
    """The largest absolute value []."""
    largest: Tensor = torch.linalg.vector_norm(x, torch.inf)
    return largest


def waves(x: Tensor, knots: Tensor, slices_at_once: int) -> Iterator[tuple[Tensor, Waves]]:
    """Yield sums of cosines and sines over this rank's samples [S, slices, 2, K], and the waves.

    x is [S, slices, n], and knots is [K]. All slices are one block, because no waves are stored.
    """
    stacks, slices, samples = x.shape
    sums = x.new_empty(stacks, slices, 2, len(knots))
    sums_of_waves[(stacks * slices,)](x, knots, sums, samples, len(knots), TILE=TILE, **OPTIONS)
    yield sums, Waves(x, knots)


def wave_slopes_(waves: Waves, weights: Tensor) -> Tensor:
    """Replace x [S, slices, n] by d/dx of the sum of weights times waves; the weights are [S, slices, 2, K]."""
    stacks, slices, samples = waves.x.shape
    slopes_of_waves[stacks * slices, triton.cdiv(samples, TILE)](
        waves.x, waves.knots, weights, samples, len(waves.knots), TILE=TILE, **OPTIONS
    )
    return waves.x


@triton.jit
def hashed(x):
    """The hash of `it_losses.slices`, in 32-bit arithmetic that overflows."""
    for _ in tl.static_range(2):
        x = ((x >> 16) ^ x) * 0x45D9F3B
    return (x >> 16) ^ x


@triton.jit(do_not_specialize=["key"])
def normal_numbers(out, key, count, dim, half, FIRST_COLUMN: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr):
    """Store two normal numbers from each 32 bits (Box-Muller, 16 bits each for radius and angle)."""
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


@triton.jit
def sums_of_waves(x, knots, sums, samples, count, TILE: tl.constexpr):
    """Store sum_i cos(t_k x_i) and sum_i sin(t_k x_i) of one slice."""
    row = tl.program_id(0).to(tl.int64)
    for k in range(count):
        knot = tl.load(knots + k)
        cosines = tl.zeros((TILE,), tl.float32)
        sines = tl.zeros((TILE,), tl.float32)
        for start in range(0, samples, TILE):
            i = start + tl.arange(0, TILE)
            angle = knot * tl.load(x + row * samples + i, mask=i < samples, other=0.0)
            cosines += tl.where(i < samples, tl.cos(angle), 0.0)
            sines += tl.sin(angle)
        tl.store(sums + 2 * row * count + k, tl.sum(cosines, axis=0))
        tl.store(sums + (2 * row + 1) * count + k, tl.sum(sines, axis=0))


@triton.jit
def slopes_of_waves(x, knots, weights, samples, count, TILE: tl.constexpr):
    """Replace x_i by sum_k t_k (b_k cos(t_k x_i) - a_k sin(t_k x_i)) in a tile of one slice; weights holds a and b."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * TILE + tl.arange(0, TILE)
    place = x + row * samples + i
    own = tl.load(place, mask=i < samples, other=0.0)
    slope = tl.zeros((TILE,), tl.float32)
    for k in range(count):
        knot = tl.load(knots + k)
        of_cosine = tl.load(weights + 2 * row * count + k)
        of_sine = tl.load(weights + (2 * row + 1) * count + k)
        slope += knot * (of_sine * tl.cos(knot * own) - of_cosine * tl.sin(knot * own))
    tl.store(place, slope, mask=i < samples)
