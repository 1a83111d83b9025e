"""Theorem 3: the test loss of a least-squares head is bounded by the invariance plus the residuals of the fit."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from it_losses.checks import check_count, check_matrix, check_not_negative


class LeastSquaresHead(NamedTuple):
    """The minimum-norm least-squares head and its residual, in float64."""

    #: W, for the prediction `z @ W`: [dim, outputs]
    weight: Tensor
    #: `|Y - Z W|_F`, the norm of the residual on the training samples: []
    residual: Tensor
    #: rank of the features Z: []
    rank: Tensor


class GeneralizationBound(NamedTuple):
    """The terms of Theorem 3, float64 scalars; symbols as in `generalization_bound`."""

    #: `1/m sum |f(x+) - f(x++)|`
    invariance: Tensor
    #: `2/sqrt(m) |P_Zbar Ybar|_F`
    unlabelled_residual: Tensor
    #: `1/sqrt(n) |P_Z Y|_F`
    labelled_residual: Tensor
    #: `2 R_m(F) / sqrt(m)`
    rademacher: Tensor
    #: `Q_{m,n}`
    confidence: Tensor

    @property
    def core(self) -> Tensor:
        """The sum of the three terms that are computed from data: []."""
        return self.invariance + self.unlabelled_residual + self.labelled_residual

    @property
    def total(self) -> Tensor:
        """The sum of all five terms: []."""
        return self.core + self.rademacher + self.confidence


@torch.no_grad()
def generalization_bound(
    z: Tensor,
    targets: Tensor,
    unlabelled_z: Tensor,
    unlabelled_z_other: Tensor,
    unlabelled_targets: Tensor,
    *,
    rademacher_complexity: float = 0.0,
    confidence: float = 0.0,
) -> GeneralizationBound:
    """The bound on the test loss `E |z W - y|` of the least-squares head W, term by term.

        1/m sum |f(x+) - f(x++)| + 2/sqrt(m) |P_Zbar Ybar|_F + 1/sqrt(n) |P_Z Y|_F + 2 R_m(F)/sqrt(m) + Q_{m,n}

    f(x+) and f(x++) are features of two views, and `P_Z = I - Z (Z^T Z)^+ Z^T`. Features are not centred. The first term has
    the scale of f, the others have the scale of the targets. So normalise f before you compare models. R_m and Q cannot be
    computed from one model: pass them, or they are 0. `empirical_rademacher` estimates R_m for a finite set of models.

    Args:
        z: features of the labelled samples, [n, dim].
        targets: their targets, one-hot for classes, [n, outputs].
        unlabelled_z: features of one view of the unlabelled samples, [m, dim]; Zbar.
        unlabelled_z_other: features of the other view, [m, dim].
        unlabelled_targets: Ybar, the true targets of the unlabelled samples, [m, outputs].
        rademacher_complexity: R_m(F), normalised: `E sup_f 1/sqrt(m) sum_i xi_i |f(x_i+) - f(x_i++)|`, xi random signs.
        confidence: Q_{m,n}, of order sqrt(log(1/delta) / m) + sqrt(log(1/delta) / n).

    Source: Theorem 3 of arXiv 2303.00633.
    """
    check_not_negative("rademacher_complexity", rademacher_complexity)
    check_not_negative("confidence", confidence)
    m, n = len(check_matrix("unlabelled_z", unlabelled_z)), len(check_matrix("z", z))
    if unlabelled_z_other.shape != unlabelled_z.shape:
        shapes = f"{tuple(unlabelled_z.shape)} and {tuple(unlabelled_z_other.shape)}"
        raise ValueError(f"unlabelled_z and unlabelled_z_other must have the same shape, got {shapes}.")
    distances = _norms(unlabelled_z.double() - unlabelled_z_other.double())
    constants = distances.new_tensor([2 * rademacher_complexity / math.sqrt(m), confidence])
    return GeneralizationBound(
        invariance=distances.mean(),
        unlabelled_residual=2 / math.sqrt(m) * least_squares_residual(unlabelled_z, unlabelled_targets),
        labelled_residual=1 / math.sqrt(n) * least_squares_residual(z, targets),
        rademacher=constants[0],
        confidence=constants[1],
    )


@torch.no_grad()
def least_squares_head(z: Tensor, targets: Tensor) -> LeastSquaresHead:
    """The W of smallest norm that minimises `|Z W - Y|_F`: [n, dim], [n, outputs] -> W, residual, rank of Z.

    It is computed in float64. Singular values of z count as rounding errors below `max(n, dim) * eps` times the largest, with
    eps of the dtype of z. So pass the output of the network itself, not a float64 copy.
    """
    _check_targets(z, targets)
    rounding = max(z.shape) * torch.finfo(z.dtype).eps
    z, targets = z.double(), targets.double()
    left, singular_values, right = torch.linalg.svd(z, full_matrices=False)
    used = singular_values > rounding * singular_values[0]
    coordinates = (left.mT @ targets) * used[:, None]  # [min(n, dim), outputs]
    weight = right.mT @ (coordinates / torch.where(used, singular_values, 1)[:, None])
    return LeastSquaresHead(weight, torch.linalg.matrix_norm(targets - left @ coordinates), used.sum())


def least_squares_residual(z: Tensor, targets: Tensor) -> Tensor:
    """The residual norm of a least-squares fit, `|(I - Z (Z^T Z)^+ Z^T) Y|_F`: [n, dim], [n, outputs] -> []."""
    return least_squares_head(z, targets).residual


@torch.no_grad()
def generalization_gap(weight: Tensor, z: Tensor, targets: Tensor, test_z: Tensor, test_targets: Tensor) -> Tensor:
    """The mean of `|z W - y|` on test samples minus its mean on training samples: []. Source: Figure 5 of arXiv 2303.00633."""
    _check_targets(z, targets)
    _check_targets(test_z, test_targets)
    weight = weight.double()
    if weight.shape[1] != targets.shape[1] or weight.shape[1] != test_targets.shape[1]:
        raise ValueError(f"both targets need {weight.shape[1]} columns, got {targets.shape[1]} and {test_targets.shape[1]}.")
    train = _norms(z.double() @ weight - targets.double()).mean()
    return _norms(test_z.double() @ weight - test_targets.double()).mean() - train


@torch.no_grad()
def empirical_rademacher(distances: Tensor, *, draws: int = 1000, generator: torch.Generator | None = None) -> Tensor:
    """Monte Carlo estimate of R_m, the Rademacher complexity of a finite set of models f: [functions, m] -> [].

        E_xi max_f 1/sqrt(m) sum_i xi_i distance_{f,i},   distance_{f,i} = |f(x_i+) - f(x_i++)|,   xi random signs

    It underestimates R_m of a larger class that contains these models. Source: arXiv 2303.00633.
    """
    distances = check_matrix("distances", distances).double()
    draws = check_count("draws", draws)
    signs = torch.randint(2, (draws, distances.shape[1]), device=distances.device, generator=generator).double() * 2 - 1
    return (signs @ distances.mT).amax(dim=1).mean() / math.sqrt(distances.shape[1])


def _check_targets(z: Tensor, targets: Tensor) -> None:
    """ValueError unless features and targets have the same number of rows."""
    check_matrix("features", z)
    check_matrix("targets", targets, floating=False)
    if len(z) != len(targets):
        raise ValueError(f"the head needs one target for each sample, got {len(targets)} targets and {len(z)} samples.")


def _norms(rows: Tensor) -> Tensor:
    """The norm of each row."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms
