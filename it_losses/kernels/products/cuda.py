"""Products on a GPU: cuBLAS on operands in the dtype of the views with float32 results, and passes over whole tensors.

Samples are centred in float32 and rounded once, to the dtype of the views. In bfloat16, whose range is that of float32, the
gradient is formed in bfloat16 too; in float16 it is formed in float32, so that it does not underflow before the loss scale
multiplies it. Nothing waits for the device, and no allocation depends on data, so that every call can be captured in a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from it_losses.kernels.batch import Batch, Ranks, SingleRank
from it_losses.kernels.dispatch import gradient_dtype
from it_losses.kernels.products import cholesky

if TYPE_CHECKING:
    from it_losses.kernels.products.cuda_pairs import Pairs

__all__ = [
    "add_pair_gradient_",
    "centred",
    "covariance",
    "distance",
    "empty_gradient",
    "factorize_",
    "gradient",
    "gram",
    "inverse",
    "pair_sums",
    "solve",
    "squared_norm",
]


def gram(batch: Batch, *, squares: bool = False) -> tuple[Tensor, Tensor | None, Tensor]:
    """Own rows of `Zc Zc^T` [S, n, N], where wanted the squared norms of the columns of Zc [S, 1, dim], and Zc [S, N, dim]."""
    zc = _centred([batch.all_samples(v) for v in range(len(batch.own))], SingleRank(batch.samples))
    matrix = product(zc[:, batch.ranks.own], zc.mT)
    return matrix, _squared_norms(zc, dim=1) if squares else None, zc


def covariance(batch: Batch) -> tuple[Tensor, Tensor]:
    """`Zc^T Zc` of all ranks [S, dim, dim], and own Zc [S, n, dim]."""
    zc = _centred(batch.own, batch.ranks)
    return batch.ranks.summed(product(zc.mT, zc))(), zc


def gradient(
    batch: Batch,
    centred: Tensor,
    difference_weight: float,
    *,
    left: Tensor | None = None,
    right: Tensor | None = None,
    slope: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Own squared distance [], and `difference_weight (Z - Z') + Zc slope + left Zc`, or `+ Zc right`: [S, n, dim]."""
    out = empty_gradient(batch)
    total = _differences(batch.own, out)
    # the product scales the differences that are there; one view has none
    beta = difference_weight if len(batch.own) > 1 else 0.0
    matrix = cast(Tensor, right if left is None else left)
    # elements of a matrix may be too small for float16: its largest becomes 1, and is multiplied in float32
    unit = _largest(matrix) if centred.dtype == torch.float16 else None
    operand = (matrix if unit is None else matrix / unit).to(centred.dtype)
    factors = (centred, operand) if left is None else (operand, centred)
    if unit is None:
        out.baddbmm_(*factors, beta=beta)
    else:
        torch.add(product(*factors).mul_(unit), out, alpha=beta, out=out)
    if slope is not None:
        out.addcmul_(centred if batch.is_whole else centred[:, batch.ranks.own], slope)
    return total, out


def distance(batch: Batch, difference_weight: float = 1.0, out: Tensor | None = None) -> Tensor:
    """Own squared distance [], and `difference_weight (Z - Z')` into out [S, n, dim], if it is there."""
    differences = empty_gradient(batch) if out is None else out
    total = _differences(batch.own, differences)
    if out is not None:
        out.mul_(difference_weight) if len(batch.own) > 1 else out.zero_()
    return total


def centred(z: Tensor) -> Tensor:
    """Zc of one view [groups, N, dim]."""
    return _centred([z], SingleRank(z.shape[1]))


def empty_gradient(batch: Batch) -> Tensor:
    """Memory for the gradient at own samples: [S, n, dim]."""
    first = batch.own[0]
    return first.new_empty(batch.stacks, first.shape[1], batch.dim, dtype=gradient_dtype(first))


