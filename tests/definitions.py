"""Helpers to test the fused implementations: the equations of every objective, inputs, and comparisons of results."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from it_losses import (
    EntropyRegularizer,
    KoLeo,
    LogDet,
    MatrixRenyi,
    Pairwise,
    QuadraticRenyi,
    SIGReg,
    Spacings,
    VarianceCovariance,
    VICReg,
    VICRegEntropy,
)
from it_losses.slices import unit_directions

#: dtype -> by how much a fused implementation's error may exceed the reference's, relative to the largest exact element
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}


def vicreg_terms(z_a: Tensor, z_b: Tensor, *, margin: float = 1.0, epsilon: float = 1e-4) -> tuple[Tensor, Tensor, Tensor]:
    """The invariance, variance and covariance terms of VICReg in the official convention, from the D x D covariance matrix."""
    batch, dim = z_a.shape
    others = 1 - torch.eye(dim, dtype=z_a.dtype)
    variance, covariance = [], []
    for z in (z_a, z_b):
        zc = z - z.mean(dim=0)
        matrix = zc.T @ zc / (batch - 1)
        variance.append(torch.relu(margin - torch.sqrt((zc**2).sum(dim=0) / (batch - 1) + epsilon)).mean())
        covariance.append((matrix * others).square().sum() / dim)
    return ((z_a - z_b) ** 2).mean(), (variance[0] + variance[1]) / 2, covariance[0] + covariance[1]


def log_det(z: Tensor, *, beta: float) -> Tensor:
    """`1/2 log det(I + beta Zc^T Zc / N)` by `torch.logdet` of the D x D matrix; Zc are the centred samples [N, D]."""
    zc = z - z.mean(dim=0)
    return torch.logdet(torch.eye(z.shape[1], dtype=z.dtype) + beta / len(z) * zc.T @ zc) / 2


def anchored_log_det(z: Tensor, *, beta: float) -> Tensor:
    """`-KL(N(0, C + I / beta) || N(0, (D / k + 1 / beta) I))` in the k-dimensional span of centred z [N, D]; C = Cov(z)."""
    rank = min(len(z) - 1, z.shape[1])
    variance = z.shape[1] / rank + 1 / beta
    trace = z.var(dim=0, unbiased=False).sum() + rank / beta
    log_det_of_sum = 2 * log_det(z, beta=beta) - rank * math.log(beta)
    return -(trace / variance - rank + rank * math.log(variance) - log_det_of_sum) / 2


def pairwise(z: Tensor, *, scale: float | Tensor) -> Tensor:
    """`-mean_i log mean_j exp(-|z_i - z_j|^2 / scale)`. Distances come from differences: a Gram matrix loses digits."""
    distance = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").square()
    return math.log(len(z)) - torch.logsumexp(-distance / scale, dim=1).mean()


def koleo(z: Tensor) -> Tensor:
    """`mean_i 1/2 log(min_{j != i} |z_i - z_j|^2 + 1e-16)`. Distances come from differences: a Gram matrix loses digits."""
    itself = torch.diag(torch.full((len(z),), torch.inf, dtype=z.dtype))
    squared = (z[:, None] - z[None]).square().sum(dim=2) + itself
    return (squared.amin(dim=1) + 1e-16).log().mean() / 2


def spacings(z: Tensor, *, window: int, covariance_weight: float) -> Tensor:
    """`mean_ij log(N / (2 m) (x_(i+m)j - x_(i-m)j))` minus the weighted covariance term.

    x is z [N, dim] with sorted columns, and m is the window. Indices beyond the batch are clamped.
    """
    x, place = z.sort(dim=0, stable=True).values, torch.arange(len(z))
    spacing = x[(place + window).clamp(max=len(z) - 1)] - x[(place - window).clamp(min=0)]
    marginal = ((len(z) / (2 * window) * spacing).square() + 1e-16).log().mean() / 2
    return marginal - covariance_weight / 2 * vicreg_terms(z, z)[2]


def sigreg(z: Tensor, directions: Tensor, *, points: int, largest: float) -> Tensor:
    """`mean_a int phi(t) |mean_n exp(i t a^T z_n) - phi(t)|^2 dt` by the trapezoidal rule, with phi(t) = exp(-t^2 / 2).

    z_n are the rows of z [N, dim], and a are the columns of `directions` [dim, S]. The rule has `points` equidistant knots t
    from -largest to largest.
    """
    t = torch.linspace(-largest, largest, points, dtype=z.dtype)
    phi = torch.exp(-t.square() / 2)
    difference = torch.exp(1j * (z @ directions)[:, :, None] * t).mean(dim=0) - phi  # [S, points]
    return torch.trapezoid(phi * difference.abs().square(), t, dim=1).mean()


def _sigreg_entropy(z: Tensor, slices: int, **rule: float) -> Tensor:
    return -sigreg(z, unit_directions(slices, z.shape[1], seed=0, draw=0, like=z).mT, **rule)


def standardised(z: Tensor) -> Tensor:
    """z with each column shifted and scaled to zero mean and unit variance."""
    return (z - z.mean(dim=0)) / z.std(dim=0, unbiased=False)


def renyi(z: Tensor, *, order: float) -> Tensor:
    """The Renyi entropy of the given order, from the positive eigenvalues of `z^T z / trace(z^T z)`."""
    p = torch.linalg.eigvalsh(z.T @ z / z.square().sum())
    p = p[p > 1e-12]
    return -(p * p.log()).sum() if order == 1 else (p**order).sum().log() / (1 - order)


def _vicreg_entropy(z: Tensor, variance_weight: float, covariance_weight: float, **constants: float) -> Tensor:
    _, variance, covariance = vicreg_terms(z, z, **constants)
    return -variance_weight * variance - covariance_weight * covariance


def _pairwise_entropy(z: Tensor, factor: float, bandwidths: tuple[float, ...] = ()) -> Tensor:
    dim = z.shape[1]
    automatic = 0.2 * z.detach().var(dim=0).sum() * 2 / factor
    variances = [torch.tensor(s * s, dtype=z.dtype) for s in bandwidths] or [automatic]
    each = [dim / 2 * torch.log(2 * math.pi * math.e * s2) + pairwise(z, scale=factor * s2) for s2 in variances]
    return torch.stack(each).mean()


def quadratic_entropy(z: Tensor) -> Tensor:
    """`dim/2 log(4 pi s^2) - log mean_ij exp(-|z_i - z_j|^2 / (4 s^2))`; s^2 is a tenth of the total variance of the batch."""
    s2 = 2 * 0.2 / 4 * z.detach().var(dim=0).sum()
    distance = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").square()
    return z.shape[1] / 2 * torch.log(4 * math.pi * s2) - (-distance / (4 * s2)).exp().mean().log()


class Objective(NamedTuple):
    """One loss in two implementations: the criterion of the package, and the equations in `definition`.

    The loss is `invariance * mean squared distance - entropy_weight * mean entropy`.
    """

    #: the loss of two or more views, as the package computes it
    criterion: nn.Module
    #: `-entropy_weight * mean entropy` of one or more views, as the package computes it
    regularizer: nn.Module
    #: the entropy of one group of samples by its equation: [batch, dim] -> []
    entropy: Callable[[Tensor], Tensor]
    invariance: float
    entropy_weight: float
    #: the map that is applied to the views before their distance is taken, such as a normalisation
    variable: Callable[[Tensor], Tensor] = lambda z: z
    #: True for one entropy of all views together, False for the mean of each view's entropy
    pooled: bool = False

    def fused(self, *views: Tensor) -> Tensor:
        """The loss of the views [batch, ..., dim] as the package computes it: a scalar."""
        return (self.criterion if len(views) > 1 else self.regularizer)(*views)

    def definition(self, *views: Tensor) -> Tensor:
        """The loss of the views [batch, ..., dim] by its equations: a scalar."""
        samples = [torch.cat(views)] if self.pooled else views
        groups = [z if z.ndim == 2 else z.flatten(1, -2)[:, i] for z in samples for i in range(z[0, ..., 0].numel())]
        entropy = torch.stack([self.entropy(z) for z in groups]).mean()
        pairs = [(a - b).square().mean() for a, b in itertools.combinations(map(self.variable, views), 2)]
        return self.invariance * sum(pairs) / max(len(pairs), 1) - self.entropy_weight * entropy


def _objective(
    estimator: nn.Module,
    entropy: Callable[[Tensor], Tensor],
    invariance: float,
    weight: float,
    variable: Callable[[Tensor], Tensor] = lambda z: z,
    *,
    pooled: bool = False,
) -> Objective:
    criterion = VICRegEntropy(estimator, invariance="gaussian", invariance_weight=invariance, entropy_weight=weight)
    return Objective(criterion, EntropyRegularizer(estimator, weight), entropy, invariance, weight, variable, pooled)


#: every objective that has a fused implementation; some appear again with constants other than the defaults
OBJECTIVES = {
    "VICReg": Objective(VICReg(), EntropyRegularizer(VarianceCovariance()), lambda z: _vicreg_entropy(z, 25.0, 1.0), 25.0, 1.0),
    "VICReg, other constants": Objective(
        VICReg(3.0, 7.0, 0.4, margin=1.5, epsilon=1e-2),
        EntropyRegularizer(VarianceCovariance(7.0, 0.4, margin=1.5, epsilon=1e-2)),
        lambda z: _vicreg_entropy(z, 7.0, 0.4, margin=1.5, epsilon=1e-2),
        3.0,
        1.0,
    ),
    "variance_covariance": _objective(VarianceCovariance(), lambda z: _vicreg_entropy(z, 25.0, 1.0), 25.0, 0.3),
    "log_det": _objective(LogDet(2.0), lambda z: log_det(z, beta=2.0) / z.shape[1], 25.0, 40.0),
    "log_det in nats": _objective(LogDet(50.0, per_dimension=False), lambda z: log_det(z, beta=50.0), 0.0, 0.7),
    "log_det, anchored": _objective(LogDet(3.0, anchor=True), lambda z: anchored_log_det(z, beta=3.0) / z.shape[1], 25.0, 40.0),
    "pairwise": _objective(Pairwise(), lambda z: _pairwise_entropy(z, 2.0), 2.5, 1.0),
    "pairwise, no memory": _objective(Pairwise(memory_mib=0.0), lambda z: _pairwise_entropy(z, 2.0), 2.5, 1.0),
    "pairwise, lower bound of two bandwidths": _objective(
        Pairwise((2.0, 7.0), "bhattacharyya"), lambda z: _pairwise_entropy(z, 8.0, (2.0, 7.0)), 1.0, 0.5
    ),
    "pairwise, three bandwidths and no memory": _objective(
        Pairwise((3.0, 5.0, 9.0), memory_mib=0.0), lambda z: _pairwise_entropy(z, 2.0, (3.0, 5.0, 9.0)), 1.0, 2.0
    ),
    "spacings": _objective(Spacings(0.4, window=1), lambda z: spacings(z, window=1, covariance_weight=0.4), 2.5, 0.7),
    "koleo": _objective(KoLeo(None), koleo, 2.5, 0.7),
    # in evaluation mode every call draws the same random directions, which the definition uses too
    "sigreg": _objective(SIGReg(slices=24).eval(), lambda z: _sigreg_entropy(z, 24, points=10, largest=3.0), 1.0, 10.0),
    "sigreg, times the batch": _objective(
        SIGReg("lightly", slices=16).eval(), lambda z: len(z) * _sigreg_entropy(z, 16, points=33, largest=3.0), 0.2, 0.05
    ),
    "renyi": _objective(MatrixRenyi(), lambda z: renyi(standardised(z), order=2), 1.0, 1.0, standardised),
    "renyi, order 1 of rows": _objective(
        MatrixRenyi(1.0, normalize="rows"), lambda z: renyi(normalize(z), order=1), 2.0, 0.6, lambda z: normalize(z, dim=-1)
    ),
    "renyi, order 3 of the covariance": _objective(
        MatrixRenyi(3.0, normalize=None), lambda z: renyi(z - z.mean(dim=0), order=3), 0.0, 2.0
    ),
    "renyi, uncentred": _objective(
        MatrixRenyi(normalize="uncentred_columns"),
        lambda z: renyi(normalize(z, dim=0), order=2),
        3.0,
        2.0,
        lambda z: normalize(z, dim=0) * len(z) ** 0.5,
    ),
    "pairwise, Chernoff divergence of all views": _objective(
        Pairwise((3.0, 6.0), 0.3, pool_views=True, memory_mib=0.0),
        lambda z: _pairwise_entropy(z, 2 / 0.21, (3.0, 6.0)),
        2.5,
        1.0,
        pooled=True,
    ),
    "quadratic": _objective(QuadraticRenyi("auto", normalize=None, exclude_self=False), quadratic_entropy, 2.5, 1.0),
}


def leaf(z: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of z in the given dtype that requires a gradient."""
    return z.detach().to(dtype).clone().requires_grad_()


