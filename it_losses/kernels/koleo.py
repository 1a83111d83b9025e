"""Nearest-neighbour entropy with its gradient in closed form: H = mean_i 1/2 log(rho_i^2 + epsilon^2), rho_i = |z_i - z_nn(i)|.

    gradient  dH/dz_i = q_i - sum_{k: nn(k) = i} q_k,   q_i = (z_i - z_nn(i)) / (N (rho_i^2 + epsilon^2))

nn(i) is the nearest other sample. A matrix product gives all distances, but its rounding may change which is the smallest.
So a small product is computed in float64. A large product only selects two candidates for each row, and the differences of
samples decide. Each rank finds the neighbours of its rows. Then the ranks gather the N indices.
"""

import math
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from it_losses.kernels.batch import Batch, Evaluation, Plan, Request
from it_losses.precision import accumulated

#: suffix of the files in `products` to use: cpu_pairs and cuda_pairs
PRODUCTS = "_pairs"
#: number of `parts` in the Evaluation
PARTS = 0
#: False, because rounding standardised samples to half precision would change distances of neighbours
ROUNDS_SAMPLES = False
#: from MANY samples on, a faster search uses blocks of BLOCK distances (see `_two_smallest`)
MANY, BLOCK = 1024, 64
#: up to this many multiplications, a product in float64 is faster than the search for two candidates
SMALL = 1 << 24


def prefers_gram(samples: int, dim: int, world: int) -> bool:
    """Always True: the N x N matrix holds the distances."""
    return True


def evaluate(batch: Batch, plan: Plan, constants: Sequence[float], request: Request) -> Evaluation:
    """Entropy and gradient; the constant is epsilon."""
    (epsilon,) = constants
    products, groups = plan.products, batch.groups
    gradient = products.empty_gradient(batch) if request.needs_gradient else None
    distance = products.distance(batch, request.difference_weight, out=gradient)
    logarithms = []
    views_at_once = len(batch.own) if batch.stacks * batch.samples**2 <= products.MOST_PAIRS_AT_ONCE else 1
    for first in range(0, len(batch.own), views_at_once):
        views = batch.samples_of(first, views_at_once)
        z = accumulated(views[0] if len(views) == 1 else torch.cat(views))  # [stacks, N, dim]
        neighbours = batch.gathered_rows(_nearest(z, batch.ranks.own, products)).flatten()
        q = _rows(z, neighbours).view_as(z)
        torch.sub(z, q, out=q)
        squared = torch.linalg.vector_norm(q, dim=2, keepdim=True).square_().add_(epsilon**2)  # [stacks, N, 1]
        logarithms.append(squared.log().sum())
        if gradient is not None:
            q.mul_(squared.reciprocal_())
            own = gradient if views_at_once == len(batch.own) else gradient[first * groups : (first + views_at_once) * groups]
            _add_gradient_(own, q, neighbours, batch, -request.entropy_weight / (batch.samples * batch.stacks))
    entropy = sum(logarithms[1:], logarithms[0]).mul_(1 / (2 * batch.samples * batch.stacks))
    return Evaluation(entropy, (), distance, gradient)


def _add_gradient_(out: Tensor, q: Tensor, neighbours: Tensor, batch: Batch, scale: float) -> None:
    """Add `scale (q_i - sum_{k: nn(k) = i} q_k)` to this rank's rows: out [stacks, n, dim], q [stacks, N, dim]."""
    if batch.is_whole:
        out.add_(q, alpha=scale)
    else:
        own = batch.ranks.own
        out.add_(q[:, own], alpha=scale)
        places = neighbours.view(len(q), -1) % batch.samples - own.start
        inside = (places >= 0) & (places < out.shape[1])
        # rows of other ranks are multiplied by 0, not masked, so that a NaN reaches every rank
        q.mul_(inside[:, :, None])
        neighbours = (places.clamp_(0, out.shape[1] - 1) + _first_rows(out)).flatten()
    out.view(-1, batch.dim).index_add_(0, neighbours, q.view(-1, batch.dim).to(out.dtype), alpha=-scale)


