"""Entropies of pairs of samples equal their definitions, with excluded pairs, pooled views and every divergence."""

from __future__ import annotations

import math

import pytest
import torch
from definitions import assert_near, evaluated
from torch import Tensor
from torch.nn.functional import normalize

from it_losses import EntropyRegularizer, Pairwise, QuadraticRenyi, VICRegEntropy, diagnostics, functional
from it_losses.entropy.pairs import squared_distances
from it_losses.kernels.products import cpu_pairs

F32, F64 = torch.float32, torch.float64


def defined(views: tuple[Tensor, ...], *, scale: float, excluded: str, quadratic: bool = False) -> Tensor:
    """`-mean_i log mean_j e_ij`, or `-log mean_ij e_ij` if quadratic, over the samples of all views.

    Here `e_ij = exp(-|u_i - u_j|^2 / scale)` and `u = z / |z|`. `excluded` names the pairs (i, j) that are left out: "none",
    "self" for i = j, or "image" for two views of one image and i = j.
    """
    u = normalize(torch.cat(views), dim=1)
    overlap = (-(u[:, None] - u).square().sum(dim=2) / scale).exp()
    row = torch.arange(len(u))
    image = row % len(views[0])
    counts = {"self": row[:, None] != row, "image": image[:, None] != image, "none": torch.ones(len(u), len(u), dtype=bool)}
    means = (overlap * counts[excluded]).sum(dim=1) / counts[excluded].sum(dim=1)
    return -means.mean().log() if quadratic else -means.log().mean()


def unit_pairwise(excluded: str, **options: object) -> Pairwise:
    return Pairwise(
        normalize="rows", pool_views=True, exclude_self=excluded != "none", exclude_positives=excluded == "image", **options
    )


def batch(views: int, *shape: int) -> list[Tensor]:
    return [(torch.randn(*shape, dtype=F64) + 0.3).requires_grad_() for _ in range(views)]


@pytest.fixture(params=["fused", "reference"])
def both(request, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", request.param)


@pytest.fixture
def many_strips(monkeypatch):
    """Compute few rows of pairs at a time. The code must still keep all views of an image together."""
    for name, value in {"ROWS": 16, "FEWEST_ROWS": 4, "MOST_PAIRS_AT_ONCE": 0}.items():
        monkeypatch.setattr(cpu_pairs, name, value)


@pytest.mark.parametrize("memory_mib", [0.0, 256.0])
@pytest.mark.parametrize("excluded", ["none", "self", "image"])
@pytest.mark.parametrize(("views", "rows"), [(1, 5), (2, 2), (2, 70), (3, 41)])
def test_pooled_unit_vectors_are_the_definition(views, rows, excluded, memory_mib, both, many_strips):
    estimator, z = unit_pairwise(excluded, bandwidth=0.6, memory_mib=memory_mib), batch(views, rows, 6)
    component = 3 * math.log(2 * math.pi * math.e * 0.36)
    ours = evaluated(EntropyRegularizer(estimator), z)
    theirs = evaluated(lambda *views: -defined(views, scale=2 * 0.36, excluded=excluded) - component, z)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-12, atol=1e-12)
    assert_near(ours[1:], theirs[1:], 1e-11)


@pytest.mark.parametrize("excluded", ["self", "image"])
def test_groups_and_bandwidths_of_pooled_views_are_averaged(excluded, both, many_strips):
    z = batch(2, 9, 3, 4)
    together = EntropyRegularizer(unit_pairwise(excluded, bandwidth=(0.5, 0.9)))(*z)
    each = [
        EntropyRegularizer(unit_pairwise(excluded, bandwidth=s))(*(view[:, g] for view in z))
        for s in (0.5, 0.9)
        for g in range(3)
    ]
    torch.testing.assert_close(together, torch.stack(each).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("exclude_self", [True, False])
@pytest.mark.parametrize("rows", [2, 70])
def test_the_quadratic_entropy_is_the_definition(rows, exclude_self, both, many_strips):
    z = batch(1, rows, 6)
    estimator = QuadraticRenyi(0.6, exclude_self=exclude_self, memory_mib=0.0)
    ours, component = evaluated(estimator, z), 3 * math.log(4 * math.pi * 0.36)
    excluded = "self" if exclude_self else "none"
    theirs = evaluated(lambda *views: defined(views, scale=4 * 0.36, excluded=excluded, quadratic=True) + component, z)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-12, atol=1e-12)
    assert_near(ours[1:], theirs[1:], 1e-11)


