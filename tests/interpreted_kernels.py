"""The Triton kernels under Triton's interpreter; test_kernels_triton runs this file in a process that has it switched on."""

from __future__ import annotations

import pytest
import torch
from definitions import assert_no_worse, leaf, log_det, pairwise, vicreg_terms

from it_losses.entropy.log_det import half_log_det
from it_losses.entropy.pairwise import spread_entropy, squared_distances
from it_losses.kernels import (
    closed_log_det,
    closed_vicreg,
    cuda_log_det,
    cuda_pairs,
    cuda_products,
    cuda_vicreg,
    entropy_launches,
    triton_launches,
)

WEIGHTS = (25.0, 25.0, 1.0)
#: relative error of the gradient; the interpreter cuts bfloat16 off where a GPU rounds it to nearest
GRADIENT = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Scratch memory holds NaN: what is read before it is written shows."""
    new_empty = torch.Tensor.new_empty

    def poisoned_empty(self, *size, **options):
        x = new_empty(self, *size, **options)
        return x.fill_(torch.nan) if x.is_floating_point() else x

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned_empty)


def evaluated(z_a, z_b, *, uses_gram, upstream=-1.7):
    loss, terms, saved = cuda_vicreg.forward(z_a, z_b, WEIGHTS, 1.0, 1e-4, uses_gram=uses_gram)
    return loss, terms, cuda_vicreg.backward(torch.tensor(upstream), z_a, z_b, saved, WEIGHTS)


def views(batch, dim, dtype):
    z = torch.randn(batch, dim) * torch.linspace(0.3, 1.5, dim) + 0.5
    return z.to(dtype), (z + 0.3 * torch.randn(batch, dim)).to(dtype)


def assert_vicreg(z_a, z_b, *, uses_gram, tolerance):
    exact = [z.double().requires_grad_() for z in (z_a, z_b)]
    truth = vicreg_terms(*exact)
    total = sum(w * term for w, term in zip(WEIGHTS, truth, strict=True))
    gradient = torch.stack(torch.autograd.grad(-1.7 * total, exact))
    loss, terms, got = evaluated(z_a, z_b, uses_gram=uses_gram)
    assert got.dtype == z_a.dtype
    assert abs(loss.double() - total) <= tolerance * total
    assert (terms.double() - torch.stack(truth)).abs().max() <= tolerance * max(truth)
    assert (got.double() - gradient).norm() <= tolerance * gradient.norm()


@pytest.mark.parametrize("uses_gram", [True, False])
@pytest.mark.parametrize("dtype", GRADIENT, ids=str)
@pytest.mark.parametrize(("batch", "dim"), [(3, 1), (33, 70)])
def test_vicreg_and_its_gradient_are_the_definitions(batch, dim, dtype, uses_gram):
    assert_vicreg(*views(batch, dim, dtype), uses_gram=uses_gram, tolerance=GRADIENT[dtype])


@pytest.mark.parametrize("uses_gram", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_gradient_in_parts_is_the_gradient(dtype, uses_gram, monkeypatch):
    monkeypatch.setattr(cuda_vicreg, "PART_BYTES", 4096)
    z_a, z_b = views(70, 130, dtype) if uses_gram else views(130, 70, dtype)
    assert len(cuda_vicreg._parts(z_a, by_columns=uses_gram)) == 3
    assert_vicreg(z_a, z_b, uses_gram=uses_gram, tolerance=GRADIENT[dtype])


def test_few_rows_and_many_columns_split_the_columns(monkeypatch):
    monkeypatch.setattr(cuda_products, "SPLIT_COLS", 512)
    assert_vicreg(*views(67, 1100, torch.float32), uses_gram=True, tolerance=1e-6)


def test_rows_with_strides_and_a_second_chunk():
    z_a, z_b = views(2 * triton_launches.CHUNK + 3, 40, torch.float32)
    assert_vicreg(z_a.T.contiguous().T, torch.cat((z_b, z_b), dim=1)[:, :40], uses_gram=False, tolerance=1e-6)


@pytest.mark.parametrize("sigmas", [30, 1000])
def test_the_variance_keeps_its_digits_far_from_zero(sigmas):
    z = torch.randn(300, 20) + sigmas
    mean, variance, *_ = triton_launches.statistics(z, z, margin=1.0, epsilon=1e-4, push=1.0)
    exact = z.double().var(dim=0)
    assert (variance[0, 0].double() / exact - 1).abs().max() < 1e-4
    assert (mean[0, 0].double() / z.double().mean(dim=0) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_one_dominant_feature_does_not_cancel_the_others(dtype):
    z_a, z_b = views(20, 70, torch.float32)
    z_a[:, 7] *= 200
    z_b[:, 7] *= 200
    assert_vicreg(z_a.to(dtype), z_b.to(dtype), uses_gram=True, tolerance=GRADIENT[dtype])


@pytest.mark.parametrize("dtype", GRADIENT, ids=str)
@pytest.mark.parametrize(("batch", "dim"), [(33, 70), (70, 33)])
def test_what_waits_for_the_backward_pass_is_what_a_compiler_is_told(batch, dim, dtype):
    _, _, saved = cuda_vicreg.forward(*views(batch, dim, dtype), WEIGHTS, 1.0, 1e-4, uses_gram=batch < dim)
    told = closed_vicreg.saved_shapes("cuda", dtype, 2, 1, batch, dim)
    assert [(part.shape, part.dtype) for part in saved if part is not None] == told


def assert_no_worse_than_the_reference(z_a, z_b, weights, *, uses_gram):
    """Loss and gradient in float32, of samples that are exact in it."""
    results = []
    for dtype in (torch.float32, torch.float64):
        own = [leaf(z, dtype) for z in (z_a, z_b)]
        loss = sum(w * term for w, term in zip(weights, vicreg_terms(*own), strict=True))
        results.append((loss, torch.stack(torch.autograd.grad(-1.7 * loss, own))))
    loss, _, saved = cuda_vicreg.forward(z_a, z_b, weights, 1.0, 1e-4, uses_gram=uses_gram)
    got = loss, cuda_vicreg.backward(torch.tensor(-1.7), z_a, z_b, saved, weights)
    for mine, plain, truth in zip(got, *results, strict=True):
        assert_no_worse(mine, plain, truth, tolerance=1e-6)


@pytest.mark.parametrize("sigma", [30.0, 1e4])
@pytest.mark.parametrize("count", [2, 7, 16])
def test_a_few_dominant_decorrelated_features_do_not_cancel_the_others(count, sigma):
    views = []
    for columns in (slice(0, count), slice(-count, None)):
        z, few = torch.randn(2, 60, 100, dtype=torch.float64)
        z[:, columns] = torch.linalg.qr(few - few.mean(dim=0))[0][:, :count] * sigma * 59**0.5
        views.append(z.float())
    assert_no_worse_than_the_reference(*views, (0.0, 0.0, 1.0), uses_gram=True)


@pytest.mark.parametrize("uses_gram", [True, False])
@pytest.mark.parametrize("offset", [100.0, 1e3, 1e4])
def test_the_rounding_of_a_mean_moves_no_gradient(offset, uses_gram):
    # or two chunks of rows, whose means are joined
    batch, dim = (60, 80) if uses_gram else (triton_launches.CHUNK + 44, 20)
    z = torch.randn(batch, dim) + offset
    assert_no_worse_than_the_reference(z, z.flip(0), (0.0, 25.0, 1.0), uses_gram=uses_gram)


@pytest.mark.parametrize("uses_gram", [True, False])
def test_a_bad_input_gives_a_bad_loss(uses_gram):
    z_a, z_b = views(20, 30, torch.float32)
    z_b[3, 4] = torch.nan
    assert not evaluated(z_a, z_b, uses_gram=uses_gram)[0].isfinite()


def test_pair_sums_are_those_of_the_matrix():
    x = torch.randn(2, 70, 20)
    ratios = torch.tensor([[0.01, 0.02], [0.1, 0.1]])
    sums = entropy_launches.pair_sums(x, x.square().sum(dim=-1), ratios)
    distance = (x[:, :, None] - x[:, None]).double().square().sum(dim=-1)
    exact = torch.exp(-ratios[:, :, None, None] * distance).sum(dim=-1)
    torch.testing.assert_close(sums.double(), exact, rtol=2e-6, atol=0)


#: error beyond the reference's in float32 where operands are rounded: of the value, of the gradient. The interpreter cuts
#: bfloat16 off: every element is up to 2^-8 too small, and half of that on average, so that products are 2^-8 too small
ROUNDED = {torch.float32: (1e-6, 2e-6), torch.float16: (2e-4, 2e-3), torch.bfloat16: (2.0**-8, 2e-2)}


def grouped(batch, dim, dtype, groups=2):
    z = torch.randn(groups, batch, dim) * torch.linspace(0.3, 1.5, dim) + 3
    return z.to(dtype)


def assert_entropy(function, derivative, reference, definition, z, upstream, *, tolerance):
    """Value and gradient of z [groups, batch, dim]: no further from the definition in float64 than the reference in float32."""
    plain, exact = z.float().requires_grad_(), z.double().requires_grad_()
    rough, truth = reference(plain), definition(exact)
    value, saved = function(z)
    got = derivative(upstream, z, saved)
    assert got.dtype == z.dtype and value.dtype == torch.float32
    # a value may be as small as its terms are not
    assert_no_worse(1 + value, 1 + rough, 1 + truth, tolerance=tolerance[0])
    gradients = [torch.autograd.grad(v, x, upstream.to(x.dtype))[0] for v, x in ((rough, plain), (truth, exact))]
    assert_no_worse(got, *gradients, tolerance=tolerance[1])


def assert_log_det(z, beta, *, tolerance):
    batch, dim = z.shape[1:]
    options = {"uses_gram": closed_log_det.uses_gram(batch, dim)}

    def function(z):
        value, *saved = cuda_log_det.forward(z, beta / batch, **options)
        return value, saved

    assert_entropy(
        function,
        lambda grad, z, saved: cuda_log_det.backward(grad, z, *saved, beta / batch, **options),
        lambda z: half_log_det(z, beta=beta),
        lambda z: torch.stack([log_det(group, beta=beta) for group in z]),
        z,
        torch.tensor([-1.3, 0.4])[: len(z)],
        tolerance=tolerance,
    )


@pytest.mark.parametrize("dtype", ROUNDED, ids=str)
@pytest.mark.parametrize(("batch", "dim"), [(2, 1), (2, 3), (33, 70), (70, 33)])
def test_log_det_and_its_gradient_are_the_definitions(batch, dim, dtype):
    assert_log_det(grouped(batch, dim, dtype), 2.0, tolerance=ROUNDED[dtype])


@pytest.mark.parametrize("dtype", ROUNDED, ids=str)
def test_the_null_direction_of_the_gram_matrix_does_not_reach_the_gradient(dtype):
    # an inverse that is not centred multiplies the rounding of 1^T Zc by beta: the gradient would be wrong by its own size
    assert_log_det(grouped(40, 160, dtype, groups=1), 1e3, tolerance=ROUNDED[dtype])


def test_float16_takes_a_large_beta_and_a_small_upstream_gradient():
    z = grouped(70, 33, torch.float16, groups=1)
    _, *saved = cuda_log_det.forward(z, 1e6 / 70, uses_gram=False)
    gradient = cuda_log_det.backward(torch.tensor([1e3]), z, *saved, 1e6 / 70, uses_gram=False)
    exact = z.double().requires_grad_()
    (truth,) = torch.autograd.grad(1e3 * log_det(exact[0], beta=1e6), exact)
    assert (gradient.double() - truth).norm() <= 2e-3 * truth.norm()


def test_many_columns_split_the_products_of_log_det(monkeypatch):
    monkeypatch.setattr(cuda_products, "SPLIT_COLS", 512)
    assert_log_det(grouped(67, 1100, torch.float32), 2.0, tolerance=ROUNDED[torch.float32])


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("shape", [(20, 30), (30, 20)])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_input_gives_a_bad_entropy(shape, bad):
    z = grouped(*shape, torch.float32)
    z[1, 3, 4] = bad
    value, *_ = cuda_log_det.forward(z, 0.1, uses_gram=shape[0] < shape[1])
    assert value[0].isfinite() and not value[1].isfinite()
    for keep in (True, False):
        value, *_ = cuda_pairs.forward(z, torch.full((1, 2), 30.0), 0, keep=keep)
        assert value[0, 0].isfinite() and not value[0, 1].isfinite()


def assert_pairwise(z, scales, *, keep, memory_bytes=0, loss_scale=1.0, tolerance):
    scales = torch.tensor(scales)[:, None].expand(-1, len(z)).contiguous()

    def function(z):
        value, *saved = cuda_pairs.forward(z, scales, memory_bytes, keep=keep)
        return value, saved

    assert_entropy(
        function,
        lambda grad, z, saved: cuda_pairs.backward(grad, z, scales, *saved, memory_bytes),
        lambda z: torch.stack([spread_entropy(squared_distances(z), scale=t) for t in scales]),
        lambda z: torch.stack([torch.stack([pairwise(group, scale=float(t)) for group in z]) for t in scales[:, 0]]),
        z,
        loss_scale * torch.randn(len(scales), len(z)),
        tolerance=tolerance,
    )


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("dtype", ROUNDED, ids=str)
@pytest.mark.parametrize(("batch", "dim"), [(2, 1), (30, 7)])
def test_pairwise_entropy_and_its_gradient_are_the_definitions(batch, dim, dtype, keep):
    assert_pairwise(grouped(batch, dim, dtype), [0.6 * dim], keep=keep, tolerance=ROUNDED[dtype])


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("dtype", ROUNDED, ids=str)
def test_several_scales_share_one_product(dtype, keep):
    assert_pairwise(grouped(20, 40, dtype), [9.0, 40.0, 200.0], keep=keep, tolerance=ROUNDED[dtype])


@pytest.mark.parametrize("keep", [True, False])
def test_more_pairs_than_a_tile_and_than_a_strip(keep):
    z = grouped(2 * cuda_pairs.FEWEST_ROWS + 22, 70, torch.float32, groups=1)
    assert z.shape[1] > entropy_launches.PAIR_COLS
    assert_pairwise(z, [40.0], keep=keep, tolerance=ROUNDED[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_narrow_bandwidths_keep_their_digits_far_from_zero(dtype):
    z = (grouped(40, 64, torch.float32) + 30).to(dtype)
    for keep in (True, False):
        # without a loss scale the gradient itself is below the normal numbers of float16
        assert_pairwise(z, [6.0], keep=keep, loss_scale=1e3, tolerance=ROUNDED[dtype])


def test_sums_in_a_fixed_order_are_the_same_sums(monkeypatch):
    z = grouped(70, 20, torch.float32)
    free = cuda_pairs.forward(z, torch.full((1, 2), 12.0), 0, keep=False)
    monkeypatch.setattr(cuda_pairs, "may_add_in_any_order", lambda: False)
    fixed = cuda_pairs.forward(z, torch.full((1, 2), 12.0), 0, keep=False)
    torch.testing.assert_close(free, fixed)


def test_coincident_samples_have_no_entropy_and_no_gradient():
    z = torch.randn(1, 1, 7).repeat(1, 40, 1)
    for keep in (True, False):
        value, *saved = cuda_pairs.forward(z, torch.full((1, 1), 1e-3), 0, keep=keep)
        gradient = cuda_pairs.backward(torch.ones(1, 1), z, torch.full((1, 1), 1e-3), *saved, 0)
        assert value.abs().max() < 1e-6 and not gradient.any()


@pytest.mark.parametrize("layout", ["columns first", "groups between", "expanded"])
def test_any_strides_of_samples(layout):
    z = grouped(33, 20, torch.float32)
    strided = {
        "columns first": z.mT.contiguous().mT,
        "groups between": z.movedim(0, 1).contiguous().movedim(1, 0),
        "expanded": z[:1].expand(2, -1, -1),
    }[layout]
    assert_log_det(strided, 2.0, tolerance=ROUNDED[torch.float32])
    assert_pairwise(strided, [12.0], keep=True, tolerance=ROUNDED[torch.float32])


def test_strips_stay_within_the_memory_that_is_allowed():
    z = torch.empty(2, 1000, 64, dtype=torch.float16)
    # of a row: products in float32, weights in float16, and the product of weights and samples in float32
    row_bytes = 4 * 1000 + 2 * 1000 + 4 * 64
    assert cuda_pairs._height(z, 2 * 300 * row_bytes, row_bytes=row_bytes) == 300
    assert cuda_pairs._height(z, 0, row_bytes=row_bytes) == cuda_pairs.FEWEST_ROWS
    assert cuda_pairs._height(z, 1 << 40, row_bytes=row_bytes) == 1000
