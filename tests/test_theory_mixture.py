"""Theorem 1 and the expected log-likelihood agree with closed forms for affine maps and with Monte Carlo for small networks."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from it_losses import Pairwise, theory

stats = pytest.importorskip("scipy.stats")

F64 = torch.float64
CONSTANT = math.log(2 * math.pi * math.e)


def assert_close(value, expected, rtol=1e-10, atol=1e-10):
    torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(expected, dtype=F64), rtol=rtol, atol=atol)


def positive_definite(dim, *batch):
    root = torch.randn(*batch, dim, dim, dtype=F64)
    return root @ root.mT / dim + 0.2 * torch.eye(dim, dtype=F64)


def relu_network(dim_in=6, dim=4):
    return nn.Sequential(nn.Linear(dim_in, 32), nn.ReLU(), nn.Linear(32, dim)).double().eval()


def convolution_network():
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    return nn.Sequential(*layers).double().eval()


def test_an_affine_map_transforms_covariances_exactly():
    network, prototypes, covariance = nn.Linear(5, 3).double(), torch.randn(7, 5, dtype=F64), positive_definite(5)
    mixture = theory.output_mixture(network, prototypes, covariance)
    pushed = network.weight @ covariance @ network.weight.T
    assert_close(mixture.means, network(prototypes).detach())
    assert_close(mixture.covariances, pushed.detach().expand(7, 3, 3))


def test_each_prototype_may_have_a_covariance_of_its_own():
    network, prototypes, covariances = relu_network(), torch.randn(3, 6, dtype=F64), positive_definite(6, 3)
    together = theory.output_mixture(network, prototypes, covariances)
    for n in range(3):
        alone = theory.output_mixture(network, prototypes[n : n + 1], covariances[n])
        assert_close(together.covariances[n], alone.covariances[0])
    isotropic = theory.output_mixture(network, prototypes, 0.3)
    assert_close(isotropic.covariances, theory.output_mixture(network, prototypes, 0.3 * torch.eye(6, dtype=F64)).covariances)


@pytest.mark.parametrize(("network", "shape"), [(relu_network, (6,)), (convolution_network, (1, 4, 4))])
def test_a_piecewise_affine_network_is_exact_for_small_noise_and_not_for_large(network, shape):
    network, x = network(), torch.randn(10, *shape, dtype=F64)
    # noise may move some inputs over the border of an affine region, so the median over the inputs is tested
    small = theory.linearization_error(network, x, 1e-5, draws=4)
    assert small.median() < 1e-20
    assert theory.linearization_error(network, x, 2.0, draws=4).median() > 1e-2


def test_the_mixture_is_the_law_of_the_output_by_monte_carlo():
    network, x, std = relu_network(), torch.randn(1, 6, dtype=F64), 1e-3
    assert theory.linearization_error(network, x, std, draws=64) < 1e-20
    output = network(x + std * torch.randn(200_000, 6, dtype=F64)).detach()
    mixture = theory.output_mixture(network, x, std**2)
    sampled = torch.cov(output.mT)
    assert torch.linalg.matrix_norm(sampled - mixture.covariance) < 0.01 * torch.linalg.matrix_norm(mixture.covariance)
    # the sampled mean and entropy (minus the mean of log p) are right within five standard errors
    assert ((output.mean(dim=0) - mixture.mean).abs() < 5 * (sampled.diagonal() / 200_000).sqrt()).all()
    log_density = mixture.log_density(output)
    assert abs(log_density.mean() + mixture.conditional_entropy()) < 5 * log_density.std() / math.sqrt(200_000)


@pytest.mark.parametrize("std", [1e-3, 1e-2])
def test_surprise_of_real_outputs_lies_between_the_entropy_bounds(std):
    network, prototypes = relu_network(), torch.randn(8, 6, dtype=F64)
    mixture = theory.output_mixture(network, prototypes, std**2)
    lower, upper = mixture.entropy_bounds()
    samples = prototypes.repeat(2500, 1) + std * torch.randn(20_000, 6, dtype=F64)
    surprise = -mixture.log_density(network(samples).detach())
    error = surprise.std() / math.sqrt(len(surprise))
    assert lower - 4 * error <= surprise.mean() <= upper + 4 * error


def test_moments_of_the_mixture_equal_its_samples():
    mixture = theory.OutputMixture(torch.randn(5, 3, dtype=F64), positive_definite(3, 5))
    z = mixture.sample(200_000)
    assert_close(z.mean(dim=0), mixture.mean, rtol=0, atol=0.02)
    assert_close(torch.cov(z.mT), mixture.covariance, rtol=0, atol=0.05)


def test_log_density_is_scipys():
    means, covariances = torch.randn(4, 3, dtype=F64), positive_definite(3, 4)
    z = torch.randn(6, 3, dtype=F64)
    each = [stats.multivariate_normal(m, s).pdf(z) for m, s in zip(means.numpy(), covariances.numpy(), strict=True)]
    assert_close(theory.OutputMixture(means, covariances).log_density(z), np.log(np.mean(each, axis=0)))


@pytest.mark.parametrize("distance", [0.5, 2.0, 6.0])
def test_entropy_lies_between_its_bounds(distance):
    mixture = theory.OutputMixture(distance * torch.randn(8, 3, dtype=F64), positive_definite(3, 8))
    entropy, error = mixture.entropy(20_000)
    lower, upper = mixture.entropy_bounds()
    assert lower - 4 * error < entropy < upper + 4 * error
    assert entropy < mixture.gaussian_entropy() + 4 * error
    assert mixture.conditional_entropy() <= lower


def test_bounds_meet_for_disjoint_components_at_conditional_entropy_plus_log_n():
    mixture = theory.OutputMixture(1e3 * torch.randn(8, 3, dtype=F64), positive_definite(3, 8))
    for bound in mixture.entropy_bounds():
        assert_close(bound, mixture.conditional_entropy() + math.log(8))


def test_all_entropies_of_one_component_are_a_gaussians():
    covariance = positive_definite(4)
    mixture = theory.OutputMixture(torch.randn(1, 4, dtype=F64), covariance[None])
    expected = stats.multivariate_normal(cov=covariance.numpy()).entropy()
    for entropy in (*mixture.entropy_bounds(), mixture.gaussian_entropy(), mixture.conditional_entropy()):
        assert_close(entropy, expected)


def test_isotropic_components_give_the_pairwise_estimators():
    z, s = torch.randn(12, 5, dtype=F64), 0.8
    mixture = theory.OutputMixture(z, s**2 * torch.eye(5, dtype=F64).expand(12, 5, 5))
    assert_close(mixture.entropy_bounds().upper, Pairwise(s)(z))
    assert_close(mixture.entropy_bounds().lower, Pairwise(s, "bhattacharyya")(z))


def test_general_divergences_equal_quadrature_in_one_dimension():
    (m, s), (n, t) = (0.3, 1.2), (-0.5, 0.7)
    x = torch.linspace(-15, 15, 60_001, dtype=F64)
    p, q = (torch.exp(-((x - a) ** 2) / (2 * b * b)) / (b * math.sqrt(2 * math.pi)) for a, b in ((m, s), (n, t)))
    kl = [torch.trapezoid(a * (a.log() - b.log()).nan_to_num(), x) for a, b in ((p, q), (q, p))]
    bhattacharyya = -torch.trapezoid((p * q).sqrt(), x).log()
    mixture = theory.OutputMixture(torch.tensor([[m], [n]], dtype=F64), torch.tensor([[[s * s]], [[t * t]]], dtype=F64))
    lower, upper = mixture.entropy_bounds()
    conditional = CONSTANT / 2 + (math.log(s) + math.log(t)) / 2
    assert_close(upper, conditional + math.log(2) - sum(math.log1p(math.exp(-d)) for d in kl) / 2, rtol=1e-8)
    assert_close(lower, conditional + math.log(2) - math.log1p(math.exp(-bhattacharyya)), rtol=1e-8)


def test_a_singular_output_covariance_is_refused_and_a_ridge_repairs_it():
    network, x = nn.Linear(2, 5).double(), torch.randn(3, 2, dtype=F64)
    with pytest.raises(ValueError, match="larger ridge"):
        theory.output_mixture(network, x, 1.0)
    mixture = theory.output_mixture(network, x, 1.0, ridge=0.1)
    assert_close(torch.linalg.eigvalsh(mixture.covariances)[:, :3], torch.full((3, 3), 0.1, dtype=F64))


def test_expected_log_likelihood_of_identical_points_is_the_gaussians_peak():
    mean, zero, decoder = torch.randn(4, dtype=F64), torch.zeros(4, 4, dtype=F64), positive_definite(4)
    value = theory.expected_log_likelihood(mean, zero, mean, zero, decoder_covariance=decoder)
    assert_close(value, stats.multivariate_normal(cov=decoder.numpy()).logpdf(np.zeros(4)))


def test_expected_log_likelihood_is_that_of_monte_carlo():
    means, covariances = torch.randn(2, 3, dtype=F64), positive_definite(3, 2)
    decoder, draws = positive_definite(3), 200_000
    pair = (theory.OutputMixture(m[None], s[None]).sample(draws) for m, s in zip(means, covariances, strict=True))
    z, other = pair
    log_likelihood = stats.multivariate_normal(cov=decoder.numpy()).logpdf((z - other).numpy())
    exact = theory.expected_log_likelihood(means[0], covariances[0], means[1], covariances[1], decoder_covariance=decoder)
    assert abs(log_likelihood.mean() - exact) < 5 * log_likelihood.std() / math.sqrt(draws)


def test_expected_log_likelihood_takes_a_batch_and_drops_to_vicregs_invariance():
    mean, other = torch.randn(2, 5, 3, dtype=F64)
    zero, identity = torch.zeros(5, 3, 3, dtype=F64), torch.eye(3, dtype=F64)
    value = theory.expected_log_likelihood(mean, zero, other, zero, decoder_covariance=identity)
    assert_close(value, -1.5 * math.log(2 * math.pi) - 0.5 * (mean - other).square().sum(dim=1))


@pytest.mark.parametrize(("network", "shape"), [(relu_network, (6,)), (convolution_network, (1, 4, 4))])
def test_hutchinsons_trace_is_that_of_the_jacobian(network, shape):
    network, x = network(), torch.randn(3, *shape, dtype=F64)
    exact = theory.output_mixture(network, x, 0.25, ridge=1e-9).covariances.diagonal(dim1=1, dim2=2).sum(dim=1)
    estimates = torch.stack([theory.hutchinson_trace(network, x, 0.5, probes=1) for _ in range(400)])
    error = estimates.std(dim=0) / 20
    assert ((estimates.mean(dim=0) - exact).abs() < 5 * error + 1e-7).all()


def test_hutchinson_is_exact_for_a_scaling():
    x = torch.randn(4, 7, dtype=F64)
    assert_close(theory.hutchinson_trace(lambda x: 3 * x, x, 0.1, probes=1), torch.full((4,), 7 * 0.09, dtype=F64))


@pytest.mark.parametrize("dim", [3, 8])
def test_half_log_det_of_a_linear_map(dim):
    network, x = nn.Linear(5, dim).double(), torch.randn(2, 5, dtype=F64)
    values = torch.linalg.svdvals(network.weight.detach())
    eigenvalues = torch.nn.functional.pad(0.04 * values**2, (0, dim - len(values)))
    expected = 0.5 * (eigenvalues + 0.01).log().sum()
    assert_close(theory.half_log_det_covariance(network, x, 0.2, ridge=0.01), expected.expand(2))


def test_view_covariance_is_numpys_and_unbiased():
    views = torch.randn(4, 6, 3, dtype=F64)
    assert_close(theory.view_covariance(views)[1], torch.as_tensor(np.cov(views[1].numpy().T)))
    network, x, std = relu_network(), torch.randn(1, 6, dtype=F64), 1e-3
    many = network(x + std * torch.randn(2000, 5, 6, dtype=F64)).detach()
    exact = theory.output_mixture(network, x, std**2).covariances[0]
    assert torch.linalg.matrix_norm(theory.view_covariance(many).mean(dim=0) - exact) < 0.05 * torch.linalg.matrix_norm(exact)
    with pytest.raises(ValueError, match="views >= 2"):
        theory.view_covariance(torch.randn(4, 1, 3))


def test_no_graph_stays_and_the_network_is_left_alone():
    network = relu_network()
    mixture = theory.output_mixture(network, torch.randn(2, 6, dtype=F64), 1.0)
    assert not mixture.means.requires_grad
    assert not mixture.covariances.requires_grad
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    "evaluated",
    [
        lambda network, x: theory.output_mixture(network, x, 1.0),
        lambda network, x: theory.linearization_error(network, x, 1.0),
        lambda network, x: theory.hutchinson_trace(network, x, 1.0),
        lambda network, x: theory.half_log_det_covariance(network, x, 1.0, ridge=1.0),
        lambda network, x: theory.output_normality(network, x, 1.0),
    ],
)
def test_batch_statistics_are_refused(evaluated):
    with pytest.raises(ValueError, match=r"BatchNorm2d is in training mode. Call network.eval\(\)"):
        evaluated(convolution_network().train(), torch.randn(2, 1, 4, 4, dtype=F64))