def test_several_bandwidths_of_the_quadratic_entropy_are_averaged(both):
    z = batch(2, 9, 4)
    together, *each = (EntropyRegularizer("quadratic", bandwidth=s)(*z) for s in ((0.5, 0.9), 0.5, 0.9))
    torch.testing.assert_close(together, torch.stack(each).mean(), rtol=1e-12, atol=0)


def test_the_quadratic_entropy_is_the_integral_of_the_squared_density(both):
    z, s, x = torch.tensor([[-0.4], [0.1], [1.3]], dtype=F64), 0.5, torch.linspace(-6, 7, 20001, dtype=F64)
    density = torch.distributions.Normal(z, s).log_prob(x).exp().mean(dim=0)
    exact = -torch.trapezoid(density.square(), x).log()
    estimator = QuadraticRenyi(s, exclude_self=False, normalize=None)
    torch.testing.assert_close(estimator(z), exact, rtol=1e-10, atol=0)
    shannon = -torch.trapezoid(torch.xlogy(density, density), x)
    assert estimator(z) < shannon
    torch.testing.assert_close(functional.quadratic_entropy(z, bandwidth=s, exclude_self=False, normalize=None), estimator(z))
    torch.testing.assert_close(diagnostics.quadratic_entropy(z, bandwidth=s), estimator(z))


@pytest.mark.parametrize("order", [0.2, 0.5, 0.8])
def test_the_chernoff_divergence_of_an_order_has_its_closed_form(order, both):
    # the divergence is -log of the integral of p^order q^(1 - order), where p = N(0, s^2) and q = N(distance, s^2)
    distance, s, x = 1.3, 0.7, torch.linspace(-9, 10, 20001, dtype=F64)
    p, q = (-((x - mean) ** 2) / (2 * s**2) - 0.5 * math.log(2 * math.pi * s**2) for mean in (0.0, distance))
    overlap = torch.trapezoid((order * p + (1 - order) * q).exp(), x)
    expected = 0.5 * math.log(2 * math.pi * math.e * s**2) - ((1 + overlap) / 2).log()
    z = torch.tensor([[0.0], [distance]], dtype=F64)
    torch.testing.assert_close(Pairwise(s, order)(z), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(functional.pairwise_entropy(z, bandwidth=s, divergence=order), expected, rtol=1e-9, atol=0)


def test_the_order_one_half_is_bhattacharyya():
    z = torch.randn(20, 4, dtype=F64)
    torch.testing.assert_close(Pairwise(2.0, 0.5)(z), Pairwise(2.0, "bhattacharyya")(z), rtol=1e-14, atol=0)


@pytest.mark.parametrize("wrong", ["renyi", 0.0, 1.0, -0.5, 2, True, None, math.nan])
def test_a_divergence_that_does_not_exist_is_refused(wrong):
    with pytest.raises(ValueError, match="divergence must be"):
        Pairwise(divergence=wrong)


@pytest.mark.parametrize("options", [{}, {"exclude_self": True}, {"pool_views": True}])
def test_exclude_positives_needs_pool_views_and_exclude_self(options):
    with pytest.raises(ValueError, match="exclude_positives needs"):
        Pairwise(exclude_positives=True, **options)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize(
    "estimator",
    [
        Pairwise(0.05, exclude_self=True),
        Pairwise(exclude_self=True),
        QuadraticRenyi(0.01, normalize=None),
        QuadraticRenyi(0.01),
    ],
    ids=["pairwise", "pairwise, auto", "quadratic", "quadratic of unit vectors"],
)
def test_a_sample_far_from_all_others_gives_finite_numbers(estimator, dtype):
    z = torch.randn(200, 5, generator=torch.Generator().manual_seed(1), dtype=F64)
    z[0] = 1e3
    value, gradient = evaluated(estimator, [z.to(dtype).requires_grad_()])
    exact, slope = evaluated(estimator, [z.requires_grad_()])
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=0)
    # one sample is at 1e3, so float32 distances between the other samples keep only three digits
    assert (gradient.double() - slope).norm() < 0.05 * slope.norm()


