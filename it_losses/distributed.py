"""The global batch: views gathered from all ranks, with the gradient that DDP's averaging makes exact.

Every rank evaluates the loss L of the whole batch, so each already holds dL/dz of every row: the backward pass takes the
rows of this rank and speaks to no other. DDP divides the summed gradients of W ranks by W; the rows are multiplied by W.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from it_losses.views import ViewError

_DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def gathered(views: Sequence[Tensor]) -> list[Tensor]:
    """The views with the rows of all ranks, in rank order: V x [batch, ...] -> V x [global batch, ...]."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return list(views)
    rows = _rows_of_all_ranks(views)
    return list(_Gather.apply(rows, *views))


def _rows_of_all_ranks(views: Sequence[Tensor]) -> tuple[int, ...]:
    """Batch size of each rank; ViewError on every rank where anything else differs between them."""
    first = views[0]
    traits = [len(first), len(views), first[0].numel(), _DTYPES.index(first.dtype)]
    mine = torch.tensor(traits, device=first.device)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    table = torch.stack(everyone).tolist()
    if any(row[1:] != table[0][1:] for row in table):
        raise ViewError(
            f"every rank must bring the same number of views, dim and dtype; (views, size of a sample, dtype) of the ranks: "
            f"{[(v, d, str(_DTYPES[t])) for _, v, d, t in table]}."
        )
    return tuple(row[0] for row in table)


class _Gather(torch.autograd.Function):
    """All views of all ranks in one collective; backward is local."""

    @staticmethod
    def forward(ctx: Any, rows: tuple[int, ...], *views: Tensor) -> tuple[Tensor, ...]:
        rank = dist.get_rank()
        start = sum(rows[:rank])
        ctx.own = slice(start, start + rows[rank])
        # ranks may hold different batch sizes, collectives may not: pad to the largest, cut off after
        padded = views[0].new_zeros(len(views), max(rows), *views[0].shape[1:])
        padded[:, : rows[rank]] = torch.stack(views)
        everyone = [torch.empty_like(padded) for _ in rows]
        dist.all_gather(everyone, padded)
        whole = torch.cat([part[:, :n] for part, n in zip(everyone, rows, strict=True)], dim=1)
        return tuple(whole.unbind())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(gradient[ctx.own] * dist.get_world_size() for gradient in gradients)
