"""The closed form of VICReg against the plain definition in float64, where the naive way breaks and elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from twins import LAYOUTS, TOLERANCE, assert_no_worse, leaf, vicreg_terms

from it_losses import VarianceCovariance, VICReg, VICRegEntropy, bound, kernels
from it_losses.entropy import variance_covariance
from it_losses.kernels import closed_vicreg as forms
from it_losses.kernels import closed_vicreg_apart
from it_losses.kernels.choice import VARIABLE
from it_losses.kernels.closed_vicreg_apart import columns_apart

WEIGHTS = (25.0, 25.0, 1.0)
SHAPES = [(2, 1), (3, 1), (2, 32), (5, 7), (64, 33), (7, 131), (257, 131), (131, 257), (130, 149), (1031, 269), (269, 1031)]


def evaluated(
    z_a: Tensor, z_b: Tensor, dtype: torch.dtype, weights: tuple[float, float, float], upstream: float, *, fused: bool
):
    """Loss and both gradients; the reference computes low precision in float32, as the package does."""
    a, b = leaf(z_a, dtype), leaf(z_b, dtype)
    if fused:
        loss, _ = kernels.vicreg((a, b), weights=weights)
    else:
        full = torch.promote_types(dtype, torch.float32)
        loss = sum(w * term for w, term in zip(weights, vicreg_terms(a.to(full), b.to(full)), strict=True))
    (loss * upstream).backward()
    return loss, torch.stack((a.grad, b.grad))


def assert_exact(z_a: Tensor, z_b: Tensor, dtype: torch.dtype, weights=WEIGHTS, upstream: float = 1.0, tolerance=None) -> None:
    z_a, z_b = z_a.to(dtype).double(), z_b.to(dtype).double()
    exact = evaluated(z_a, z_b, torch.float64, weights, upstream, fused=False)
    reference = evaluated(z_a, z_b, dtype, weights, upstream, fused=False)
    for got, plain, truth in zip(evaluated(z_a, z_b, dtype, weights, upstream, fused=True), reference, exact, strict=True):
        assert_no_worse(got, plain, truth, tolerance=tolerance or TOLERANCE[dtype])


def pair(batch: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two correlated views whose features are correlated, some below the margin and some above it."""
    generator = torch.Generator().manual_seed(seed + batch * 1009 + dim)
    z = torch.randn(batch, dim, generator=generator, dtype=torch.float64)
    z = z * torch.linspace(0.2, 1.5, dim, dtype=torch.float64) + z[:, :1] + 0.5
    return z, z + 0.3 * torch.randn(batch, dim, generator=generator, dtype=torch.float64)


@pytest.fixture(autouse=True, params=["form by rule", "no small form"])
def larger_forms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test at every size meets the forms of large inputs too."""
    if request.param == "no small form":
        monkeypatch.setattr(forms, "OFFICIAL_ELEMENTS", 0)
        monkeypatch.setattr(forms, "SMALL_ELEMENTS", 0)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch memory holds NaN: what is read before it is written shows."""
    new_empty, empty_like = torch.Tensor.new_empty, torch.empty_like
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size, **kw: _poison(new_empty(self, *size, **kw)))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kw: _poison(empty_like(*args, **kw)))


def _poison(x: Tensor) -> Tensor:
    return x.fill_(torch.nan) if x.is_floating_point() else x


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_value_and_gradient_are_the_definitions(batch, dim, dtype):
    assert_exact(*pair(batch, dim), dtype, upstream=-1.7)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("batch", "dim"), [(13, 20), (131, 200), (300, 140)])
