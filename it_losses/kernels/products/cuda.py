"""Matrix operations on a GPU: cuBLAS multiplies in the dtype of the views and returns float32. Triton kernels centre samples.

Shapes are explained in `products`. Samples are centred in float32 and rounded to the dtype of the views. A bfloat16 gradient is
rounded after each operation. A float16 gradient is computed in float32, because float16 could underflow before the loss scale
multiplies it. No operation waits for the GPU, so every call can be captured in a CUDA graph.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from it_losses.kernels.batch import Batch
from it_losses.kernels.products import cholesky
from it_losses.kernels.products import cuda_passes as passes
from it_losses.kernels.products.cuda_passes import Moments
from it_losses.precision import gradient_dtype


class Centred(NamedTuple):
    """Zc [S, N or n, dim], and its squared column norms [S, 1, dim] (zero if the means were given)."""

    zc: Tensor
    norms: Tensor


def gram(batch: Batch, *, squares: bool = False, centre: bool = True) -> tuple[Tensor, Tensor | None, Tensor]:
    """The rows of `Zc Zc^T` for this rank [S, n, N], squared column norms of Zc [S, 1, dim], and Zc."""
    views = [batch.all_samples(v) for v in range(len(batch.own))]
    zc, norms = _centred(views) if centre else (torch.cat(views), None)
    return product(zc[:, batch.ranks.own], zc.mT), norms, zc


def covariance(batch: Batch, *, squares: bool = False, centre: bool = True) -> tuple[Tensor, Tensor | None, Tensor]:
    """`Zc^T Zc` of all ranks [S, dim, dim], squared column norms of Zc [S, 1, dim], and this rank's Zc."""
    parts = None if batch.is_whole or not centre else _means(batch)
    zc, norms = _centred(batch.own, parts) if centre else (torch.cat(batch.own), None)
    matrix = batch.ranks.summed(product(zc.mT, zc))
    # on several ranks `norms` is not computed, so read the diagonal
    return matrix, norms if batch.is_whole else matrix.diagonal(dim1=1, dim2=2)[:, None].clone(), zc


def gradient(
    batch: Batch,
    centred: Tensor,
    difference_weight: float | None,
    *,
    left: Tensor | None = None,
    right: Tensor | None = None,
    slope: Tensor | None = None,
    alpha: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Squared distance [], and gradient `difference_weight (Z - Z') + Zc slope + alpha (left Zc or Zc right)` [S, n, dim]."""
    out = empty_gradient(batch)
    own_zc = centred if left is None or batch.is_whole else centred[:, batch.ranks.own]
    total = _differences(batch, difference_weight, out, own_zc, slope)
    matrix = cast(Tensor, right if left is None else left)
    # float16 would lose small elements of the matrix, so divide by the largest before rounding and multiply afterwards
    unit = largest_magnitude(matrix, dim=(1, 2)) if out.dtype != centred.dtype else None
    operand = (matrix if unit is None else matrix / unit).to(centred.dtype)
    factors = (centred, operand) if left is None else (operand, centred)
    if unit is None:
        torch.baddbmm(out, *factors, alpha=alpha, out=out)
    else:
        out.addcmul_(product(*factors), unit, value=alpha)
    return total, out


def distance(batch: Batch, difference_weight: float | None, out: Tensor | None = None) -> Tensor:
    """Squared distance of this rank's views []. If `out` is given, write `difference_weight (Z - Z')` [S, n, dim] to it."""
    return _differences(batch, difference_weight, empty_gradient(batch) if out is None else out)


def centred(views: list[Tensor]) -> Tensor:
    """All views in one tensor, centred: V x [groups, N, dim] -> [S, N, dim]."""
    return _centred(views).zc


def empty_gradient(batch: Batch) -> Tensor:
    """Memory for the gradient of this rank's samples: [S, n, dim]."""
    first = batch.own[0]
    return first.new_empty(batch.stacks, first.shape[1], batch.dim, dtype=gradient_dtype(first))


def squared_norm(x: Tensor) -> Tensor:
    """The sum of all squares []."""
    norm: Tensor = torch.linalg.vector_norm(x, dtype=torch.float32)
    return norm.square_()


def factorize_(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `cholesky.factorize_`, with one library call for each matrix."""
    return cholesky.factorize_(gram, _one_by_one(torch.linalg.cholesky_ex))


def inverse(factor: Tensor) -> Tensor:
    """`(factor factor^T)^-1`: [S, side, side]."""
    (result,) = _one_by_one(lambda matrix: (torch.cholesky_inverse(matrix),))(factor)
    return result


def solve(right: Tensor, factor: Tensor) -> Tensor:
    """`(factor factor^T)^-1 right`, the same `right` for each factor: [side, n], [S, side, side] -> [S, side, n]."""
    (result,) = _one_by_one(lambda matrix: (torch.cholesky_solve(right, matrix),))(factor)
    return result


def product(a: Tensor, b: Tensor) -> Tensor:
    """The product `a b` [S, n, m] in float32, because rounding to half precision would cost two digits of a loss."""
    return torch.bmm(a, b) if a.dtype == torch.float32 else torch.bmm(a, b, out_dtype=torch.float32)


def _centred(views: list[Tensor], parts: Moments | None = None) -> Centred:
    """Views [groups, n, dim] minus their means, or minus the means in `parts`, in the dtype of the views."""
    groups, rows, dim = views[0].shape
    zc = views[0].new_empty(len(views) * groups, rows, dim)
    return Centred(zc, passes.centre_into(zc, views, passes.moments(views) if parts is None else parts))


def _means(batch: Batch) -> Moments:
    """The means over all ranks, as Moments of one chunk. The squares are not needed and set to zero."""
    sums = torch.cat([z.sum(dim=1, keepdim=True, dtype=torch.float32) for z in batch.own])
    means = batch.ranks.summed(sums) / batch.samples
    nothing = torch.zeros_like(means)
    return Moments(means, nothing, nothing)


def _differences(
    batch: Batch, weight: float | None, out: Tensor, centred: Tensor | None = None, slope: Tensor | None = None
) -> Tensor:
    """Write `weight (Z - Z') + Zc slope` to out (more views: `2 weight (Z - mean view)`). Return the squared distance []."""
    views = batch.own
    if len(views) == 2 and weight is not None:
        return passes.differences_into(out, views[0], views[1], weight, centred, slope)
    total = out.new_zeros((), dtype=torch.float32)
    if len(views) == 1 or weight is None:
        out.zero_()
    else:
        stacked = torch.stack(views).float()
        deviations = stacked.sub_(stacked.mean(dim=0)).flatten(0, 1)
        total = 2 * squared_norm(deviations)
        torch.mul(deviations, 2 * weight, out=out)
    if centred is not None and slope is not None:
        out.addcmul_(centred, slope)
    return total


def _one_by_one(function: Callable[[Tensor], tuple[Tensor, ...]]) -> Callable[[Tensor], list[Tensor]]:
    """Apply the function to one matrix at a time, because batched calls are slow and cannot be captured in a CUDA graph."""
    return lambda stack: [torch.stack(results) for results in zip(*map(function, stack), strict=True)]


def largest_magnitude(x: Tensor, dim: tuple[int, int]) -> Tensor:
    """The largest absolute value over two axes, which keep length 1. It is never 0, so the caller can divide by it."""
    return x.abs().amax(dim=dim, keepdim=True).clamp_min_(torch.finfo(x.dtype).tiny)
