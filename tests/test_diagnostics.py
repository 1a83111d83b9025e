"""Diagnostics agree with closed forms, NumPy and SciPy, and give the same number for a batch, a loader and a stream."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map_only

from it_losses import LogDet, Pairwise, diagnostics, functional
from it_losses.diagnostics import Moments

F64 = torch.float64


def orthonormal(rows, dim):
    """A matrix `[rows, dim]` with orthonormal columns of mean 0."""
    raw = torch.randn(rows, dim, dtype=F64)
    return torch.linalg.qr(raw - raw.mean(dim=0)).Q


def batch_with_spectrum(eigenvalues, *, rows=64, mean=3.0):
    """Samples `[rows, dim]` whose covariance matrix has exactly these eigenvalues and random eigenvectors."""
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
    diagnostics.renyi_entropy,
]
OF_PAIRS = [diagnostics.uniformity, diagnostics.pairwise_entropy_bounds, diagnostics.sphere_entropy_bounds]


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


@pytest.mark.parametrize(("rows", "dim"), [(256, 64), (256, 512), (512, 2048), (1024, 128), (4096, 32)])
@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_alpha_req_of_samples_of_a_power_law(alpha, rows, dim):
    law = torch.arange(1, dim + 1, dtype=F64) ** -alpha
    found = [float(diagnostics.alpha_req(torch.randn(rows, dim, dtype=F64) * law.sqrt() + 3)) for _ in range(3)]
    assert sum(found) / 3 == pytest.approx(alpha, rel=0.1)


def test_alpha_req_needs_as_many_rows_as_the_tail_of_a_flat_law():
    law = torch.arange(1, 257, dtype=F64) ** -0.5
    z = torch.randn(20_000, 256, dtype=F64) * law.sqrt()
    assert float(diagnostics.alpha_req(z)) == pytest.approx(0.5, rel=0.1)
    assert float(diagnostics.alpha_req(z.split(999))) == pytest.approx(0.5, rel=0.1)


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
    """Views `[images, 2, dim]` with covariance diag(between) between images and covariance diag(within) within images."""
    both = orthonormal(images, 2 * len(between)) * math.sqrt(images)
    centres, deviation = both.tensor_split(2, dim=1)
    centres, deviation = centres * torch.tensor(between, dtype=F64).sqrt(), deviation * torch.tensor(within, dtype=F64).sqrt()
    return torch.stack([centres + deviation, centres - deviation], dim=1) + 1


def test_lidar_of_exact_covariances():
    # B is the covariance between images, and W the covariance within images plus the ridge 1: W^-1/2 B W^-1/2 = diag(4, 1, 1)
    views = views_with_covariances([8.0, 3.0, 2.0], [1.0, 2.0, 1.0])
    p = torch.tensor([4.0, 1.0, 1.0], dtype=F64) / 6
    assert_close(diagnostics.lidar(views, ridge=1.0), (-(p * p.log()).sum()).exp())
    assert_close(diagnostics.lidar(views.split(7), ridge=1.0), diagnostics.lidar(views, ridge=1.0))


@pytest.mark.parametrize("ridge", [0.0, 1e-18])
def test_lidar_without_an_inverse_of_the_views_covariance_is_nan(ridge):
    # the deviations of 2 views of 40 images span only 40 of 64 dimensions, so their covariance matrix has no inverse
    assert diagnostics.lidar(torch.randn(40, 2, 64), ridge=ridge).isnan()
    assert diagnostics.lidar(torch.randn(40, 1, 64).expand(-1, 2, -1), ridge=0.0).isnan()


def test_lidar_equals_the_generalised_eigenvalues_of_scipy():
    views = torch.randn(40, 3, 64, dtype=F64)
    for ridge in (0.0, 1e-4):
        centres = views.mean(dim=1)
        deviations = (views - centres[:, None]).flatten(0, 1).numpy()
        between, within = np.cov(centres.numpy().T, bias=True), deviations.T @ deviations / 120 + ridge * np.eye(64)
        p = pytest.importorskip("scipy.linalg").eigh(between, within, eigvals_only=True)
        p = p[p > 1e-12 * p.max()] / p.sum()
        assert_close(diagnostics.lidar(views, ridge=ridge), math.exp(-(p * np.log(p)).sum()), rtol=1e-6)


def test_lidar_tells_views_and_images_apart():
    views = torch.randn(40, 2, 8)
    assert diagnostics.lidar(views).isfinite()
    with pytest.raises(ValueError, match=r"2 images of 40 views.*transpose"):
        diagnostics.lidar(views.transpose(0, 1))
    # a batch of a loader may have fewer images than views, because only the total number of images is checked
    diagnostics.lidar(torch.randn(6, 4, 8).split(2))
    with pytest.raises(ValueError, match="2 views of each image"):
        diagnostics.lidar(views[:, :1])


def test_lidar_does_not_count_directions_that_the_views_blur():
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
    # normalised, the rows are three points on a circle: two pairs at a right angle, and one pair of opposite points
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
    # quadrature gives the exact entropy of a mixture of two Gaussians at distance a in one dimension
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
def test_embeddings_that_are_not_finite_measure_nan(measured):
    z = torch.randn(20, 4)
    z[0, 0] = torch.nan
    assert measured(z).isnan().all()
    assert measured(z.split(5)).isnan().all()


ALL = {
    **{f.__name__: f for f in [*OF_COVARIANCE, *OF_PAIRS]},
    "measure": diagnostics.measure,
    "collapse_alarm": diagnostics.collapse_alarm,
    "alignment": lambda z: diagnostics.alignment(z, z),
    "lidar": lambda z: diagnostics.lidar(_two_views(z)),
    "moments": lambda z: Moments().update(z).covariance,
}


def _two_views(z):
    """Reshape [batch, dim] to [batch / 2, 2, dim]; z is a tensor, an array, or a list of tensors or arrays."""
    return [_two_views(batch) for batch in z] if isinstance(z, list) else z.reshape(len(z) // 2, 2, -1)


def flat(value):
    """All numbers of a result as a list; a text or None is returned as it is."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, str) or value is None:
        return value
    values = value if isinstance(value, tuple) else [value]
    return [number for tensor in values for number in tensor.flatten().tolist()]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_arrays_measure_as_tensors_do(name, dtype):
    array = np.random.default_rng(0).standard_normal((24, 6)).astype(dtype)
    expected = flat(ALL[name](torch.from_numpy(array)))
    backwards = np.ascontiguousarray(array[::-1])[::-1]
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert flat(ALL[name](array)) == flat(ALL[name](backwards)) == expected
        if name not in ("alignment", "moments", "collapse_alarm"):
            assert flat(ALL[name]([array[:12], array[12:]])) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype_is_measured_in_float64(name, dtype):
    z = torch.randn(24, 6, requires_grad=True).to(dtype)
    assert flat(ALL[name](z)) == flat(ALL[name](z.detach().double()))


