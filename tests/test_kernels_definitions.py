"""Every fused implementation equals its definition in float64.

The shapes test both matrices: N x N and D x D, for N samples of D dimensions.
"""

from __future__ import annotations

import pytest
import torch
from definitions import LAYOUTS, OBJECTIVES, assert_near, correlated_views, evaluated, leaf, log_det
from torch import Tensor

from it_losses import LogDet, Pairwise, VICReg
from it_losses.kernels import vicreg
from it_losses.kernels.products import cholesky, cpu, cpu_pairs, cpu_slices

SHAPES = [(2, 1), (3, 1), (2, 32), (5, 7), (64, 33), (7, 131), (131, 7), (128, 150), (200, 192), (12, 3, 2, 5)]
#: some tests choose beta so large that log-det warns of lost digits
pytestmark = pytest.mark.filterwarnings("ignore:log-det entropy")
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


@pytest.fixture(autouse=True)
def only_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IT_LOSSES_BACKEND", "fused")


@pytest.fixture(autouse=True, params=["sizes by rule", "many blocks"])
def many_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test a second time with tiny size limits, so that small inputs are split into blocks too."""
    if request.param == "many blocks":
        monkeypatch.setattr(vicreg, "TINY", 0)
        small = {cpu: {"KEPT": 0, "BLOCK": 1 << 10, "STRIP_SIDE": 8, "LARGE_PRODUCT": 1 << 12}}
        small[cpu_slices] = {"MOST_WAVES_AT_ONCE": 1 << 10}
        small[cpu_pairs] = {"ROWS": 16, "FEWEST_ROWS": 4, "MOST_PAIRS_AT_ONCE": 0}
        for module, constants in small.items():
            for constant, value in constants.items():
                monkeypatch.setattr(module, constant, value)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill fresh memory with NaN, so that a test fails if a number is read before it is written."""
    new_empty, empty_like = torch.Tensor.new_empty, torch.empty_like
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size, **kw: _poison(new_empty(self, *size, **kw)))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kw: _poison(empty_like(*args, **kw)))


def _poison(x: Tensor) -> Tensor:
    return x.fill_(torch.nan) if x.is_floating_point() else x


@every_objective
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradient_are_the_definitions(name, shape):
    objective = OBJECTIVES[name]
    for count in (1, 2, 3, 4) if max(shape) < 128 else (2, 3):
        views = correlated_views(count, shape)
        ours, theirs = (evaluated(f, views, -1.7) for f in (objective.fused, objective.definition))
        # some exact values are near zero because terms cancel, so an absolute error is allowed
        assert (ours[0] - theirs[0]).abs() <= 1e-11 * theirs[0].abs().clamp_min(1)
        # the Renyi entropy of samples along one line is constant. Its gradient is only rounding error, which `least` allows
        assert_near(ours[1:], theirs[1:], 1e-10, least=0.1 if "renyi" in name else 0)


@every_objective
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_matter(name, layout):
    for shape in ((13, 20), (150, 131), (131, 150)):
        strided = [LAYOUTS[layout](z.detach()).requires_grad_() for z in correlated_views(2, shape)]
        dense = [leaf(z, z.dtype) for z in strided]
        assert_near(*(evaluated(OBJECTIVES[name].fused, views) for views in (strided, dense)), 1e-9)


@every_objective
@pytest.mark.parametrize("shape", [(9, 2, 3, 5), (20, 3, 31)], ids=str)
def test_the_terms_are_unweighted_and_add_up(name, shape):
    objective, views = OBJECTIVES[name], correlated_views(3, shape)
    terms = objective.criterion.terms(*views)
    expected = objective.invariance * terms.invariance - objective.entropy_weight * terms.entropy
    torch.testing.assert_close(terms.loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(terms.entropy, -objective.regularizer(*views) / objective.entropy_weight, rtol=1e-12, atol=1e-12)
    if isinstance(objective.criterion, VICReg):
        weights = objective.criterion
        entropy = -weights.variance_weight * terms.variance - weights.covariance_weight * terms.covariance
        torch.testing.assert_close(terms.entropy, entropy, rtol=1e-12, atol=1e-12)


@every_objective
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(5, 9), (40, 200), (200, 140)], ids=str)
def test_exact_collapse_is_finite(name, dtype, shape):
    point = torch.randn(1, shape[1], dtype=torch.float64)
    value, *gradients = evaluated(OBJECTIVES[name].fused, [leaf(point.expand(shape), dtype) for _ in range(2)])
    assert value.isfinite()
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(40, 200), (200, 140)], ids=str)
@every_objective
def test_rounding_gives_no_gradient_at_exact_collapse(name, dtype, shape):
    point = torch.randn(1, shape[1], dtype=torch.float64)
    _, *gradients = evaluated(OBJECTIVES[name].fused, [leaf(point.expand(shape), dtype) for _ in range(2)])
    if not OBJECTIVES[name].regularizer.entropy.translation_invariant:
        # an entropy that depends on the mean may move the samples, but all by the same vector
        gradients = [g - g[0] for g in gradients]
    assert all(g.abs().max() <= 1e-4 for g in gradients), [g.abs().max() for g in gradients]


@every_objective
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("shape", [(4, 8), (40, 150), (150, 140)], ids=str)
def test_a_bad_input_gives_a_bad_value_and_a_gradient_that_shows_it(name, bad, shape):
    views = correlated_views(2, shape, torch.float32)
    views[0].data[1, 2] = bad
    value, *gradients = evaluated(OBJECTIVES[name].fused, views)
    assert not value.isfinite()
    assert not gradients[0].isfinite().all()


