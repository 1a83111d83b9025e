"""VICReg where calling an operator costs more than its arithmetic: the gradient is finished in the forward pass.

Few operators, and few with a Python number among their operands (torch first turns each into a tensor); what is left to the
backward pass is one multiplication by the upstream gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from it_losses.kernels.blocks import accumulation_dtype, squared_norm
from it_losses.kernels.closed_vicreg_apart import write_among_

Weights = tuple[float, float, float]
Result = tuple[Tensor, Tensor, Tensor]


def in_the_authors_order(views: Sequence[Tensor], weights: Weights, margin: float, epsilon: float) -> Result:
    """Loss [], terms [3] and gradient [2, batch, dim] of two views [1, batch, dim], as the authors' code orders its sums.

    The loss is theirs to the last bit, and published tests that compare exactly hold.
    """
    batch, dim = views[0].shape[1:]
    z_a, z_b = (z[0].to(accumulation_dtype(z.dtype)) for z in views)
    difference = z_a - z_b
    invariance = difference.square().mean()
    pull = difference.mul_(2 * weights[0] / difference.numel())
    means, energies, gradients = [], [], []
    for z, pulled in ((z_a, pull), (z_b, -pull)):
        zc = z - z.mean(dim=0)
        variance, rounding = torch.var_mean(zc, dim=0)
        std = variance.add_(epsilon).sqrt_()
        hinge = torch.relu(margin - std)
        covariance = torch.mm(zc.T, zc).div_(batch - 1)
        # rows of dim + 1 elements, from the second element on: dim off the diagonal, then one on it
        off_diagonal = covariance.as_strided((dim - 1, dim), (dim + 1, 1), 1)
        means.append(hinge.mean())
        energies.append(off_diagonal.square().sum().div_(dim))
        # what rounding left of the mean would push both ways of a narrow column alike
        zc.sub_(rounding)
        pulled.addcmul_(zc, hinge.sign_().div_(std), value=-weights[1] / (2 * dim * (batch - 1)))
        # a product of its own: added up one by one onto what is larger, its small terms would round it at each step
        pulled.add_(torch.mm(zc, covariance.fill_diagonal_(0)), alpha=4 * weights[2] / ((batch - 1) * dim))
        gradients.append(pulled)
    # halving is exact, so the sum of halves is half of the sum
    variance, energy = (means[0] + means[1]).div_(2), energies[0] + energies[1]
    loss = weights[0] * invariance + weights[1] * variance + weights[2] * energy
    return loss, torch.stack((invariance, variance, energy)), torch.stack(gradients)


def in_one_block(views: Sequence[Tensor], weights: Weights, margin: float, epsilon: float) -> Result:
    """Loss [], terms [3] and gradient [V groups, batch, dim], all views and groups in each operator, by the D x D side."""
    _, batch, dim = views[0].shape
    full = accumulation_dtype(views[0].dtype)
    if views[0].dtype != full:
        views = [z.to(full) for z in views]
    zc = torch.cat(tuple(views))
    shares, freedom = len(zc), batch - 1
    gradient, invariance = _difference(views, zc)
    # twice: what rounding left of the mean would push all samples alike
    for _ in range(2):
        zc.sub_(zc.sum(dim=1, keepdim=True), alpha=1 / batch)
    products = torch.bmm(zc.mT, zc)
    variance = zc.square().sum(dim=1).div_(freedom)
    write_among_(products, views, variance, scale=1.0)
    diagonal = products.diagonal(dim1=1, dim2=2).zero_()
    std = variance.add_(epsilon).sqrt_()
    hinge = std.neg().add_(margin).relu_()
    spread = hinge.sum().div_(hinge.numel())
    energy = squared_norm(products).mul_(2 / (shares * dim * freedom**2))
    loss = torch.add(weights[0] * invariance, spread, alpha=weights[1]).add_(energy, alpha=weights[2])
    # Zc slope and Zc C are one product: the slopes take the places of the variances
    products.mul_(8 * weights[2] / (shares * dim * freedom**2))
    diagonal.addcdiv_(hinge.sign_(), std, value=-weights[1] / (shares * dim * freedom))
    gradient.baddbmm_(zc, products, beta=4 * weights[0] / zc.numel())
    return loss, torch.stack((invariance, spread, energy)), gradient


def _difference(views: Sequence[Tensor], stack: Tensor) -> tuple[Tensor, Tensor]:
    """`Z - Z'` of each of two views [V groups, batch, dim] and its mean square []; zeros for any other number of them."""
    if len(views) != 2:
        return torch.zeros_like(stack), stack.new_zeros(())
    difference = views[0] - views[1]
    return torch.cat((difference, -difference)), squared_norm(difference).div_(difference.numel())
