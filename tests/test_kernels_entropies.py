"""The closed forms of log-det and pairwise entropy against their definitions in float64, where the naive way breaks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from twins import LAYOUTS, TOLERANCE, assert_no_worse, leaf, log_det, pairwise

from it_losses import EntropyRegularizer, LogDet, Pairwise, kernels
from it_losses.entropy.log_det import half_log_det
from it_losses.entropy.pairwise import spread_entropy, squared_distances
from it_losses.kernels import closed_log_det, closed_pairwise
from it_losses.kernels.definite import half_log_det_, rounding_of_products

SHAPES = [(2, 1), (3, 7), (17, 5), (31, 97), (97, 31), (131, 263), (263, 131), (521, 64), (513, 3)]


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch memory holds NaN: what is read before it is written shows."""
    new_empty, empty_like = torch.Tensor.new_empty, torch.empty_like
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size, **kw: new_empty(self, *size, **kw).fill_(torch.nan))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kw: empty_like(*args, **kw).fill_(torch.nan))


@pytest.fixture(params=[closed_log_det.KEPT, 0], ids=["kept", "centred twice"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-det keeps small samples centred for its backward pass, and centres large ones again."""
    monkeypatch.setattr(closed_log_det, "KEPT", request.param)


def samples(batch: int, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch * 1009 + dim)
    z = torch.randn(batch, dim, generator=generator, dtype=torch.float64)
    return z * torch.linspace(0.3, 1.5, dim, dtype=torch.float64) + 0.5


def fused_log_det(z: Tensor, beta: float) -> Tensor:
    return kernels.log_det(z, beta=beta)


def assert_exact(fused, plain, definition, z: Tensor, dtype: torch.dtype, *constants: float, tolerance=None) -> None:
    """Value and gradient for a random upstream gradient; the reference computes low precision in float32."""
    z, upstream = z.to(dtype).double(), -1.3
    full = torch.promote_types(dtype, torch.float32)
    results = []
    for function, to in ((fused, dtype), (plain, full), (definition, torch.float64)):
        own = leaf(z, to)
        value = function(own, *constants)
        (value * upstream).backward()
        results.append((value, own.grad))
    for got, reference, exact in zip(*results, strict=True):
        assert_no_worse(got, reference, exact, tolerance=tolerance or TOLERANCE[dtype])


def assert_log_det(z: Tensor, dtype: torch.dtype, beta: float, **options) -> None:
    assert_exact(
        fused_log_det, lambda z, b: half_log_det(z, beta=b), lambda z, b: log_det(z, beta=b), z, dtype, beta, **options
    )


def assert_pairwise(z: Tensor, dtype: torch.dtype, scale: float, memory_bytes: int | None = None, **options) -> None:
    assert_exact(
        lambda z, s: kernels.pairwise(z, [s], memory_bytes=memory_bytes)[0],
        lambda z, s: spread_entropy(squared_distances(z), scale=s),
        lambda z, s: pairwise(z, scale=s),
        z,
        dtype,
        scale,
        **options,
    )


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_log_det_and_its_gradient_are_the_definitions(batch, dim, dtype):
    assert_log_det(samples(batch, dim), dtype, 2.0)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_matter(layout):
    for shape in ((31, 97), (263, 64)):
        z = LAYOUTS[layout](samples(*shape)).requires_grad_()
        dense = z.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        for function in (lambda z: kernels.log_det(z, beta=2.0), lambda z: kernels.pairwise(z, [30.0])[0]):
            pair = [torch.autograd.grad(function(x), x)[0] for x in (z, dense)]
            torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("beta", [1e3, 1e6])
def test_the_null_direction_of_the_gram_matrix_does_not_reach_the_gradient(beta):
    # 1 is a null vector of it: an inverse that is not centred multiplies the rounding of 1^T Zc by beta
    z = leaf(samples(128, 512) + 3, torch.float32)
    (gradient,) = torch.autograd.grad(kernels.log_det(z, beta=beta), z)
    assert gradient.mean(dim=0).abs().max() < 1e-5 * gradient.abs().max()
    assert_log_det(z.detach().double(), torch.float32, beta)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(("batch", "dim"), [(64, 128), (128, 64)])
@pytest.mark.parametrize("rank", [0, 1, 20])
def test_rank_deficiency_with_a_large_beta_is_finite(batch, dim, rank):
    z = (samples(batch, rank) @ samples(rank, dim) if rank else torch.ones(batch, dim)).float().requires_grad_()
    value = kernels.log_det(z, beta=1e6)
    (gradient,) = torch.autograd.grad(value, z)
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize(("batch", "dim"), [(53, 245), (245, 53)])
@pytest.mark.parametrize("beta", [1e-3, 0.1, 2.0])
def test_near_collapse_the_value_keeps_its_digits(batch, dim, beta):
    # A is nearly I: the logarithm of 1 + x has the digits of 1, not of x
    z = (1e-2 * samples(batch, dim)).float()
    torch.testing.assert_close(
        kernels.log_det(z, beta=beta).double(), log_det(z.double(), beta=beta), rtol=3e-7, atol=0, check_dtype=False
    )


@pytest.mark.parametrize("seed", range(3))
def test_small_pivots_behind_large_ones_keep_their_digits(seed):
    # all but one sample of a cluster have a pivot near 1 where the diagonal is 400: LAPACK's own sums left 3e-4 of the value
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(7, 300, generator=generator)
    z = centres[torch.randint(7, (250,), generator=generator)] + 0.05 * torch.randn(250, 300, generator=generator)
    torch.testing.assert_close(kernels.log_det(z, beta=30.0).double(), log_det(z.double(), beta=30.0), rtol=6e-5, atol=0)


@pytest.mark.parametrize(("batch", "dim"), [(703, 3), (530, 4), (700, 2), (700, 6), (5000, 8)])
def test_few_columns_keep_the_digits_of_their_few_covariances(batch, dim):
    # of one sign and skewed, so that the rounding of a long sum is not shared out among many
    z = samples(batch, dim).float().relu()
    fused, exact = leaf(z, torch.float32), leaf(z, torch.float64)
    value, truth = kernels.log_det(fused, beta=1.0), log_det(exact, beta=1.0)
    torch.testing.assert_close(value.double(), truth, rtol=2e-7, atol=0)
    (gradient,), (slope,) = torch.autograd.grad(value, fused), torch.autograd.grad(truth, exact)
    assert (gradient.double() - slope).abs().max() < 5e-7 * slope.abs().max()


@pytest.mark.parametrize("beta", [1e4, 1e6, 1e8])
def test_few_columns_that_are_all_one_are_lifted_by_the_rounding_of_float32(beta):
    # their sums are exact, but an inverse in float32 needs the lift: without it the gradient was up to 100 times too large
    z = samples(200, 1).expand(200, 8).float()
    gram = beta / 200 * (z - z.mean(dim=0)).T @ (z - z.mean(dim=0))
    lifted = 1 + (rounding_of_products(gram) - 0.5).clamp_min(0)
    fused, exact = leaf(z, torch.float32), leaf(z, torch.float64)
    (gradient,) = torch.autograd.grad(kernels.log_det(fused, beta=beta), fused)
    (truth,) = torch.autograd.grad(log_det(exact, beta=float(beta / lifted)), exact)
    assert (gradient - truth).abs().max() < 0.5 * truth.abs().max()


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("shape", [(125, 110), (110, 125), (300, 40)])
def test_nothing_is_lifted_where_rounding_leaves_it_definite(shape):
    z = samples(*shape).float()
    gradients = []
    for x in (z, z.double()):
        x = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(kernels.log_det(x, beta=100.0), x)[0].double())
    fused, exact = gradients
    assert (fused - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize("side", [1, 2, 5, 40, 300])
def test_what_is_not_definite_gives_nan_in_its_own_group_alone(side):
    gram = torch.eye(side).repeat(2, 1, 1)
    gram[0, -1, -1] = -2
    value, factor, _ = half_log_det_(gram)
    inverse = torch.cholesky_inverse(factor)
    assert value[0].isnan() and inverse[0].isnan().all() and value[1].isfinite() and inverse[1].isfinite().all()


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(("batch", "dim"), [(20, 40), (40, 20)])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_input_gives_a_bad_value(batch, dim, bad):
    z = samples(batch, dim).float()
    z[1, 2] = bad
    assert not kernels.log_det(z, beta=2.0).isfinite()
    assert not kernels.pairwise(z, [30.0]).isfinite().any()


@pytest.mark.parametrize(("batch", "dim"), [(300, 200), (150, 140), (500, 64), (64, 500)])
@pytest.mark.parametrize("kind", ["one feature", "three points"])
@pytest.mark.parametrize("share", [0.05, 0.5, 5.0, 500.0])
def test_singular_data_stay_definite_though_rounding_may_take_more_than_the_least_eigenvalue(batch, dim, kind, share):
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        if kind == "one feature":
            z = torch.randn(batch, 1, generator=generator).expand(batch, dim)
        else:
            z = torch.randn(3, dim, generator=generator)[torch.randint(3, (batch,), generator=generator)]
        zc = z - z.mean(dim=0)
        beta = share / float(rounding_of_products(zc.T @ zc / batch))
        assert kernels.log_det(z, beta=beta).isfinite() and half_log_det(z, beta=beta).isfinite()


@pytest.mark.parametrize("memory_bytes", [0, None])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_pairwise_entropy_and_its_gradient_are_the_definitions(batch, dim, dtype, memory_bytes):
    assert_pairwise(samples(batch, dim), dtype, 0.6 * dim, memory_bytes)


@pytest.mark.parametrize("memory_bytes", [0, None])
@pytest.mark.parametrize("scale", [0.1, 0.02])
def test_a_narrow_bandwidth_keeps_its_digits_at_a_mean_of_10_sigma(scale, memory_bytes):
    # a pair of a point with itself outweighs all others: kept in the difference it leaves no digits of them
    z = samples(128, 128)
    assert_pairwise(z + 10 * z.std(dim=0), torch.float32, scale * 128, memory_bytes)


def test_near_duplicates_are_resolved_as_well_as_products_allow():
    z, scale = samples(64, 64), 0.05
    z = torch.cat((z, z + 1e-3 * samples(64, 64)))
    # |z_i - z_j|^2 = n_i + n_j - 2 z_i.z_j: three roundings, of n, n and 2n to half a unit each, move it by 2 eps n at most;
    # over the scale that is the relative error of a similarity, and so of the pull between two near duplicates
    norms = (z - z.mean(dim=0)).square().sum(dim=1)
    tolerance = float(2 * torch.finfo(torch.float32).eps * norms.max() / scale)
    assert tolerance < 5e-4
    assert_pairwise(z, torch.float32, scale, tolerance=tolerance)


@pytest.mark.parametrize("memory_bytes", [0, None])
def test_coincident_samples_have_no_entropy_and_no_gradient(memory_bytes):
    z = torch.full((40, 7), 0.7, requires_grad=True)
    value = kernels.pairwise(z, [1e-3], memory_bytes=memory_bytes)[0]
    (gradient,) = torch.autograd.grad(value, z)
    assert value.abs() < 1e-6
    assert gradient.abs().max() < 1e-5


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("batch", "dim"), [(40, 7), (300, 20), (64, 512)])
def test_collapsed_samples_do_not_pull_at_each_other_by_rounding(batch, dim, dtype):
    # the bandwidth of "auto" is as small as the spread, which is that of rounding here
    z = leaf(torch.randn(1, dim).expand(batch, dim), dtype)
    assert not torch.autograd.grad(Pairwise()(z), z)[0].any()


@pytest.mark.parametrize("memory_bytes", [0, None])
def test_several_scales_and_groups_equal_one_at_a_time(memory_bytes):
    z = leaf(torch.stack([samples(150, 20), samples(150, 20) * 2]), torch.float64)
    scales = [5.0, torch.tensor([10.0, 30.0]), 60.0]
    together = kernels.pairwise(z, scales, memory_bytes=memory_bytes)
    apart = torch.stack(
        [torch.stack([kernels.pairwise(z[g], [t[g] if isinstance(t, Tensor) else t])[0] for g in (0, 1)]) for t in scales]
    )
    torch.testing.assert_close(together, apart)
    upstream = torch.randn(3, 2, dtype=torch.float64)
    torch.testing.assert_close(*(torch.autograd.grad((x * upstream).sum(), z)[0] for x in (together, apart)))


def test_the_unit_of_length_rounds_nothing():
    scales = torch.logspace(-24, 24, 499)[None]
    unit, widths = closed_pairwise._units(torch.empty(0), scales)
    assert (unit.frexp().mantissa == 0.5).all()
    assert torch.equal(widths.double(), scales.double() / unit.double().square())
    assert widths.min() > 0.25 and widths.max() < 1 + 1e-6


def test_squared_norms_carry_no_rounding_of_a_root():
    # the exponents of a narrow bandwidth are differences of them
    z = torch.randn(1, 1000, 64)
    exact = z.double().square().sum(dim=2, keepdim=True)
    rooted = z.norm(dim=2, keepdim=True).square()
    assert (closed_pairwise._squared_norms(z) - exact).norm() < 0.7 * (rooted - exact).norm()


def test_the_memory_bound_decides_whether_pairs_are_kept():
    z = leaf(samples(256, 16), torch.float32)
    kept = []
    for bound in (256 * 256 * 4, 256 * 256 * 4 - 1):
        value = kernels.pairwise(z, [10.0], memory_bytes=bound)
        kept.append(max(t.numel() for t in value.grad_fn.saved_tensors if t is not None))
    assert kept == [256 * 256, 256 * 16]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["log_det", "pairwise"])
def test_estimators_hand_half_precision_to_the_twin_as_it_comes(name, dtype):
    z = leaf(samples(40, 60), dtype)
    value = EntropyRegularizer(name)(z)
    kept, pending = [], [value.grad_fn]
    while pending:
        node = pending.pop()
        kept += [t for t in getattr(node, "saved_tensors", ()) if t is not None]
        pending += [following for following, _ in node.next_functions if following is not None]
    # no float32 copy of the samples waits for the backward pass
    assert not [t for t in kept if t.shape[-2:] == z.shape and t.dtype != dtype]
    assert torch.autograd.grad(value, z)[0].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(5, 9), (131, 263), (263, 131), (20, 3, 40)], ids=str)
@pytest.mark.parametrize("estimator", [LogDet(2.0), Pairwise(), Pairwise((5.0, 20.0))], ids=repr)
def test_half_precision_is_as_exact_as_its_result_can_be(estimator, shape, dtype):
    z = leaf(torch.randn(shape, dtype=torch.float64) + 0.5, dtype)
    exact = leaf(z, torch.float64)
    value, truth = estimator(z), estimator(exact)
    torch.testing.assert_close(value.double(), truth, rtol=1e-6, atol=1e-6)
    got, gradient = torch.autograd.grad(-1.3 * value, z)[0], torch.autograd.grad(-1.3 * truth, exact)[0]
    unit = torch.finfo(dtype)
    allowed = 0.51 * unit.eps * gradient.abs() + 1e-5 * gradient.abs().max() + unit.smallest_normal * unit.eps
    assert ((got.double() - gradient).abs() <= allowed).all()


@pytest.mark.filterwarnings("ignore:pairwise entropy stands")
@pytest.mark.parametrize("bandwidths", [(1e-12, 1e12), (1e12, 1e-12), (1e12, 1.0, 1e-12), (1e-12, 2.0), (1e-3, 1e12)], ids=str)
@pytest.mark.parametrize("memory_mib", [256.0, 0.0])
def test_bandwidths_may_be_as_far_apart_as_they_can(bandwidths, memory_mib):
    z, estimator = leaf(samples(40, 12), torch.float32), Pairwise(bandwidths, memory_mib=memory_mib)
    exact = leaf(z, torch.float64)
    truth = sum(Pairwise(s)(exact) for s in bandwidths) / len(bandwidths)
    value = estimator(z)
    torch.testing.assert_close(value.double(), truth, rtol=1e-6, atol=1e-6)
    slopes = torch.autograd.grad(value, z)[0].double(), torch.autograd.grad(truth, exact)[0]
    # the narrowest is the unit of all: what the widest alone would move is below its reach
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6 * float(slopes[1].abs().max()) + 1e-20)
