"""The random directions of `it_losses.slices` on a GPU, bit for bit from the same hashes: one launch, of `normal_numbers`."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from it_losses.kernels.products.cuda_passes import OPTIONS
from it_losses.slices import key_of

#: rows and columns of a tile
TILE_ROWS, TILE_COLS = 4, 128


def unit_directions(count: int, dim: int, *, seed: int, draw: int, like: Tensor) -> Tensor:
    """Directions that are uniform on the sphere, for the draw of that number: -> [count, dim] in float32."""
    out = like.new_empty(count, dim, dtype=torch.float32)
    key, half = key_of(seed, draw), (dim + 1) // 2
    # a number of 32 bits with a sign, so that every key has the same type
    key -= (key >> 31) << 32
    grid = triton.cdiv(half, TILE_COLS), triton.cdiv(count, TILE_ROWS)
    normal_numbers[grid](out, key, count, dim, half, TILE_ROWS=TILE_ROWS, TILE_COLS=TILE_COLS, **OPTIONS)
    return torch.nn.functional.normalize(out, dim=1)


@triton.jit
def hashed(x):
    """The hash of `slices`, in 32 bits whose products wrap around."""
    for _ in tl.static_range(2):
        x = ((x >> 16) ^ x) * 0x45D9F3B
    return (x >> 16) ^ x


@triton.jit(do_not_specialize=["key"])
def normal_numbers(out, key, count, dim, half, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr):
    """Box-Muller: two normal numbers from each 32 bits, 16 for the radius and 16 for the angle."""
    row = tl.program_id(1) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    col = tl.program_id(0) * TILE_COLS + tl.arange(0, TILE_COLS)
    of_row = hashed(row.to(tl.uint32) ^ key.to(tl.uint32))
    bits = hashed(of_row[:, None] ^ hashed(col.to(tl.uint32))[None, :])
    radius = tl.sqrt(-2 * tl.log(((bits >> 16).to(tl.float32) + 0.5) / 65536))
    angle = (bits & 0xFFFF).to(tl.float32) * (6.283185307179586 / 65536)
    place = out + row.to(tl.int64)[:, None] * dim + col[None, :]
    mask = (row < count)[:, None] & (col < half)[None, :]
    tl.store(place, radius * tl.cos(angle), mask=mask)
    tl.store(place + half, radius * tl.sin(angle), mask=mask & (half + col < dim)[None, :])