def test_strides_do_not_matter(batch, dim, layout):
    z_a, z_b = (LAYOUTS[layout](z) for z in pair(batch, dim))
    assert not (layout != "contiguous" and z_a.is_contiguous())
    dense = [kernels.vicreg((z_a.contiguous(), z_b.contiguous()), weights=WEIGHTS)[0]]
    a, b = (z.detach().requires_grad_() for z in (z_a, z_b))
    loss, _ = kernels.vicreg((a, b), weights=WEIGHTS)
    torch.testing.assert_close(loss, dense[0], rtol=1e-12, atol=0)
    exact = evaluated(z_a, z_b, torch.float64, WEIGHTS, 1.0, fused=False)
    torch.testing.assert_close(torch.stack(torch.autograd.grad(loss, (a, b))), exact[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("batch", "dim"), [(2, 1), (5, 7), (64, 33), (96, 400), (400, 96)])
def test_a_mean_of_100_sigma_costs_no_digits(batch, dim):
    # the mean is rounded to eps/2 of itself: left in, that moves both samples of a pair alike, by 100 eps/2 of their distance
    z_a, z_b = pair(batch, dim)
    assert_exact(z_a + 100 * z_a.std(dim=0), z_b + 100 * z_b.std(dim=0), torch.float32, weights=(0.0, 25.0, 1.0))


@pytest.mark.parametrize("place", [0, 399])
def test_one_dominant_feature_does_not_cancel_the_others(place):
    z_a, z_b = pair(96, 400)
    z_a[:, place] *= 2000
    z_b[:, place] *= 2000
    assert_exact(z_a, z_b, torch.float32, weights=(0.0, 0.0, 1.0))


def dominated(batch: int, dim: int, count: int, sigma: float, seed: int = 0) -> Tensor:
    """White samples whose first features are `sigma` times as large, and decorrelated among themselves, in float32."""
    generator = torch.Generator().manual_seed(seed + count)
    z = torch.randn(batch, dim, generator=generator, dtype=torch.float64)
    few = torch.randn(batch, count, generator=generator, dtype=torch.float64)
    z[:, :count] = torch.linalg.qr(few - few.mean(dim=0))[0] * sigma * (batch - 1) ** 0.5
    return z.float().double()


@pytest.mark.parametrize("sigma", [30.0, 100.0, 1e4])
@pytest.mark.parametrize(("batch", "dim", "count"), [(100, 300, 2), (100, 300, 4), (100, 300, 7), (520, 640, 15)])
def test_a_few_dominant_decorrelated_features_do_not_cancel_the_others(batch, dim, count, sigma):
    assert columns_apart(batch) >= count
    views = dominated(batch, dim, count, sigma), dominated(batch, dim, count, sigma, seed=99).flip(1)
    assert_exact(*views, torch.float32, weights=(0.0, 0.0, 1.0), upstream=-1.7)


@pytest.mark.parametrize("sigma", [4.0, 30.0, 1e3])
@pytest.mark.parametrize(
    ("batch", "dim", "count"), [(65, 40, 7), (300, 300, 3), (337, 384, 3), (640, 380, 3), (700, 9, 7), (2000, 33, 3)]
)
def test_a_few_dominant_decorrelated_features_do_not_push_each_other_with_rounding(batch, dim, count, sigma):
    # of one large product in float32 their covariances would be rounding, and the gradient 0.5 to 4 times as far off as the
    # reference's, by chance: several seeds
    for seed in range(3):
        views = dominated(batch, dim, count, sigma, 10 * seed), dominated(batch, dim, count, sigma, 10 * seed + 1)
        assert_exact(*views, torch.float32, weights=(0.0, 0.0, 1.0))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("batch", [2500, 5545])
def test_few_columns_keep_the_digits_of_their_few_covariances(batch, dim):
    # white: each covariance is a small sum of large products
    z_a, z_b = (torch.randn(batch, dim).double() for _ in range(2))
    loss, gradient = evaluated(z_a, z_b, torch.float32, (0.0, 0.0, 1.0), 1.0, fused=True)
    exact, truth = evaluated(z_a, z_b, torch.float64, (0.0, 0.0, 1.0), 1.0, fused=False)
    assert (loss.double() - exact).abs() < 1e-6 * exact
    assert (gradient.double() - truth).abs().max() < 1e-6 * truth.abs().max()


def test_where_asking_would_wait_every_column_may_be_dominant():
    assert closed_vicreg_apart.may_dominate(torch.ones(2, 3, device="meta"))
    assert not closed_vicreg_apart.may_dominate(torch.ones(2, 30))
    assert closed_vicreg_apart.may_dominate(torch.cat((torch.ones(2, 29), torch.full((2, 1), 20.0)), dim=1))


@pytest.mark.parametrize("count", [2, 3])
def test_dominant_features_of_any_view_and_group_are_its_own(count):
    # in each group of each view others dominate
    views = [torch.stack([dominated(60, 200, 5, 1e3, seed).roll(7 * seed, 1) for seed in (v, v + 9)]) for v in range(count)]
    results = []
    for dtype, fused in ((torch.float32, True), (torch.float32, False), (torch.float64, False)):
        own = [leaf(z, dtype) for z in views]
        if fused:
            value = kernels.vicreg(own, weights=(0.0, 0.0, 1.0))[0]
        else:
            value = sum(vicreg_terms(group, group)[2] for z in own for group in z) / (2 * count)
        results.append((value, torch.stack(torch.autograd.grad(value, own))))
    for got, plain, truth in zip(*results, strict=True):
        assert_no_worse(got, plain, truth, tolerance=TOLERANCE[torch.float32])


@pytest.mark.parametrize("sigma", [10.0, 100.0, 1e3])
@pytest.mark.parametrize("count", [8, 20, 60])
def test_more_dominant_features_cost_no_more_digits_than_the_documented_bound(count, sigma):
    batch, dim, eps = 100, 300, torch.finfo(torch.float32).eps
    z = dominated(batch, dim, count, sigma)
    own, exact = leaf(z, torch.float32), leaf(z, torch.float64)
    term, truth = kernels.vicreg((own, own.detach()), weights=(0.0, 0.0, 1.0))[0], vicreg_terms(exact, exact.detach())[2]
    covariance = z.T.cov()
    left = covariance.diagonal().argsort(descending=True)[columns_apart(batch) :]
    squares = 2 * covariance[left][:, left].square().sum() / dim
    assert (term - truth).abs() <= eps * dim**0.5 * squares
    gradient, slope = torch.autograd.grad(term, own)[0].double(), torch.autograd.grad(truth, exact)[0]
    reference = leaf(z, torch.float32)
    (plain,) = torch.autograd.grad(vicreg_terms(reference, reference.detach())[2], reference)
    pushed = 4 * torch.linalg.matrix_norm(covariance[left][:, left], 2) * z[:, left].norm(dim=0).max() / ((batch - 1) * dim)
    allowed = eps * batch**0.5 * pushed
    assert (gradient - slope).norm(dim=0).max() <= allowed + (plain - slope).norm(dim=0).max()


@pytest.mark.parametrize("offset", [100.0, 1e3, 1e4])
@pytest.mark.parametrize(("batch", "dim"), [(40, 20), (256, 64), (300, 140), (1024, 200), (40, 200), (96, 400)])
def test_the_rounding_of_a_mean_moves_no_gradient(batch, dim, offset):
    # left in the centred samples it would be one vector for all of them; the gradient of what does not see the mean has none
    z = torch.randn(batch, dim, dtype=torch.float64) + offset
    assert_exact(z, z.flip(0), torch.float32, weights=(0.0, 25.0, 1.0))


@pytest.mark.parametrize(("batch", "dim"), [(40, 12), (40, 200), (300, 140)])
def test_near_collapse_the_rounding_of_a_mean_moves_no_gradient(batch, dim):
    z = 1e-3 * torch.randn(batch, dim, dtype=torch.float64) + 1
    assert_exact(z, z.flip(0), torch.float32, weights=(0.0, 25.0, 1.0))


@pytest.mark.parametrize(("batch", "dim"), [(300, 9), (2000, 65), (100_000, 8)])
def test_a_hinge_near_the_margin_is_exact_to_the_rounding_of_the_margin(batch, dim):
    # a product adds up its samples one by one: of 100,000 it would give a standard deviation 2e-6 off
    z = torch.randn(batch, dim)
    exact = vicreg_terms(z.double(), z.double())[1]
    assert (kernels.vicreg((z, z), weights=WEIGHTS)[1][1] - exact).abs() <= torch.finfo(torch.float32).eps


def test_two_samples_near_collapse_are_pushed_apart_without_the_rounding_of_their_covariances():
    for seed in range(5):
        z_a, z_b = (1e-2 * z for z in pair(2, 300, seed))
        assert_exact(z_a, z_b, torch.float32, weights=(0.0, 25.0, 1.0))


def test_white_samples_keep_the_digits_of_their_small_covariances():
    z = torch.linalg.qr(torch.randn(2048, 257, dtype=torch.float64) - 0.0)[0] * 2048**0.5
    z = z - z.mean(dim=0)
    noise = 1e-3 * torch.randn_like(z)
    assert_exact(z + noise, z - noise, torch.float32, weights=(0.0, 0.0, 1.0))


@pytest.mark.parametrize(("batch", "dim"), [(5, 9), (40, 200), (200, 140)])
def test_exact_collapse_is_finite_with_no_gradient_of_its_own(batch, dim):
    z = torch.full((batch, dim), 0.7, requires_grad=True)
    loss, terms = kernels.vicreg((z, z.detach()), weights=WEIGHTS)
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(terms[1], torch.tensor(1 - 1e-4**0.5), atol=1e-5, rtol=0)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("batch", "dim"), [(4, 8), (40, 200), (200, 140)])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_input_gives_a_bad_loss(batch, dim, bad):
    z_a, z_b = (z.float() for z in pair(batch, dim))
    z_a[1, 2] = bad
    assert not kernels.vicreg((z_a, z_b), weights=WEIGHTS)[0].isfinite()


