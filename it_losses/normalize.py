"""Normalization of embeddings before a term is computed: each sample to unit norm, or each dimension to unit variance."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast

from torch import Tensor
from torch.nn import functional

#: None for embeddings as they are
Normalization: TypeAlias = Literal["rows", "columns"] | None


def normalized(z: Tensor, normalization: Normalization) -> Tensor:
    """`z / |z|` for "rows", `(z - mean) / std` over the batch for "columns": [..., batch, dim] -> [..., batch, dim].

    A row of zeros, and a column without variance, stay zero.
    """
    if normalization == "rows":
        return functional.normalize(z, dim=-1)
    if normalization == "columns":
        unit = functional.normalize(z - z.mean(dim=-2, keepdim=True), dim=-2)
        return cast(Tensor, unit * z.shape[-2] ** 0.5)
    return z


def check_normalization(name: str, value: object) -> Normalization:
    """The normalization; ValueError unless it is None, "rows" or "columns"."""
    if value is None or value == "rows" or value == "columns":
        return value
    raise ValueError(f'{name} must be None, "rows" or "columns", got {value!r}.')
