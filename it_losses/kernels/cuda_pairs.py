"""Row sums of pairwise similarities on a GPU without their matrix, by the Triton kernel `pair_sums`."""

from __future__ import annotations

import torch
from torch import Tensor

from it_losses.kernels.optional_triton import is_installed, launches


def serves(z: Tensor) -> bool:
    """Whether the kernel can take z."""
    return z.is_cuda and z.dtype == torch.float32 and is_installed()


def sums(z: Tensor, norms: Tensor, ratios: Tensor) -> Tensor:
    """`sum_j exp(-ratio_k |z_i - z_j|^2)`: [groups, batch, dim], [groups, batch], [K, groups] -> [K, groups, batch]."""
    result: Tensor = launches().pair_sums(z, norms, ratios)
    return result
