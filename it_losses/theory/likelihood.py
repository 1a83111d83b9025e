"""The likelihood E log q(z | z') of Gaussians and of unit vectors, and three estimates of the output covariance S(x)."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from it_losses.checks import check_count, check_not_negative, check_positive
from it_losses.precision import accumulated
from it_losses.theory.network import Network, jacobian_vector_products, jacobians


def expected_log_likelihood(
    mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor, *, decoder_covariance: Tensor
) -> Tensor:
    """The likelihood term `E log N(Z; Z', R)` in nats: 2 x [..., dim], 2 x [..., dim, dim] -> [...].

        -dim/2 log 2 pi - 1/2 log|R| - 1/2 (m - m')^T R^-1 (m - m') - 1/2 tr(R^-1 (S + S'))

    `Z ~ N(m, S)` and `Z' ~ N(m', S')` are independent. VICReg keeps only the distance of the means. The paper, arXiv
    2303.00633, prints a less exact expression, `~ H(Z) - log(|S||S'|) - 1/2 (m - m')^2`.

    Args:
        mean: m = f(x), [..., dim].
        covariance: S(x), [..., dim, dim].
        other_mean: m' = f(x'), [..., dim].
        other_covariance: S(x'), [..., dim, dim].
        decoder_covariance: R, [dim, dim], positive definite.
    """
    dim = mean.shape[-1]
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(decoder_covariance)
    if bool(failed.any()):
        raise ValueError("decoder_covariance must be positive definite. Add a variance to its diagonal.")
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    difference = (mean - other_mean)[..., None]
    # one trace has both quadratic terms, since E (Z - Z')(Z - Z')^T = S + S' + (m - m')(m - m')^T
    second_moment = covariance + other_covariance + difference @ difference.mT
    mahalanobis = torch.cholesky_solve(second_moment, factor).diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return -0.5 * (dim * math.log(2 * math.pi) + log_det + mahalanobis)


@torch.no_grad()
def hutchinson_trace(
    network: Network, x: Tensor, noise_std: float, *, probes: int = 8, generator: torch.Generator | None = None
) -> Tensor:
    """Estimate of the trace of the output covariance S(x), without forming the Jacobian J: [batch, *input] -> [batch].

        tr S(x) = noise_std^2 E |J v|^2,   v random signs

    Each probe costs one forward-mode derivative. The estimate is unbiased. One probe is exact if `J^T J` is diagonal.
    Source: Hutchinson (1989).
    """
    check_not_negative("noise_std", noise_std)
    check_count("probes", probes)
    total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for _ in range(probes):
        signs = torch.randint(2, x.shape, device=x.device, generator=generator).to(x.dtype) * 2 - 1
        total += jacobian_vector_products(network, x, signs).square().sum(dim=1)
    return noise_std**2 * total / probes


@torch.no_grad()
def half_log_det_covariance(network: Network, x: Tensor, noise_std: float, *, ridge: float) -> Tensor:
    """`1/2 log det(noise_std^2 J J^T + ridge I)` in nats, J the Jacobian: [batch, *input] -> [batch].

    The ridge is needed, because `J J^T` is singular if dim exceeds the rank of J.
    """
    check_not_negative("noise_std", noise_std)
    check_positive("ridge", ridge)
    jacobian = jacobians(network, x)
    identity = torch.eye(jacobian.shape[1], dtype=jacobian.dtype, device=jacobian.device)
    factor: Tensor = torch.linalg.cholesky(noise_std**2 * jacobian @ jacobian.mT + ridge * identity)
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)


@torch.no_grad()
def view_covariance(views: Tensor) -> Tensor:
    """Unbiased covariance of the views of each image: [images, views, dim] -> [images, dim, dim].

    It estimates the output covariance without derivatives, for any augmentation. Its rank is at most views - 1.
    """
    if views.ndim != 3 or views.shape[1] < 2:
        raise ValueError(f"views need shape (images, views >= 2, dim), got {tuple(views.shape)}. Stack views on dimension 1.")
    views = accumulated(views)
    centred = views - views.mean(dim=1, keepdim=True)
    return centred.mT @ centred / (views.shape[1] - 1)


def von_mises_fisher_log_constant(concentration: float, dim: int) -> float:
    """The logarithm of C in the density `C exp(k <u, m>)` of unit vectors u around m, k the concentration.

        log C = (dim/2 - 1) log k - dim/2 log(2 pi) - log I_{dim/2 - 1}(k)

    I is the modified Bessel function of the first kind. Its power series is added in logarithms, so that a large dim or k does
    not overflow.

    Source: Mardia & Jupp, Directional Statistics (2000), equation 9.3.4; Abramowitz & Stegun, 9.6.10.
    """
    kappa, order = check_positive("concentration", concentration), check_count("dim", dim) / 2 - 1
    # from m = k on the terms decrease faster than geometrically, so k + 100 terms suffice
    m = torch.arange(math.ceil(kappa) + 100, dtype=torch.float64)
    terms = (2 * m + order) * math.log(kappa / 2) - torch.lgamma(m + 1) - torch.lgamma(m + order + 1)
    return order * math.log(kappa) - dim / 2 * math.log(2 * math.pi) - float(terms.logsumexp(dim=0))


def von_mises_fisher_log_likelihood(z_a: Tensor, z_b: Tensor, *, concentration: float) -> Tensor:
    """The likelihood term `E log q(u_a | u_b)` in nats of unit vectors u = z / |z|: 2 x [..., dim] -> [].

        k E <u_a, u_b> + log C(k),   k the concentration

    It equals `-k d + k + log C(k)`, where d is the invariance of VICRegEntropy with "von_mises_fisher", one minus the cosine.
    """
    if z_a.shape != z_b.shape:
        raise ValueError(f"z_a and z_b must have the same shape, got {tuple(z_a.shape)} and {tuple(z_b.shape)}.")
    constant = von_mises_fisher_log_constant(concentration, z_a.shape[-1])
    return concentration * cosine_similarity(accumulated(z_a), accumulated(z_b), dim=-1).mean() + constant
