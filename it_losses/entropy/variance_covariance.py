"""VICReg's surrogate of entropy: standard deviations above a margin and covariances of zero make it largest.

H(Z) <= 1/2 log det(Cov Z) + const <= 1/2 sum_j log Var z_j + const. The second step (Hadamard) is an equality if the covariance
is diagonal, so large variances and vanishing covariances maximise the bound.
"""

from typing import ClassVar

import torch
from torch import Tensor

from it_losses.checks import Check, Weight, check_positive, check_weight
from it_losses.constants import factor
from it_losses.entropy.base import BoundWeights, EntropyEstimator


def variance_hinge(z: Tensor, *, margin: float, epsilon: float) -> Tensor:
    """The hinge `mean_j max(0, margin - sqrt(Var z_j + epsilon))`: [..., batch, dim] -> [...]."""
    std = torch.sqrt(z.var(dim=-2) + epsilon)  # [..., dim]
    return torch.relu(margin - std).mean(dim=-1)


def covariance_penalty(z: Tensor) -> Tensor:
    """The penalty `sum_{i != j} Cov(z)_ij^2 / dim`: [..., batch, dim] -> [...]."""
    batch, dim = z.shape[-2:]
    centred = z - z.mean(dim=-2, keepdim=True)
    covariance = centred.mT @ centred / (batch - 1)  # [..., dim, dim]
    # set the diagonal to zero: for decorrelated data, subtracting its sum would leave only rounding errors
    off_diagonal = covariance - torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    return off_diagonal.square().sum(dim=(-2, -1)) / dim


class VarianceCovariance(EntropyEstimator):
    """VICReg's variance and covariance terms as an entropy, at most 0.

        H(z) = -(variance_weight * variance_hinge(z) + 2 covariance_weight * covariance_penalty(z))

    The weighted invariance minus the mean of H over two views is VICReg with the authors' weights. The covariance term has the
    factor 2, because the authors' code halves the variance term of each view, but not the covariance term.

    Args:
        variance_weight: weight of the hinge on the standard deviations.
        covariance_weight: weight of the squared covariances.
        margin: the standard deviation above which the hinge is zero.
        epsilon: added to the variances under the root, so that the gradient is finite at variance 0.

    Source: VICReg (arXiv 2105.04906), equations 1 to 4; as an entropy bound arXiv 2303.00633, Theorem 2.
    """

    unit, direction, rotation_invariant = "surrogate", "upper bound near the identity covariance", False
    scaling, cost = "target", "N D min(N, D)"
    fused = "vicreg"
    checks: ClassVar[dict[str, Check]] = {
        "variance_weight": check_weight,
        "covariance_weight": check_weight,
        "margin": check_positive,
        "epsilon": check_positive,
    }

    def __init__(
        self,
        variance_weight: Weight = 25.0,
        covariance_weight: Weight = 1.0,
        *,
        margin: float = 1.0,
        epsilon: float = 1e-4,
    ) -> None:
        super().__init__()
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight
        self.margin = margin
        self.epsilon = epsilon

    @property
    def default_weights(self) -> BoundWeights:
        """The invariance has weight 25, as in VICReg. The entropy has 1, because its two terms have their own weights."""
        return BoundWeights(invariance=25.0, entropy=1.0)

    def entropy(self, z: Tensor) -> Tensor:
        """The entropy: [..., batch, dim] -> [...]."""
        variance = variance_hinge(z, margin=self.margin, epsilon=self.epsilon)
        penalty = covariance_penalty(z)
        return -(factor(self.variance_weight, z) * variance + 2 * factor(self.covariance_weight, z) * penalty)

    def constants(self) -> list[Weight]:
        """The weights of the two terms, margin and epsilon."""
        return [self.variance_weight, self.covariance_weight, self.margin, self.epsilon]
