"""Matrix-based Renyi entropy with its gradient in closed form: a function of the eigenvalues p of rho = K / tr K.

    order 2     H = -log tr rho^2                             dH/d rho = -2 rho / tr rho^2, without eigenvalues
    order 1     H = -sum_k p_k log p_k                        dH/dp_k = -log p_k, up to a constant that cancels in dH/dZ
    order a     H = log(sum_k p_k^a) / (1 - a)                dH/dp_k = a / (1 - a) p_k^(a-1) / sum_k p_k^a
    gradient    dH/dZ = 2 / tr K (Z M - c Z),   M = dH/d rho,   c = tr(rho M),   K = Z^T Z, D x D
                      = 2 / tr K (M Z - c Z),                                    K = Z Z^T, N x N

dH/dp may be infinite at p = 0, so it is bounded. This does not change dH/dZ, because Z is zero along eigenvectors with p = 0.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from it_losses.kernels.batch import Batch, Evaluation, Plan, Request

#: suffix of the files in `products` to use: cpu and cuda
PRODUCTS = ""
#: number of `parts` in the Evaluation
PARTS = 0
#: eigenvalues of rho below ROUNDING * eps are rounding errors
ROUNDING = 8


def prefers_gram(samples: int, dim: int, world: int) -> bool:
    """Whether the N x N matrix is smaller."""
    return samples < dim


def evaluate(batch: Batch, plan: Plan, constants: Sequence[float], request: Request) -> Evaluation:
    """Entropy and gradient; the constants are the order, and 1 to centre the samples."""
    order, centre = constants
    products, by_gram = plan.products, plan.by_gram
    rho, trace, centred = _density(batch, plan, bool(centre))
    entropies, slope, level = _collision(rho, batch, by_gram) if order == 2 else _spectral(rho, order, batch, by_gram)
    entropy = entropies.mean()
    if not request.needs_gradient:
        return Evaluation(entropy, (), products.distance(batch, request.difference_weight), None)
    scale = (-2 * request.entropy_weight / batch.stacks) / trace
    slope.mul_(scale[:, None, None])
    level.mul_(scale)
    if by_gram:
        own_level = level[:, None, None].expand(-1, 1, batch.dim)
        distance, gradient = products.gradient(batch, centred, request.difference_weight, left=slope, slope=-own_level)
    else:
        slope.diagonal(dim1=1, dim2=2).sub_(level[:, None])
        distance, gradient = products.gradient(batch, centred, request.difference_weight, right=slope)
    return Evaluation(entropy, (), distance, gradient)


def _density(batch: Batch, plan: Plan, centre: bool) -> tuple[Tensor, Tensor, Any]:
    """Rows of rho for this rank [S, n, N], or rho [S, dim, dim]; tr K [S]; and Z, centred if `centre`."""
    if plan.by_gram:
        matrix, _, centred = plan.products.gram(batch, centre=centre)
        trace = batch.ranks.summed(matrix[:, :, batch.ranks.own].diagonal(dim1=1, dim2=2).sum(dim=1))
    else:
        matrix, _, centred = plan.products.covariance(batch, centre=centre)
        trace = matrix.diagonal(dim1=1, dim2=2).sum(dim=1)
    # at collapse tr K is 0, and a positive divisor makes rho 0 instead of NaN
    trace = trace.clamp_min(torch.finfo(trace.dtype).tiny ** 0.5)
    return matrix.div_(trace[:, None, None]), trace, centred


def _collision(rho: Tensor, batch: Batch, by_gram: bool) -> tuple[Tensor, Tensor, Tensor]:
    """H of order 2 [S], the rows of M = dH/d rho for this rank, and c = tr(rho M) [S]."""
    # sum row by row, because one running sum of all numbers would lose digits
    purity = torch.linalg.vector_norm(rho, dim=2).square_().sum(dim=1)
    if by_gram:
        purity = batch.ranks.summed(purity)
    purity = purity.masked_fill(purity == 0, 1)
    return -purity.log(), rho.mul_((-2 / purity)[:, None, None]), torch.full_like(purity, -2)


def _spectral(rho: Tensor, order: float, batch: Batch, by_gram: bool) -> tuple[Tensor, Tensor, Tensor]:
    """H of any order [S], the rows of M = dH/d rho for this rank, and c = tr(rho M) [S]."""
    if by_gram:
        rho = batch.gathered_rows(rho)
    # LAPACK raises an error for NaN, so replace NaN by 0 and put it back into p
    p, vectors = torch.linalg.eigh(rho.nan_to_num())
    p = p + (rho - rho).diagonal(dim1=1, dim2=2)
    entropies, slopes, level = _of_spectrum(p, order)
    own = vectors[:, batch.ranks.own] if by_gram else vectors
    return entropies, torch.bmm(own * slopes[:, None], vectors.mT), level


def _of_spectrum(p: Tensor, order: float) -> tuple[Tensor, Tensor, Tensor]:
    """H [S], dH/dp [S, side], and c [S]."""
    bounded = p.clamp_min(ROUNDING * torch.finfo(p.dtype).eps)
    if order == 1:
        surprise = bounded.log().neg_()
        entropies = (p * surprise).sum(dim=1)
        return entropies, surprise, entropies.clone()
    powers = bounded.pow(order - 1)
    if order < 1:
        # leave out eigenvalues that are 0 up to rounding, because a power below 1 would enlarge them
        powers = powers.masked_fill(p < bounded, 0)
    total = (p * powers).sum(dim=1)
    total = total.masked_fill(total == 0, 1)
    factor = order / (1 - order)
    return total.log() / (1 - order), powers * (factor / total)[:, None], torch.full_like(total, factor)
