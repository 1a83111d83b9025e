"""On random inputs of ten kinds a fused twin is no further from float64 than its reference, but for rounding of two products.

Every objective reads its samples through one matrix of products, covariances, a Gram matrix, squared distances, and its
gradient is one of a matrix and the samples. Where these have few digits to give, twin and reference are two draws of one
rounding, and either may be the luckier. Allowed beyond the reference's error is 1e-6 and three standard deviations of what
independent errors do to the result to first order: in that matrix of eps, each relative to the deviations or norms its products
are made of, and in the gradient's product of half a unit in the last place of every partial sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from twins import TOLERANCE, assert_no_worse, leaf, log_det, pairwise, vicreg_terms

from it_losses import kernels
from it_losses.entropy.log_det import half_log_det
from it_losses.entropy.pairwise import spread_entropy, squared_distances
from it_losses.kernels import closed_log_det

EPS, LEAST = torch.finfo(torch.float32).eps, TOLERANCE[torch.float32]
KINDS = {
    "white": lambda z, generator: z,
    "heavy tails": lambda z, generator: z**3,
    "correlated": lambda z, generator: z * torch.linspace(0.2, 1.5, z.shape[1]) + z[:, :1],
    "low rank and noise": lambda z, generator: normal(len(z), 5, generator) @ normal(5, z.shape[1], generator) + 0.01 * z,
    "scales from .01 to 100": lambda z, generator: z * torch.logspace(-2, 2, z.shape[1]),
    "two dominant": lambda z, generator: torch.cat((100 * z[:, :2], z[:, 2:]), dim=1),
    "mean of 100 sigma": lambda z, generator: z + 100,
    "small": lambda z, generator: 0.01 * z,
    "rectified": lambda z, generator: z.relu() + 0.01 * z,
    "clusters": lambda z, generator: 3 * normal(7, z.shape[1], generator)[members(7, len(z), generator)] + 0.05 * z,
}
sizes = {"batch": st.integers(2, 700), "dim": st.integers(1, 300), "seed": st.integers(0, 2**30)}
many = settings(max_examples=40, derandomize=True, deadline=None, database=None)


def normal(rows: int, cols: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, cols, generator=generator, dtype=torch.float64)


def members(clusters: int, batch: int, generator: torch.Generator) -> Tensor:
    return torch.randint(clusters, (batch,), generator=generator)


def of_sums(terms: int, largest: Tensor) -> Tensor:
    """Standard deviation in eps of sums that grow to `largest` term by term; each addition rounds by 1 / sqrt(12) units."""
    return math.sqrt(terms / 12 / 3) * largest


def views(batch: int, dim: int, kind: str, seed: int) -> Tensor:
    """Two views in numbers of float32, held in float64: [2, batch, dim]."""
    generator = torch.Generator().manual_seed(seed)
    z = KINDS[kind](normal(batch, dim, generator), generator)
    other = z + 0.3 * z.std(dim=0) * normal(batch, dim, generator)
    return torch.stack((z, other)).float().double()


def assert_as_near(z: Tensor, fused: Callable, plain: Callable, exact: Callable, moved: Callable) -> None:
    """moved(z, value, gradient) is the deviation of both for errors of 1 in the matrix, relative to their largest element."""
    results = []
    for function, dtype in ((fused, torch.float32), (plain, torch.float32), (exact, torch.float64)):
        own = leaf(z, dtype)
        value = function(own)
        results.append((value.detach(), *torch.autograd.grad(value, own)))
    for got, reference, truth, condition in zip(*results, moved(z, *results[-1]), strict=True):
        assert_no_worse(got, reference, truth, tolerance=LEAST + 3 * EPS * float(condition))


@pytest.mark.parametrize("kind", KINDS)
@many
@given(**sizes, weights=st.sampled_from([(25.0, 25.0, 1.0), (0.0, 0.0, 1.0), (0.0, 25.0, 1.0)]))
def test_vicreg(kind, batch, dim, seed, weights):
    def fused(z):
        return kernels.vicreg((z[0], z[1]), weights=weights)[0]

    def plain(z):
        return sum(w * term for w, term in zip(weights, vicreg_terms(*z), strict=True))

    def moved(z, value, gradient):
        zc = z - z.mean(dim=1, keepdim=True)
        std = zc.std(dim=1)  # [2, dim]
        covariance = zc.mT @ zc / (batch - 1)
        # a covariance has the digits of the deviations it is made of, a hinge those of the margin
        values = weights[1] + weights[2] * 2 * (covariance * std[:, :, None] * std[:, None]).square().sum().sqrt() / dim
        if batch < dim:
            # what the N x N side subtracts
            values += weights[2] * covariance.diagonal(dim1=1, dim2=2).square().sum() / dim
        pushes = std.amax(dim=1) * (zc.square() @ std.square()[:, :, None]).amax(dim=(1, 2)).sqrt()
        force = 4 * weights[2] / ((batch - 1) * dim)
        hinge = torch.where(std < 1, weights[1] / (2 * (batch - 1) * dim) / std, 0)[:, None]
        # the N x N side has the energies of samples on its diagonal
        gram = force * zc.square().sum(dim=2, keepdim=True) / (batch - 1) if batch < dim else 0
        steps = zc * (hinge + gram)
        slopes = force * pushes.amax() + of_sums(min(batch, dim), steps.abs().amax())
        return values / value.abs().clamp_min(1e-30), slopes / gradient.abs().amax().clamp_min(1e-30)

    assert_as_near(views(batch, dim, kind, seed), fused, plain, plain, moved)


@pytest.mark.parametrize("kind", KINDS)
@many
@given(**sizes, beta=st.sampled_from([0.1, 2.0, 100.0, 1e6]), kept=st.sampled_from([closed_log_det.KEPT, 0]))
def test_log_det(kind, batch, dim, seed, beta, kept):
    def moved(z, value, gradient):
        zc, slopes = z - z.mean(dim=0), gradient
        if batch >= dim:
            zc, slopes = zc.T, gradient.T
        a = torch.eye(len(zc)) + beta / batch * zc @ zc.T
        inverse, size = torch.linalg.inv(a), a.diagonal()
        # tr(A^-1 E) and A^-1 E A^-1 Zc for independent E_ij of size sqrt(A_ii A_jj), of four origins, 2 = sqrt(4): A is formed,
        # centred, factorized and inverted
        values = 2 * ((size - 1) @ inverse.square() @ (size - 1)).sqrt()
        pushes = 2 * (inverse.square() @ size).amax().sqrt() * (size @ slopes.square()).amax().sqrt()
        pushes += of_sums(len(zc), (beta / batch * inverse.diagonal()[:, None] * zc).abs().amax())
        return values / value.abs().clamp_min(1e-30), pushes / gradient.abs().amax().clamp_min(1e-30)

    with patch.object(closed_log_det, "KEPT", kept):
        assert_as_near(
            views(batch, dim, kind, seed)[0],
            lambda z: kernels.log_det(z, beta=beta),
            lambda z: half_log_det(z, beta=beta),
            lambda z: log_det(z, beta=beta),
            moved,
        )


@pytest.mark.parametrize("kind", KINDS)
@many
@given(**sizes, width=st.sampled_from([0.05, 0.2, 1.0, 5.0]))
def test_pairwise(kind, batch, dim, seed, width):
    z = views(min(batch, 300), min(dim, 100), kind, seed)[0]
    scale = float(2 * width * z.var(dim=0).sum())

    def moved(z, value, gradient):
        # |z_i|^2 + |z_j|^2 - 2 z_i.z_j is known to eps of its largest parts
        zc = z - z.mean(dim=0)
        exponent = 2 * zc.square().sum(dim=1).amax() / scale
        near = torch.exp(-squared_distances(z) / scale)
        weights = near / near.sum(dim=1) + near / near.sum(dim=1, keepdim=True)
        weights.fill_diagonal_(0)
        pulls = 2 / (len(z) * scale) * weights.sum(dim=1, keepdim=True) * zc
        slopes = of_sums(len(z), pulls.abs().amax()) / gradient.abs().amax().clamp_min(1e-30)
        return (exponent + math.log(len(z))) / value.abs().clamp_min(1e-30), exponent + slopes

    assert_as_near(
        z,
        lambda z: kernels.pairwise(z, [scale])[0],
        lambda z: spread_entropy(squared_distances(z), scale=scale),
        lambda z: pairwise(z, scale=scale),
        moved,
    )
