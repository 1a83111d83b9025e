"""Random unit directions, which depend only on a seed and a draw number, so that all ranks get the same directions.

The random bits are hashes of row and column indices, computed by tensor operators. So the state of torch's generators does not
change, and the code works under torch.compile, torch.func and CUDA graphs.
"""

import math
from typing import Any

import torch
from torch import Tensor

#: numbers that a CPU draws at a time, so that they fit in its cache
BLOCK = 1 << 16
#: index of the first column. If it were 0, like that of the first row, key 0 would give a symmetric matrix
FIRST_COLUMN = 1 << 30
_BITS_32 = 0xFFFFFFFF


def unit_directions(count: int, dim: int, *, seed: int, draw: int | Tensor, like: Tensor) -> Tensor:
    """Random directions, uniform on the unit sphere, for a seed and a draw number: -> [count, dim], dtype of `like`."""
    key = key_of(seed, draw)
    half = (dim + 1) // 2
    places = torch.arange(count, device=like.device) ^ key, torch.arange(FIRST_COLUMN, FIRST_COLUMN + half, device=like.device)
    rows, columns = _hashed(torch.cat(places)).split([count, half])
    blocks = torch.split(rows, max(BLOCK // dim, 1)) if like.device.type == "cpu" else [rows]
    normal = torch.cat([_normal(_hashed(block[:, None] ^ columns), like.dtype)[:, :dim] for block in blocks])
    return torch.nn.functional.normalize(normal, dim=1)


def key_of(seed: int, draw: int | Tensor) -> Any:
    """A 32-bit key for a draw: a number, or a tensor if `draw` is a tensor."""
    return _hashed(_hashed(seed & _BITS_32) ^ draw)


def _normal(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Two normal numbers from each 32 bits (Box-Muller, 16 bits each for radius and angle): [n, m] -> [n, 2 m]."""
    radius = (bits >> 16).to(dtype).add_(0.5).mul_(2.0**-16).log_().mul_(-2).sqrt_()
    # with 0.5 the cosine is never 0, which could not be normalised if dim is 1
    angle = (bits & 0xFFFF).to(dtype).add_(0.5).mul_(2 * math.pi * 2.0**-16)
    return torch.cat((angle.cos().mul_(radius), angle.sin_().mul_(radius)), dim=1)


def _hashed(x: Any) -> Any:
    """A 32-bit hash of x. If one bit of x changes, each bit of the hash flips with probability 1/2."""
    for _ in range(2):
        x = (x >> 16) ^ x
        # x is below 2^32 and the factor below 2^31, so the product fits in int64
        x *= 0x45D9F3B
        x &= _BITS_32
    return (x >> 16) ^ x