def test_float16_sums_that_overflow_float16():
    # N * covariance is far above 65504
    z_a, z_b = (6 * z for z in pair(1024, 150))
    assert_exact(z_a, z_b, torch.float16)


def test_a_small_float16_gradient_survives_a_loss_scale():
    z_a, z_b = pair(150, 1200)
    scale = 2.0**12
    got = evaluated(z_a.half().double(), z_b.half().double(), torch.float16, (0.0, 0.0, 1e-4), scale, fused=True)[1]
    exact = evaluated(z_a.half().double(), z_b.half().double(), torch.float64, (0.0, 0.0, 1e-4), scale, fused=False)[1]
    assert ((got.double() - exact).norm() / exact.norm()) < 5e-4


@pytest.mark.parametrize(("batch", "dim"), [(6, 5), (30, 200), (200, 140)])
def test_groups_are_averaged(batch, dim):
    views = [torch.stack(z) for z in zip(*(pair(batch, dim, seed) for seed in range(3)), strict=True)]
    loss, terms = kernels.vicreg(views, weights=WEIGHTS)
    each = [kernels.vicreg((a, b), weights=WEIGHTS) for a, b in zip(*views, strict=True)]
    torch.testing.assert_close(loss, torch.stack([x[0] for x in each]).mean())
    torch.testing.assert_close(terms, torch.stack([x[1] for x in each]).mean(dim=0))


