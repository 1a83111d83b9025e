"""Products on a GPU: float32 results whatever the operands, by cuBLAS, or split over the columns where it has too few tiles."""

from __future__ import annotations

import torch
from torch import Tensor

from it_losses.kernels.optional_triton import is_installed, launches

#: up to so many rows, and from so many columns on, a Gram matrix has too few tiles to fill a GPU unless columns are split
SPLIT_ROWS, SPLIT_COLS = 512, 2048


def serves(z: Tensor) -> bool:
    """Whether the Triton kernels can take z."""
    return z.is_cuda and z.dtype in (torch.float16, torch.bfloat16, torch.float32) and is_installed()


def may_add_in_any_order() -> bool:
    """Whether sums may differ in their last bit from run to run, as they do where programs add to one place."""
    return not torch.are_deterministic_algorithms_enabled()


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a b` [groups, n, m] in float32: rounding it to the operands' dtype costs two digits of a loss."""
    if a.dtype == torch.float32:
        return torch.bmm(a, b)
    if a.is_cuda:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())


def gram(x: Tensor) -> Tensor:
    """`x x^T` in float32: [groups, rows, cols] -> [groups, rows, rows]."""
    rows, cols = x.shape[1:]
    if rows <= SPLIT_ROWS and cols >= SPLIT_COLS and may_add_in_any_order():
        result: Tensor = launches().gram(x)
        return result
    return product(x, x.mT)
