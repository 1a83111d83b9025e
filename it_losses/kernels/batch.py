"""The samples of a batch and the ranks that share it: this rank owns n of N samples, and a single process owns all N."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Ranks(Protocol):
    """The ranks that share a batch, such as `it_losses.distributed.Ranks`."""

    #: number of ranks, number of samples of all ranks, and the rows that this rank owns
    world: int
    samples: int
    own: slice

    def summed(self, own: Tensor) -> Tensor:
        """The sum over all ranks, a tensor that the caller may overwrite."""

    def gathered(self, own: Tensor) -> Tensor:
        """The rows of all ranks, in rank order: [n, ...] -> [N, ...]."""


class SingleRank:
    """A single process owns every row, so its collectives return their argument."""

    world = 1

    def __init__(self, samples: int) -> None:
        self.samples, self.own = samples, slice(0, samples)

    def summed(self, own: Tensor) -> Tensor:
        """The tensor itself."""
        return own

    def gathered(self, own: Tensor) -> Tensor:
        """The tensor itself."""
        return own


class PooledRanks:
    """The ranks of a batch whose views are pooled: each sample has `views` adjacent rows, on the rank that owns it."""

    def __init__(self, ranks: Ranks, views: int) -> None:
        self._ranks, self._views = ranks, views
        self.world, self.samples = ranks.world, ranks.samples * views
        self.own = slice(ranks.own.start * views, ranks.own.stop * views)

    def summed(self, own: Tensor) -> Tensor:
        """The sum over all ranks."""
        return self._ranks.summed(own)

    def gathered(self, own: Tensor) -> Tensor:
        """The rows of all ranks: [n views, ...] -> [N views, ...]."""
        return self._ranks.gathered(torch.unflatten(own, 0, (-1, self._views))).flatten(0, 1)


class Batch:
    """The samples that this rank owns, a tensor `[groups, n, dim]` for each view, and the ranks that share the batch."""

    def __init__(self, own: list[Tensor], ranks: Ranks, stacked: Tensor | None = None) -> None:
        self.own, self.ranks = own, ranks
        #: all views in one tensor [S, n, dim], if the tensors in `own` are parts of it
        self._stacked = stacked
        #: N, the samples of all ranks
        self.samples = ranks.samples
        self.groups, rows, self.dim = own[0].shape
        #: S, the number of views times the number of groups
        self.stacks = len(own) * self.groups
        #: whether this rank owns every row
        self.is_whole = rows == ranks.samples

    def pooled(self) -> Batch:
        """A batch with all views in one, [groups, n views, dim]: the views of a sample are adjacent rows."""
        return Batch([torch.stack(self.own, dim=2).flatten(1, 2)], PooledRanks(self.ranks, len(self.own)))

    def all_samples(self, view: int) -> Tensor:
        """The samples of all ranks in one view: [groups, N, dim]."""
        return self.gathered_rows(self.own[view])

    def samples_of(self, first: int, count: int) -> list[Tensor]:
        """The samples of all ranks in `count` views: one tensor [S, N, dim] if all views share one, else one for each view."""
        if self.is_whole and self._stacked is not None and count == len(self.own):
            return [self._stacked]
        return [self.all_samples(view) for view in range(first, first + count)]

    def gathered_rows(self, own: Tensor, dim: int = 1) -> Tensor:
        """Gather the rows that each rank owns, along `dim`: [..., n, ...] -> [..., N, ...]."""
        if self.is_whole:
            return own
        return self.ranks.gathered(own.movedim(dim, 0)).movedim(0, dim)


class Plan(NamedTuple):
    """The module of matrix operations for an objective, and whether the objective forms the N x N or the D x D matrix."""

    products: ModuleType
    by_gram: bool


class Request(NamedTuple):
    """The weights of the two terms of the loss, and whether the caller needs a gradient."""

    #: factor of `z - z'` (more views: `2 (z - mean view)`) in the gradient; None if the loss has no distance of views
    difference_weight: float | None
    #: the loss contains `-entropy_weight * H`
    entropy_weight: float
    needs_gradient: bool


class Evaluation(NamedTuple):
    """The results of a fused implementation for the batch of all ranks."""

    #: mean entropy over views and groups: []
    entropy: Tensor
    #: further numbers for logging and warnings: k x []
    parts: tuple[Tensor, ...]
    #: squared distance between the views, summed over the samples of this rank: []
    distance: Tensor
    #: gradient with respect to the samples of this rank, [S, n, dim], if requested
    gradient: Tensor | None
