"""Losses to compare ours with: two views [batch, dim] -> [], differentiated by autograd.

A loss follows the published code of its project, is the class of an installed library, or is a baseline that we wrote.
"""

import importlib
import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.machine import is_installed

Objective = Callable[[Tensor, Tensor], Tensor]
Gather = Callable[[Tensor], Tensor]
CLONE = "git clone https://github.com/{}, then put the checkout on PYTHONPATH"


def alone(z: Tensor) -> Tensor:
    """Gather nothing: a single process has all samples already."""
    return z


def official_vicreg(z_a: Tensor, z_b: Tensor, gather: Gather = alone) -> Tensor:
    """VICReg as in its authors' code: `25 mse + sum_views (12.5 mean_j relu(1 - std_j) + sum_{i != j} Cov_ij^2 / dim)`."""
    loss = 25.0 * F.mse_loss(z_a, z_b)
    for z in (gather(z_a), gather(z_b)):
        covariance, dim = _covariance(z), z.shape[1]
        off_diagonal = covariance.flatten()[:-1].view(dim - 1, dim + 1)[:, 1:].flatten()
        loss = loss + 12.5 * _std_hinge(z) + off_diagonal.pow(2).sum() / dim
    return loss


def solo_learn_vicreg(z_a: Tensor, z_b: Tensor, gather: Gather = alone, variance_weight: float = 25.0) -> Tensor:
    """VICReg as in solo-learn: a Boolean mask selects off-diagonal elements, and the variance terms of the views are summed."""
    z_a, z_b = gather(z_a), gather(z_b)
    loss, others = 25.0 * F.mse_loss(z_a, z_b), ~torch.eye(z_a.shape[1], dtype=torch.bool, device=z_a.device)
    for z in (z_a, z_b):
        loss = loss + variance_weight * _std_hinge(z) + _covariance(z)[others].pow(2).sum() / z.shape[1]
    return loss


def gram_vicreg(z_a: Tensor, z_b: Tensor) -> Tensor:
    """VICReg from the N x N Gram matrix, whose Frobenius norm is that of the covariance matrix. A baseline that we wrote."""
    loss = 25.0 * F.mse_loss(z_a, z_b)
    for z in (z_a, z_b):
        centred = z - z.mean(dim=0)
        variance = centred.square().sum(dim=0) / (len(z) - 1)
        energy = ((centred @ centred.T) / (len(z) - 1)).square().sum() - variance.square().sum()
        loss = loss + 12.5 * F.relu(1 - torch.sqrt(variance + 1e-4)).mean() + energy / z.shape[1]
    return loss


def _covariance(z: Tensor) -> Tensor:
    centred = z - z.mean(dim=0)
    return centred.T @ centred / (len(z) - 1)


def _std_hinge(z: Tensor) -> Tensor:
    return F.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean()


def over_views(entropy: Callable[[Tensor], Tensor]) -> Objective:
    """The loss `-(H(z_a) + H(z_b))` for an entropy H. Minimising it increases the entropy of both views."""
    return lambda z_a, z_b: -(entropy(z_a) + entropy(z_b))


def covariance_log_det(z: Tensor) -> Tensor:
    """`1/2 log det(I + Cov)` from the D x D covariance matrix, in float32 or wider: torch.logdet has no half precision."""
    centred = wide(z) - wide(z).mean(dim=0)
    return torch.logdet(torch.eye(z.shape[1], dtype=centred.dtype, device=z.device) + centred.T @ centred / len(z)) / 2


def gram_log_det(z: Tensor) -> Tensor:
    """`1/2 log det(I + Cov)` from the N x N Gram matrix. A baseline that we wrote."""
    centred = wide(z) - wide(z).mean(dim=0)
    return torch.logdet(torch.eye(len(z), dtype=centred.dtype, device=z.device) + centred @ centred.T / len(z)) / 2


def cdist_pairwise(z: Tensor) -> Tensor:
    """`-mean_i log mean_j exp(-|z_i - z_j|^2 / (2 dim))` in float32 or wider: torch.cdist has no half precision."""
    distance = torch.cdist(wide(z), wide(z)).square()
    return math.log(len(z)) - torch.logsumexp(-distance / (2 * z.shape[1]), dim=1).mean()


def wide(z: Tensor) -> Tensor:
    """The samples in float32 or wider, for operations without half precision."""
    return z.to(torch.promote_types(z.dtype, torch.float32))


def from_lightly(name: str, call: Callable[..., Tensor], module: str = "lightly.loss") -> dict[str, Objective]:
    """{"lightly": lightly's loss of this name}, or {} if lightly is not installed; `call(loss, z_a, z_b)` evaluates it."""
    if not is_installed("lightly"):
        return {}
    return {"lightly": partial(call, getattr(importlib.import_module(module), name)())}


#: library -> module with its VICReg, and the command that installs the library
LIBRARIES = {
    "lightly": ("lightly.loss", 'pip install "it-losses[lightly]"'),
    "stable-pretraining": ("stable_pretraining.losses", "pip install stable-pretraining"),
    "solo-learn": ("solo.losses.vicreg", CLONE.format("vturrisi/solo-learn")),
    "pytorch-metric-learning": ("pytorch_metric_learning.losses", "pip install pytorch-metric-learning"),
    "eb_jepa": ("eb_jepa.losses", CLONE.format("facebookresearch/eb_jepa")),
}


def library_vicreg(library: str) -> Objective:
    """A library's own VICReg with the library's defaults. If the library is missing, the ImportError says how to install it."""
    from it_losses.adapters import framework

    if library == "pytorch":
        return official_vicreg
    name, install = LIBRARIES[library]
    losses = framework(name, install=install)
    if library == "solo-learn":
        return losses.vicreg_loss_func
    criterion = losses.VICRegLoss()
    if library == "pytorch-metric-learning":
        return lambda z_a, z_b: criterion(z_a, ref_emb=z_b)
    return (lambda z_a, z_b: criterion(z_a, z_b)["loss"]) if library == "eb_jepa" else criterion
