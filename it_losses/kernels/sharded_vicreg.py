"""VICReg's surrogate over many ranks: H = -(variance_weight * hinge + 2 covariance_weight * energy), own rows of its gradient.

    hinge     mean_d relu(margin - sqrt(var_d + epsilon))
    energy    sum_{i!=j} C_ij^2 / dim  =  (|G|^2 - sum_d var_d^2) / dim,     C = Zc^T Zc / (N-1), G = Zc Zc^T / (N-1)
    gradient  d hinge / dZ = -Zc / (std (N-1) dim) where std < margin;   d energy / dZ = 4 / ((N-1) dim) * (G Zc - Zc var)

The rows of the gradient that a rank owns need its own rows of G alone, or the sum of the ranks' C. Derived.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from it_losses.kernels.closed_vicreg_apart import APART
from it_losses.kernels.sharded_ranks import Evaluation, Form, Ranks, centred_batches, centred_samples, per_view


def rows(views: Sequence[Tensor], ranks: Ranks, constants: Sequence[float]) -> Evaluation:
    """Own rows of G [n, samples] from the gathered samples; one sum over the ranks for the value."""
    variance_weight, covariance_weight, margin, epsilon = constants
    _, groups, dim = views[0].shape
    freedom = ranks.samples - 1
    share = 1 / (len(views) * groups)
    push = -2 * covariance_weight * 4 / (freedom * dim) * share
    hinges, energies, aside, gradients = [], [], [], []
    for z in centred_batches(views, ranks):  # [groups, samples, dim]
        # once more: what rounding left of the mean would push all samples alike
        z.sub_(z.mean(dim=1, keepdim=True))
        # not `vector_norm`, ten times slower down the columns on a CPU
        variance = z.square().sum(dim=1, keepdim=True).div_(freedom)  # [groups, 1, dim]
        hinge, slope = _hinge(variance, margin, epsilon, freedom)
        hinges.append(hinge.mean())
        top, columns, among, crossed = _apart(z, variance, freedom)
        variance.scatter_(2, top, 0)
        own = z[:, ranks.own]
        gram = torch.bmm(own.scatter(2, top.expand(-1, own.shape[1], -1), 0), z.mT).div_(freedom)  # [groups, n, samples]
        energies.append(torch.linalg.vector_norm(gram, dim=(1, 2)).square_())
        aside.append(((2 * crossed.square()).sum() + among.square().sum() - variance.square().sum()).to(z.dtype))
        gradient = own * (slope * (-variance_weight * share) - push * variance)
        gradient.baddbmm_(columns[:, ranks.own].to(z.dtype), crossed, alpha=push).baddbmm_(gram, z, alpha=push)
        between = torch.bmm(columns[:, ranks.own], among).mul_(push).to(z.dtype)
        gradients.append(gradient.scatter_add_(2, top.expand_as(between), between).movedim(0, 1))
    # every rank has its own part of |G|^2, and all of what is taken apart
    energy = ranks.summed(torch.stack(energies).sum())() + torch.stack(aside).sum()
    return _evaluation(torch.stack(hinges).mean(), energy * (share / dim), torch.stack(gradients), constants)


def _apart(z: Tensor, variance: Tensor, freedom: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The columns of the largest variances, which would fill |G|^2 and cancel against their own variances.

    Their places [groups, 1, k], themselves [groups, samples, k] and their covariances [groups, k, k], off the diagonal, in
    float64: decorrelated, they push each other with the rounding of their products times their size. And their covariances with
    all others [groups, k, dim].
    """
    top = variance.topk(min(APART, *z.shape[1:]), dim=2).indices
    columns = z.gather(2, top.expand(-1, z.shape[1], -1)).double()
    columns -= columns.mean(dim=1, keepdim=True)
    among = torch.bmm(columns.mT, columns).div_(freedom)
    among.diagonal(dim1=1, dim2=2).zero_()
    crossed = torch.bmm(columns.mT.to(z.dtype), z).div_(freedom)
    crossed.scatter_(2, top.expand_as(among), 0)
    return top, columns, among, crossed


def covariance(views: Sequence[Tensor], ranks: Ranks, constants: Sequence[float]) -> Evaluation:
    """C [dim, dim], the sum of what the ranks find in their own samples.

    Covariances of dominant features that are decorrelated are rounding, as the reference's: to add up their products in float64
    would be another collective, after this one has told which they are.
    """
    variance_weight, covariance_weight, margin, epsilon = constants
    dim, freedom = views[0].shape[-1], ranks.samples - 1
    z = centred_samples(views, ranks)  # [V groups, n, dim]
    products = torch.bmm(z.mT, z)
    # a product adds up its samples one by one, which near the margin costs digits of the hinge
    products.diagonal(dim1=1, dim2=2).copy_(z.square().sum(dim=1))
    matrix = ranks.summed(products.div_(freedom))()
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    hinge, slope = _hinge(diagonal[:, None].clone(), margin, epsilon, freedom)
    # zeroed, not subtracted: for decorrelated samples the diagonal is all there is, and the difference has no digits
    diagonal.zero_()
    energy = torch.linalg.vector_norm(matrix, dim=(1, 2)).square_().mean() / dim
    matrix.mul_(-2 * covariance_weight * 4 / (freedom * dim) / len(z))
    diagonal.copy_(slope[:, 0] * (-variance_weight / len(z)))
    return _evaluation(hinge.mean(), energy, per_view(torch.bmm(z, matrix), views), constants)


def _hinge(variance: Tensor, margin: float, epsilon: float, freedom: int) -> tuple[Tensor, Tensor]:
    """Hinges [V groups] and their slopes in Zc [V groups, 1, dim]; variance is [V groups, 1, dim]."""
    std = (variance + epsilon).sqrt_()
    slope = std.reciprocal().mul_(-1 / (freedom * std.shape[-1]))
    # not `std < margin`: a NaN must not pass for a spread that needs no push
    return torch.relu(margin - std).mean(dim=(1, 2)), torch.where(std >= margin, 0.0, slope)


def _evaluation(hinge: Tensor, energy: Tensor, gradient: Tensor, constants: Sequence[float]) -> Evaluation:
    variance_weight, covariance_weight, *_ = constants
    entropy = -(variance_weight * hinge + 2 * covariance_weight * energy)
    return Evaluation(entropy, gradient, torch.stack((hinge, energy)))


#: bytes decide: gathering sends 2 N dim numbers, summing 4 dim^2; the products are equal at N = dim
FORM = Form(rows, covariance, covariance_from=2, parts=2)
