"""What "SIGReg" means in five published sources, as options of one statistic.

Every source compares N(0, 1) with the projections x = a^T z on random unit directions a:

    T = mean_a sum_k w_k |mean_i exp(i t_k x_i) - phi(t_k)|^2,   phi(t) = exp(-t^2 / 2)

The sum over k is a trapezoidal rule for the integral of phi(t) |...|^2 over [-largest, largest]. The sources differ in this
rule, in the number of directions, in a factor N (the batch size), and in whether they pool the views.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class SIGRegConvention(NamedTuple):
    """How one source computes SIGReg, and its weights."""

    #: points of the trapezoidal rule on [-largest, largest]
    points: int
    largest: float
    #: number of random directions (slices) in one evaluation
    slices: int
    #: whether T is multiplied by the number of samples
    times_batch: bool
    #: whether one T is computed from the samples of all views
    pooled: bool
    #: weights of the mean squared distance of two views and of T
    weights: tuple[float, float]
    #: the number of slices is `max(slices, slices_per_dim * dim)`
    slices_per_dim: int = 0


def _le_jepa(trade_off: float) -> tuple[float, float]:
    # the source uses the squared distance of two views to their mean, a quarter of that between the views
    return (1 - trade_off) / 4, trade_off


_EB_JEPA = SIGRegConvention(10, 3.0, 256, times_batch=False, pooled=False, weights=(1.0, 10.0))

#: name -> convention. If a source has 17 points on [0, 3] and doubles their sum, it has 33 points on [-3, 3]
CONVENTIONS = {
    "paper": SIGRegConvention(17, 5.0, 256, times_batch=True, pooled=False, weights=_le_jepa(0.05)),
    "lejepa": SIGRegConvention(33, 3.0, 1024, times_batch=True, pooled=False, weights=_le_jepa(0.02)),
    "lightly": SIGRegConvention(33, 3.0, 1024, times_batch=True, pooled=False, weights=_le_jepa(0.05)),
    "stable-pretraining": SIGRegConvention(33, 3.0, 1024, times_batch=True, pooled=True, weights=(1 / 4, 0.02)),
    "eb_jepa": _EB_JEPA,
    # the gradient lies in the span of the slices, so draw at least two slices for each dimension
    "it_losses": _EB_JEPA._replace(slices_per_dim=2),
}


def quadrature(points: int, largest: float, *, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The K positive points t of the trapezoidal rule, phi(t) = exp(-t^2 / 2), and the weights: -> 3 x [K].

    A weight includes phi(t), and is doubled to count -t too. At t = 0 the difference is always 0, so t = 0 is left out.
    """
    spacing, count = 2 * largest / (points - 1), points // 2
    first = largest - (count - 1) * spacing
    knots = torch.linspace(first, largest, count, dtype=like.dtype, device=like.device)
    phi = knots.square().mul_(-0.5).exp_()
    weights = phi * (2 * spacing)
    weights[-1:].div_(2)
    return knots, phi, weights
