"""VICReg (25, 25, 1) of the batch of all ranks, as other projects and as we compute it: each is `(z_a, z_b) -> loss`.

The gathering schemes are written after the published code of the projects. lightly's is the installed package.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from it_losses import VICReg

Loss = Callable[[Tensor, Tensor], Tensor]


class _GatherBothWays(torch.autograd.Function):
    """All-gather the samples forward; backward, all-reduce the gradients and keep those of the own samples."""

    @staticmethod
    def forward(ctx, own: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        all_ranks = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(all_ranks, own.contiguous())
        return torch.cat(all_ranks)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        total = gradient.contiguous()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def _std_hinge(z: Tensor) -> Tensor:
    return torch.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean()


def _covariance(z: Tensor) -> Tensor:
    centred = z - z.mean(dim=0)
    return centred.T @ centred / (len(z) - 1)


def official(z_a: Tensor, z_b: Tensor) -> Tensor:
    """The authors' code: gathered samples, the whole D x D covariance on every rank, off-diagonals by a strided view."""
    loss = 25 * nn.functional.mse_loss(z_a, z_b)
    for z in (z_a, z_b):
        z = _GatherBothWays.apply(z)
        covariance = _covariance(z)
        dim = len(covariance)
        off_diagonal = covariance.flatten()[:-1].view(dim - 1, dim + 1)[:, 1:].flatten()
        loss = loss + 12.5 * _std_hinge(z) + off_diagonal.pow(2).sum() / dim
    return loss


def solo_learn(z_a: Tensor, z_b: Tensor) -> Tensor:
    """solo-learn's code: gathered samples, a masked diagonal; its variance weight 12.5 is the authors' 25."""
    z_a, z_b = _GatherBothWays.apply(z_a), _GatherBothWays.apply(z_b)
    loss = 25 * nn.functional.mse_loss(z_a, z_b)
    for z in (z_a, z_b):
        covariance = _covariance(z)
        off_diagonal = ~torch.eye(len(covariance), dtype=torch.bool)
        loss = loss + 12.5 * _std_hinge(z) + covariance[off_diagonal].pow(2).sum() / len(covariance)
    return loss


def schemes() -> dict[str, Loss]:
    """Name -> loss, for every scheme that can run here. Ours is the first."""
    found: dict[str, Loss] = {"it-losses": VICReg(), "official": official, "solo-learn": solo_learn}
    if importlib.util.find_spec("lightly"):
        from lightly.loss import VICRegLoss

        found["lightly"] = VICRegLoss(gather_distributed=True)
    return found
