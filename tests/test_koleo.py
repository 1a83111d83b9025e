"""KoLeo equals lightly's loss, scipy's distances and closed forms. The Kozachenko-Leonenko estimate is near known entropies."""

import math

import pytest
import torch
from definitions import evaluated, leaf
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from it_losses import EntropyRegularizer, KoLeo, VICRegEntropy, diagnostics, functional
from it_losses.kernels.products import cpu_pairs

F64 = torch.float64


@pytest.fixture(params=["reference", "fused"])
def backend(request, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", request.param)


@pytest.mark.parametrize("shape", [(64, 32), (33, 100), (2, 3), (1088, 5)], ids=str)
def test_koleo_entropy_is_minus_the_loss_of_lightly(shape, backend):
    lightly = pytest.importorskip("lightly.loss")
    z = torch.randn(shape, dtype=F64, requires_grad=True)
    theirs = evaluated(lightly.KoLeoLoss(eps=0), [z])
    torch.testing.assert_close(evaluated(EntropyRegularizer("koleo", 1.0), [z]), theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(-functional.koleo_entropy(z), theirs[0], rtol=1e-12, atol=1e-12)


def test_the_default_criterion_is_the_alignment_less_the_entropy():
    z_a, z_b = torch.randn(2, 30, 7, dtype=F64)
    alignment = (normalize(z_a) - normalize(z_b)).square().sum(dim=1).mean()
    entropy = (KoLeo()(z_a) + KoLeo()(z_b)) / 2
    torch.testing.assert_close(VICRegEntropy("koleo")(z_a, z_b), alignment - entropy)


@pytest.mark.parametrize("shape", [(300, 3), (100, 20), (1024, 8)], ids=str)
def test_the_distances_equal_a_search_trees(shape, backend):
    spatial = pytest.importorskip("scipy.spatial")
    z = torch.randn(shape, dtype=F64)
    distances, _ = spatial.cKDTree(z.numpy()).query(z.numpy(), k=2)
    expected = torch.from_numpy(distances[:, 1]).log().mean()
    torch.testing.assert_close(KoLeo(None)(z), expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_a_sum_over_the_pairs_of_neighbours(backend):
    z = torch.randn(40, 5, dtype=F64)
    _, gradient = evaluated(KoLeo(None), [leaf(z, F64)])
    expected = torch.zeros_like(z)
    for i, j in enumerate(torch.cdist(z, z).fill_diagonal_(torch.inf).argmin(dim=1)):
        q = (z[i] - z[j]) / (40 * (z[i] - z[j]).square().sum())
        expected[i] += q
        expected[j] -= q
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    # KoLeo(c z) = KoLeo(z) + log c for c > 0. The derivative at c = 1 is the sum of z times the gradient, so it is 1
    assert (z * gradient).sum().item() == pytest.approx(1, abs=1e-12)


def test_two_points_and_the_smoothed_logarithm(backend):
    z = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=F64)
    assert KoLeo(None)(z).item() == pytest.approx(math.log(5), abs=1e-12)
    assert KoLeo(None, epsilon=12.0)(z).item() == pytest.approx(math.log(13), abs=1e-12)
    assert KoLeo(None)(0 * z).item() == pytest.approx(math.log(1e-8), abs=1e-12)


@pytest.mark.parametrize("centres", [1, 6])
@pytest.mark.parametrize("samples", [500, 1088])
def test_float32_finds_the_neighbours_of_near_samples(centres, samples, backend):
    # samples of one centre are 10^4 times nearer to each other than to 0. |x|^2 + |y|^2 - 2 x.y would lose all digits
    z = 100 + torch.randn(centres, 16, dtype=F64)[torch.arange(samples) % centres]
    z = (z + 1e-2 * torch.randn(samples, 16, dtype=F64)).float()
    ours, exact = (evaluated(KoLeo(None), [leaf(z, dtype)]) for dtype in (torch.float32, F64))
    assert ours[0].item() == pytest.approx(exact[0].item(), abs=1e-5)
    assert (ours[1].double() - exact[1]).norm() < 1e-5 * exact[1].norm()


def test_float32_finds_the_neighbours_of_samples_that_differ_by_rounding_only(backend):
    z = 1 + 1e-7 * torch.randn(64, 128)
    assert KoLeo(None)(z).item() == pytest.approx(KoLeo(None)(z.double()).item(), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_finite_where_samples_coincide(dtype, backend):
    z = leaf((3 + 1e-3 * torch.randn(64, 8)).to(dtype), dtype)
    assert len(z.unique(dim=0)) < 64
    value, gradient = evaluated(KoLeo(), [z], 1e-3)
    assert value.isfinite() and gradient.isfinite().all()


def test_samples_that_coincide_have_no_gradient(backend):
    z = torch.randn(8, 3, dtype=F64)
    _, gradient = evaluated(KoLeo(None), [leaf(z.repeat(2, 1), F64)])
    assert not gradient.any()


class Largest(TorchDispatchMode):
    """Records how many elements the largest output of an operator has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_the_matrix_of_all_pairs_is_never_stored(monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", "fused")
    monkeypatch.setattr(cpu_pairs, "MOST_PAIRS_AT_ONCE", 1 << 16)
    with Largest() as largest:
        evaluated(KoLeo(), [torch.randn(1500, 4, requires_grad=True)])
    assert largest.elements <= 2 << 16 < 1500**2


#: distribution -> (function that draws n samples, entropy in nats, allowed error for 4096 samples)
KNOWN = {
    "normal, 1 dimension": (lambda n: torch.randn(n, 1, dtype=F64), 0.5 * math.log(2 * math.pi * math.e), 0.06),
    "normal, 2 dimensions": (lambda n: torch.randn(n, 2, dtype=F64), math.log(2 * math.pi * math.e), 0.06),
    "normal of scale 1/4, 3 dimensions": (
        lambda n: torch.randn(n, 3, dtype=F64) / 4,
        1.5 * math.log(2 * math.pi * math.e / 16),
        0.08,
    ),
    "uniform on [0, 3]": (lambda n: 3 * torch.rand(n, 1, dtype=F64), math.log(3), 0.06),
    "uniform on a square of side 1/2": (lambda n: torch.rand(n, 2, dtype=F64) / 2, math.log(1 / 4), 0.08),
}


@pytest.mark.parametrize("name", KNOWN)
def test_kozachenko_leonenko_is_right_in_few_dimensions(name):
    sample, truth, allowed = KNOWN[name]
    estimates = torch.stack([diagnostics.nearest_neighbour_entropy(sample(4096)) for _ in range(4)])
    assert estimates.mean().item() == pytest.approx(truth, abs=allowed)


def test_uniform_directions_have_the_entropy_log_area():
    # a uniform distribution has the entropy log(area). A sphere in 3 dimensions has area 4 pi, and a circle has length 2 pi
    for dim, area in ((3, 4 * math.pi), (2, 2 * math.pi)):
        entropy = diagnostics.nearest_neighbour_entropy(torch.randn(4096, dim, dtype=F64), on_sphere=True)
        assert entropy.item() == pytest.approx(math.log(area), abs=0.06)


def test_it_is_the_value_of_the_estimator_and_a_constant():
    z = torch.randn(1500, 6, dtype=F64)
    constant = torch.special.digamma(torch.tensor(1500.0, dtype=F64)) + 0.5772156649015329 + math.log(math.pi**3 / 6)
    torch.testing.assert_close(diagnostics.nearest_neighbour_entropy(z), 6 * KoLeo(None)(z) + constant)


def test_from_32_dimensions_on_it_is_no_entropy_in_nats():
    # the estimate is more than two nats too high, because the nearest of 1024 samples is far away in 32 dimensions
    truth = 16 * math.log(2 * math.pi * math.e)
    estimates = torch.stack([diagnostics.nearest_neighbour_entropy(torch.randn(1024, 32, dtype=F64)) for _ in range(4)])
    assert estimates.mean().item() - truth == pytest.approx(2.6, abs=0.5)


def test_a_sample_without_a_neighbour_is_an_error():
    with pytest.raises(ValueError, match="batch >= 2"):
        diagnostics.nearest_neighbour_entropy(torch.randn(1, 3))
    with pytest.raises(ValueError, match="dim >= 2"):
        diagnostics.nearest_neighbour_entropy(torch.randn(5, 1), on_sphere=True)
    assert diagnostics.nearest_neighbour_entropy(torch.ones(5, 2)) == -torch.inf