def _nearest(z: Tensor, own: slice, products: ModuleType) -> Tensor:
    """The nearest sample of each row of this rank, as an index into the rows of all stacks: [stacks, N, dim] -> [stacks, n]."""
    stacks, samples, dim = z.shape
    if samples < MANY and stacks * samples**2 * dim <= SMALL:
        # subtract a sample: if the mean is large, products lose the digits of small distances, even in float64
        nearest = _scores(z.double() - z[:, :1], own, products).min(dim=2).indices
        return nearest if stacks == 1 else nearest.add_(_first_rows(z))
    # centring reduces the rounding errors of distances
    x = z - z.mean(dim=1, keepdim=True)
    norms = torch.linalg.vector_norm(x, dim=2).square_().unsqueeze(1)
    strips = _strips(own, products.MOST_PAIRS_AT_ONCE // (stacks * samples))
    # all strips reuse this memory, because allocating takes as long as the arithmetic
    scratch = x.new_empty(stacks * (strips[0].stop - strips[0].start) * samples)
    found = [_two_smallest(_scores(x, rows, products, norms, scratch)) for rows in strips]
    candidates = torch.cat(found, dim=1)  # [stacks, n, 2]
    if stacks > 1:
        candidates += _first_rows(z)[:, :, None]
    return _nearer(z, candidates, own, products.MOST_PAIRS_AT_ONCE // 4)


def _scores(x: Tensor, rows: slice, products: ModuleType, norms: Tensor | None = None, scratch: Tensor | None = None) -> Tensor:
    """`|x_i - x_j|^2 - |x_i|^2` for i in `rows` and all j, infinite for j = i: [stacks, N, dim] -> [stacks, rows, N]."""
    shape = len(x), rows.stop - rows.start, x.shape[1]
    scores: Tensor = products.own_rows(x, rows, out=None if scratch is None else scratch[: math.prod(shape)].view(shape))
    norms = torch.linalg.vector_norm(x, dim=2).square_().unsqueeze(1) if norms is None else norms
    torch.sub(norms, scores, alpha=2, out=scores)
    scores.diagonal(offset=rows.start, dim1=1, dim2=2).fill_(torch.inf)
    return scores


def _nearer(z: Tensor, candidates: Tensor, own: slice, numbers: int) -> Tensor:
    """The nearer candidate for each row of this rank, from differences of samples: [stacks, n, 2] -> [stacks, n]."""
    stacks, _, dim = z.shape
    strips = _strips(own, numbers // (2 * stacks * dim))
    found = []
    for rows in strips:
        two = candidates[:, rows.start - own.start : rows.stop - own.start]
        differences = _rows(z, two.flatten()).view(*two.shape, dim).sub_(z[:, rows, None])
        choice = torch.linalg.vector_norm(differences, dim=3).argmin(dim=2, keepdim=True)
        found.append(two.gather(2, choice).squeeze(2))
    return torch.cat(found, dim=1)


def _strips(own: slice, height: int) -> list[slice]:
    """The rows `own` in strips of at most `height` rows."""
    starts = range(own.start, own.stop, max(height, 1))
    return [slice(start, min(start + starts.step, own.stop)) for start in starts]


def _two_smallest(scores: Tensor) -> Tensor:
    """Indices of the two smallest elements of each row (of the smallest if N is 2): [..., N] -> [..., 1 or 2]."""
    samples = scores.shape[-1]
    if samples % BLOCK or samples < MANY:
        return scores.topk(min(2, samples - 1), largest=False).indices
    # the two smallest elements lie in the two blocks with the smallest minima
    blocks = scores.view(*scores.shape[:-1], -1, BLOCK)
    best = blocks.amin(dim=-1).topk(2, largest=False).indices  # [..., 2]
    elements = blocks.gather(-2, best[..., None].expand(*best.shape, BLOCK)).flatten(-2)  # [..., 2 BLOCK]
    place = elements.topk(2, largest=False).indices
    return best.gather(-1, place // BLOCK) * BLOCK + place % BLOCK


def _rows(z: Tensor, index: Tensor) -> Tensor:
    """Rows of z; `index` counts the rows of all stacks: [stacks, N, dim], [k] -> [k, dim]."""
    return z.flatten(0, 1).index_select(0, index)


def _first_rows(z: Tensor) -> Tensor:
    """The index of the first row of each stack, counting the rows of all stacks: [stacks, N, dim] -> [stacks, 1]."""
    stacks, samples, _ = z.shape
    return torch.arange(0, stacks * samples, samples, device=z.device)[:, None]
