"""FroSSLLoss, with lightly's constructor and call: the matrix-based Renyi entropy of order 2 beside an invariance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from it_losses import MatrixRenyi, VICRegEntropy
from it_losses.adapters.drop_in import as_ours, in_host_dtype
from it_losses.bound import Terms
from it_losses.checks import ViewError, Weight, accepted


class FroSSLLoss(VICRegEntropy):
    """lightly's `FroSSLLoss`: a list of V views [batch, dim] -> [].

        invariance_weight * dim * sum_{a < b} |u_a - u_b|^2 / (batch * dim) - sum_a S_2(u_a)

    u are columns of unit norm, which are not centred, and S_2 is MatrixRenyi of order 2. The first term has a factor
    `dim / batch` more than the distance of standardised columns, so in lightly its weight depends on the batch:
    `VICRegEntropy("renyi")` has one that does not. Each rank has its own samples, as in lightly.

    Args:
        invariance_weight: weight of the invariance; a Parameter trains.

    Raises:
        ViewError, a ValueError: fewer than two views, or a batch of one sample.
    """

    def __init__(self, invariance_weight: Weight = 1.0) -> None:
        estimator = MatrixRenyi(2.0, normalize="uncentred_columns")
        super().__init__(estimator, invariance_weight=invariance_weight, entropy_weight=1.0, gather_distributed=False)

    def weights_for(self, views: Sequence[Tensor]) -> tuple[Weight, Weight]:
        """The weights of lightly, for the mean distance of columns of norm `sqrt(batch)` and for the mean entropy."""
        count, batch, dim = len(views), len(views[0]), views[0].shape[-1]
        pairs = count * (count - 1) / 2
        return self.invariance_weight * (pairs * dim / batch), count * self.entropy_weight

    def terms(self, z_views: Sequence[Tensor]) -> Terms:  # type: ignore[override]
        """The loss, and for logging the distance of the views and the mean of their entropies, unweighted and detached."""
        if isinstance(z_views, Tensor):
            accepted(z_views)
        elif not isinstance(z_views, Sequence):
            raise ViewError(f"z_views must be a list of views, got {type(z_views).__name__}. Call criterion([z_a, z_b]).")
        if len(z_views) < 2:
            raise ViewError(f"z_views must hold at least two views, got {len(z_views)}. Call criterion([z_a, z_b]).")
        return super().terms(*z_views)

    def forward(self, z_views: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """V x [batch, dim], in a list -> []."""
        return in_host_dtype(self.terms(z_views).loss, *z_views)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        if "distributed" not in state:
            known = {**state["_parameters"], **state}
            state = as_ours(self, FroSSLLoss, state, invariance_weight=known["invariance_weight"])
        super().__setstate__(state)
