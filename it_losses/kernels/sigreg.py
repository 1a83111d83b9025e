"""SIGReg with its gradient in closed form: H = -T, T = mean_a sum_k w_k |e_k|^2, e_k = mean_i exp(i t_k x_i) - phi(t_k).

    gradient  dT/dx_i = 2/N d/dx_i sum_k w_k (Re e_k cos t_k x_i + Im e_k sin t_k x_i),  x = a^T z,  dT/dz_i = mean_a a dT/dx_i

t_k and w_k are points (knots) and weights of a quadrature, and phi is the characteristic function of N(0, 1). The projections
x on a random direction a are a slice, and their cosines and sines are waves.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from it_losses.kernels.batch import Batch, Evaluation, Plan, Request
from it_losses.precision import accumulation_dtype
from it_losses.sigreg_conventions import quadrature

#: suffix of the files in `products` to use: cpu_slices and cuda_slices
PRODUCTS = "_slices"
#: number of `parts`: the largest absolute projection on this rank, for warnings
PARTS = 1
#: numbers in a block of waves on several ranks; large blocks need fewer all-reduces
MOST_OVER_RANKS = 1 << 24


def prefers_gram(samples: int, dim: int, world: int) -> bool:
    """Always False: SIGReg forms no N x N matrix."""
    return False


def evaluate(batch: Batch, plan: Plan, constants: Sequence[float], request: Request) -> Evaluation:
    """Entropy and gradient.

    The constants are the least number of slices, the slices per dimension, the number of quadrature points, the largest t,
    1 to multiply T by N, 1 to pool views, the seed, and the number of the draw.
    """
    least, per_dim, points, largest, times_batch, pooled, seed, draw = constants
    slices = int(max(least, per_dim * batch.dim))
    gradient = plan.products.empty_gradient(batch) if request.needs_gradient else None
    distance = plan.products.distance(batch, request.difference_weight, out=gradient)
    z = torch.cat(batch.own).to(accumulation_dtype(batch.own[0].dtype))  # [S, n, dim]
    directions = plan.products.unit_directions(slices, batch.dim, seed=int(seed), draw=int(draw), like=z)
    x = torch.bmm(directions.expand(len(z), -1, -1), z.mT)  # [S, slices, n]
    largest_x = plan.products.largest_projection(x)
    views = len(batch.own) if pooled else 1
    samples = views * batch.samples
    if pooled:
        x = torch.cat(x.chunk(views), dim=2)  # [groups, slices, views n]
    scale = (samples if times_batch else 1) / (len(x) * slices)
    rule = Rule(*quadrature(int(points), largest, like=x), samples)
    blocks = plan.products.waves(x, rule.knots, _slices_at_once(x, batch, rule, plan))
    statistics = [_statistic_(sums, waves, batch, rule, plan, request.needs_gradient) for sums, waves in blocks]
    entropy = sum(statistics[1:], statistics[0]).mul_(-scale)
    if gradient is None:
        return Evaluation(entropy, (largest_x,), distance, None)
    if pooled:
        x = torch.cat(x.chunk(views, dim=2))
    gradient.add_(torch.matmul(x.mT, directions), alpha=2 * request.entropy_weight * scale / samples)
    return Evaluation(entropy, (largest_x,), distance, gradient)


class Rule(NamedTuple):
    """The quadrature, and the number of samples of all ranks."""

    knots: Tensor  # t [K]
    phi: Tensor  # [K]
    weights: Tensor  # [K]
    samples: int


def _slices_at_once(x: Tensor, batch: Batch, rule: Rule, plan: Plan) -> int:
    """The number of slices in a block. It is the same on all ranks, because a collective needs equal shapes."""
    numbers: int = max(plan.products.MOST_WAVES_AT_ONCE, 0 if batch.ranks.world == 1 else MOST_OVER_RANKS)
    each = 2 * len(rule.knots) * len(x) * -(-rule.samples // batch.ranks.world)
    return max(numbers // each, 1)


def _statistic_(sums: Tensor, waves: Any, batch: Batch, rule: Rule, plan: Plan, needs_gradient: bool) -> Tensor:
    """The sum of T over a block of slices []. If `needs_gradient`, replace the projections x by N/2 dT/dx."""
    error = batch.ranks.summed(sums) / rule.samples  # Re e, Im e: [S, slices, 2, K]
    error[:, :, 0].sub_(rule.phi)
    weighted = error * rule.weights
    if needs_gradient:
        plan.products.wave_slopes_(waves, weighted)
    return error.mul_(weighted).sum()
