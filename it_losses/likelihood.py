"""The invariance term: E[log q(z | z')] of a Gaussian decoder is, up to constants, minus the squared distance of the views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_squared_distance(views: Sequence[Tensor]) -> Tensor:
    """Mean over pairs of views of the mean squared difference: V x [batch, ..., dim] -> [].

    For two views it is `mean (z_a - z_b)^2` over batch and dim. For more it is `2 V / (V - 1)` times
    `mean_v mean (z_v - z_mean)^2`, which equals the mean over all pairs.

    Source: VICReg (arXiv 2105.04906), equation 5, divided by dim as in the authors' code.
    """
    if len(views) == 2:
        return torch.nn.functional.mse_loss(views[0], views[1])
    stacked = torch.stack(tuple(views))  # [views, batch, ..., dim]
    spread = (stacked - stacked.mean(dim=0)).square().mean()
    return spread * (2 * len(views) / (len(views) - 1))
