"""Diagnostics against closed forms, outside libraries and laws; a batch, a loader and a stream give one number."""

import math
import warnings

import numpy as np
import pytest
import torch

from it_losses import LogDet, Pairwise, diagnostics, functional
from it_losses.diagnostics import Moments

F64 = torch.float64


def orthonormal(rows, dim):
    """`[rows, dim]` with orthonormal columns of mean 0."""
    raw = torch.randn(rows, dim, dtype=F64)
    return torch.linalg.qr(raw - raw.mean(dim=0)).Q


def batch_with_spectrum(eigenvalues, *, rows=64, mean=3.0):
    """`[rows, dim]` whose covariance has exactly these eigenvalues, in rotated axes."""
    eigenvalues = torch.as_tensor(eigenvalues, dtype=F64)
    rotation = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), dtype=F64)).Q
    return orthonormal(rows, len(eigenvalues)) * (rows * eigenvalues).sqrt() @ rotation + mean


def assert_close(value, expected, rtol=1e-10, atol=1e-10):
    torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(expected, dtype=F64), rtol=rtol, atol=atol)


OF_COVARIANCE = [
    diagnostics.spectrum,
    diagnostics.rank_me,
    diagnostics.participation_ratio,
    diagnostics.alpha_req,
    diagnostics.spread,
    diagnostics.gaussian_entropy,
    diagnostics.log_det_entropy,
]
OF_PAIRS = [diagnostics.uniformity, diagnostics.pairwise_entropy_bounds]


@pytest.mark.parametrize("measured", OF_COVARIANCE, ids=lambda f: f.__name__)
def test_batch_loader_stream_and_joined_ranks_agree(measured):
    z = torch.randn(70, 9, dtype=F64) + 2
    whole = measured(z)
    stream, first_rank, second_rank = Moments(), Moments(), Moments()
    for batch in z.split(16):
        stream.update(batch)
    first_rank.update(z[:5])
    second_rank.update(z[5:])
    for form in (z.split(16), iter(z.split(1)), stream, first_rank + second_rank, Moments() + stream + Moments()):
        assert_close(measured(form), whole)


@pytest.mark.parametrize("measured", OF_PAIRS, ids=lambda f: f.__name__)
def test_functions_of_pairs_take_loaders_and_blocks(measured, monkeypatch):
    z = torch.randn(70, 9, dtype=F64)
    whole = torch.as_tensor(measured(z))
    monkeypatch.setattr("it_losses.diagnostics.entropies.CHUNK", 16)
    monkeypatch.setattr("it_losses.diagnostics.hypersphere.CHUNK", 16)
    assert_close(torch.as_tensor(measured(z.split(7))), whole)
    with pytest.raises(ValueError, match="keep none"):
        measured(Moments().update(z))


@pytest.mark.parametrize("measured", [*OF_COVARIANCE, *OF_PAIRS], ids=lambda f: f.__name__)
def test_no_graph_is_kept_and_the_input_is_left_alone(measured):
    z = torch.randn(20, 4, requires_grad=True)
    before = z.detach().clone()
    value = measured(z)
    for tensor in value if isinstance(value, tuple) else [value]:
        assert not tensor.requires_grad
    assert torch.equal(z.detach(), before)


def test_moments_equal_numpy_and_cancel_no_digits():
    z = torch.randn(500, 3) + 1e4
    moments = Moments()
    for batch in z.split(33):
        moments.update(batch)
    exact = z.double()
    assert moments.count == 500
    assert_close(moments.mean, exact.mean(dim=0))
    assert_close(moments.covariance, torch.as_tensor(np.cov(exact.numpy().T, bias=True)))
    assert_close(moments.second_moment, exact.T @ exact / 500)


def test_an_empty_sum_does_not_share_its_rows():
    stream = Moments().update(torch.randn(4, 2))
    joined = Moments() + stream
    joined.update(torch.randn(4, 2))
    assert (stream.count, joined.count) == (4, 8)


@pytest.mark.parametrize("rows", [6, 64])
def test_spectrum_of_an_exact_covariance(rows):
    eigenvalues = [4.0, 2.0, 1.0, 0.5]
    z = torch.cat([batch_with_spectrum(eigenvalues, rows=rows), torch.ones(rows, 5, dtype=F64)], dim=1)
    assert_close(diagnostics.spectrum(z), [*eigenvalues, 0, 0, 0, 0, 0])
    assert (diagnostics.spectrum(z)[4:] == 0).all()


def test_rank_me_of_equal_singular_values_is_their_number():
    z = orthonormal(50, 7) @ torch.linalg.qr(torch.randn(12, 12, dtype=F64)).Q[:7]
    assert_close(diagnostics.rank_me(z), 7)
    assert_close(diagnostics.rank_me(1e-3 * z), 7)


