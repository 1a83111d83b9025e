"""Log-det entropy: H(Z) = 1/2 log det(I + beta Cov Z), the entropy of a smoothed Gaussian with the covariance of Z."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from it_losses.checks import Check, Weight, check_flag, check_positive
from it_losses.entropy.base import BoundWeights, EntropyEstimator, SaturationWarning

#: if beta times the largest variance is above this, rounding in float32 hides the directions of low variance
MOST_IN_FLOAT32 = 1e5


def half_log_det(z: Tensor, *, beta: float) -> Tensor:
    """`1/2 log det(I + beta Zc^T Zc / batch)`, Zc centred: [..., batch, dim] -> [...].

    It uses the smaller of the two Gram matrices, since `det(I + A^T A) = det(I + A A^T)`.
    """
    batch, dim = z.shape[-2:]
    centred = z - z.mean(dim=-2, keepdim=True)
    gram = centred @ centred.mT if batch < dim else centred.mT @ centred  # [..., side, side]
    factor, failed = torch.linalg.cholesky_ex(_with_jitter(beta / batch * gram))
    value = factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    # return NaN after a failed factorization, because its finite result would hide the failure
    return torch.where(failed == 0, value, torch.nan)


def scale_anchor(z: Tensor, *, beta: float) -> Tensor:
    """The term that LogDet subtracts if `anchor` is True: [..., batch, dim] -> [...].

    beta / (2 (1 + beta t)) (tr Cov(z) - dim) + k/2 log(1 + beta t),   k = `rank`, beta t = `target`
    """
    batch, dim = z.shape[-2:]
    rank = min(batch - 1, dim)
    target = beta * dim / rank
    trace = (z - z.mean(dim=-2, keepdim=True)).square().sum(dim=(-2, -1)) / batch
    # math.log1p would make torch.compile recompile for each batch size
    return beta / (2 * (1 + target)) * (trace - dim) + rank / 2 * trace.new_full((), target).log1p()


def _with_jitter(matrix: Tensor) -> Tensor:
    """`I + matrix`, plus jitter if rounding (8 eps of the norm) could exceed half the smallest eigenvalue, which is 1."""
    side = matrix.shape[-1]
    # a second bound on the norm, because squares may overflow in matrix_norm
    most = side * matrix.detach().diagonal(dim1=-2, dim2=-1).amax(dim=-1)
    rounding = 8 * torch.finfo(matrix.dtype).eps * torch.linalg.matrix_norm(matrix.detach()).minimum(most)
    jitter = 1 + (rounding - 0.5).clamp_min(0)[..., None]  # [..., 1]
    return matrix + torch.diag_embed(jitter.expand(*jitter.shape[:-1], side))


class LogDet(EntropyEstimator):
    """An entropy that counts the directions in which the embeddings spread, by the determinant of their covariance.

        H(z) = 1/2 log det(I + beta Cov(z)),   Cov(z) = Zc^T Zc / batch,   Zc = z - mean,   H(z) / dim if `per_dimension`

    For a Gaussian Z, H is the differential entropy of `Z + N(0, I / beta)` less the constant `dim/2 log(2 pi e / beta)`. The
    Gaussian has the largest entropy of all distributions with its covariance, so for any other Z, H is an upper bound.

    H grows with the scale of Z without a limit. With `anchor=True` the value has a maximum, 0, where the mean variance of the
    dimensions is 1. The samples span k = min(batch - 1, dim) directions, and at the maximum each has the variance t = dim / k:

        H(z) - beta / (2 (1 + beta t)) (tr Cov(z) - dim) - k/2 log(1 + beta t)
            = -KL(N(0, Cov(z) + I / beta) || N(0, (t + 1 / beta) I)) in k dimensions

    Args:
        beta: inverse of the noise variance. Directions whose variance is well below `1 / beta` do not count. If
            `beta * largest variance` is above 1e5, rounding in float32 hides directions of low variance, and jitter of
            `8 eps beta |Cov|` keeps the matrix positive definite. Pass float64 to avoid this.
        per_dimension: True for nats per dimension, so that one weight suits every dim; False for nats.
        anchor: True for the second equation, which keeps the mean variance of the dimensions near 1.

    Source: Zhouyin & Liu (arXiv 2105.03705); on centred samples the coding rate of MCR2 (arXiv 2006.08558), beta = dim / eps^2.
    """

    unit, rotation_invariant = "nats per dimension, or nats", True
    direction = "upper bound on the smoothed entropy less a constant"
    cost = "N D min(N, D) + min(N, D)^3"
    fused = "log_det"
    checks: ClassVar[dict[str, Check]] = {"beta": check_positive, "per_dimension": check_flag, "anchor": check_flag}

    def __init__(self, beta: float = 1.0, *, per_dimension: bool = True, anchor: bool = False) -> None:
        super().__init__()
        self.beta = beta
        self.per_dimension = per_dimension
        self.anchor = anchor
        self._saturation = SaturationWarning(
            f"log-det entropy: beta times the largest variance is above {MOST_IN_FLOAT32:g}. Rounding in float32 then hides "
            "the directions of low variance. Lower beta, scale the embeddings down, or pass float64."
        )

    @property
    def scaling(self) -> Literal["grows", "target"]:  # type: ignore[override]
        """The effect of the scale of Z: "target" with `anchor`, otherwise "grows"."""
        return "target" if self.anchor else "grows"

    @property
    def default_weights(self) -> BoundWeights:
        """The invariance has weight 25, the entropy `400 / min(beta, 1)`.

        Take a direction of variance v in which the squared distance of the views is `2 r v` (r = 1 for independent views, at
        most 2). With the weights `entropy` and `invariance` the loss is smallest at
        `beta v = entropy * beta / (4 invariance r) - 1 = 4 max(beta, 1) / r - 1`. This is positive, so no direction collapses.
        v grows as the views agree more. At beta = 100, the weight `400 / beta` is worse than 400 in a linear probe on digits.

        With `anchor` the entropy weight is the larger of `400 / beta` and `200 (1 + beta) / beta^2`. The loss is smallest at
        `beta / (1 + beta v) = beta / (1 + beta t) + 100 r / entropy`. A direction does not collapse if
        `r < entropy beta^2 t / (100 (1 + beta t))`. The second weight ensures this for every r < 2 if t = 1.
        """
        # an entropy in nats has no default weight, because its value grows with dim
        weight = 400.0 / min(self.beta, 1.0)
        if self.anchor:
            weight = max(400.0 / self.beta, 200.0 * (1 + self.beta) / self.beta**2)
        return BoundWeights(invariance=25.0, entropy=weight if self.per_dimension else None)

    def entropy(self, z: Tensor) -> Tensor:
        """The entropy: [..., batch, dim] -> [...]."""
        if z.dtype != torch.float64:
            self._saturation.warn_if_saturated([self.beta * z.detach().var(dim=-2).amax()], above=MOST_IN_FLOAT32)
        nats = half_log_det(z, beta=self.beta)
        if self.anchor:
            nats = nats - scale_anchor(z, beta=self.beta)
        return nats / z.shape[-1] if self.per_dimension else nats

    def constants(self) -> list[Weight]:
        """beta, `per_dimension` (1 or 0) and `anchor` (1 or 0)."""
        return [self.beta, float(self.per_dimension), float(self.anchor)]

    def warn_if_saturated(self, parts: Tensor) -> None:
        """Warn if rounding in float32 hides the directions of low variance.

        `parts[0]` is the largest diagonal element of `beta Cov`, or of the Gram matrix with the same eigenvalues.
        """
        if parts.dtype != torch.float64 and len(parts):
            self._saturation.warn_if_saturated([parts[0]], above=MOST_IN_FLOAT32)
