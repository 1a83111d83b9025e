"""The characteristic function of samples along random directions, on a CPU. A slice is the projections on one direction."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from it_losses.kernels.products.cpu import distance, empty_gradient
from it_losses.slices import unit_directions

__all__ = ["MOST_WAVES_AT_ONCE", "distance", "empty_gradient", "largest_projection", "unit_directions", "wave_slopes_", "waves"]

#: the most cosines and sines in memory at a time, so that they fit in the cache
MOST_WAVES_AT_ONCE = 1 << 18


class Waves(NamedTuple):
    """The projections x, the knots t with both signs, and the waves cos(t x) and sin(t x)."""

    x: Tensor  # [S, slices, n]
    signed: Tensor  # [2, K]
    values: Tensor  # [S, slices, 2, K, n]: cos(t_k x_i), sin(t_k x_i)


def largest_projection(x: Tensor) -> Tensor:
    """The largest absolute value [], faster than torch's norm of infinite order."""
    smallest, largest = x.aminmax()
    return torch.maximum(-smallest, largest)


def waves(x: Tensor, knots: Tensor, slices_at_once: int) -> Iterator[tuple[Tensor, Waves]]:
    """Yield, for each block of slices, sums [S, slices, 2, K] of cosines and sines over this rank's samples, and the waves.

    x is [S, slices, n], and knots is [K]. The next block overwrites the waves.
    """
    signed = torch.stack((knots, -knots))
    scratch = x.new_empty(2 * len(knots) * x[:, :slices_at_once].numel())
    for block in torch.split(x, slices_at_once, dim=1):
        stacks, slices, samples = block.shape
        values = scratch[: 2 * len(knots) * block.numel()].view(stacks, slices, 2, -1, samples)
        cosine, sine = values.unbind(dim=2)
        torch.mul(block[:, :, None], knots[:, None], out=sine)
        torch.cos(sine, out=cosine)
        sine.sin_()
        yield values.sum(dim=4), Waves(block, signed, values)


def wave_slopes_(waves: Waves, weights: Tensor) -> Tensor:
    """Replace x [S, slices, n] by d/dx of the sum of weights times waves; the weights are [S, slices, 2, K]."""
    x, signed, values = waves
    rows = x.shape[0] * x.shape[1]
    # the derivatives of cos and sin are -sin and cos
    turned = weights.flip(2).mul_(signed)
    return x.copy_(torch.bmm(turned.view(rows, 1, -1), values.view(rows, -1, x.shape[2])).view_as(x))
