"""Matrix-based Renyi entropy: how evenly the eigenvalues of a covariance, correlation or similarity matrix are spread."""

from typing import ClassVar, Literal, SupportsFloat

import torch
from torch import Tensor

from it_losses.checks import Check, Weight, check_positive
from it_losses.entropy.base import BoundWeights, NormalizingEstimator
from it_losses.normalize import Normalization

#: the largest order for which float32 can hold (1 / 10,000)^order
LARGEST_ORDER = 8.0
#: eigenvalues below ROUNDING * eps of a matrix of trace 1 count as rounding errors
ROUNDING = 8


def density_matrix(z: Tensor, *, centre: bool) -> Tensor:
    """`K / tr K`, K the smaller of `Z^T Z` and `Z Z^T`, which have the same positive eigenvalues: -> [..., side, side]."""
    batch, dim = z.shape[-2:]
    if centre:
        z = z - z.mean(dim=-2, keepdim=True)
    gram = z @ z.mT if batch < dim else z.mT @ z
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None]
    return gram / trace.clamp_min(torch.finfo(z.dtype).tiny ** 0.5)


def collision_entropy(rho: Tensor) -> Tensor:
    """`-log tr rho^2`, the entropy of order 2, without eigenvalues; 0 at collapse: [..., side, side] -> [...]."""
    purity: Tensor = rho.square().sum(dim=(-2, -1))
    return -purity.masked_fill(purity == 0, 1).log()


def spectral_entropy(rho: Tensor, *, order: float) -> Tensor:
    """`log sum_k p_k^order / (1 - order)`, for order 1 `-sum_k p_k log p_k`, p the eigenvalues: [..., side, side] -> [...]."""
    # LAPACK raises an error for NaN, so NaN is removed first and added to the result
    p: Tensor = torch.linalg.eigvalsh(rho.nan_to_num()) + (rho - rho).diagonal(dim1=-2, dim2=-1)
    # bounded from below, because the slope of p^order or p log p at zero may be infinite
    bounded = p.clamp_min(ROUNDING * torch.finfo(p.dtype).eps)
    if order == 1:
        return -(p * bounded.log()).sum(dim=-1)
    if order < 1:
        # rounding turns zero eigenvalues into small numbers, which a power below 1 would enlarge
        p = p.masked_fill(p < bounded, 0)
    powers = (p * bounded.pow(order - 1)).sum(dim=-1)
    return powers.masked_fill(powers == 0, 1).log() / (1 - order)


def check_order(name: str, value: SupportsFloat) -> float:
    """The order as a float; ValueError unless it is positive and at most 8."""
    order = check_positive(name, value)
    if order > LARGEST_ORDER:
        raise ValueError(
            f"{name} must be at most {LARGEST_ORDER:g}, got {value!r}. Higher orders depend on the largest eigenvalue only."
        )
    return order


class MatrixRenyi(NormalizingEstimator):
    """An entropy of the spectrum: it is largest if the embeddings spread over all directions equally, at any scale.

        H(z) = log tr rho^order / (1 - order),   for order 1   -tr rho log rho,   rho = K / tr K

    H lies between 0 (one direction) and log min(batch, dim). Order 2 needs no eigenvalues; its exp H is the
    participation ratio, and for standardised columns H is `log dim - log(1 + VICReg's covariance penalty)`. Order 1 is the von
    Neumann entropy, whose exponential is the effective rank. H describes the shape of a distribution, and does not estimate
    its differential entropy. H does not depend on the scale of the embeddings, so the distance of the views is measured on
    normalized embeddings too.

    Args:
        order: above 0, at most 8. Below 1, small eigenvalues count more; in float32 eigenvalues below 1e-6 of the trace
            count as 0. In float32 an order within 0.01 of 1 loses digits; use 1. On a GPU every order but 2 makes the host
            wait for the eigenvalues.
        normalize: chooses K. "columns": the correlations of the dimensions. "uncentred_columns": the same without removing
            means. "rows": the cosine similarities of the samples, not centred. None: the covariance, which has no default
            weights.

    Source: Giraldo, Rao & Principe (arXiv 1211.2459). FroSSL (arXiv 2310.02903) is order 2 of "columns" in its authors' code
    and of "uncentred_columns" in lightly. VNE (arXiv 2304.01434) is order 1 of "rows".
    """

    unit, direction = "surrogate, in nats", "entropy of the spectrum, at most log min(N, D)"
    scaling = "invariant"
    cost = "N D min(N, D), and min(N, D)^3 unless the order is 2"
    fused = "renyi"
    checks: ClassVar[dict[str, Check]] = {"order": check_order}

    def __init__(
        self,
        order: float = 2.0,
        *,
        normalize: Literal["columns", "uncentred_columns", "rows"] | None = "columns",
    ) -> None:
        super().__init__()
        self.order = order
        self.normalize: Normalization = normalize

    @property
    def default_weights(self) -> BoundWeights:
        """The entropy has weight 1, the invariance 1 for columns and 2 for rows, where 1 - cosine is half the squared distance.

        A direction with the fraction e of the variance adds about 2 e to the entropy of order 2, and 2 r e to the squared
        distance per dimension (r = 1 for independent views). The direction is kept if `invariance * r < entropy`. For order 1
        the slope at e = 0 is infinite, so every direction is kept.
        """
        if self.normalize == "rows":
            return BoundWeights(invariance=2.0, entropy=1.0, likelihood="von_mises_fisher")
        # no default without normalization, because smaller embeddings lower the distance, but not this entropy
        return BoundWeights(invariance=1.0, entropy=1.0 if self.normalize else None)

    def entropy(self, z: Tensor) -> Tensor:
        """The entropy: [..., batch, dim] -> [...]."""
        rho = density_matrix(z, centre=self.normalize is None)
        return collision_entropy(rho) if self.order == 2 else spectral_entropy(rho, order=self.order)

    def constants(self) -> list[Weight]:
        """The order, and 1 to centre the samples."""
        return [self.order, float(self.normalize is None)]