def squared_norm(x: Tensor) -> Tensor:
    """Sum of all squares []."""
    norm: Tensor = torch.linalg.vector_norm(x, dtype=torch.float32)
    return norm.square_()


def factorize_(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lower factor of `identity * I + G`, the identity [S], and the largest diagonal element of G []: see `cholesky`."""
    return cholesky.factorize_(gram, _one_by_one(torch.linalg.cholesky_ex))


def inverse(factor: Tensor) -> Tensor:
    """`(factor factor^T)^-1`: [S, side, side]."""
    (result,) = _one_by_one(lambda matrix: (torch.cholesky_inverse(matrix),))(factor)
    return result


def solve(right: Tensor, factor: Tensor) -> Tensor:
    """`(factor factor^T)^-1 right`, one right-hand side for all: [side, n], [S, side, side] -> [S, side, n]."""
    (result,) = _one_by_one(lambda matrix: (torch.cholesky_solve(right, matrix),))(factor)
    return result


def pair_sums(x: Tensor, own: slice, rates: Tensor, *, memory: int) -> tuple[Tensor, Pairs]:
    """See `cuda_pairs`, which needs Triton."""
    from it_losses.kernels.products import cuda_pairs

    return cuda_pairs.pair_sums(x, own, rates, memory=memory)


def add_pair_gradient_(out: Tensor, pairs: Pairs, weights: Tensor) -> None:
    """See `cuda_pairs`, which needs Triton."""
    from it_losses.kernels.products import cuda_pairs

    cuda_pairs.add_pair_gradient_(out, pairs, weights)


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a b` [S, n, m] in float32: rounding it to the operands' dtype costs two digits of a loss."""
    return torch.bmm(a, b) if a.dtype == torch.float32 else torch.bmm(a, b, out_dtype=torch.float32)


def _centred(views: list[Tensor], ranks: Ranks) -> Tensor:
    """Zc in the dtype of the views: V x [groups, n, dim] -> [S, n, dim]."""
    groups, n, dim = views[0].shape
    zc = views[0].new_empty(len(views) * groups, n, dim)
    # in float64, which costs a pass that waits for memory nothing: a rounded mean would move all samples alike
    mean = ranks.summed(torch.cat([z.sum(dim=1, keepdim=True, dtype=torch.float64) for z in views]))() / ranks.samples
    for z, average, part in zip(views, mean.chunk(len(views)), zc.chunk(len(views)), strict=True):
        torch.sub(z, average, out=part)
    return zc


def _differences(views: list[Tensor], out: Tensor) -> Tensor:
    """`Z - Z'` into out, of more than two views `2 (Z - mean view)`; and their squared distance [], with twice that slope."""
    parts = out.chunk(len(views))
    if len(views) == 1:
        return out.new_zeros((), dtype=torch.float32)
    if len(views) == 2:
        torch.sub(views[0], views[1], out=parts[0])
        torch.neg(parts[0], out=parts[1])
        return squared_norm(parts[0])
    mean = torch.stack(views).mean(dim=0, dtype=torch.float32)
    for z, part in zip(views, parts, strict=True):
        torch.sub(z, mean, out=part)
    return squared_norm(out.mul_(2)) / 2


def _squared_norms(x: Tensor, *, dim: int) -> Tensor:
    """Squared norms of what a product sees: [S, n, dim] -> the same with one entry along `dim`."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float32)
    return norms.square_()


def _largest(matrix: Tensor) -> Tensor:
    """The largest absolute value []; a tiny number for zeros."""
    return matrix.abs().amax().clamp_min_(torch.finfo(matrix.dtype).tiny)


def _one_by_one(function: Callable[[Tensor], tuple[Tensor, ...]]) -> Callable[[Tensor], list[Tensor]]:
    """The function of each matrix of a stack: in batches, libraries take slow paths that cannot be captured in a graph."""
    return lambda stack: [torch.stack(results) for results in zip(*map(function, stack), strict=True)]
