"""Log-det entropy with its gradient in closed form: H = 1/2 log det A, where A = I + beta/N Zc^T Zc is D x D.

    value     I + beta/N Zc Zc^T, N x N, has the same determinant, so the smaller matrix is factorized
    gradient  dH/dZ  =  beta/N Zc A^-1  (A is D x D)  =  beta/N A^-1 Zc  (A is N x N)

Zc holds the centred samples. A scale anchor subtracts beta / (2 (1 + beta t)) (tr C - D) + k/2 log(1 + beta t) from H, where
C = Zc^T Zc / N, k = min(N - 1, D), t = D / k.

The N x N matrix has its smallest eigenvalue, 1, for the vector of ones, because Zc^T 1 = 0. Rounding changes this eigenvalue,
and the inverse would amplify the error. So the eigenvalue is increased before the factorization, and the inverse is centred.
"""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from torch import Tensor

from it_losses.kernels.batch import Batch, Evaluation, Plan, Request

#: suffix of the files in `products` to use: cpu and cuda
PRODUCTS = ""
#: number of `parts`: the largest diagonal element of A - I, for warnings (for N x N, after the increase)
PARTS = 1


def prefers_gram(samples: int, dim: int, world: int) -> bool:
    """Whether the N x N matrix is smaller. The factorization costs the most, and every rank repeats it."""
    return samples < dim


def evaluate(batch: Batch, plan: Plan, constants: Sequence[float], request: Request) -> Evaluation:
    """Entropy and gradient; constants: beta, and two flags (0 or 1): nats per dimension (else nats), scale anchor."""
    beta, per_dimension, anchor = constants
    products = plan.products
    mean_scale = 1 / (batch.stacks * (batch.dim if per_dimension else 1))
    matrix, centred = _second_moments(batch, plan, beta / batch.samples)
    anchored = _anchor(matrix, batch, beta) if anchor else None
    value, factor, largest = _half_log_det(matrix, plan)
    if anchored is not None:
        value.sub_(anchored)
    entropy = value * mean_scale
    if not request.needs_gradient:
        return Evaluation(entropy, (largest,), products.distance(batch, request.difference_weight), None)
    scale = -request.entropy_weight * mean_scale * beta / batch.samples
    anchor_scale = scale / (1 + _target(batch, beta)) if anchor else 0.0
    if plan.by_gram:
        rows = _rows_of_centred_inverse(products, factor, batch.ranks.own).mul_(scale)
        slope = rows.new_full((batch.stacks, 1, batch.dim), -anchor_scale) if anchor else None
        distance, gradient = products.gradient(batch, centred, request.difference_weight, left=rows, slope=slope)
    else:
        inverse = products.inverse(factor).mul_(scale)
        inverse.diagonal(dim1=1, dim2=2).sub_(anchor_scale)
        distance, gradient = products.gradient(batch, centred, request.difference_weight, right=inverse)
    return Evaluation(entropy, (largest,), distance, gradient)


def _second_moments(batch: Batch, plan: Plan, scale: float) -> tuple[Tensor, Any]:
    """`scale Zc Zc^T` [S, N, N] or `scale Zc^T Zc` [S, dim, dim], and Zc."""
    if not plan.by_gram:
        matrix, _, centred = plan.products.covariance(batch)
        return matrix.mul_(scale), centred
    own_rows, _, centred = plan.products.gram(batch)
    return batch.gathered_rows(own_rows).contiguous().mul_(scale), centred


def _half_log_det(matrix: Tensor, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """1/2 log det A summed over stacks [], Cholesky factors [S, side, side], and the largest diagonal element of A - I []."""
    added = _enlarge_along_ones_(matrix) if plan.by_gram else None
    factor, identity, largest = plan.products.factorize_(matrix)
    value = factor.diagonal(dim1=1, dim2=2).log().sum()
    if added is not None:
        # the eigenvalue of the vector of ones is now `added + identity`, but must count as 1
        value.sub_((added + identity).log_().sum(), alpha=0.5)
    return value, factor, largest


def _target(batch: Batch, beta: float) -> float:
    """`beta t`; t is the mean of the nonzero eigenvalues of C if all variances are 1."""
    return beta * batch.dim / min(batch.samples - 1, batch.dim)


def _anchor(matrix: Tensor, batch: Batch, beta: float) -> Tensor:
    """The scale anchor, summed over stacks, from beta C or beta/N Zc Zc^T (same trace): [S, side, side] -> []."""
    target, rank = _target(batch, beta), min(batch.samples - 1, batch.dim)
    trace = matrix.diagonal(dim1=1, dim2=2).sum()
    constant = len(matrix) * rank / 2 * (math.log1p(target) - target / (1 + target))
    return trace.div_(2 * (1 + target)).add_(constant)


def _centre_(matrix: Tensor) -> Tensor:
    """Centre rows and columns in place: `M - r 1^T - 1 r^T`, with r = row means - half the mean of M: [S, side, side]."""
    row = matrix.mean(dim=2, keepdim=True)
    row.sub_(row.mean(dim=1, keepdim=True) / 2)
    return matrix.sub_(row).sub_(row.mT)


def _enlarge_along_ones_(matrix: Tensor) -> Tensor:
    """Add the mean of the diagonal to the smallest eigenvalue, for the vector of ones. Return the mean [S]."""
    added = matrix.diagonal(dim1=1, dim2=2).mean(dim=1)
    matrix.add_((added / matrix.shape[1])[:, None, None])
    return added


def _rows_of_centred_inverse(products: ModuleType, factor: Tensor, own: slice) -> Tensor:
    """The rows `own` of the centred inverse of `A = factor factor^T`: [S, N, N] -> [S, n, N]."""
    samples, n = factor.shape[-1], own.stop - own.start
    if 3 * n >= samples:
        return _centre_(products.inverse(factor))[:, own]
    # for few rows, solving for them costs less than the whole inverse
    right = factor.new_full((samples, n), -1 / samples)
    right[own].diagonal().add_(1)
    rows: Tensor = products.solve(right, factor).mT
    return rows - rows.mean(dim=-1, keepdim=True)
