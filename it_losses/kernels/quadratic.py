"""Quadratic Renyi entropy with its gradient in closed form: H = dim/2 log(4 pi s^2) - log mean_ij e_ij.

    e_ij      exp(-rate |z_i - z_j|^2),   rate = 1 / (4 s^2),   r = mean_i sum_j e_ij
    gradient  dH/dz_i = 2 rate / N sum_j W_ij (z_i - z_j),     W_ij = 2 e_ij / r

This is the pairwise entropy with the same r for all samples.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from it_losses.kernels.batch import Batch, Evaluation, Plan, Request
from it_losses.kernels.pairwise import PARTS, PRODUCTS, Mixture, evaluate_mixture, prefers_gram

__all__ = ["PARTS", "PRODUCTS", "evaluate", "prefers_gram"]

#: c in `exp(-|z_i - z_j|^2 / (c s^2))`: the overlap integral of two components is a Gaussian of twice the variance
FACTOR = 4.0


def evaluate(batch: Batch, plan: Plan, constants: Sequence[float], request: Request) -> Evaluation:
    """Entropy and gradient; constants: spread_fraction, memory, two flags (leave out (i, i), add component entropy), each s.

    If no s is given, the bandwidth follows the batch.
    """
    spread_fraction, memory, excluded, nats, *bandwidths = constants
    component = math.pi if nats else None
    mixture = Mixture(FACTOR, spread_fraction, bandwidths, memory, excluded, component, average=_over_rows)
    return evaluate_mixture(batch, plan, mixture, request)


def _over_rows(sums: Tensor) -> Tensor:
    """The mean over rows: [K, stacks, N] -> [K, stacks, 1]."""
    return sums.mean(dim=2, keepdim=True)