def evaluated(function: Callable[..., Tensor], views: list[Tensor], upstream: float = 1.0) -> list[Tensor]:
    """The value of the function, and the gradient of `upstream * value` for each view."""
    value = function(*views)
    return [value.detach(), *torch.autograd.grad(value, views, torch.tensor(upstream, dtype=value.dtype))]


def correlated_views(count: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Random views of one batch, with correlated features, nonzero means, and stds below and above VICReg's margin."""
    z = torch.randn(shape, dtype=torch.float64) * torch.linspace(0.2, 1.5, shape[-1], dtype=torch.float64)
    z = z + 0.5 * z[..., :1] + 0.5
    return [leaf(z + 0.3 * torch.randn(shape, dtype=torch.float64), dtype) for _ in range(count)]


def assert_near(ours: list[Tensor], theirs: list[Tensor], tolerance: float, least: float = 0) -> None:
    """Assert that each pair of tensors differs by at most `tolerance * max(|theirs|.max(), least)` in every element."""
    for mine, other in zip(ours, theirs, strict=True):
        error, scale = (mine.double() - other.double()).abs().max(), other.abs().max().double()
        assert error <= tolerance * max(scale, least), f"largest error {error:.3g}, allowed {tolerance * max(scale, least):.3g}"


def assert_no_worse(fused: Tensor, reference: Tensor, exact: Tensor, *, tolerance: float) -> None:
    """Assert that no error of `fused` exceeds the largest error of `reference` plus the tolerance.

    Errors are differences from `exact`, divided by the largest element of `exact`.
    """
    fused, reference, exact = (x.detach().double() for x in (fused, reference, exact))
    scale = exact.abs().max().clamp_min(1e-300)
    error, allowed = (fused - exact).abs() / scale, (reference - exact).abs().max() / scale + tolerance
    worst = int(error.argmax())
    assert error.flatten()[worst] <= allowed, (
        f"element {worst}: fused {fused.flatten()[worst]:.9g}, reference {reference.flatten()[worst]:.9g}, "
        f"exact {exact.flatten()[worst]:.9g}; error {error.flatten()[worst]:.2e}, allowed {allowed:.2e}"
    )


#: name of a memory layout -> function that returns a [batch, dim] tensor in this layout; "expanded" repeats the first row
LAYOUTS = {
    "contiguous": lambda z: z,
    "columns first": lambda z: z.T.contiguous().T,
    "every other row": lambda z: torch.stack((z, z), dim=1).flatten(0, 1)[::2],
    "inside a wider one": lambda z: torch.cat((z, z), dim=1)[:, : z.shape[1]],
    "expanded": lambda z: z[:1].expand(len(z), -1),
}
