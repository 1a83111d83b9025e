"""Entropies equal their closed forms for known covariances and two points. LogDet and Pairwise bound a mixture's entropy."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal, kl_divergence

from it_losses import LogDet, Pairwise, VarianceCovariance, functional

F64 = torch.float64


def batch_with_covariance(eigenvalues, *, rows, seed=0, unbiased=False):
    """Samples `[rows, dim]` whose covariance matrix is exactly diagonal, with the given eigenvalues."""
    g = torch.Generator().manual_seed(seed)
    eigenvalues = torch.as_tensor(eigenvalues, dtype=F64)
    raw = torch.randn(rows, len(eigenvalues), dtype=F64, generator=g)
    orthonormal = torch.linalg.qr(raw - raw.mean(dim=0)).Q
    return orthonormal * (eigenvalues * (rows - 1 if unbiased else rows)).sqrt() + 4


@pytest.mark.parametrize("beta", [1e-2, 1.0, 1e3])
@pytest.mark.parametrize("rows", [12, 40])
def test_log_det_of_an_exact_covariance(beta, rows):
    eigenvalues = torch.tensor([2.0, 1.0, 0.5, 0.25, 0.0], dtype=F64)
    z = torch.cat([batch_with_covariance(eigenvalues[:4], rows=rows), torch.ones(rows, 1, dtype=F64)], dim=1)
    expected = 0.5 * torch.log1p(beta * eigenvalues).sum()
    torch.testing.assert_close(LogDet(beta, per_dimension=False)(z), expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(LogDet(beta)(z), expected / 5, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(functional.log_det_entropy(z, beta=beta), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("beta", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("shape", [(40, 6), (6, 40)], ids=str)
def test_anchored_log_det_is_minus_a_divergence_from_the_round_gaussian(shape, beta, backend, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", backend)
    z = (torch.randn(shape, dtype=F64) * 1.5 + 1).requires_grad_()
    # the columns of `spanned` are a basis of the span of the centred samples; with a variance of `target` along each of them,
    # the mean variance of all dimensions is 1
    spanned = torch.linalg.svd((z - z.mean(dim=0)).detach(), full_matrices=False).Vh[: min(len(z) - 1, shape[1])].T
    target, identity = shape[1] / spanned.shape[1], torch.eye(spanned.shape[1], dtype=F64)
    centre, within = torch.zeros(spanned.shape[1], dtype=F64), (z - z.mean(dim=0)) @ spanned
    smoothed = MultivariateNormal(centre, within.T @ within / len(z) + identity / beta)
    expected = -kl_divergence(smoothed, MultivariateNormal(centre, (target + 1 / beta) * identity))
    for value, factor in ((LogDet(beta, per_dimension=False, anchor=True)(z), 1), (LogDet(beta, anchor=True)(z), shape[1])):
        torch.testing.assert_close(factor * value, expected, rtol=1e-11, atol=1e-11)
        slopes = [torch.autograd.grad(value, z, retain_graph=True)[0] for value in (factor * value, expected)]
        torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)
    assert torch.equal(functional.log_det_entropy(z, beta=beta, anchor=True), LogDet(beta, per_dimension=False, anchor=True)(z))


@pytest.mark.parametrize("beta", [0.1, 1.0, 30.0])
def test_anchored_log_det_is_zero_and_stationary_at_the_identity_covariance(beta):
    z = batch_with_covariance([1.0] * 5, rows=20).requires_grad_()
    value = LogDet(beta, anchor=True)(z)
    (slope,) = torch.autograd.grad(value, z)
    assert value.abs() < 1e-14 and slope.abs().max() < 1e-14
    assert LogDet(beta, anchor=True).scaling == "target" and LogDet(beta).scaling == "grows"


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("beta", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("shape", [(6, 40), (12, 12), (40, 6)], ids=str)
def test_anchored_log_det_is_largest_at_a_mean_variance_of_one_for_every_batch(shape, beta, backend, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", backend)
    centred = torch.randn(shape, dtype=F64)
    left, _, right = torch.linalg.svd(centred - centred.mean(dim=0), full_matrices=False)
    rank = min(shape[0] - 1, shape[1])
    z = ((shape[0] * shape[1] / rank) ** 0.5 * left[:, :rank] @ right[:rank]).requires_grad_()
    assert abs(z.detach().var(dim=0, unbiased=False).mean() - 1) < 1e-12
    value = LogDet(beta, anchor=True)(z)
    (slope,) = torch.autograd.grad(value, z)
    assert value.abs() < 1e-12 and slope.abs().max() < 1e-12


def test_log_det_by_the_gram_and_the_covariance_matrix_agree():
    z = torch.randn(8, 8, dtype=F64)
    wide = torch.cat([z, torch.zeros(8, 5, dtype=F64)], dim=1)
    torch.testing.assert_close(LogDet(3.0, per_dimension=False)(wide), LogDet(3.0, per_dimension=False)(z), rtol=1e-11, atol=0)


@pytest.mark.filterwarnings("ignore:log-det entropy")
@pytest.mark.parametrize("beta", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_log_det_survives_rank_deficiency(beta, dtype):
    z = torch.randn(64, 4, dtype=dtype) @ torch.randn(4, 32, dtype=dtype)
    z = z.requires_grad_()
    value = LogDet(beta)(z)
    value.backward()
    assert value.isfinite()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("std", [0.1, 0.9, 3.0])
def test_variance_covariance_of_an_exact_diagonal_covariance(std):
    z = batch_with_covariance([std**2] * 4, rows=20, unbiased=True)
    expected = -25 * max(0.0, 1 - math.sqrt(std**2 + 1e-4))
    assert VarianceCovariance()(z).item() == pytest.approx(expected, abs=1e-12)


def test_variance_covariance_of_two_correlated_coordinates():
    u = batch_with_covariance([1.0], rows=20, unbiased=True)
    # all six covariances are 4: sum their squares, divide by dim = 3, and multiply by -2 * covariance_weight = -2
    assert VarianceCovariance()(2 * u.expand(-1, 3)).item() == pytest.approx(-2 * 6 * 4**2 / 3, rel=1e-12)


@pytest.mark.parametrize(("divergence", "factor"), [("kl", 2), ("bhattacharyya", 8)])
@pytest.mark.parametrize("distance", [0.0, 0.5, 3.0])
def test_pairwise_of_two_points(divergence, factor, distance):
    z = torch.zeros(2, 3, dtype=F64)
    z[1, 0] = distance
    s = 0.8
    overlap = math.exp(-(distance**2) / (factor * s**2))
    expected = 1.5 * math.log(2 * math.pi * math.e * s**2) - math.log((1 + overlap) / 2)
    assert Pairwise(s, divergence)(z).item() == pytest.approx(expected, abs=1e-12)
    assert functional.pairwise_entropy(z, bandwidth=s, divergence=divergence).item() == pytest.approx(expected, abs=1e-12)


def test_several_bandwidths_are_averaged():
    z = torch.randn(9, 4, dtype=F64)
    mean = (Pairwise(0.7)(z) + Pairwise(2.0)(z)) / 2
    torch.testing.assert_close(Pairwise([0.7, 2.0])(z), mean)


@pytest.mark.parametrize(("divergence", "scale"), [("kl", 2), ("bhattacharyya", 8)])
def test_automatic_bandwidth_is_a_fraction_of_the_total_variance(divergence, scale):
    z = batch_with_covariance([4.0, 1.0, 1.0], rows=30, unbiased=True)
    s = math.sqrt(2 * 0.2 * 6.0 / scale)
    torch.testing.assert_close(Pairwise("auto", divergence, spread_fraction=0.2)(z), Pairwise(s, divergence)(z))


def test_automatic_bandwidths_of_both_divergences_give_one_gradient():
    z = torch.randn(30, 5, dtype=F64, requires_grad=True)
    (kl,) = torch.autograd.grad(Pairwise("auto", "kl")(z), z)
    (bhattacharyya,) = torch.autograd.grad(Pairwise("auto", "bhattacharyya")(z), z)
    torch.testing.assert_close(kl, bhattacharyya)


def mixture_entropy(z, s, draws=20_000):
    """Monte Carlo entropy in nats of the mixture of N(z_i, s^2 I), and its standard error."""
    mixture = MixtureSameFamily(Categorical(torch.ones(len(z))), Independent(Normal(z, s), 1))
    surprise = -mixture.log_prob(mixture.sample((draws,)))
    return surprise.mean().item(), surprise.std().item() / math.sqrt(draws)


# at the smallest bandwidth both bounds saturate and warn, but they are exact, because the components do not overlap
@pytest.mark.filterwarnings("ignore:pairwise entropy has reached its limit")
@pytest.mark.parametrize("s", [0.5, 1.5, 4.0])
def test_the_lower_and_the_upper_pairwise_bound_hold(s):
    z = 2 * torch.randn(48, 6, dtype=F64)
    truth, error = mixture_entropy(z, s)
    assert Pairwise(s, "bhattacharyya")(z) <= truth + 4 * error
    assert Pairwise(s, "kl")(z) >= truth - 4 * error
    # both bounds lie in the same interval of length log(batch), so they differ by at most log(batch)
    assert Pairwise(s, "kl")(z) - Pairwise(s, "bhattacharyya")(z) <= math.log(48)


@pytest.mark.parametrize("beta", [0.3, 4.0])
def test_log_det_is_an_upper_bound_on_the_smoothed_entropy(beta):
    z = torch.randn(48, 6, dtype=F64).sign() * 2
    truth, error = mixture_entropy(z, beta**-0.5)
    constant = 6 / 2 * math.log(2 * math.pi * math.e / beta)
    assert LogDet(beta, per_dimension=False)(z) + constant >= truth - 4 * error


def test_log_det_is_tight_for_a_gaussian():
    z = torch.randn(2048, 2, dtype=F64)
    truth, error = mixture_entropy(z, 1.0, draws=2_000)
    constant = math.log(2 * math.pi * math.e)
    assert (LogDet(1.0, per_dimension=False)(z) + constant).item() == pytest.approx(truth, abs=0.01 + 4 * error)


def test_curvature_of_log_det_is_that_of_vicreg_at_the_identity():
    # for a small symmetric matrix E, here `step`, with v_j = 1 + E_jj:
    # -1/2 log det(I + E) = sum_j ((1 - v_j)/2 + (1 - v_j)^2/4) + 1/4 sum_{i != j} E_ij^2 + O(E^3)
    step = 1e-3 * torch.randn(5, 5, dtype=F64)
    step = step + step.T
    variance = 1 + step.diagonal()
    covariances = (step - torch.diag(step.diagonal())).square().sum()
    expansion = ((1 - variance) / 2 + (1 - variance) ** 2 / 4).sum() + covariances / 4
    assert -0.5 * torch.logdet(torch.eye(5, dtype=F64) + step).item() == pytest.approx(expansion.item(), abs=1e-7)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("dim", [32, 256])
def test_the_window_of_the_automatic_bandwidth_hardly_depends_on_dim(fraction, dim):
    z = torch.randn(256, dim, dtype=F64)
    s2 = fraction * z.var(dim=0).sum()
    spread = Pairwise("auto", spread_fraction=fraction)(z) - dim / 2 * torch.log(2 * math.pi * math.e * s2)
    # `spread`, the entropy minus that of one component, falls from log(batch) to 0 as the fraction grows
    low, high = {0.2: (0.6, 0.95), 0.5: (0.25, 0.45), 1.0: (0.1, 0.25)}[fraction]
    assert low < spread / math.log(256) < high


@pytest.mark.filterwarnings("ignore:log-det entropy")
@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("shape", [(64, 32), (32, 64)], ids=str)
def test_jitter_only_raises_log_det_where_float32_has_no_digits_for_small_variances(shape, backend, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", backend)
    z = 1e4 * torch.randn(shape)
    z[:, 1:] *= 1e-6
    value, exact = (functional.log_det_entropy(x) for x in (z, z.double()))
    assert exact < value < math.inf