@pytest.mark.parametrize(("batch", "dim"), [(6, 5), (30, 200), (200, 140)])
@pytest.mark.parametrize("count", [1, 3])
def test_other_numbers_of_views_have_entropy_terms_alone(batch, dim, count):
    views = [leaf(pair(batch, dim, seed)[0], torch.float64) for seed in range(count)]
    loss, terms = kernels.vicreg(views, weights=WEIGHTS)
    plain = [vicreg_terms(z, z) for z in views]
    variance, energy = (sum(terms[i] for terms in plain) / count for i in (1, 2))
    torch.testing.assert_close(loss, 25 * variance + energy)
    expected = torch.autograd.grad(25 * variance + energy, views)
    torch.testing.assert_close(torch.autograd.grad(loss, views), expected)
    assert terms[0] == 0


@pytest.fixture
def no_reference(monkeypatch):
    """What only the reference calls raises; for calls with the fused twin."""

    def refuse(*_, **__):
        raise AssertionError("the reference ran")

    def switch(on: bool) -> None:
        for place in (bound, variance_covariance):
            monkeypatch.setattr(place, "covariance_penalty", refuse if on else plain)
        monkeypatch.setenv(VARIABLE, "fused" if on else "reference")

    plain = variance_covariance.covariance_penalty
    return switch