class OnMetal(torch.Tensor):
    """A stand-in for a tensor on MPS, where torch has neither float64 nor factorizations. Its numbers are on the CPU."""

    @staticmethod
    def __new__(cls, numbers):
        tensor = torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=numbers.dtype, device="mps")
        tensor.numbers = numbers
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if "linalg" in str(operator):
            raise NotImplementedError(f"{operator} on MPS")
        target = kwargs.get("device")
        if target is not None and torch.device(target).type == "mps":
            del kwargs["device"]
        args, kwargs = tree_map_only(OnMetal, lambda z: z.numbers, (args, kwargs))
        result = operator(*args, **kwargs)
        copied_to_cpu = target is not None and torch.device(target).type == "cpu"
        if kwargs.get("dtype") == F64 or (isinstance(result, torch.Tensor) and result.dtype == F64):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result if copied_to_cpu else tree_map_only(torch.Tensor, OnMetal, result)


def test_the_stand_in_for_metal_refuses_the_same_operations_as_metal():
    z = OnMetal(torch.randn(4, 3))
    assert z.device.type == "mps" and (z + z).device.type == "mps" and z.cpu().device.type == "cpu"
    for refused in (lambda: z.double(), lambda: z.to("cpu", F64), lambda: torch.linalg.eigvalsh(z.mT @ z)):
        with pytest.raises((TypeError, NotImplementedError)):
            refused()


@pytest.mark.parametrize("name", ALL)
def test_a_device_without_float64_is_measured_on_the_cpu(name):
    z = torch.randn(24, 6)
    assert flat(ALL[name](OnMetal(z))) == flat(ALL[name](z))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("z", "match"),
    [
        (torch.ones(4, 4, dtype=torch.int64), "floating-point"),
        (np.ones((4, 4), dtype=np.int64), "floating-point"),
        (torch.ones(4, 4, dtype=torch.complex64), "view_as_real"),
        (torch.eye(4).to_sparse(), "to_dense"),
        (torch.ones(4, 4, device="meta"), "meta"),
        (np.array([["a", "b"], ["c", "d"]]), "astype"),
        (np.ma.array(np.ones((4, 4)), mask=np.eye(4)), "masked"),
        (torch.zeros(0, 4), "shape"),
    ],
)
def test_every_diagnostic_checks_its_argument_alike(name, z, match):
    if name == "lidar":
        with pytest.raises(ValueError, match=match):
            diagnostics.lidar(z[None] if not getattr(z, "is_sparse", False) else z)
    else:
        with pytest.raises(ValueError, match=match):
            ALL[name](z)


def test_arrays_without_masked_rows_and_data_frames_are_batches():
    pandas = pytest.importorskip("pandas")
    z = np.random.default_rng(0).normal(size=(20, 4))
    for same in (np.ma.array(z), np.ma.array(z, mask=np.zeros_like(z)), pandas.DataFrame(z)):
        assert diagnostics.spread(same) == diagnostics.spread(z)


