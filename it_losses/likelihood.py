"""The likelihood term E[log q(z | z')], which is minus a distance of the views, up to constants.

gaussian            q = N(z; z', I s^2): the mean squared distance, VICReg's invariance term
von_mises_fisher    q = C exp(k <u, u'>) of unit vectors u = z / |z|: one minus the cosine, as in BYOL, SimSiam and SimCLR
"""

from collections.abc import Sequence

import torch
from torch import Tensor

LIKELIHOODS = ("gaussian", "von_mises_fisher")


def distance(views: Sequence[Tensor], likelihood: str) -> Tensor:
    """The distance of the views, which is minus the log-likelihood up to constants: V x [batch, ..., dim] -> [].

    For "von_mises_fisher" the views must be unit vectors, so that `1 - <u, u'> = |u - u'|^2 / 2`.
    """
    squared = mean_squared_distance(views)
    return squared * (views[0].shape[-1] / 2) if likelihood == "von_mises_fisher" else squared


def mean_squared_distance(views: Sequence[Tensor]) -> Tensor:
    """Mean over pairs of views of the mean squared difference: V x [batch, ..., dim] -> [].

    For two views it is `mean (z_a - z_b)^2` over batch and dim. For V > 2 views it equals
    `2 V / (V - 1)` times `mean_v mean (z_v - z_mean)^2`.

    Source: VICReg (arXiv 2105.04906), equation 5, divided by dim as in the authors' code.
    """
    if len(views) == 2:
        return torch.nn.functional.mse_loss(views[0], views[1])
    stacked = torch.stack(tuple(views))  # [views, batch, ..., dim]
    spread = (stacked - stacked.mean(dim=0)).square().mean()
    return spread * (2 * len(views) / (len(views) - 1))
