"""Spacings: the entropy of each dimension from the distances of its sorted samples (Vasicek), less a penalty on covariances.

H(Z) <= sum_j H(z_j), with equality for independent dimensions. For a Gaussian of unit variances the two sides differ by the
penalty 1/4 sum_{i != j} Cov_ij^2, up to third order.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from it_losses.checks import Check, Weight, check_count, check_epsilon, check_weight
from it_losses.constants import factor
from it_losses.entropy.base import BoundWeights, EntropyEstimator
from it_losses.entropy.variance_covariance import covariance_penalty


def marginal_entropies(z: Tensor, *, window: int, epsilon: float) -> Tensor:
    """The entropy H(z_j) of each dimension, defined in Spacings, with m = window: [..., batch, dim] -> [..., dim]."""
    batch = z.shape[-2]
    # a stable sort gives equal samples the same order in every dtype
    x = torch.sort(z, dim=-2, stable=True).values
    first, last = (end.expand(*x.shape[:-2], window, -1) for end in (x[..., :1, :], x[..., -1:, :]))
    above, below = torch.cat((x[..., window:, :], last), dim=-2), torch.cat((first, x[..., :-window, :]), dim=-2)
    spacing = batch / (2 * window) * (above - below)
    return (spacing.square() + epsilon**2).log().mean(dim=-2) / 2


def automatic_window(batch: int) -> int:
    """The default window, the rounded square root of the batch."""
    return math.floor(math.sqrt(batch) + 0.5)


def check_window(name: str, value: object) -> int | None:
    """The window; ValueError unless it is None or a whole number above 0."""
    return None if value is None else check_count(name, value)


class Spacings(EntropyEstimator):
    """The mean entropy of the dimensions, each by itself, less a penalty that decorrelates them.

        H(z) = mean_j H(z_j) - covariance_weight * sum_{i != j} Cov(z)_ij^2 / dim
        H(x) = mean_i 1/2 log(s_i^2 + epsilon^2),   s_i = batch / (2 m) (x_(i+m) - x_(i-m))

    x_(1) <= x_(2) <= ... are the sorted samples of one dimension, and indices clamp to [1, batch]. H(x) estimates the entropy
    of one dimension in nats, whatever its distribution. It is too low for few samples. For many samples the sum over the
    dimensions is an upper bound on the joint entropy. Without the penalty, copies of one dimension count as much as independent
    dimensions, and training keeps only few directions.

    Args:
        covariance_weight: weight of the penalty. 1/4 is right for a Gaussian of unit variances near independence.
        window: m, the number of samples from x_i to each end of its spacing; None for the rounded square root of the batch.
        epsilon: the spacing below which the logarithm levels off, in the unit of z.

    Source: Vasicek (1976); for self-supervision E2MC (arXiv 2411.15931).
    """

    unit, direction = "nats per dimension less a penalty", "the marginal entropies are an upper bound for many samples"
    rotation_invariant, cost = False, "D N log N + N D min(N, D)"
    fused = "spacings"
    checks: ClassVar[dict[str, Check]] = {
        "covariance_weight": check_weight,
        "window": check_window,
        "epsilon": check_epsilon,
    }

    def __init__(self, covariance_weight: Weight = 0.25, *, window: int | None = None, epsilon: float = 1e-8) -> None:
        super().__init__()
        self.covariance_weight = covariance_weight
        self.window = window
        self.epsilon = epsilon

    @property
    def scaling(self) -> Literal["grows", "target"]:  # type: ignore[override]
        """The effect of the scale of Z: "target", because the penalty grows faster than the entropy; "grows" without it."""
        return "target" if isinstance(self.covariance_weight, Tensor) or self.covariance_weight > 0 else "grows"

    @property
    def default_weights(self) -> BoundWeights:
        """The invariance has weight 2.5, the entropy 1.

        Let the views have variance v and the squared distance `2 r v` (r = 1 for independent views). With the weights `entropy`
        and `invariance` the loss of uncorrelated dimensions is smallest at `v = entropy / (4 r invariance)`, because
        H(c x) = H(x) + log c. By default this is v = 1 if r = .1.
        """
        return BoundWeights(invariance=2.5, entropy=1.0)

    def entropy(self, z: Tensor) -> Tensor:
        """The entropy: [..., batch, dim] -> [...]."""
        batch = z.shape[-2]
        window = min(self.window or automatic_window(batch), batch - 1)
        marginal = marginal_entropies(z, window=window, epsilon=self.epsilon).mean(dim=-1)
        return marginal - factor(self.covariance_weight, z) * covariance_penalty(z)

    def constants(self) -> list[Weight]:
        """The weight of the penalty, the window (0 for the square root of the batch), and epsilon."""
        return [self.covariance_weight, float(self.window or 0), self.epsilon]
