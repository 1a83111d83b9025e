"""Means far from zero, whose rounding is left in the centred samples: no fused log-det gradient shows it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from twins import TOLERANCE, assert_no_worse, leaf, log_det

from it_losses import kernels
from it_losses.entropy.log_det import half_log_det
from it_losses.entropy.variance_covariance import covariance_penalty, variance_hinge
from it_losses.kernels import sharded_log_det, sharded_vicreg
from it_losses.kernels.sharded_ranks import Evaluation, centred_samples

F32, F64 = torch.float32, torch.float64


class OneRank:
    """A rank that holds the whole batch, `sharded_ranks.Ranks` without a process group."""

    def __init__(self, samples: int) -> None:
        self.samples, self.own = samples, slice(0, samples)

    def summed(self, own: Tensor):
        return own.clone

    def gathered(self, own):
        return iter([z.clone() for z in own])


def gradients(function, plain, definition, z: Tensor) -> list[Tensor]:
    results = []
    for call, dtype in ((function, F32), (plain, F32), (definition, F64)):
        own = leaf(z, dtype)
        results.append(torch.autograd.grad(call(own), own)[0])
    return results


def assert_log_det(z: Tensor, beta: float = 2.0) -> None:
    z = z.float().double()
    got, reference, exact = gradients(
        lambda z: kernels.log_det(z, beta=beta), lambda z: half_log_det(z, beta=beta), lambda z: log_det(z, beta=beta), z
    )
    assert_no_worse(got, reference, exact, tolerance=TOLERANCE[F32])
    # the entropy does not see a shift of all samples
    assert got.double().sum(dim=0).abs().max() <= 1e-5 * got.double().norm(dim=0).max()


@pytest.mark.parametrize("offset", [0.0, 100.0, 1e3, 1e4])
@pytest.mark.parametrize(("batch", "dim"), [(256, 64), (40, 12), (64, 256), (3000, 200)])
def test_the_rounding_of_a_mean_moves_no_gradient_of_log_det(batch, dim, offset):
    assert_log_det(torch.randn(batch, dim) + offset)


@pytest.mark.parametrize("beta", [2.0, 1e6])
@pytest.mark.parametrize(("batch", "dim"), [(40, 12), (12, 40)])
def test_near_collapse_the_rounding_of_a_mean_moves_no_gradient_of_log_det(batch, dim, beta):
    assert_log_det(torch.randn(batch, dim) * 1e-3 + 1, beta)


def entropy_of_a_rank(evaluate, z: Tensor, constants: list[float]) -> Evaluation:
    """The entropy of z [batch, dim] and its gradient, by the layout of one rank."""
    return evaluate([z[:, None]], OneRank(len(z)), constants)


LOG_DET, VICREG = [2.0, 0.0], [25.0, 1.0, 1.0, 1e-4]
PLAIN = {
    sharded_log_det: lambda z: half_log_det(z, beta=2.0),
    sharded_vicreg: lambda z: -25 * variance_hinge(z, margin=1.0, epsilon=1e-4) - 2 * covariance_penalty(z),
}


@pytest.mark.parametrize("offset", [0.0, 100.0, 1e3, 1e4])
@pytest.mark.parametrize("layout", ["rows", "covariance"])
@pytest.mark.parametrize("module", PLAIN, ids=["log_det", "vicreg"])
@pytest.mark.parametrize(("batch", "dim"), [(120, 30), (30, 120)])
def test_the_rounding_of_a_mean_moves_no_gradient_over_ranks(batch, dim, module, layout, offset):
    z, constants = torch.randn(batch, dim) + offset, LOG_DET if module is sharded_log_det else VICREG
    got = entropy_of_a_rank(getattr(module, layout), z, constants).gradient[0, :, 0]
    own = [leaf(z, dtype) for dtype in (F32, F64)]
    # the D x D side of fewer samples, which nobody takes unasked, has the digits of the D x D definition
    plain = (lambda z: log_det(z, beta=2.0)) if module is sharded_log_det and layout == "covariance" else PLAIN[module]
    reference, exact = (torch.autograd.grad(plain(x), x)[0] for x in own)
    assert_no_worse(got, reference, exact, tolerance=TOLERANCE[F32])


def dominated(batch: int, dim: int, count: int) -> Tensor:
    z, few = torch.randn(batch, dim, dtype=F64), torch.randn(batch, count, dtype=F64)
    z[:, :count] = torch.linalg.qr(few - few.mean(dim=0))[0] * 1e4 * (batch - 1) ** 0.5
    return z.float()


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_the_parts_of_ranks_are_centred_by_the_mean_of_all(dtype):
    z = torch.randn(30, 2, 5, dtype=F64) + 1e3
    z = z.to(dtype)
    parts, totals = (z[:4], z[4:]), []
    for _ in range(2):
        # what a part is summed with is known once all have been here
        summed = list(totals)
        results = []
        for part in parts:
            ranks = OneRank(30)
            ranks.summed = lambda own, summed=summed: lambda: totals.append(own) or (sum(summed) if summed else own)
            results.append(centred_samples([part], ranks))
    together = torch.cat(results, dim=1).double()
    near = z.double().movedim(0, 1) - 1e3
    expected = near - near.mean(dim=1, keepdim=True)
    # sums travel in float64, which has nothing wider beside it
    size = expected.abs().max() if dtype == F32 else z.abs().max()
    assert (together - expected).abs().max() <= 2 * torch.finfo(dtype).eps * size


@pytest.mark.parametrize("count", [2, 7])
def test_a_few_dominant_decorrelated_features_do_not_cancel_the_others_over_ranks(count):
    z = dominated(100, 300, count)
    constants = [0.0, 1.0, 1.0, 1e-4]
    got, reference, exact = (
        entropy_of_a_rank(layout, x, constants)
        for layout, x in (
            (sharded_vicreg.rows, z),
            (sharded_vicreg.covariance, z),
            (sharded_vicreg.covariance, z.double()),
        )
    )
    for mine, plain, truth in zip(got, reference, exact, strict=True):
        assert_no_worse(mine, plain, truth, tolerance=TOLERANCE[F32])


def test_a_hinge_near_the_margin_of_many_samples_over_ranks_is_exact_to_the_rounding_of_the_margin():
    z = torch.randn(100_000, 1, 8)
    exact = variance_hinge(z[:, 0].double(), margin=1.0, epsilon=1e-4)
    hinge = sharded_vicreg.covariance([z], OneRank(len(z)), (25.0, 0.5, 1.0, 1e-4)).parts[0]
    assert (hinge - exact).abs() <= torch.finfo(F32).eps
