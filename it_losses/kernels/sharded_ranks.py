"""What the forms of an entropy over many ranks share: who the ranks are, what a form returns, the centring.

    rows        gather the samples [N, dim]; this rank computes n rows of the N x N matrix, and from them its n rows of gradient
    covariance  add up the dim x dim matrices of the ranks; each then has its n rows of gradient from its own samples

Both layouts take 1/W of the products of one process on each of W ranks, and neither has anything left to say to other ranks in
the backward pass: the gradient is there when the value is. Collectives come in as an object, `Ranks`. Derived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Ranks(Protocol):
    """The ranks that share a batch: which of its samples are whose, and the collectives; each returns new memory."""

    #: samples of the global batch
    samples: int
    #: which of them this rank holds
    own: slice

    def summed(self, own: Tensor) -> Callable[[], Tensor]:
        """The sum over the ranks: under way now, there when called."""

    def gathered(self, own: Sequence[Tensor]) -> Iterator[Tensor]:
        """Each `[n, ...]` of this rank as `[samples, ...]`, in rank order; all are under way while the first is used."""


class Evaluation(NamedTuple):
    """An entropy of the global batch, averaged over views and groups."""

    entropy: Tensor  # []
    #: its gradient at the samples of this rank: [V, n, groups, dim]
    gradient: Tensor
    #: what the entropy consists of, for logging: [parts]
    parts: Tensor


#: views of this rank V x [n, groups, dim] in any precision, ranks, constants -> Evaluation in float32 or float64
Layout = Callable[[Sequence[Tensor], Ranks, Sequence[float]], Evaluation]


class Form(NamedTuple):
    """How one entropy is spread over ranks."""

    rows: Layout
    #: None where the entropy is no function of the covariance
    covariance: Layout | None
    #: from `samples >= covariance_from * dim` on, the covariance layout is taken
    covariance_from: float
    #: length of Evaluation.parts
    parts: int

    def cheaper(self, samples: int, dim: int) -> str:
        """The cheaper of "rows" and "covariance" for a global batch of so many samples."""
        return "rows" if self.covariance is None or samples < self.covariance_from * dim else "covariance"


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def centred_batches(views: Sequence[Tensor], ranks: Ranks) -> Iterator[Tensor]:
    """The global batch of each view, less its column means: V x [n, groups, dim] -> V x [groups, samples, dim]."""
    for everyone in ranks.gathered(views):
        # the means come from the gathered copy, so that they need no collective; before any product, see `kernels.blocks`
        batch = everyone.to(accumulation_dtype(everyone.dtype))
        yield batch.sub_(batch.mean(dim=0)).movedim(0, 1)


def centred_samples(views: Sequence[Tensor], ranks: Ranks) -> Tensor:
    """The samples of this rank less the column means of all: V x [n, groups, dim] -> [V groups, n, dim]."""
    own = torch.cat([z.movedim(1, 0) for z in views]).to(accumulation_dtype(views[0].dtype))
    # differences from a sample are of the order of sigma, and so is what is left to subtract: the mean itself, of many sigma,
    # would be rounded to a shift of all samples, which the gradient would show
    first = own[:, :1].clone()
    own.sub_(first)
    first = first.double()
    total = own.sum(dim=1, keepdim=True).double() + own.shape[1] * first
    return own.sub_((ranks.summed(total)() / ranks.samples - first).to(own.dtype))


def per_view(stacked: Tensor, views: Sequence[Tensor]) -> Tensor:
    """[V groups, n, dim] -> [V, n, groups, dim]."""
    return stacked.view(len(views), -1, *stacked.shape[1:]).movedim(1, 2)
