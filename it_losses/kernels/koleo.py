"""Nearest-neighbour entropy with its gradient in closed form: H = mean_i 1/2 log(rho_i^2 + epsilon^2), rho_i = |z_i - z_nn(i)|.

    gradient  dH/dz_i = q_i - sum_{k: nn(k) = i} q_k,   q_i = (z_i - z_nn(i)) / (N (rho_i^2 + epsilon^2))

The rounding of a matrix product may exceed the difference between two distances. It therefore finds the two nearest samples of
each row, and direct differences choose between them. Each rank searches for the neighbours of its own rows, and the ranks
gather the N indices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from it_losses.kernels.batch import Batch, Evaluation, Request
from it_losses.kernels.dispatch import Plan
from it_losses.precision import accumulation_dtype

#: its products are in products/<device><PRODUCTS>.py
PRODUCTS = "_pairs"
#: numbers for warnings beside the entropy
PARTS = 0
#: from so many samples the two smallest distances are searched for in blocks, whose minima take one fast pass
MANY, BLOCK = 1024, 64
#: if the differences of all pairs hold at most so many numbers, all are formed at once, which takes fewer operators
SMALL = 1 << 18


def prefers_gram(samples: int, dim: int, world: int) -> bool:
    """Distances between samples are N x N."""
    return True


def evaluate(batch: Batch, plan: Plan, constants: Sequence[float], request: Request) -> Evaluation:
    """Entropy and gradient; the constant is epsilon."""
    (epsilon,) = constants
    products, groups = plan.products, batch.groups
    gradient = products.empty_gradient(batch) if request.needs_gradient else None
    distance = products.distance(batch, request.difference_weight, out=gradient)
    logarithms = []
    # small views in one call: fewer operators
    views_at_once = len(batch.own) if batch.stacks * batch.samples**2 <= products.MOST_PAIRS_AT_ONCE else 1
    for first in range(0, len(batch.own), views_at_once):
        z = _samples([batch.all_samples(view) for view in range(first, first + views_at_once)])  # [stacks, N, dim]
        neighbours = batch.gathered_rows(_nearest(z, batch.ranks.own, products.MOST_PAIRS_AT_ONCE)).flatten()
        q = _rows(z, neighbours).view_as(z)
        torch.sub(z, q, out=q)
        squared = torch.linalg.vector_norm(q, dim=2, keepdim=True).square_().add_(epsilon**2)  # [stacks, N, 1]
        logarithms.append(squared.log().mean())
        if gradient is not None:
            q.mul_(squared.reciprocal_().mul_(-request.entropy_weight / (batch.samples * batch.stacks)))
            _add_gradient_(gradient[first * groups : (first + views_at_once) * groups], q, neighbours, batch)
    entropy = sum(logarithms[1:], logarithms[0]) / (2 * len(logarithms))
    return Evaluation(entropy, (), distance, entropy.new_empty(0) if gradient is None else gradient)


def _samples(views: list[Tensor]) -> Tensor:
    """The views as one tensor in the dtype of sums: V x [groups, N, dim] -> [stacks, N, dim]."""
    z = views[0] if len(views) == 1 else torch.cat(views)
    return z.to(accumulation_dtype(z.dtype))


def _add_gradient_(out: Tensor, q: Tensor, neighbours: Tensor, batch: Batch) -> None:
    """Add `q_i - sum_{k: nn(k) = i} q_k` to own rows: [stacks, n, dim], [stacks, N, dim], [stacks N]."""
    if batch.is_whole:
        out.add_(q)
    else:
        own = batch.ranks.own
        out.add_(q[:, own])
        places = neighbours.view(len(q), -1) % batch.samples - own.start
        inside = (places >= 0) & (places < out.shape[1])
        # a NaN times 0 is NaN, so that every rank sees it
        q.mul_(inside[:, :, None])
        neighbours = (places.clamp_(0, out.shape[1] - 1) + _first_rows(out)).flatten()
    out.view(-1, batch.dim).index_add_(0, neighbours, q.view(-1, batch.dim).to(out.dtype), alpha=-1)


def _nearest(z: Tensor, own: slice, pairs: int) -> Tensor:
    """The nearest other sample of own rows, as a row of all stacks, from strips of pairs: [stacks, N, dim] -> [stacks, n]."""
    stacks, samples, dim = z.shape
    if stacks * samples**2 * dim <= SMALL:
        distances = torch.cdist(z[:, own], z, compute_mode="donot_use_mm_for_euclid_dist")
        distances.diagonal(offset=own.start, dim1=1, dim2=2).fill_(torch.inf)
        nearest = distances.argmin(dim=2)
        return nearest if stacks == 1 else nearest + _first_rows(z)
    # distances do not depend on the place, but their rounding does
    x = z - z.mean(dim=1, keepdim=True)
    norms = torch.linalg.vector_norm(x, dim=2).square_()[:, None]
    height = max(pairs // (stacks * max(samples, 2 * dim)), 1)
    strips = [slice(start, min(start + height, own.stop)) for start in range(own.start, own.stop, height)]
    # fresh memory for every strip would cost as much as its arithmetic
    scratch = x.new_empty(2, stacks * (strips[0].stop - strips[0].start) * max(samples, 2 * dim))
    found = [_nearest_of_strip(z, x, norms, rows, scratch) for rows in strips]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _nearest_of_strip(z: Tensor, x: Tensor, norms: Tensor, rows: slice, scratch: Tensor) -> Tensor:
    """The nearest other sample of these rows, x the centred samples: [stacks, N, dim] -> [stacks, rows]."""
    shape = len(z), rows.stop - rows.start, z.shape[1]
    # |x_i - x_j|^2 - |x_i|^2
    scores = torch.baddbmm(norms, x[:, rows], x.mT, alpha=-2, out=scratch[0, : math.prod(shape)].view(shape))
    scores.diagonal(offset=rows.start, dim1=1, dim2=2).fill_(torch.inf)
    candidates = _two_smallest(scores)  # [stacks, rows, 2]
    if len(z) > 1:
        candidates += _first_rows(z)[:, :, None]
    differences = _rows(z, candidates.flatten(), scratch[1]).view(*candidates.shape, -1).sub_(z[:, rows, None])
    choice = torch.linalg.vector_norm(differences, dim=3).argmin(dim=2, keepdim=True)
    return candidates.gather(2, choice).squeeze(2)


def _two_smallest(scores: Tensor) -> Tensor:
    """Indices of the two smallest elements of each row, or of the one other sample of two: [..., N] -> [..., 1 or 2]."""
    samples = scores.shape[-1]
    if samples % BLOCK or samples < MANY:
        return scores.topk(min(2, samples - 1), largest=False).indices
    # both are among the elements of the two blocks with the smallest minima
    blocks = scores.view(*scores.shape[:-1], -1, BLOCK)
    best = blocks.amin(dim=-1).topk(2, largest=False).indices  # [..., 2]
    elements = blocks.gather(-2, best[..., None].expand(*best.shape, BLOCK)).flatten(-2)  # [..., 2 BLOCK]
    place = elements.topk(2, largest=False).indices
    return best.gather(-1, place // BLOCK) * BLOCK + place % BLOCK


def _rows(z: Tensor, index: Tensor, scratch: Tensor | None = None) -> Tensor:
    """Rows of all stacks by their index: [stacks, N, dim], [k] -> [k, dim]."""
    shape = len(index), z.shape[2]
    out = z.new_empty(shape) if scratch is None else scratch[: math.prod(shape)].view(shape)
    return torch.index_select(z.flatten(0, 1), 0, index, out=out)


def _first_rows(z: Tensor) -> Tensor:
    """The first row of each stack among those of all stacks: [stacks, N, dim] -> [stacks, 1]."""
    stacks, samples, _ = z.shape
    return torch.arange(0, stacks * samples, samples, device=z.device)[:, None]
