"""KoLeoLoss, with lightly's constructor and call: minus the mean log distance to the nearest neighbour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from it_losses import EntropyRegularizer, KoLeo
from it_losses.adapters.drop_in import as_ours, in_host_dtype
from it_losses.checks import accepted, check_positive


class KoLeoLoss(EntropyRegularizer):
    """lightly's `KoLeoLoss`, `-mean_i log |u_i - u_nn(i)|` of unit vectors: [batch, dim] -> [].

    Neighbours are found in float32 or float64, by differences: lightly's are wrong for samples that nearly coincide. lightly
    adds eps to each component and to the distance. Here the logarithm levels off at 2 eps, which differs where a distance is
    close to eps. Each rank has its own samples, as in lightly; `EntropyRegularizer("koleo")` takes those of all ranks.

    Args:
        p: the norm of the distance, 2.
        eps: half the distance below which the logarithm levels off.

    Raises:
        ValueError: p other than 2, for which lightly takes the p-norm of the distance to the neighbour in the 2-norm; eps of 0.
    """

    def __init__(self, p: float = 2, eps: float = 1e-8) -> None:
        super().__init__(KoLeo("rows", epsilon=2 * check_positive("eps", eps)), gather_distributed=False)
        self.p = p

    @property
    def p(self) -> float:
        """The norm of the distance: 2."""
        return 2

    @p.setter
    def p(self, value: float) -> None:
        if value != 2:
            raise ValueError(f"p must be 2, got {value!r}. For another norm keep lightly's own class.")

    @property
    def eps(self) -> float:
        """Half the distance below which the logarithm levels off."""
        return self._estimator().epsilon / 2

    @eps.setter
    def eps(self, value: float) -> None:
        self._estimator().epsilon = 2 * check_positive("eps", value)

    @property
    def pairwise_distance(self) -> nn.PairwiseDistance:
        """The distance of lightly, for code that calls it. The loss does not."""
        return nn.PairwiseDistance(p=2, eps=self.eps)

    def _estimator(self) -> KoLeo:
        assert isinstance(self.entropy, KoLeo)
        return self.entropy

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """[batch, dim] -> []."""
        (x,) = accepted(x)
        # in lightly a sample that is alone is its own neighbour
        rows = x.expand(2, -1) if len(x) == 1 else x
        return in_host_dtype(super().forward(rows), x)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        if "distributed" not in state:
            state = as_ours(self, KoLeoLoss, state, p=state["p"], eps=state["eps"])
        super().__setstate__(state)
