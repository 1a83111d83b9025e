"""The VICReg of each library, and ours with the same value, for `compare`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, sqrt
from torch.nn.functional import mse_loss, relu

from it_losses import VICReg
from it_losses.adapters.conventions import ARGUMENTS, vicreg
from it_losses.adapters.frameworks import framework

Criterion = Callable[[Tensor, Tensor], Tensor]
#: "pytorch" is the formula written out in a plain training step
LIBRARIES = ("pytorch", *ARGUMENTS)
CLONE = "git clone https://github.com/{}, then put the checkout on PYTHONPATH"


def theirs(library: str) -> Criterion:
    """The library's own criterion with its defaults; ImportError with the command that installs it."""
    if library == "pytorch":
        return authors_formula
    if library == "lightly":
        return framework("lightly.loss", install='pip install "it-losses[lightly]"').VICRegLoss()  # type: ignore[no-any-return]
    if library == "stable-pretraining":
        return framework("stable_pretraining.losses", install="pip install stable-pretraining").VICRegLoss()  # type: ignore[no-any-return]
    if library == "solo-learn":
        return framework("solo.losses.vicreg", install=CLONE.format("vturrisi/solo-learn")).vicreg_loss_func  # type: ignore[no-any-return]
    if library == "pytorch-metric-learning":
        losses = framework("pytorch_metric_learning.losses", install="pip install pytorch-metric-learning")
        criterion = losses.VICRegLoss()
        return lambda z_a, z_b: criterion(z_a, ref_emb=z_b)
    criterion = framework("eb_jepa.losses", install=CLONE.format("facebookresearch/eb_jepa")).VICRegLoss()
    return lambda z_a, z_b: criterion(z_a, z_b)["loss"]


def ours(library: str) -> Criterion:
    """Our criterion with the value of the library's."""
    return VICReg() if library == "pytorch" else vicreg(library)


def authors_formula(z_a: Tensor, z_b: Tensor) -> Tensor:
    """`25 mse + sum_views 25/2 mean_j hinge_j + sum_{i != j} Cov_ij^2 / dim` of one process: 2 x [batch, dim] -> []."""
    loss = 25 * mse_loss(z_a, z_b)
    for z in (z_a - z_a.mean(dim=0), z_b - z_b.mean(dim=0)):
        batch, dim = z.shape
        covariance = z.T @ z / (batch - 1)
        off_diagonal = covariance.flatten()[:-1].view(dim - 1, dim + 1)[:, 1:]
        hinge = relu(1 - sqrt(z.var(dim=0) + 1e-4)).mean()
        loss = loss + 25 * hinge / 2 + off_diagonal.square().sum() / dim
    return loss
