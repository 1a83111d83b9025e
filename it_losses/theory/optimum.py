"""Theorem 2: under bounded eigenvalues, the covariance that maximises sum_i log |S_Z| / (|S(x_i)||S(x'_i)|) is diagonal."""

import math

import torch
from torch import Tensor

from it_losses.checks import check_count, check_positive


def log_det_ratio(covariance: Tensor, conditional: Tensor, other_conditional: Tensor) -> Tensor:
    """The objective of Theorem 2 in nats: [dim, dim], 2 x [images, dim, dim] -> [].

        sum_i log(|S_Z| / (|S(x_i)||S(x'_i)|))

    S_Z is the covariance of all embeddings. S(x_i) and S(x'_i) are those of the two views of image i. Source: arXiv 2303.00633.
    """
    if conditional.shape != other_conditional.shape:
        shapes = tuple(conditional.shape), tuple(other_conditional.shape)
        raise ValueError(f"both conditional covariances must have the same shape, got {shapes[0]} and {shapes[1]}.")
    return (_log_det(covariance) - _log_det(conditional) - _log_det(other_conditional)).sum()


@torch.no_grad()
def maximise_log_det_ratio(
    conditional: Tensor,
    other_conditional: Tensor,
    *,
    largest: float = 1.0,
    smallest: float = 1e-3,
    steps: int = 200,
    step_size: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The covariance S_Z that maximises the objective of Theorem 2, by projected gradient ascent: -> [dim, dim].

        S_Z = M + mean of all S(x_i), S(x'_i),   eigenvalues of M in [smallest, largest]

    This is the law of total covariance: M is the covariance of the means f(x_i), which the network can choose. S(x_i) and
    S(x'_i), `[images, dim, dim]`, are given. From a random M, each step follows the gradient `d log|S_Z| / dM = S_Z^-1` and
    then clamps the eigenvalues. The problem is concave, and its solution is `M = largest I`. So only S(x_i) and S(x'_i) give
    S_Z off-diagonal entries.

    Source: Theorem 2 and Figure 3 of arXiv 2303.00633.
    """
    if check_positive("smallest", smallest) > check_positive("largest", largest):
        raise ValueError(f"smallest must not be above largest, got {smallest!r} and {largest!r}.")
    check_count("steps", steps, at_least=0)
    check_positive("step_size", step_size)
    noise = (conditional.mean(dim=0) + other_conditional.mean(dim=0)) / 2
    root = torch.randn(noise.shape, dtype=noise.dtype, device=noise.device, generator=generator)
    of_means = _clamped(root @ root.mT / len(root), smallest, largest)
    for _ in range(steps):
        gradient = torch.linalg.inv(of_means + noise)
        of_means = _clamped(of_means + step_size * largest**2 * gradient, smallest, largest)
    optimum: Tensor = of_means + noise
    return optimum


def _log_det(matrix: Tensor) -> Tensor:
    """`log|S|`, or NaN if S is not positive definite: [..., dim, dim] -> [...]."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    log_det: Tensor = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    return log_det.masked_fill(failed != 0, math.nan)


def _clamped(matrix: Tensor, smallest: float, largest: float) -> Tensor:
    """The nearest symmetric matrix with eigenvalues in [smallest, largest]."""
    eigenvalues, eigenvectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    nearest: Tensor = eigenvectors * eigenvalues.clamp(smallest, largest) @ eigenvectors.mT
    return nearest


def distance_from_diagonal(covariance: Tensor) -> Tensor:
    """How far S is from diagonal, `|S - diag S|_F / |S|_F`: [..., dim, dim] -> [...]. Source: arXiv 2303.00633, Figure 3."""
    off_diagonal = covariance - torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    distance: Tensor = torch.linalg.matrix_norm(off_diagonal) / torch.linalg.matrix_norm(covariance)
    return distance


def hadamard_gap(covariance: Tensor) -> Tensor:
    """Gap of Hadamard's inequality, `1/2 (sum_j log S_jj - log|S|)` in nats: [..., dim, dim] -> [...].

    It is 0 for a diagonal S and positive otherwise. For a Gaussian it is the total correlation of the coordinates, which
    VICReg's covariance term reduces.
    """
    log_diagonal = covariance.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    return 0.5 * (log_diagonal - _log_det(covariance))


def second_order_log_det(covariance: Tensor) -> Tensor:
    """The expansion of `1/2 log|S|` at S = I, up to O(|S - I|^3), with terms like VICReg's: [..., dim, dim] -> [...].

    -sum_j [(1 - v_j)/2 + (1 - v_j)^2/4] - 1/4 sum_{i != j} c_ij^2,   v the variances and c the covariances in S
    """
    missing = 1 - covariance.diagonal(dim1=-2, dim2=-1)
    off_diagonal = covariance - torch.diag_embed(1 - missing)
    return -(missing / 2 + missing.square() / 4).sum(dim=-1) - off_diagonal.square().sum(dim=(-2, -1)) / 4
