"""The objectives as other libraries compute them: two views [batch, dim] -> [], differentiated by autograd."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from it_losses import EntropyRegularizer, VICReg

Objective = Callable[[Tensor, Tensor], Tensor]

OURS = "it-losses"
#: our pairwise entropy with no memory for pairs
BOUNDED = "it-losses, least memory"
#: the Gram matrix in plain torch: a baseline of ten lines that we wrote, differentiated by autograd
SMALLER = "torch, N x N"


def official_vicreg(z_a: Tensor, z_b: Tensor) -> Tensor:
    """VICReg in the order of the authors' code: the diagonal is skipped by a view of the flattened covariance."""
    batch, dim = z_a.shape
    invariance = F.mse_loss(z_a, z_b)
    z_a, z_b = z_a - z_a.mean(dim=0), z_b - z_b.mean(dim=0)
    hinges = [F.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean() / 2 for z in (z_a, z_b)]
    energies = []
    for z in (z_a, z_b):
        covariance = (z.T @ z) / (batch - 1)
        off_diagonal = covariance.flatten()[:-1].view(dim - 1, dim + 1)[:, 1:].flatten()
        energies.append(off_diagonal.pow(2).sum() / dim)
    return 25.0 * invariance + 25.0 * (hinges[0] + hinges[1]) + energies[0] + energies[1]


def solo_learn_vicreg(z_a: Tensor, z_b: Tensor) -> Tensor:
    """VICReg as solo-learn computes it: a Boolean mask selects the off-diagonal elements, and hinges are added."""
    batch, dim = z_a.shape
    invariance = F.mse_loss(z_a, z_b)
    variance = sum(F.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean() for z in (z_a, z_b))
    others = ~torch.eye(dim, dtype=torch.bool, device=z_a.device)
    energy = 0.0
    for z in (z_a, z_b):
        z = z - z.mean(dim=0)
        energy = energy + ((z.T @ z) / (batch - 1))[others].pow(2).sum() / dim
    return 25.0 * invariance + 25.0 * variance + energy


def gram_vicreg(z_a: Tensor, z_b: Tensor) -> Tensor:
    """The official VICReg by the Gram matrix of the samples, whose Frobenius norm is the covariance's."""
    batch, dim = z_a.shape
    loss = 25.0 * F.mse_loss(z_a, z_b)
    for z in (z_a, z_b):
        zc = z - z.mean(dim=0)
        variance = zc.square().sum(dim=0) / (batch - 1)
        energy = ((zc @ zc.T) / (batch - 1)).square().sum() - variance.square().sum()
        loss = loss + 25.0 * F.relu(1 - torch.sqrt(variance + 1e-4)).mean() / 2 + energy / dim
    return loss


def _over_views(entropy: Callable[[Tensor], Tensor]) -> Objective:
    return lambda z_a, z_b: -(entropy(z_a) + entropy(z_b))


def full_log_det(z: Tensor) -> Tensor:
    """`1/2 log det(I + Cov)` on the D x D side; torch.logdet takes no half precision."""
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    zc = z - z.mean(dim=0)
    return torch.logdet(torch.eye(z.shape[1], dtype=z.dtype, device=z.device) + zc.T @ zc / len(z)) / 2


def gram_log_det(z: Tensor) -> Tensor:
    """The same on the N x N side."""
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    zc = z - z.mean(dim=0)
    return torch.logdet(torch.eye(len(z), dtype=z.dtype, device=z.device) + zc @ zc.T / len(z)) / 2


def cdist_pairwise(z: Tensor) -> Tensor:
    """`-mean_i log mean_j exp(-|z_i - z_j|^2 / (2 dim))` from a matrix of distances; torch.cdist takes no half precision."""
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    distance = torch.cdist(z, z).square()
    return math.log(len(z)) - torch.logsumexp(-distance / (2 * z.shape[1]), dim=1).mean()


def is_installed(package: str) -> bool:
    """Whether it can be imported; a missing library is left out."""
    return importlib.util.find_spec(package) is not None


def _lightly() -> dict[str, Objective]:
    return {"lightly": importlib.import_module("lightly.loss").VICRegLoss()} if is_installed("lightly") else {}


def providers(objective: str, batch: int, dim: int, *, compiled: bool) -> dict[str, Objective]:
    """Name -> implementation; ours is the first, compiled ones are the last."""
    # of the entropies, the regularizer of both views
    ours: dict[str, Callable[[], Objective]] = {
        "vicreg": VICReg,
        "log_det": lambda: EntropyRegularizer("log_det", weight=2.0, per_dimension=False),
        "pairwise": lambda: EntropyRegularizer("pairwise", weight=2.0, bandwidth=dim**0.5),
    }
    smaller = {"vicreg": gram_vicreg, "log_det": _over_views(gram_log_det)}
    gram = {SMALLER: smaller[objective]} if batch < dim and objective in smaller else {}
    peers: dict[str, dict[str, Objective]] = {
        "vicreg": {**_lightly(), **gram, "solo-learn": solo_learn_vicreg, "official": official_vicreg},
        "log_det": {**gram, "torch.logdet": _over_views(full_log_det)},
        "pairwise": {
            BOUNDED: EntropyRegularizer("pairwise", weight=2.0, bandwidth=dim**0.5, memory_mib=0),
            "torch.cdist": _over_views(cdist_pairwise),
        },
    }
    result = {OURS: ours[objective](), **peers[objective]}
    if compiled:
        last = list(peers[objective])[-1]
        # one compiled function a size: a function compiled for many ends up eager
        torch.compiler.reset()
        result[f"torch.compile({last})"] = torch.compile(peers[objective][last], dynamic=False)
    return result
