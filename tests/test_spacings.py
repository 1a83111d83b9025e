"""The spacings entropy equals scipy's estimate and closed forms. Its penalty makes copies of a column count less."""

import math

import pytest
import torch
from definitions import evaluated, leaf

from it_losses import EntropyRegularizer, Spacings, VICRegEntropy, diagnostics, functional
from it_losses.entropy.spacings import marginal_entropies
from it_losses.entropy.variance_covariance import covariance_penalty

F64 = torch.float64


@pytest.fixture(params=["reference", "fused"])
def backend(request, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", request.param)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("shape", [(64, 5), (33, 2), (7, 40), (500, 1)], ids=str)
def test_each_column_is_vasiceks_estimate_of_scipy(shape, window, backend):
    stats = pytest.importorskip("scipy.stats")
    z = torch.randn(shape, dtype=F64)
    truth = torch.as_tensor(stats.differential_entropy(z.numpy(), window_length=window, method="vasicek"), dtype=F64)
    torch.testing.assert_close(diagnostics.marginal_entropies(z, window=window), truth, rtol=1e-12, atol=1e-12)
    ours = functional.spacings_entropy(z, covariance_weight=0.0, window=window, epsilon=1e-9)
    torch.testing.assert_close(ours, truth.mean(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [1, 2, 4, 50])
def test_the_gradient_is_a_sum_over_spacings(window, backend):
    # a window of 50 exceeds the 9 samples, so every spacing is the distance from the smallest to the largest sample
    z = torch.randn(9, 2, dtype=F64)
    _, gradient = evaluated(Spacings(0.0, window=window), [leaf(z, F64)])
    expected, m = torch.zeros_like(z), min(window, 8)
    for column in range(2):
        order = z[:, column].argsort()
        for i in range(9):
            above, below = order[min(i + m, 8)], order[max(i - m, 0)]
            slope = 1 / (9 * 2 * (z[above, column] - z[below, column]))
            expected[above, column] += slope
            expected[below, column] -= slope
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_the_value_is_the_marginal_entropies_less_the_penalty(backend):
    z = torch.randn(40, 6, dtype=F64)
    z = z + z[:, :1]
    expected = marginal_entropies(z, window=6, epsilon=1e-8).mean() - 0.7 * covariance_penalty(z)
    torch.testing.assert_close(Spacings(0.7)(z), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(EntropyRegularizer("spacings", 1.0, covariance_weight=0.7)(z), -expected, rtol=1e-12, atol=0)


def test_the_smoothed_logarithm_is_level_at_ties(backend):
    z = torch.ones(8, 3, dtype=F64)
    value, gradient = evaluated(Spacings(epsilon=1e-3), [leaf(z, F64)])
    assert value.item() == pytest.approx(math.log(1e-3), abs=1e-12)
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_ties_of_half_precision_do_not_enlarge_the_gradient(dtype, backend):
    z = (3 + 0.1 * torch.randn(256, 8, dtype=F64)).to(dtype)
    assert len(z[:, 0].unique()) < 256
    _, gradient = evaluated(Spacings(), [leaf(z, dtype)])
    _, exact = evaluated(Spacings(), [leaf(z, F64)])
    torch.testing.assert_close(gradient.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize(
    ("sample", "truth"),
    [
        (lambda n: torch.randn(n, 8, dtype=F64), 0.5 * math.log(2 * math.pi * math.e)),
        (lambda n: torch.rand(n, 8, dtype=F64) / 4, math.log(1 / 4)),
        (lambda n: torch.empty(n, 8, dtype=F64).exponential_(2.0), 1 - math.log(2)),
    ],
    ids=["normal", "uniform", "exponential"],
)
def test_the_estimate_rises_to_the_entropy_of_the_distribution(sample, truth):
    few, many = (diagnostics.marginal_entropies(sample(n)).mean().item() for n in (64, 16384))
    # the estimate is too low with 64 samples
    assert few < min(many, truth)
    assert many == pytest.approx(truth, abs=0.03)


def test_the_default_penalty_is_the_total_correlation_of_a_gaussian_near_independence():
    # a Gaussian with correlation matrix R has the total correlation sum_j H(z_j) - H(Z) = -1/2 log det R
    step = 1e-3 * torch.randn(5, 5, dtype=F64)
    correlation = torch.eye(5, dtype=F64) + (step + step.T).fill_diagonal_(0)
    raw = torch.randn(50, 5, dtype=F64)
    orthonormal = torch.linalg.qr(raw - raw.mean(dim=0)).Q * 49**0.5
    z = orthonormal @ torch.linalg.cholesky(correlation).T
    total = -torch.logdet(correlation) / 2
    assert 5 * 0.25 * covariance_penalty(z).item() == pytest.approx(total.item(), rel=1e-2)


def test_without_the_penalty_copies_count_as_much_as_independent_dimensions():
    independent = torch.randn(256, 4, dtype=F64)
    copies = independent[:, :1].expand(-1, 4)
    assert Spacings(0.0)(copies) == pytest.approx(Spacings(0.0)(independent).item(), abs=0.2)
    assert Spacings()(copies) < Spacings()(independent) - 0.5


def test_the_scale_is_a_target_where_there_is_a_penalty():
    assert Spacings().scaling == "target" and Spacings(0.0).scaling == "grows"
    z = torch.randn(64, 4, dtype=F64)
    values = torch.stack([Spacings()(scale * z) for scale in (0.1, 2.0, 20.0)])
    assert values.argmax() == 1


def test_a_window_is_a_whole_number_and_the_weight_of_the_penalty_may_train():
    for wrong in (0, 1.5, "wide"):
        with pytest.raises(ValueError, match="window must be a whole number"):
            Spacings(window=wrong)
    weight = torch.nn.Parameter(torch.tensor(0.5))
    z_a, z_b = torch.randn(2, 12, 4)
    VICRegEntropy(Spacings(weight))(z_a, z_b).backward()
    penalty = (covariance_penalty(z_a) + covariance_penalty(z_b)) / 2
    torch.testing.assert_close(weight.grad, penalty)


def test_the_entropy_of_one_row_is_refused():
    with pytest.raises(ValueError, match="at least 2 rows"):
        diagnostics.marginal_entropies(torch.randn(1, 3))
