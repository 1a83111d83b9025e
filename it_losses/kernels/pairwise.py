"""Pairwise entropy with its gradient in closed form: H = dim/2 log(2 pi e s^2) - mean_i log mean_j e_ij.

    e_ij      exp(-rate |z_i - z_j|^2),   rate = 1 / (c s^2),   r_i = sum_j e_ij
    gradient  dH/dz_i = 2 rate / N sum_j W_ij (z_i - z_j),     W_ij = e_ij (1 / r_i + 1 / r_j)

s is the bandwidth; c depends on the divergence. With K bandwidths, H and rate * W are averaged. To form its rows of W, a rank
needs its rows of e and all r_i. If views are pooled, N counts the rows of all views. `quadratic` replaces r_i by mean_i r_i.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from it_losses.kernels.batch import Batch, Evaluation, Plan, Request

#: suffix of the files in `products` to use: cpu_pairs and cuda_pairs
PRODUCTS = "_pairs"
#: number of `parts`: the smallest `(-mean_i log mean_j e_ij) / log N` over views and s, for warnings
PARTS = 1
#: value of `excluded` that leaves out all pairs of views of one image
OF_AN_IMAGE = 2


class Mixture(NamedTuple):
    """A mixture with a Gaussian around each sample, and the pairs that its entropy counts."""

    #: c in `exp(-|z_i - z_j|^2 / (c s^2))`
    factor: float
    #: if no s is given, `c s^2` is twice this fraction of the total variance
    spread_fraction: float
    bandwidths: Sequence[float]
    #: the largest memory, in bytes, for pairs that are kept for the gradient
    memory: float
    #: which pairs are left out: none (0), each row with itself (1), or all pairs of views of one image (2)
    excluded: float
    #: the entropy of a component is `dim/2 log(component c s^2)`; None leaves it out
    component: float | None
    #: function that returns all r_i unchanged, or their mean: [K, stacks, N] -> [K, stacks, N or 1]
    average: Callable[[Tensor], Tensor]


def prefers_gram(samples: int, dim: int, world: int) -> bool:
    """Always True: the N x N matrix holds the distances."""
    return True


def evaluate(batch: Batch, plan: Plan, constants: Sequence[float], request: Request) -> Evaluation:
    """Entropy and gradient; the constants are c, spread_fraction, memory, 1 to pool views, `excluded`, and each s.

    If no s is given, the bandwidth follows the batch.
    """
    factor, spread_fraction, memory, pool_views, excluded, *bandwidths = constants
    component = 2 * math.pi * math.e / factor
    mixture = Mixture(factor, spread_fraction, bandwidths, memory, excluded, component, average=lambda sums: sums)
    return evaluate_mixture(batch, plan, mixture, request, pool_views=bool(pool_views))


def evaluate_mixture(batch: Batch, plan: Plan, mixture: Mixture, request: Request, *, pool_views: bool = False) -> Evaluation:
    """Entropy and gradient, with one mixture for each view, or one mixture of all views if `pool_views`."""
    products, views = plan.products, len(batch.own)
    gradient = products.empty_gradient(batch) if request.needs_gradient else None
    distance = products.distance(batch, request.difference_weight, out=gradient)
    if pool_views and views > 1:
        pool = batch.pooled()
        pooled = None if gradient is None else products.empty_gradient(pool).zero_()
        entropy, part = _entropy(pool, plan, mixture, request, pooled, image_rows=views)
        if gradient is not None and pooled is not None:
            gradient.add_(pooled.unflatten(1, (-1, views)).movedim(2, 0).flatten(0, 1))
    else:
        entropy, part = _entropy(batch, plan, mixture, request, gradient, image_rows=1)
    return Evaluation(entropy, (part,), distance, gradient)


def _entropy(
    batch: Batch, plan: Plan, mixture: Mixture, request: Request, gradient: Tensor | None, *, image_rows: int
) -> tuple[Tensor, Tensor]:
    """The mean entropy [], and the part for warnings (see PARTS) []. The gradient is added to `gradient`."""
    products, groups = plan.products, batch.groups
    left_out = image_rows if mixture.excluded == OF_AN_IMAGE else 1
    counted = batch.samples - left_out if mixture.excluded else batch.samples
    # `pair_sums` leaves out e_ii and adds this number instead
    itself = 0.0 if mixture.excluded else 1.0
    logarithms, components = [], []
    views_at_once = len(batch.own) if batch.stacks * batch.samples**2 <= products.MOST_PAIRS_AT_ONCE else 1
    for first in range(0, len(batch.own), views_at_once):
        x = products.centred(batch.samples_of(first, views_at_once))  # [stacks, N, dim]
        rates = _rates(x, mixture)
        kept = int(mixture.memory) if request.needs_gradient else 0
        sums, pairs = products.pair_sums(x, batch.ranks.own, rates, itself, memory=kept, image_rows=left_out)
        sums = mixture.average(batch.gathered_rows(sums, dim=2))  # [K, stacks, N or 1]
        logarithms.append(sums.log().sum(dim=2))
        components.append(_component(rates, mixture, batch.dim))
        if gradient is not None:
            weight = -request.entropy_weight * 2 / (batch.samples * batch.stacks * len(sums)) * rates
            weights = sums.reciprocal().mul_(weight[:, :, None] if isinstance(weight, Tensor) else weight)
            own = gradient[first * groups : (first + views_at_once) * groups] if views_at_once < len(batch.own) else gradient
            products.add_pair_gradient_(own, pairs, weights)
        # free memory before the pairs of the next view are formed
        del pairs
    logarithm = logarithms[0] if len(logarithms) == 1 else torch.cat(logarithms, dim=1)  # sum of log r, [K, stacks]
    rows = sums.shape[2]
    limit = math.log(batch.samples)
    part = torch.rsub(logarithm.amax(), math.log(counted) / limit, alpha=1 / (rows * limit))
    most = math.log(counted) + sum(components) / len(components)
    return torch.rsub(logarithm.sum(), most, alpha=1 / (rows * logarithm.numel())), part


def _rates(x: Tensor, mixture: Mixture) -> float | Tensor:
    """`1 / (c s^2)`: a number for a single s, else [K, groups], float32 or float64; x [groups, N, dim] is centred."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if len(mixture.bandwidths) == 1:
        return 1 / (mixture.factor * mixture.bandwidths[0] ** 2)
    if mixture.bandwidths:
        return torch.stack([x.new_full((len(x),), 1 / (mixture.factor * s * s), dtype=dtype) for s in mixture.bandwidths])
    # sum row by row, because one running sum of all numbers would lose two digits
    spread = torch.linalg.vector_norm(x, dim=2, dtype=dtype).square_().sum(dim=1) / (x.shape[1] - 1)
    # avoid a division by 0 at exact collapse, where e_ij is 1 for any scale
    scale: Tensor = 2 * mixture.spread_fraction * spread
    return scale.clamp_min_(mixture.factor * torch.finfo(dtype).tiny ** 0.5).reciprocal_()[None]


def _component(rates: float | Tensor, mixture: Mixture, dim: int) -> float | Tensor:
    """The entropy of a Gaussian, `dim/2 log(component c s^2)`, averaged over s and groups."""
    if mixture.component is None:
        return 0.0
    logarithm = rates.log().mean() if isinstance(rates, Tensor) else math.log(rates)
    return (math.log(mixture.component) - logarithm) * (dim / 2)
