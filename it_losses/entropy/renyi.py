"""Matrix-based Renyi entropy: how evenly the eigenvalues of a covariance, correlation or similarity matrix are spread."""

from typing import ClassVar, Literal, SupportsFloat

import torch
from torch import Tensor

from it_losses.checks import Check, Weight, check_positive
from it_losses.entropy.base import BoundWeights, NormalizingEstimator
from it_losses.normalize import Normalization

#: largest order, for which float32 can still hold (1 / 10,000)^order
LARGEST_ORDER = 8.0
#: in a matrix of trace 1, eigenvalues below ROUNDING * eps count as rounding errors
ROUNDING = 8


def density_matrix(z: Tensor, *, centre: bool) -> Tensor:
    """The smaller of `Z^T Z` and `Z Z^T`, divided by its trace: [..., batch, dim] -> [..., side, side]."""
    batch, dim = z.shape[-2:]
    if centre:
        z = z - z.mean(dim=-2, keepdim=True)
    gram = z @ z.mT if batch < dim else z.mT @ z
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None]
    return gram / trace.clamp_min(torch.finfo(z.dtype).tiny ** 0.5)


def collision_entropy(rho: Tensor) -> Tensor:
    """The entropy of order 2, `-log tr rho^2`, which needs no eigenvalues: [..., side, side] -> [...]. It is 0 at collapse."""
    purity: Tensor = rho.square().sum(dim=(-2, -1))
    return -purity.masked_fill(purity == 0, 1).log()


def spectral_entropy(rho: Tensor, *, order: float) -> Tensor:
    """The entropy of the eigenvalues p of rho: [..., side, side] -> [...].

    log sum_k p_k^order / (1 - order),   for order 1   -sum_k p_k log p_k
    """
    # LAPACK raises an error for NaN, so remove NaN first and add it to the result
    p: Tensor = torch.linalg.eigvalsh(rho.nan_to_num()) + (rho - rho).diagonal(dim1=-2, dim2=-1)
    # a lower bound keeps the gradient finite: p^order and p log p may have an infinite slope at 0
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
            f"{name} must be at most {LARGEST_ORDER:g}, got {value!r}. Higher orders depend mostly on the largest eigenvalue."
        )
    return order


class MatrixRenyi(NormalizingEstimator):
    """An entropy of the spectrum: it is largest if the embeddings spread over all directions equally, at any scale.

        H(z) = log tr rho^order / (1 - order),   for order 1   -tr rho log rho,   rho = K / tr K

    H lies between 0 (one direction) and log min(batch, dim). Order 2 needs no eigenvalues: `exp H` is the participation ratio.
    For order 2 and standardised columns, H is `log dim - log(1 + VICReg's covariance penalty)`. Order 1 is the von Neumann
    entropy: `exp H` is the effective rank.

    H describes the shape of a distribution, and does not estimate its differential entropy. It does not depend on the scale of
    the embeddings. So the distance of the views is measured on normalized embeddings too.

    Args:
        order: above 0, at most 8. Below 1, small eigenvalues count more; in float32 those below 1e-6 of the trace count as 0.
            In float32 use 1 for an order within 0.01 of 1, where rounding errors are large. On a GPU every order but 2 makes
            the host wait for the eigenvalues.
        normalize: chooses K. "columns": correlations of the dimensions. "uncentred_columns": the same without removing means.
            "rows": cosine similarities of the samples, not centred. None: the covariance, which has no default weights.

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
        """The entropy has weight 1, the invariance 1 for columns and 2 for rows (one minus the cosine).

        A direction with a small fraction e of the total variance adds about 2 e to the entropy of order 2. It adds 2 r e to the
        squared distance per dimension (r = 1 for independent views). So it does not collapse if
        `invariance weight * r < entropy weight`. For order 1 no direction collapses, because the slope at e = 0 is infinite.
        """
        if self.normalize == "rows":
            return BoundWeights(invariance=2.0, entropy=1.0, likelihood="von_mises_fisher")
        # no default without normalization: shrinking the embeddings would lower the distance, but not this entropy
        return BoundWeights(invariance=1.0, entropy=1.0 if self.normalize else None)

    def entropy(self, z: Tensor) -> Tensor:
        """The entropy: [..., batch, dim] -> [...]."""
        rho = density_matrix(z, centre=self.normalize is None)
        return collision_entropy(rho) if self.order == 2 else spectral_entropy(rho, order=self.order)

    def constants(self) -> list[Weight]:
        """The order, and 1 to centre the samples, else 0."""
        return [self.order, float(self.normalize is None)]
