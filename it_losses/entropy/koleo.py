"""KoLeo: an entropy from the mean log distance to the nearest neighbour (Kozachenko & Leonenko)."""

from typing import ClassVar

import torch
from torch import Tensor

from it_losses.checks import Check, Weight, check_epsilon
from it_losses.entropy.base import BoundWeights, NormalizingEstimator
from it_losses.normalize import Normalization


def nearest_neighbours(z: Tensor) -> Tensor:
    """The index of the nearest other sample, without a gradient: [..., batch, dim] -> [..., batch]."""
    z = z.detach()
    # subtract samples: |a|^2 + |b|^2 - 2 a b has large rounding errors for near samples
    distances = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    itself = torch.eye(z.shape[-2], dtype=torch.bool, device=z.device)
    return distances.masked_fill(itself, torch.inf).argmin(dim=-1)


def mean_log_distance(z: Tensor, *, epsilon: float) -> Tensor:
    """`mean_i 1/2 log(rho_i^2 + epsilon^2)`, rho_i the distance to the nearest neighbour: [..., batch, dim] -> [...]."""
    neighbours = nearest_neighbours(z)[..., None].expand_as(z)
    squared = (z - z.gather(-2, neighbours)).square().sum(dim=-1)
    return (squared + epsilon**2).log().mean(dim=-1) / 2


class KoLeo(NormalizingEstimator):
    """An entropy from the distance of each sample to its nearest neighbour. The KoLeo loss is minus this entropy.

        H(z) = mean_i 1/2 log(rho_i^2 + epsilon^2),   rho_i = min_{j != i} |u_i - u_j|

    u is `z / |z|` by default. With `normalize=None` u is z. Then `dim * H` plus a function of batch and dim is the entropy
    estimate of Kozachenko and Leonenko, which `diagnostics.nearest_neighbour_entropy` returns in nats. It is consistent, but no
    bound, and its error grows with dim. From 16 dimensions on, use it only for comparison.

    Near collapse the gradient grows as 1 / rho, up to `1 / (2 epsilon batch)` for one rho, so clip it. Equal samples have a
    gradient of 0. In float32 the fused implementation may miss the nearest neighbour in a cluster if the distance between
    clusters is 10,000 times the size of this cluster. Pass float64 then.

    Args:
        normalize: "rows" for unit vectors, None for the embeddings as they are, "columns" for standardised dimensions.
        epsilon: the distance below which the logarithm levels off, in the unit of u.

    Source: Sablayrolles et al. (arXiv 1806.03198), equation 2; Kozachenko & Leonenko (1987).
    """

    unit, direction = "nats per dimension less a constant", "consistent, but no bound; too high in nats from 16 dimensions on"
    cost = "N^2 D"
    fused = "koleo"
    checks: ClassVar[dict[str, Check]] = {"epsilon": check_epsilon}

    def __init__(self, normalize: Normalization = "rows", *, epsilon: float = 1e-8) -> None:
        super().__init__()
        self.normalize = normalize
        self.epsilon = epsilon

    @property
    def default_weights(self) -> BoundWeights:
        """The entropy has weight 1, the invariance 2 for unit vectors (one minus the cosine), else 2.5 (squared distance).

        Without normalization the weights only set the scale, because H(c z) = H(z) + log c. Let the views have variance v and
        the squared distance `2 r v` (r = 1 for independent views). With the weights `entropy` and `invariance` the loss is
        smallest at `v = entropy / (4 r invariance)`. By default this is v = 1 if r = .1.
        """
        if self.normalize == "rows":
            return BoundWeights(invariance=2.0, entropy=1.0, likelihood="von_mises_fisher")
        return BoundWeights(invariance=2.5, entropy=1.0)

    def entropy(self, z: Tensor) -> Tensor:
        """The entropy: [..., batch, dim] -> [...]."""
        return mean_log_distance(z, epsilon=self.epsilon)

    def constants(self) -> list[Weight]:
        """Only epsilon."""
        return [self.epsilon]