def test_rank_me_of_two_singular_values():
    p = 0.2
    z = torch.diag(torch.tensor([p, 1 - p], dtype=F64)) * 5
    assert_close(diagnostics.rank_me(z), p**-p * (1 - p) ** -(1 - p))


def test_participation_ratio_of_two_eigenvalues():
    assert_close(diagnostics.participation_ratio(batch_with_spectrum([3.0, 1.0])), 16 / 10)
    assert_close(diagnostics.participation_ratio(batch_with_spectrum([2.0] * 5)), 5)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_alpha_req_of_a_power_law(alpha):
    law = torch.arange(1, 13, dtype=F64) ** -alpha
    assert_close(diagnostics.alpha_req(batch_with_spectrum(law)), alpha)
    law[:3] = 100.0
    assert_close(diagnostics.alpha_req(batch_with_spectrum(law), first=4), alpha)
    law[9:] = 1e-6
    assert_close(diagnostics.alpha_req(batch_with_spectrum(law), first=4, last=9), alpha)


def test_spread_is_the_share_of_the_variance():
    assert_close(diagnostics.spread(batch_with_spectrum([1.0, 2.0], mean=torch.tensor([3.0, 0.0], dtype=F64))), 3 / 12)


def views_with_covariances(between, within, *, images=40):
    """`[images, 2, dim]` whose between-image covariance is diag(between) and whose within-image covariance is diag(within)."""
    both = orthonormal(images, 2 * len(between)) * math.sqrt(images)
    centres, deviation = both.tensor_split(2, dim=1)
    centres, deviation = centres * torch.tensor(between, dtype=F64).sqrt(), deviation * torch.tensor(within, dtype=F64).sqrt()
    return torch.stack([centres + deviation, centres - deviation], dim=1) + 1


def test_lidar_of_exact_covariances():
    # W^-1/2 B W^-1/2 = diag(4, 1, 1) once the ridge is 1
    views = views_with_covariances([8.0, 3.0, 2.0], [1.0, 2.0, 1.0])
    p = torch.tensor([4.0, 1.0, 1.0], dtype=F64) / 6
    assert_close(diagnostics.lidar(views, ridge=1.0), (-(p * p.log()).sum()).exp())
    assert_close(diagnostics.lidar(views.split(7), ridge=1.0), diagnostics.lidar(views, ridge=1.0))


def test_lidar_does_not_count_what_the_views_blur():
    clear = diagnostics.lidar(views_with_covariances([1.0] * 4, [1e-3] * 4))
    blurred = diagnostics.lidar(views_with_covariances([1.0] * 4, [1e-3, 1e-3, 1e3, 1e3]))
    assert_close(clear, 4, rtol=1e-6)
    assert_close(blurred, 2, rtol=1e-3)


def test_alignment_of_right_angles_and_of_scaled_views():
    z_a, z_b = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 5.0], [1.0, 0.0]])
    assert_close(diagnostics.alignment(z_a, z_b), 2)
    assert_close(diagnostics.alignment(z_a, z_b, power=1), math.sqrt(2))
    assert_close(diagnostics.alignment(z_a.split(1), [4 * z_a]), 0)


def test_uniformity_of_three_points_and_of_random_ones():
    distance = pytest.importorskip("scipy.spatial.distance")
    # the two right angles and the one opposite pair of three points on a circle
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    assert_close(diagnostics.uniformity(z), math.log((2 * math.exp(-4) + math.exp(-8)) / 3))
    z = torch.randn(40, 5, dtype=F64)
    unit = (z / z.norm(dim=1, keepdim=True)).numpy()
    assert_close(diagnostics.uniformity(z, t=3.0), math.log(np.exp(-3 * distance.pdist(unit, "sqeuclidean")).mean()))
    assert_close(diagnostics.uniformity(torch.ones(9, 4)), 0)


@pytest.mark.parametrize("ridge", [1e-4, 0.5])
def test_gaussian_entropy_is_scipys(ridge):
    stats = pytest.importorskip("scipy.stats")
    z = batch_with_spectrum([4.0, 2.0, 1.0, 0.1])
    covariance = np.cov(z.numpy().T, bias=True) + ridge * np.eye(4)
    assert_close(diagnostics.gaussian_entropy(z, ridge=ridge), stats.multivariate_normal(cov=covariance).entropy())


def test_gaussian_entropy_without_noise_needs_more_rows_than_dim():
    assert diagnostics.gaussian_entropy(torch.randn(4, 8), ridge=0.0) == -math.inf


