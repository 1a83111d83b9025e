"""The Triton kernels under Triton's interpreter; test_kernels_triton runs this file in a process that has it switched on."""

from __future__ import annotations

import pytest
import torch
from twins import vicreg_terms

from it_losses.kernels import cuda_vicreg, triton_launches

WEIGHTS = (25.0, 25.0, 1.0)
#: relative error of the gradient; the interpreter cuts bfloat16 off where a GPU rounds it to nearest
GRADIENT = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Scratch memory holds NaN: what is read before it is written shows."""
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size, **kw: new_empty(self, *size, **kw).fill_(torch.nan))


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


def test_few_rows_and_many_columns_split_the_columns(monkeypatch):
    monkeypatch.setattr(cuda_vicreg, "SPLIT_COLS", 512)
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


@pytest.mark.parametrize("uses_gram", [True, False])
def test_a_bad_input_gives_a_bad_loss(uses_gram):
    z_a, z_b = views(20, 30, torch.float32)
    z_b[3, 4] = torch.nan
    assert not evaluated(z_a, z_b, uses_gram=uses_gram)[0].isfinite()


def test_pair_sums_are_those_of_the_matrix():
    x = torch.randn(2, 70, 20)
    ratios = torch.tensor([[0.01, 0.02], [0.1, 0.1]])
    sums = triton_launches.pair_sums(x, x.square().sum(dim=-1), ratios)
    distance = (x[:, :, None] - x[:, None]).double().square().sum(dim=-1)
    exact = torch.exp(-ratios[:, :, None, None] * distance).sum(dim=-1)
    torch.testing.assert_close(sums.double(), exact, rtol=2e-6, atol=0)