# in about two of three draws another order of operations gives the same bits, so the test makes five draws
@pytest.mark.parametrize("draw", range(5))
@pytest.mark.parametrize(("batch", "dim"), [(2, 32), (8, 8), (32, 33), (3, 1)])
def test_tiny_batches_equal_the_authors_order_of_operations_to_the_last_bit(batch, dim, draw, many_blocks):
    if vicreg.TINY == 0:
        pytest.skip("the fixture many_blocks turns off the order of the authors")
    torch.manual_seed(draw)
    z_a, z_b = correlated_views(2, (batch, dim), torch.float32)
    invariance = torch.nn.functional.mse_loss(z_a, z_b)
    stds, energies = [], []
    for z in (z_a, z_b):
        z = z - z.mean(dim=0)
        stds.append(torch.sqrt(z.var(dim=0) + 0.0001))
        covariance = (z.T @ z) / (batch - 1)
        energies.append(covariance[~torch.eye(dim, dtype=torch.bool)].pow(2).sum().div(dim))
    std = torch.mean(torch.relu(1 - stds[0])) / 2 + torch.mean(torch.relu(1 - stds[1])) / 2
    assert VICReg()(z_a, z_b) == 25.0 * invariance + 25.0 * std + 1.0 * (energies[0] + energies[1])


@pytest.mark.parametrize("beta", [1e3, 1e6])
def test_the_null_direction_of_the_gram_matrix_does_not_reach_the_gradient(beta):
    # Zc is centred, so (I + beta/N Zc Zc^T)^-1 maps 1 to 1. If this inverse were not centred too, rounding errors of 1^T Zc
    # would be multiplied by beta
    (z,) = correlated_views(1, (128, 300), torch.float32)
    (gradient,) = torch.autograd.grad(LogDet(beta)(z + 3), z)
    assert gradient.mean(dim=0).abs().max() < 1e-5 * gradient.abs().max()


@pytest.mark.parametrize("shape", [(64, 128), (128, 64)], ids=str)
@pytest.mark.parametrize("rank", [0, 1, 20])
@pytest.mark.parametrize("beta", [1e3, 1e6, 1e12])
def test_rank_deficiency_with_a_large_beta_is_finite(shape, rank, beta):
    batch, dim = shape
    z = leaf(torch.randn(batch, rank) @ torch.randn(rank, dim) + 1, torch.float32)
    value, gradient = evaluated(LogDet(beta), [z])
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("beta", [1e-3, 0.1, 2.0])
@pytest.mark.parametrize("shape", [(53, 145), (145, 53)], ids=str)
def test_near_collapse_log_det_keeps_its_digits(shape, beta):
    # the matrix is nearly the identity. log(1 + x) has the rounding error of 1 and not of x, so an absolute error is allowed
    z = 1e-2 * correlated_views(1, shape, torch.float32)[0].detach()
    value = LogDet(beta, per_dimension=False)(z).double()
    assert (value - log_det(z.double(), beta=beta)).abs() <= 1e-7 * max(shape)


@pytest.mark.parametrize("side", [1, 2, 5, 40, 128, 150])
@pytest.mark.parametrize("factorize_", [cholesky.factorize_, cpu.factorize_])
def test_a_factorization_is_right_and_one_that_fails_gives_nan_in_its_own_group_alone(factorize_, side):
    half = torch.randn(2, side, 2 * side, dtype=torch.float64)
    gram = half @ half.mT
    factor, identity, largest = factorize_(gram.clone())
    identity = identity.expand(2)[:, None, None] * torch.eye(side, dtype=gram.dtype)
    torch.testing.assert_close(factor.tril() @ factor.tril().mT, gram + identity)
    assert largest == gram.diagonal(dim1=1, dim2=2).max()
    gram[0, -1, -1] = -2
    diagonal = factorize_(gram)[0].diagonal(dim1=1, dim2=2)
    assert diagonal[0].isnan().all() and diagonal[1].isfinite().all()


@pytest.mark.parametrize("enlargement", [0.05, 0.5, 5.0, 500.0])
@pytest.mark.parametrize("shape", [(150, 140), (500, 64), (64, 500)], ids=str)
def test_singular_data_stay_definite_though_rounding_exceeds_the_smallest_eigenvalue(shape, enlargement):
    batch, dim = shape
    for z in (torch.randn(batch, 1).expand(batch, dim), torch.randn(3, dim)[torch.randint(3, (batch,))]):
        zc = z - z.mean(dim=0)
        rounding = 8 * torch.finfo(z.dtype).eps * torch.linalg.matrix_norm(zc.T @ zc / batch)
        assert LogDet(enlargement / float(rounding))(z).isfinite()


def test_several_bandwidths_are_the_mean_of_each():
    views = correlated_views(1, (150, 20))
    together = evaluated(Pairwise((2.0, 5.0, 9.0)), views)
    each = [evaluated(Pairwise(s), views) for s in (2.0, 5.0, 9.0)]
    assert_near(together, [sum(parts) / 3 for parts in zip(*each, strict=True)], 1e-12)


def test_coincident_samples_have_no_gradient_under_a_narrow_bandwidth():
    value, gradient = evaluated(Pairwise(0.02), [torch.full((150, 7), 0.7, requires_grad=True)])
    constant = evaluated(Pairwise(0.02), [torch.full((2, 7), 0.7, requires_grad=True)])[0]
    torch.testing.assert_close(value, constant)
    assert gradient.abs().max() < 1e-3
