"""eb_jepa: criteria that return a dict of scalars, as eb_jepa's training loops expect.

    - loss_fn = VICRegLoss(std_coeff=1.0, cov_coeff=80.0)      # eb_jepa.losses
    + loss_fn = VICRegLoss(std_coeff=1.0, cov_coeff=80.0)      # it_losses.adapters.eb_jepa

This module does not import eb_jepa.
"""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from it_losses import VICReg, VICRegEntropy
from it_losses.adapters.conventions import ARGUMENTS, translated
from it_losses.adapters.drop_in import HostNames, in_host_dtype
from it_losses.entropy import EntropyEstimator


class VICRegLoss(HostNames, VICReg):
    """eb_jepa's VICReg, with the same value: 2 x [batch, dim] -> {"loss", "invariance_loss", "var_loss", "cov_loss"}.

    Only `loss` has a gradient. The others are for logging: unweighted, in eb_jepa's units. Both weights can be read and set
    under eb_jepa's names.

    Args:
        std_coeff: weight of the variance hinges, which are summed over the views.
        cov_coeff: weight of the squared covariances, which are averaged over pairs of dimensions and summed over the views.
        gather_distributed: whether statistics use the samples of all ranks. In eb_jepa each rank uses its own.
    """

    host_names: ClassVar[Mapping[str, str]] = ARGUMENTS["eb_jepa"]

    def __init__(self, std_coeff: float = 1.0, cov_coeff: float = 1.0, *, gather_distributed: bool = False) -> None:
        theirs = translated("eb_jepa", std_coeff=std_coeff, cov_coeff=cov_coeff)
        super().__init__(**theirs | {"gather_distributed": gather_distributed})  # type: ignore[arg-type]

    def forward(self, z1: Tensor, z2: Tensor | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        """The terms by name: 2 x [batch, dim] -> 4 x []."""
        terms = self.terms(z1, z2)
        named = {
            "loss": terms.loss,
            "invariance_loss": terms.invariance,
            # eb_jepa sums the hinges over the views, and divides the covariances by dim (dim - 1), not by dim
            "var_loss": 2 * terms.variance,
            "cov_loss": terms.covariance / max(z1.shape[-1] - 1, 1),
        }
        return {name: in_host_dtype(value, z1, z2) for name, value in named.items()}


class EntropyLoss(nn.Module):
    """VICReg with an entropy instead of variance and covariance: V x [batch, dim] -> {"loss", "invariance_loss", "entropy"}.

    Args:
        entropy: a name in ESTIMATORS or an EntropyEstimator.
        options: further arguments of VICRegEntropy.
    """

    def __init__(self, entropy: str | EntropyEstimator = "log_det", **options: object) -> None:
        super().__init__()
        self.criterion = VICRegEntropy(entropy, **options)  # type: ignore[arg-type]

    def forward(self, z1: Tensor, z2: Tensor | None = None, *more_views: Tensor) -> dict[str, Tensor]:
        """The terms by name: V x [batch, dim] -> 3 x []."""
        terms = self.criterion.terms(z1, z2, *more_views)
        return {"loss": terms.loss, "invariance_loss": terms.invariance, "entropy": terms.entropy}
