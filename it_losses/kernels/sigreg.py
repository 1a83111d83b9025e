"""SIGReg with its gradient in closed form: H = -T, T = mean_a sum_k w_k |e_k|^2, e_k = mean_i exp(i t_k x_i) - phi(t_k).

    gradient  dT/dx_i = 2/N sum_k w_k t_k (Im e_k cos t_k x_i - Re e_k sin t_k x_i),     x = a^T z,   dT/dz_i = mean_a a dT/dx_i

Only a block of slices at a time has its cosines and sines in memory, where they serve the value and the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from it_losses.kernels.batch import Batch, Evaluation, Plan, Request
from it_losses.precision import accumulation_dtype
from it_losses.sigreg_conventions import quadrature

#: its products are in products/<device><PRODUCTS>.py
PRODUCTS = ""
#: numbers for warnings beside the entropy: the largest projection on this rank
PARTS = 1
#: over ranks, cosines and sines that are in memory at a time: many, for few messages
MOST_OVER_RANKS = 1 << 24


def prefers_gram(samples: int, dim: int, world: int) -> bool:
    """No matrix of either side is formed."""
    return False


def evaluate(batch: Batch, plan: Plan, constants: Sequence[float], request: Request) -> Evaluation:
    """Entropy and gradient; constants: slices, and per dim, points, range of t, 1 for a factor N, 1 if pooled, seed, draw."""
    least, per_dim, points, largest, times_batch, pooled, seed, draw = constants
    slices = int(max(least, per_dim * batch.dim))
    gradient = plan.products.empty_gradient(batch) if request.needs_gradient else None
    distance = plan.products.distance(batch, request.difference_weight, out=gradient)
    z = torch.cat(batch.own).to(accumulation_dtype(batch.own[0].dtype))  # [S, n, dim]
    directions = plan.products.unit_directions(slices, batch.dim, seed=int(seed), draw=int(draw), like=z)
    x = torch.matmul(directions, z.mT)  # [S, slices, n]
    smallest_x, largest_x = x.aminmax()
    views = len(batch.own) if pooled else 1
    samples = views * batch.samples
    if pooled:
        x = torch.cat(x.chunk(views), dim=2)  # [groups, slices, views n]
    scale = (samples if times_batch else 1) / (len(x) * slices)
    rule = _rule(int(points), largest, x, samples, 2 * request.entropy_weight * scale / samples)
    blocks = torch.split(x, _slices_at_once(x, batch, rule, plan.products), dim=1)
    scratch = x.new_empty(2 * len(rule.knots) * blocks[0].numel())
    statistics = [_statistic(block, batch, rule, scratch, request.needs_gradient) for block in blocks]
    entropy = sum(statistics[1:], statistics[0]).mul_(-scale)
    if gradient is None:
        return Evaluation(entropy, (torch.maximum(-smallest_x, largest_x),), distance, entropy.new_empty(0))
    if pooled:
        x = torch.cat(x.chunk(views, dim=2))
    gradient.add_(torch.matmul(x.mT, directions))
    return Evaluation(entropy, (torch.maximum(-smallest_x, largest_x),), distance, gradient)


class Rule(NamedTuple):
    """The quadrature, and the factor of the gradient."""

    knots: Tensor  # t [K]
    phi: Tensor  # [K]
    weights: Tensor  # [K]
    slopes: Tensor  # [K]
    samples: int


def _rule(points: int, largest: float, like: Tensor, samples: int, slope: float) -> Rule:
    knots, phi, weights = quadrature(points, largest, like=like)
    return Rule(knots, phi, weights, weights * knots * slope, samples)


def _slices_at_once(x: Tensor, batch: Batch, rule: Rule, products: ModuleType) -> int:
    """The slices of a block: a number on which all ranks agree, whatever rows they own."""
    numbers = products.MOST_COSINES_AT_ONCE if batch.ranks.world == 1 else MOST_OVER_RANKS
    each = 2 * len(rule.knots) * len(x) * -(-rule.samples // batch.ranks.world)
    return max(numbers // each, 1)


def _statistic(x: Tensor, batch: Batch, rule: Rule, scratch: Tensor, needs_gradient: bool) -> Tensor:
    """The sum of T over the slices of x [S, slices, n], []; if wanted x becomes the gradient with respect to x."""
    stacks, slices, n = x.shape
    circle = scratch[: 2 * len(rule.knots) * x.numel()].view(stacks, slices, 2, -1, n)
    cosine, sine = circle.unbind(dim=2)
    torch.mul(x[:, :, None], rule.knots[:, None], out=sine)
    torch.cos(sine, out=cosine)
    sine.sin_()
    error = batch.ranks.summed(circle.sum(dim=4))() / rule.samples  # [S, slices, 2, K]
    error[:, :, 0].sub_(rule.phi)
    if needs_gradient:
        weights = torch.stack((error[:, :, 1], -error[:, :, 0]), dim=2).mul_(rule.slopes)
        slope = torch.bmm(weights.view(stacks * slices, 1, -1), circle.view(stacks * slices, -1, n))
        x.copy_(slope.view_as(x))
    return error.square_().mul_(rule.weights).sum()
