"""The von Mises-Fisher distribution in nats: the constant that turns a cosine into E log q(z | z')."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from it_losses.checks import check_count, check_positive


def von_mises_fisher_log_constant(concentration: float, dim: int) -> float:
    """The logarithm of C in the density `C exp(k <u, m>)` of unit vectors u around m, k the concentration.

        log C = (dim/2 - 1) log k - dim/2 log(2 pi) - log I_{dim/2 - 1}(k)

    I is the modified Bessel function of the first kind. Its power series has positive terms and is added up in logarithms, so
    that neither a large dim nor a large k overflows. The cost is about k terms.

    Source: Mardia & Jupp, Directional Statistics (2000), equation 9.3.4; Abramowitz & Stegun, 9.6.10.
    """
    kappa, order = check_positive("concentration", concentration), check_count("dim", dim) / 2 - 1
    # terms grow up to m = k/2 and fall faster than geometrically from m = k on
    m = torch.arange(math.ceil(kappa) + 100, dtype=torch.float64)
    terms = (2 * m + order) * math.log(kappa / 2) - torch.lgamma(m + 1) - torch.lgamma(m + order + 1)
    return order * math.log(kappa) - dim / 2 * math.log(2 * math.pi) - float(terms.logsumexp(dim=0))


def von_mises_fisher_log_likelihood(z_a: Tensor, z_b: Tensor, *, concentration: float) -> Tensor:
    """`E log q(u_a | u_b)` in nats of unit vectors u = z / |z|: 2 x [..., dim] -> [].

        k E <u_a, u_b> + log C(k)

    It is minus k times the distance that the likelihood "von_mises_fisher" of VICRegEntropy measures, plus `k + log C(k)`.
    """
    constant = von_mises_fisher_log_constant(concentration, z_a.shape[-1])
    return concentration * cosine_similarity(z_a, z_b, dim=-1).mean() + constant
