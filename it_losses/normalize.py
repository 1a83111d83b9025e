"""Normalization of embeddings: rows of unit norm, or columns of unit variance or unit mean square."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

#: None leaves the embeddings unchanged
Normalization: TypeAlias = Literal["rows", "columns", "uncentred_columns"] | None

#: a column counts as constant if its standard deviation is at most SMALLEST or `ROUNDING * eps * |mean|`
SMALLEST, ROUNDING = 1e-12, 16


def normalized(z: Tensor, normalization: Normalization) -> Tensor:
    """Normalized samples: [..., batch, dim] -> [..., batch, dim].

    "rows" gives `z / |z|`, and "columns" gives `(z - mean) / std` with mean and std over the batch. "uncentred_columns" divides
    by the root mean square over the batch. Zeros stay zero. "columns" sets a constant column to zero.
    """
    if normalization == "rows":
        return functional.normalize(z, dim=-1)
    return z if normalization is None else _columns(z, centre=normalization == "columns")


def _columns(z: Tensor, *, centre: bool) -> Tensor:
    mean: Tensor = z.mean(dim=-2, keepdim=True)
    if centre:
        z = z - mean
    std = torch.linalg.vector_norm(z, dim=-2, keepdim=True) / z.shape[-2] ** 0.5
    # columns whose values differ only by rounding count as constant
    floor = (ROUNDING * torch.finfo(z.dtype).eps * mean.abs()).clamp_min(SMALLEST)
    unit: Tensor = z / std.masked_fill(std <= floor, torch.inf)
    return unit


def check_normalization(name: str, value: object) -> Normalization:
    """The normalization; ValueError unless it is None, "rows", "columns" or "uncentred_columns"."""
    if value is None or value == "rows" or value == "columns" or value == "uncentred_columns":
        return value
    raise ValueError(f'{name} must be None, "rows", "columns" or "uncentred_columns", got {value!r}.')