def many_views(count: int, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    base = torch.randn(shape, dtype=torch.float64) + 0.5
    return [leaf(base * 0.8 + 0.3 * torch.randn(shape, dtype=torch.float64), dtype) for _ in range(count)]


@pytest.mark.parametrize("criterion", [VICReg(), VICReg(convention="eb_jepa"), VICRegEntropy("variance_covariance")], ids=repr)
@pytest.mark.parametrize("shape", [(9, 4), (30, 70), (70, 30), (12, 3, 2, 5), (20, 3, 131)], ids=str)
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_any_number_of_views_and_groups_takes_the_fused_twin(count, shape, criterion, no_reference):
    views = many_views(count, shape, torch.float64)
    results = []
    for fused in (True, False):
        no_reference(fused)
        terms = criterion.terms(*views)
        results.append((terms, torch.autograd.grad(-1.7 * terms.loss, views)))
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("criterion", [VICReg(), VICRegEntropy("log_det"), VICRegEntropy("pairwise")], ids=repr)
@pytest.mark.parametrize("count", [2, 3])
def test_half_precision_rounds_the_gradient_of_all_terms_once(count, criterion, dtype, no_reference):
    views = many_views(count, (40, 60), dtype)
    no_reference(True)
    got = torch.autograd.grad(criterion(*views), views)
    no_reference(False)
    exact = [leaf(z, torch.float64) for z in views]
    for mine, truth in zip(got, torch.autograd.grad(criterion(*exact), exact), strict=True):
        assert mine.dtype == dtype
        # half a unit in the last place, and a little for float32; below the smallest normal number units are fixed
        unit = torch.finfo(dtype)
        allowed = 0.51 * unit.eps * truth.abs() + 1e-5 * truth.abs().max() + unit.smallest_normal * unit.eps
        assert ((mine.double() - truth).abs() <= allowed).all()


@pytest.mark.parametrize("shape", [(30, 70), (20, 3, 131)], ids=str)
def test_the_estimator_alone_takes_the_fused_twin_over_groups(shape, no_reference):
    (z,) = many_views(1, shape, torch.float64)
    results = []
    for fused in (True, False):
        no_reference(fused)
        value = VarianceCovariance()(z)
        results.append((value, torch.autograd.grad(-1.7 * value, z)))
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-13)


def test_low_precision_gradients_come_back_in_their_dtype():
    for dtype in TOLERANCE:
        _, gradient = evaluated(*pair(140, 200), dtype, WEIGHTS, 1.0, fused=True)
        assert gradient.dtype == dtype


@pytest.mark.parametrize(("batch", "dim"), [(4, 8), (40, 200), (200, 140)])
def test_nothing_waits_for_the_device(batch, dim, monkeypatch):
    # on a GPU each of these operators makes the host wait; what a CPU is asked has this answer there
    monkeypatch.setattr(closed_vicreg_apart, "may_dominate", lambda variance: True)
    a, b = (leaf(z, torch.float32) for z in pair(batch, dim))
    with torch.profiler.profile() as trace:
        kernels.vicreg((a, b), weights=WEIGHTS)[0].backward()
    called = {event.name for event in trace.events()}
    assert not called & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"}
