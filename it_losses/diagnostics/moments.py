"""Count, mean and covariance of embeddings, accumulated batch by batch (Chan, Golub & LeVeque)."""

from __future__ import annotations

from copy import copy
from typing import TypeAlias

import torch
from torch import Tensor

from it_losses.diagnostics.inputs import Batch, Batches, batches, check_together, is_batch, rows


class Moments:
    """Count, mean and covariance of all rows of many batches, in float64.

    `update` adds a batch, and `+` joins two Moments, for instance of two ranks. The result does not depend on the split of the
    rows into batches. Only `[dim]` and `[dim, dim]` sums are kept, and no rows.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None

    @torch.no_grad()
    def update(self, z: Batch) -> Moments:
        """Add the rows of a batch `[batch, dim]`, and return self."""
        z = rows(z)
        batch = Moments()
        batch.count, batch._mean = len(z), z.mean(dim=0)
        centred = z - batch._mean
        batch._scatter = centred.mT @ centred
        joined = self + batch
        self.count, self._mean, self._scatter = joined.count, joined._mean, joined._scatter
        return self

    def __add__(self, other: Moments) -> Moments:
        """The moments of all rows of both objects."""
        if self._mean is None or self._scatter is None:
            return copy(other)
        if other._mean is None or other._scatter is None:
            return copy(self)
        check_together(self._mean[None], other._mean[None])
        joined = Moments()
        joined.count = self.count + other.count
        step = other._mean - self._mean
        joined._mean = self._mean + step * (other.count / joined.count)
        joined._scatter = self._scatter + other._scatter + step.outer(step) * (self.count * other.count / joined.count)
        return joined

    @property
    def mean(self) -> Tensor:
        """The mean of all rows: [dim]."""
        if self._mean is None:
            raise ValueError("moments need at least one batch, got none. Call update(z) first.")
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """The covariance, divided by the number of rows: [dim, dim]."""
        if self._scatter is None:
            raise ValueError("moments need at least one batch, got none. Call update(z) first.")
        return self._scatter / self.count

    @property
    def second_moment(self) -> Tensor:
        """The mean of `z z^T` over all rows: [dim, dim]."""
        return self.covariance + self.mean.outer(self.mean)

    def __repr__(self) -> str:
        """The number of rows and their dimension."""
        return f"Moments(count={self.count}, dim={None if self._mean is None else len(self._mean)})"


#: a batch `[batch, dim]`, an iterable of batches, or their Moments
Embeddings: TypeAlias = "Batches | Moments"


def moments_of(z: Embeddings) -> Moments:
    """The moments of a batch or of an iterable of batches; Moments are returned unchanged."""
    if isinstance(z, Moments):
        return z
    moments = Moments()
    for batch in batches(z):
        moments.update(batch)
    return moments


def mean_and_variance(z: Embeddings) -> tuple[Tensor, Tensor]:
    """Mean and variance (divided by count) of each coordinate: 2 x [dim]."""
    if is_batch(z):
        z = rows(z)
        return z.mean(dim=0), z.var(dim=0, correction=0)
    moments = moments_of(z)
    return moments.mean, moments.covariance.diagonal()


def all_rows(z: Embeddings) -> Tensor:
    """Every row of a batch or of an iterable of batches, in float64: [batch, dim]."""
    if isinstance(z, Moments):
        raise ValueError("this function needs all rows, but Moments keep none. Pass a batch or an iterable of batches.")
    found = [rows(batch) for batch in batches(z)]
    for batch in found[1:]:
        check_together(found[0], batch)
    return torch.cat(found) if len(found) > 1 else found[0]
