"""The samples of a batch, and the ranks that share it: each rank owns n of the N samples; a single process owns all N."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Ranks(Protocol):
    """The interface of the ranks that share a batch. `it_losses.distributed.Ranks` implements it."""

    #: number of ranks, number of samples of all ranks, and the rows that this rank owns
    world: int
    samples: int
    own: slice

    def summed(self, own: Tensor) -> Tensor:
        """The sum over all ranks, in a tensor that the caller may overwrite."""

    def gathered(self, own: Tensor) -> Tensor:
        """The rows of all ranks, in rank order: [n, ...] -> [N, ...]."""


class SingleRank:
    """A single process, which owns every row, so its collectives return their argument."""

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
    """The ranks of a batch whose views are pooled into one: each sample has `views` adjacent rows, all on one rank."""

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
    """The samples that this rank owns, with one tensor [groups, n, dim] for each view, and the ranks that share the batch."""

    def __init__(self, own: list[Tensor], ranks: Ranks, stacked: Tensor | None = None) -> None:
        self.own, self.ranks = own, ranks
        #: one tensor [S, n, dim], if the tensors in `own` are its parts
        self._stacked = stacked
        #: N, the number of samples on all ranks
        self.samples = ranks.samples
        self.groups, rows, self.dim = own[0].shape
        #: S, the number of views times the number of groups
        self.stacks = len(own) * self.groups
        #: whether this rank owns every row
        self.is_whole = rows == ranks.samples

    def pooled(self) -> Batch:
        """A batch with one view [groups, n views, dim], in which the views of a sample are adjacent rows."""
        return Batch([torch.stack(self.own, dim=2).flatten(1, 2)], PooledRanks(self.ranks, len(self.own)))

    def all_samples(self, view: int) -> Tensor:
        """The samples of all ranks in this view: -> [groups, N, dim]."""
        return self.gathered_rows(self.own[view])

    def samples_of(self, first: int, count: int) -> list[Tensor]:
        """The samples of all ranks in views first .. first + count - 1: a tensor for each view, or one [S, N, dim] for all."""
        if self.is_whole and self._stacked is not None and count == len(self.own):
            return [self._stacked]
        return [self.all_samples(view) for view in range(first, first + count)]

    def gathered_rows(self, own: Tensor, dim: int = 1) -> Tensor:
        """Gather the rows that each rank owns, along `dim`: [..., n, ...] -> [..., N, ...]."""
        if self.is_whole:
            return own
        return self.ranks.gathered(own.movedim(dim, 0)).movedim(0, dim)


class Plan(NamedTuple):
    """The module of matrix operations, and whether the objective forms the N x N (Gram) or the D x D matrix."""

    products: ModuleType
    by_gram: bool


class Request(NamedTuple):
    """The weights of the two terms of the loss, and whether the caller needs a gradient."""

    #: factor of `z - z'` in the gradient, or of `2 (z - mean view)` for more than two; None if the loss has no distance
    difference_weight: float | None
    #: the loss contains `-entropy_weight * H`
    entropy_weight: float
    needs_gradient: bool


class Evaluation(NamedTuple):
    """The results of a fused implementation."""

    #: mean entropy over views and groups, of the samples of all ranks: []
    entropy: Tensor
    #: further numbers for logging and warnings: k x []
    parts: tuple[Tensor, ...]
    #: squared distance of the views, summed over the samples of this rank: []
    distance: Tensor
    #: gradient with respect to the samples of this rank, [S, n, dim], if requested
    gradient: Tensor | None
