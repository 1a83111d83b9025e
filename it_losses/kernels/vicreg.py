"""VICReg's surrogate entropy with its gradient in closed form: H = -(variance_weight * hinge + covariance_weight * penalty).

    hinge     mean_d relu(margin - sqrt(var_d + epsilon))
    penalty   2 sum_{i!=j} C_ij^2 / dim,              C = Zc^T Zc / (N-1), D x D
              2 (|G|^2 - sum_d var_d^2) / dim,        G = Zc Zc^T / (N-1), N x N, the same number
    gradient  d hinge / dZ = -Zc / (std (N-1) dim) where std < margin;    d penalty / dZ = 8 / ((N-1) dim) (G Zc - Zc var)

Both terms are averaged over views. The factor 2 turns this mean into the sum over two views, as in the authors' code.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from it_losses.kernels.batch import Batch, Evaluation, Plan, Request
from it_losses.precision import accumulation_dtype

#: suffix of the files in `products`: cpu and cuda
PRODUCTS = ""
#: number of `parts`: hinge and penalty
PARTS = 2
#: with at most this many numbers in a view, sums have the order of the authors' code, to agree to the last bit
TINY = 2048


def prefers_gram(samples: int, dim: int, world: int) -> bool:
    """Whether N x N is cheaper: on several ranks in communication (N dim against 2 dim^2), else in computation."""
    return samples < 2 * dim if world > 1 else 8 * samples <= 7 * dim


def evaluate(batch: Batch, plan: Plan, constants: Sequence[float], request: Request) -> Evaluation:
    """Entropy, hinge, penalty and gradient; the constants are variance_weight, covariance_weight, margin and epsilon."""
    variance_weight, covariance_weight, margin, epsilon = constants
    freedom = batch.samples - 1
    matrix, centred, squares, penalty = _second_moments(batch, plan)
    # `std` is `root` times the standard deviation, which saves an operator
    root = freedom**0.5
    std = (squares + freedom * epsilon).sqrt_()  # [S, 1, dim]
    gap = torch.rsub(std, root * margin).relu_()
    hinge = gap.sum().div_(root * gap.numel())
    entropy = (hinge * -variance_weight).sub_(penalty, alpha=covariance_weight)
    if not request.needs_gradient:
        distance = plan.products.distance(batch, request.difference_weight)
        return Evaluation(entropy, (hinge, penalty), distance, None)
    scale = request.entropy_weight / (batch.dim * batch.stacks)
    of_hinge, of_penalty = scale * variance_weight / root, 8 * scale * covariance_weight / freedom**2
    # 1 where the hinge is active, else 0; `sign_` turns NaN into 0, and the division by std restores the NaN
    acting = gap.sign_()
    # `slope` is not added to the diagonal of `right`, because it is large and would round away smaller terms
    if plan.by_gram:
        factors = {"left": matrix, "slope": squares.mul_(-of_penalty).addcdiv_(acting, std, value=-of_hinge)}
    else:
        factors = {"right": matrix, "slope": acting.div_(std).mul_(-of_hinge)}
    distance, gradient = plan.products.gradient(batch, centred, request.difference_weight, **factors, alpha=of_penalty)
    return Evaluation(entropy, (hinge, penalty), distance, gradient)


def _second_moments(batch: Batch, plan: Plan) -> tuple[Tensor, Any, Tensor, Tensor]:
    """(N-1) G, or (N-1) C with a zero diagonal; Zc; (N-1) var [S, 1, dim]; and the penalty []."""
    products = plan.products
    if plan.by_gram:
        matrix, squares, centred = products.gram(batch, squares=True)
        total = batch.ranks.summed(products.squared_norm(matrix))
        total.sub_(products.squared_norm(squares))
    else:
        matrix, squares, centred = products.covariance(batch, squares=True)
        # zero the diagonal: subtracting its squares from the sum would lose all digits for decorrelated samples
        matrix.diagonal(dim1=1, dim2=2).zero_()
        total = products.squared_norm(matrix)
    return matrix, centred, squares, total.mul_(2 / (batch.dim * (batch.samples - 1) ** 2 * batch.stacks))


def evaluate_tiny(
    views: Sequence[Tensor], constants: Sequence[float], weights: Sequence[float], gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [], terms [4] and gradient [2, batch, dim] of two views [1, batch, dim], in the authors' order of operations.

    The loss is the sum of three terms, because `invariance - entropy` would differ in the last bit.
    """
    variance_weight, covariance_weight, margin, epsilon = constants
    _, batch, dim = views[0].shape
    mse_weight, hinge_weight, penalty_weight = weights[0], weights[1] * variance_weight, weights[1] * covariance_weight
    z_a, z_b = (z[0].to(accumulation_dtype(z.dtype)) for z in views)
    difference = z_a - z_b
    invariance = difference.square().mean()
    difference.mul_(2 * mse_weight / difference.numel())
    hinges, penalties, gradients = [], [], []
    for z, own in ((z_a, difference), (z_b, -difference)):
        zc = z - z.mean(dim=0)
        variance, remainder = torch.var_mean(zc, dim=0)
        std = variance.add_(epsilon).sqrt_()
        gap = torch.relu(margin - std)
        covariance = torch.mm(zc.T, zc).div_(batch - 1)
        # without the diagonal: the elements after the first are dim off-diagonal, 1 diagonal, dim off-diagonal, ...
        off_diagonal = covariance.as_strided((dim - 1, dim), (dim + 1, 1), 1)
        hinges.append(gap.mean())
        penalties.append(off_diagonal.square().sum().div_(dim))
        if gradient:
            zc.sub_(remainder)
            own.addcmul_(zc, gap.sign_().div_(std), value=-hinge_weight / (2 * dim * (batch - 1)))
            # form the product first: adding its small terms one by one to the gradient would round them away
            own.add_(torch.mm(zc, covariance.fill_diagonal_(0)), alpha=4 * penalty_weight / ((batch - 1) * dim))
            gradients.append(own)
    variance, penalty = (hinges[0] + hinges[1]).div_(2), penalties[0] + penalties[1]
    loss = mse_weight * invariance + hinge_weight * variance + penalty_weight * penalty
    entropy = (variance * -variance_weight).sub_(penalty, alpha=covariance_weight)
    terms = torch.stack((invariance, entropy, variance, penalty))
    return loss, terms, torch.stack(gradients) if gradient else loss.new_empty(0)