@pytest.mark.parametrize("rows", [5, 40])
def test_log_det_entropy_is_the_estimators_number_and_the_gaussian_one_less_its_constant(rows):
    z, beta = torch.randn(rows, 6, dtype=F64), 20.0
    value = diagnostics.log_det_entropy(z, beta=beta)
    assert_close(value, LogDet(beta, per_dimension=False)(z), rtol=1e-9)
    assert_close(value, functional.log_det_entropy(z, beta=beta), rtol=1e-9)
    assert_close(diagnostics.gaussian_entropy(z, ridge=1 / beta) - value, 3 * math.log(2 * math.pi * math.e / beta))


def test_pairwise_bounds_are_the_estimators_numbers():
    z, s = torch.randn(50, 6, dtype=F64) + 5, 0.7
    bounds = diagnostics.pairwise_entropy_bounds(z, bandwidth=s)
    assert_close(bounds.upper, Pairwise(s)(z))
    assert_close(bounds.lower, Pairwise(s, "bhattacharyya")(z))
    assert_close(diagnostics.pairwise_entropy_bounds(z).upper, Pairwise()(z), rtol=1e-2)


def test_pairwise_bounds_hold_the_entropy_of_two_points():
    # two components at distance a in one dimension: the entropy by quadrature
    a, s = 3.0, 1.0
    x = torch.linspace(-12, 15, 40001, dtype=F64)
    density = (torch.exp(-(x**2) / 2) + torch.exp(-((x - a) ** 2) / 2)) / 2 / math.sqrt(2 * math.pi)
    entropy = torch.trapezoid(torch.special.entr(density), x)
    lower, upper = diagnostics.pairwise_entropy_bounds(torch.tensor([[0.0], [a]]), bandwidth=s)
    constant = 0.5 * math.log(2 * math.pi * math.e)
    assert_close(upper, constant - math.log((1 + math.exp(-(a**2) / 2)) / 2))
    assert_close(lower, constant - math.log((1 + math.exp(-(a**2) / 8)) / 2))
    assert lower < entropy < upper


def test_measure_gives_the_same_names_and_numbers_for_every_form():
    z = torch.randn(64, 8)
    of_batch = diagnostics.measure(z)
    assert all(isinstance(value, float) for value in of_batch.values())
    assert of_batch["rank_me"] == pytest.approx(float(diagnostics.rank_me(z)), rel=1e-9)
    assert of_batch == pytest.approx(diagnostics.measure(Moments().update(z)), rel=1e-9)
    assert of_batch == pytest.approx(diagnostics.measure(batch for batch in z.split(10)), rel=1e-9)


def test_alarm_names_each_collapse_and_is_silent_otherwise():
    healthy = torch.randn(256, 64)
    relu_features = healthy.relu()
    assert diagnostics.collapse_alarm(healthy) is None
    assert diagnostics.collapse_alarm(1e-6 * healthy) is None
    assert diagnostics.collapse_alarm(relu_features) is None
    assert diagnostics.collapse_alarm(healthy.split(50)) is None
    assert "complete" in diagnostics.collapse_alarm(torch.ones(256, 64))
    assert "complete" in diagnostics.collapse_alarm(torch.zeros(256, 64))
    assert "complete" in diagnostics.collapse_alarm(1 + 1e-3 * healthy)
    assert "dimensional" in diagnostics.collapse_alarm(torch.randn(256, 1) @ torch.randn(1, 64))
    healthy[3, 4] = torch.nan
    assert "NaN" in diagnostics.collapse_alarm(healthy)


@pytest.mark.parametrize("measured", OF_COVARIANCE, ids=lambda f: f.__name__)
def test_what_is_not_finite_measures_nan(measured):
    z = torch.randn(20, 4)
    z[0, 0] = torch.nan
    assert measured(z).isnan().all()
    assert measured(z.split(5)).isnan().all()


@pytest.mark.parametrize(
    ("z", "match"),
    [
        (torch.ones(4, 4, dtype=torch.int64), "floating-point"),
        (torch.randn(4), "shape"),
        (torch.randn(4, 3, 5), "flatten"),
        ([], "at least one batch"),
        ([(torch.randn(4, 2), 0)], "for x, _ in loader"),
        ([torch.randn(4, 2), torch.randn(4, 3)], "one dim"),
    ],
)
def test_errors_say_what_to_do(z, match):
    with pytest.raises(ValueError, match=match):
        diagnostics.spectrum(z)


def test_half_precision_is_measured_in_float64():
    z = torch.randn(64, 8).bfloat16()
    assert_close(diagnostics.rank_me(z), diagnostics.rank_me(z.double()))


def test_nothing_warns_at_exact_collapse():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbers = diagnostics.measure(torch.ones(16, 4))
    assert all(math.isfinite(value) for value in numbers.values())
    assert numbers["spread"] == 0