@pytest.mark.parametrize("z", [None, 3, "z", {"z": torch.randn(4, 2)}])
def test_arguments_that_are_no_batch_are_named(z):
    with pytest.raises(ValueError, match=f"got {type(z).__name__}"):
        diagnostics.spectrum(z)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, "1"])
@pytest.mark.parametrize(
    ("measured", "name"),
    [
        (diagnostics.gaussian_entropy, "ridge"),
        (diagnostics.log_det_entropy, "beta"),
        (diagnostics.pairwise_entropy_bounds, "bandwidth"),
        (diagnostics.sphere_entropy_bounds, "bandwidth"),
        (diagnostics.uniformity, "t"),
        (lambda z, power: diagnostics.alignment(z, z, power=power), "power"),
        (lambda z, ridge: diagnostics.lidar(_two_views(z), ridge=ridge), "ridge"),
        (diagnostics.alpha_req, "first"),
        (diagnostics.alpha_req, "last"),
        (diagnostics.measure, "ridge"),
        (diagnostics.measure, "beta"),
        (diagnostics.collapse_alarm, "least_spread"),
        (diagnostics.collapse_alarm, "least_rank_fraction"),
    ],
)
def test_constants_are_checked(measured, name, bad):
    with pytest.raises(ValueError, match=name):
        measured(torch.randn(8, 3), **{name: bad})


@pytest.mark.parametrize("bad", [True, 0, 2.5])
@pytest.mark.parametrize("name", ["first", "last"])
def test_the_ranks_of_alpha_req_are_whole_numbers(name, bad):
    for z in (torch.randn(64, 8), torch.full((64, 8), math.nan)):
        with pytest.raises(ValueError, match=name):
            diagnostics.alpha_req(z, **{name: bad})


def test_a_single_row_has_no_data_driven_bandwidth_and_no_collapse():
    for measured in (diagnostics.pairwise_entropy_bounds, diagnostics.collapse_alarm):
        with pytest.raises(ValueError, match="at least 2 rows"):
            measured(torch.randn(1, 4))


@pytest.mark.parametrize("shape", [(256, 1), (256, 2), (256, 7), (2, 64), (3, 64), (8, 64)])
def test_few_possible_directions_are_no_dimensional_collapse(shape):
    z = torch.randn(shape)
    z[:, 0] *= 10
    assert diagnostics.collapse_alarm(z) is None


@pytest.mark.parametrize("shape", [(256, 8), (9, 64)])
def test_eight_possible_directions_are_enough_for_the_alarm(shape):
    z = torch.randn(shape)
    z[:, 0] *= 100
    assert "dimensional" in diagnostics.collapse_alarm(z)


def test_a_row_is_at_no_distance_from_itself_however_small_the_bandwidth(monkeypatch):
    monkeypatch.setattr("it_losses.diagnostics.entropies.CHUNK", 16)
    z, bandwidth = torch.randn(40, 6) + 100, 1e-11
    expected = math.log(40) + 3 * math.log(2 * math.pi * math.e * bandwidth**2)
    assert_close(torch.stack(diagnostics.pairwise_entropy_bounds(z, bandwidth=bandwidth)), [expected] * 2)


def test_sphere_entropy_is_that_of_the_directions_above_one_point():
    z = torch.randn(50, 6, dtype=F64) + 2
    bounds = diagnostics.sphere_entropy_bounds(z)
    u = z / z.norm(dim=1, keepdim=True)
    constant = 3 * math.log(2 * math.pi * math.e * 0.25)
    assert_close(torch.stack(bounds), torch.stack(diagnostics.pairwise_entropy_bounds(u, bandwidth=0.5)) - constant)
    assert_close(torch.stack(diagnostics.sphere_entropy_bounds(7 * z)), torch.stack(bounds))
    assert_close(torch.stack(diagnostics.sphere_entropy_bounds(torch.ones(9, 4))), [0.0, 0.0])
    far = diagnostics.sphere_entropy_bounds(torch.eye(64), bandwidth=0.05)
    assert_close(torch.stack(far), [math.log(64)] * 2)


def test_sphere_entropy_falls_while_directions_are_lost():
    # the bandwidth is fixed here; with a bandwidth computed from the batch, the bounds might rise while directions are lost
    scales = torch.linspace(0, 1, 6)
    z = torch.randn(128, 32)
    collapsing = [torch.stack(diagnostics.sphere_entropy_bounds(torch.cat([z[:, :2], (1 - s) * z[:, 2:]], 1))) for s in scales]
    for before, after in itertools.pairwise(collapsing):
        assert (after < before).all()


@pytest.mark.parametrize(
    ("z", "match"),
    [
        (torch.ones(4, 4, dtype=torch.int64), "floating-point"),
        (torch.randn(4), "shape"),
        (torch.randn(4, 3, 5), "flatten"),
        ([], "at least one batch"),
        ([(torch.randn(4, 2), 0)], "for x, _ in loader"),
        ([torch.randn(4, 2), torch.randn(4, 3)], "the same dim"),
    ],
)
def test_errors_give_advice(z, match):
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