@pytest.mark.parametrize("temperature", [0.03, 0.07, 1.0])
def test_unit_vectors_run_in_the_fused_implementation_down_to_small_temperatures(temperature, monkeypatch):
    estimator, z = unit_pairwise("self", bandwidth=temperature**0.5), batch(2, 40, 3)
    assert estimator.constants() is not None
    opposite = [z[0].detach().float(), -z[1].detach().float().abs()]
    opposite[0][0], opposite[1][:] = -1.0, 1.0
    found = {}
    for backend, dtype in (("fused", F32), ("reference", F64)):
        monkeypatch.setenv("IT_LOSSES_BACKEND", backend)
        views = [x.to(dtype, copy=True).requires_grad_() for x in opposite]
        found[backend, dtype] = [t.double() for t in evaluated(EntropyRegularizer(estimator), views)]
    # the largest exponent is 2 / temperature. The absolute error of an exponent is the relative error of the exponential
    assert_near(found["fused", F32], found["reference", F64], 4 * torch.finfo(F32).eps * 2 / temperature)


@pytest.mark.parametrize("normalization", [None, "rows", "columns"])
@pytest.mark.parametrize("build", [Pairwise, QuadraticRenyi])
def test_invariances_depend_on_the_normalization(build, normalization):
    estimator = build(1.0, normalize=normalization)
    z = torch.randn(20, 4, dtype=F64) * torch.tensor([3.0, 1.0, 0.5, 0.2])
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=F64)).Q

    def same(other: Tensor) -> bool:
        return torch.allclose(estimator(other), estimator(z), rtol=1e-10)

    assert same(z @ rotation) == estimator.rotation_invariant
    assert same(z + 0.7) == estimator.translation_invariant
    assert same(3 * z) == (estimator.scaling == "invariant")


@pytest.mark.parametrize("build", [Pairwise, QuadraticRenyi])
def test_a_narrow_bandwidth_warns_unless_self_is_left_out(build, both):
    z = torch.randn(12, 4)
    with pytest.warns(UserWarning, match="no two samples overlap"):
        build(1e-3, exclude_self=False, normalize=None)(z)
    build(0.3, exclude_self=True, normalize="rows")(z)


def test_default_weights_of_unit_vectors_equal_one_minus_the_cosine():
    weights = Pairwise(0.5**0.5, normalize="rows").default_weights
    assert (weights.likelihood, weights.entropy) == ("von_mises_fisher", 1.0)
    assert weights.invariance == pytest.approx(2.0)
    # the weight of the invariance is 2 / (2 s^2), averaged over the bandwidths s, or 1 / spread_fraction for "auto"
    assert Pairwise((1.0, 2.0), normalize="rows").default_weights.invariance == pytest.approx((2 / 2 + 2 / 8) / 2)
    assert Pairwise(normalize="rows", spread_fraction=0.1).default_weights.invariance == pytest.approx(10.0)
    assert QuadraticRenyi().default_weights.invariance == pytest.approx(2.0)
    assert VICRegEntropy("quadratic").invariance == "von_mises_fisher"
    assert Pairwise().default_weights == (2.5, 1.0, "gaussian") == QuadraticRenyi("auto", normalize=None).default_weights


def test_a_distance_that_rounding_made_negative_is_zero_and_keeps_its_gradient():
    lost = 0
    for seed in range(20):
        z = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        z[1] = z[0] + 1e-9
        distance = squared_distances(z.requires_grad_())[0, 1]
        lost += distance == 0
        assert distance >= 0
        (gradient,) = torch.autograd.grad(distance, z)
        torch.testing.assert_close(gradient[0], torch.full_like(gradient[0], -2e-9), rtol=1e-6, atol=0)
    assert lost > 5
