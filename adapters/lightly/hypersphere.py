"""HypersphereLoss, with lightly's constructor and call: alignment and uniformity on the unit sphere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from it_losses import QuadraticRenyi, VICRegEntropy
from it_losses.adapters.drop_in import HostNames, as_ours, in_host_dtype
from it_losses.checks import Weight, check_positive


class HypersphereLoss(HostNames, VICRegEntropy):
    """lightly's `HypersphereLoss`, alignment plus uniformity of unit vectors: [batch, dim] x 2 -> [].

        mean_i |u_i - u_i'|^2 + lam * mean over the views of log mean_{i != j} exp(-t |u_i - u_j|^2)

    It is twice one minus the cosine less lam times the quadratic Renyi entropy. Each rank has its own samples, as in lightly.

    Args:
        t: inverse scale of the distances; 1 in lightly, 2 in the paper.
        lam: weight of the uniformity.
        alpha: the power of the distance of the views, 2.

    Raises:
        ValueError: alpha other than 2. ViewError, a ValueError: views of different shapes, or a batch of one sample, for
            which lightly returns NaN.
    """

    host_names: ClassVar[Mapping[str, str]] = {"lam": "entropy_weight"}

    def __init__(self, t: float = 1.0, lam: Weight = 1.0, alpha: float = 2.0) -> None:
        uniformity = QuadraticRenyi.of_uniformity(t)
        super().__init__(uniformity, invariance_weight=2.0, entropy_weight=lam, gather_distributed=False)
        self._t = float(t)
        self.alpha = alpha

    @property
    def t(self) -> float:
        """Inverse scale of the distances."""
        return self._t

    @t.setter
    def t(self, value: float) -> None:
        self._t = check_positive("t", value)
        self.entropy = QuadraticRenyi.of_uniformity(value)

    @property
    def alpha(self) -> float:
        """The power of the distance of the views: 2."""
        return 2.0

    @alpha.setter
    def alpha(self, value: float) -> None:
        if value != 2:
            raise ValueError(f"alpha must be 2, got {value!r}. For another power keep lightly's own class.")

    def forward(self, z_a: Tensor, z_b: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """2 x [batch, dim] -> []."""
        return in_host_dtype(self.terms(z_a, z_b).loss, z_a, z_b)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        if "distributed" not in state:
            known = {**state["_parameters"], **state}
            state = as_ours(self, HypersphereLoss, state, t=known["t"], lam=known["lam"], alpha=known["alpha"])
        super().__setstate__(state)
