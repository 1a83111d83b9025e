"""Matrix-based Renyi entropy agrees with closed forms, with identities, and with the formulas of FroSSL and VNE."""

import math

import pytest
import torch
from definitions import evaluated, leaf, standardised
from torch.nn.functional import cosine_similarity, normalize

from it_losses import MatrixRenyi, VICRegEntropy, diagnostics, functional
from it_losses.entropy.variance_covariance import covariance_penalty

F64 = torch.float64
ORDERS = [0.3, 0.5, 1.0, 2.0, 3.0, 8.0]
SHAPES = [(40, 9), (9, 40), (20, 20)]
NORMALIZATIONS = ["columns", "uncentred_columns", "rows", None]
every_order = pytest.mark.parametrize("order", ORDERS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_normalization = pytest.mark.parametrize("normalization", NORMALIZATIONS)
both_backends = pytest.mark.parametrize("backend", ["fused", "reference"], indirect=True)


@pytest.fixture
def backend(request, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", request.param)


def two_views(*shape, dtype=F64):
    """Two views whose columns are correlated, have different scales, and have means other than zero."""
    z = torch.randn(*shape, dtype=F64) * torch.linspace(0.3, 2, shape[-1], dtype=F64) + 0.5
    z = z + 0.5 * z[:, :1]
    return [leaf(z + 0.3 * torch.randn(*shape, dtype=F64), dtype) for _ in range(2)]


def of_variances(p, rows=40):
    """Samples whose covariance matrix is diagonal, with the variances p."""
    p = torch.as_tensor(p, dtype=F64)
    raw = torch.randn(rows, len(p), dtype=F64)
    return torch.linalg.qr(raw - raw.mean(dim=0)).Q * p.sqrt() + 4


@every_order
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_a_known_spectrum(order, backend, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", backend)
    p = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=F64)
    expected = -(p * p.log()).sum() if order == 1 else (p**order).sum().log() / (1 - order)
    torch.testing.assert_close(MatrixRenyi(order, normalize=None)(of_variances(7 * p)), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(functional.renyi_entropy(of_variances(p), order=order), expected, rtol=1e-12, atol=0)


@every_order
def test_directions_that_share_the_variance_equally_are_counted(order):
    z = torch.cat([of_variances([2.0] * 3), torch.ones(40, 2, dtype=F64)], dim=1)
    for side in (z, torch.cat([z, torch.zeros(40, 60, dtype=F64)], dim=1)):
        value = MatrixRenyi(order, normalize=None)(side)
        assert value.item() == pytest.approx(math.log(3), abs=1e-12)


@every_shape
def test_order_two_is_the_logarithm_of_the_covariance_penalty(shape):
    (z, _), (batch, dim) = two_views(*shape), shape
    # the penalty divides the covariance by batch - 1, and the entropy divides it by batch
    penalty = covariance_penalty(standardised(z)) * ((batch - 1) / batch) ** 2
    torch.testing.assert_close(MatrixRenyi()(z), math.log(dim) - torch.log1p(penalty), rtol=1e-12, atol=1e-12)


@every_shape
def test_the_exponentials_are_the_participation_ratio_and_the_effective_rank(shape):
    z = two_views(*shape)[0].detach()
    ratio, p = diagnostics.participation_ratio(z), diagnostics.spectrum(z)
    torch.testing.assert_close(MatrixRenyi(normalize=None)(z).exp(), ratio, rtol=1e-11, atol=0)
    torch.testing.assert_close(diagnostics.renyi_entropy(z).exp(), ratio, rtol=1e-11, atol=0)
    effective_rank = torch.special.entr(p / p.sum()).sum().exp()
    torch.testing.assert_close(MatrixRenyi(1.0, normalize=None)(z).exp(), effective_rank, rtol=1e-11, atol=0)
    torch.testing.assert_close(diagnostics.renyi_entropy(z, order=1.0).exp(), effective_rank, rtol=1e-11, atol=0)


@every_shape
def test_lightly_frossl(shape):
    loss = pytest.importorskip("lightly.loss.frossl_loss", reason="needs lightly 1.6").FroSSLLoss()
    views, (batch, dim) = two_views(*shape), shape
    criterion = VICRegEntropy("renyi", normalize="uncentred_columns", invariance_weight=dim / batch, entropy_weight=2.0)
    ours, theirs = evaluated(criterion, views), evaluated(lambda *z: loss(list(z)), views)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@every_shape
def test_frossl_of_its_authors_up_to_a_constant(shape):
    (batch, dim), views = shape, two_views(*shape)

    def frossl(*views):
        units = [math.sqrt(dim) * normalize(z - z.mean(dim=0), dim=0) for z in views]
        norms = [torch.log(torch.linalg.matrix_norm(z.T @ z / batch) ** 2) for z in units]
        # the authors scale columns to norm sqrt(dim), and we to sqrt(batch). A factor and a constant below correct for this
        return (units[0] - units[1]).square().mean() * batch / dim + sum(norms) - 4 * math.log(dim**2 / batch)

    ours = evaluated(VICRegEntropy("renyi", invariance_weight=1.0, entropy_weight=2.0), views)
    torch.testing.assert_close(ours, evaluated(frossl, views), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES[:1] + SHAPES[2:], ids=str)
def test_von_neumann_entropy_of_ivne(shape):
    views = two_views(*shape)

    def vne(z):
        u = normalize(z, dim=1)
        p = torch.linalg.eigvalsh(u.T @ u / len(u))
        return -(p * p.log()).sum()

    def ivne(*views):
        return 4.16 * (1 - cosine_similarity(*views).mean()) - 0.5 * sum(map(vne, views))

    ours = evaluated(VICRegEntropy("renyi", order=1.0, normalize="rows", invariance_weight=4.16), views)
    torch.testing.assert_close(ours, evaluated(ivne, views), rtol=1e-12, atol=1e-12)


@both_backends
@every_normalization
@every_order
def test_the_gradient_is_the_derivative(order, normalization, backend):
    for shape in ((7, 4), (4, 7)):
        z = torch.randn(shape, dtype=F64, requires_grad=True)
        assert torch.autograd.gradcheck(MatrixRenyi(order, normalize=normalization), (z,), atol=1e-5, rtol=1e-3)


@both_backends
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.float16], ids=str)
@every_normalization
@every_order
def test_zero_eigenvalues_and_collapse_have_finite_gradients(order, normalization, dtype, backend):
    estimator = MatrixRenyi(order, normalize=normalization)
    low_rank = torch.randn(30, 3) @ torch.randn(3, 12) + 1
    dead = torch.cat([torch.randn(30, 5), torch.full((30, 2), 0.3)], dim=1)
    for z in (low_rank, low_rank.T, dead, torch.full((8, 5), 0.3), torch.full((8, 50), 0.3), torch.zeros(6, 4)):
        value, gradient = evaluated(estimator, [leaf(z, dtype)])
        assert value.isfinite() and gradient.isfinite().all()
        assert -1e-5 <= value <= math.log(min(z.shape)) + 1e-5


@pytest.mark.parametrize("shape", [(3, 3), (8, 3), (3, 9)], ids=str)
@pytest.mark.parametrize("order", [0.5, 0.9])
def test_a_zero_eigenvalue_adds_no_rounding_to_the_gradient(order, shape, monkeypatch):
    # for batch <= dim, centred samples have an eigenvalue p = 0. After rounding, p^(order - 1) in the gradient would be large
    z, results = torch.randn(*shape, dtype=F64, requires_grad=True), []
    for backend in ("fused", "reference"):
        monkeypatch.setenv("IT_LOSSES_BACKEND", backend)
        results.append(evaluated(MatrixRenyi(order), [z]))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@both_backends
@every_order
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_number_is_seen_in_the_value(order, bad, backend):
    for shape in ((6, 4), (4, 6)):
        z = torch.randn(shape)
        z[1, 2] = bad
        assert not MatrixRenyi(order)(z).isfinite()


@every_normalization
def test_invariances_depend_on_the_normalization(normalization):
    estimator, z = MatrixRenyi(normalize=normalization), two_views(30, 5)[0].detach()
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=F64)).Q
    moved = {"rotation_invariant": z @ rotation, "translation_invariant": z + 0.7}
    for fact, other in moved.items():
        assert torch.allclose(estimator(other), estimator(z), rtol=1e-10) == getattr(estimator, fact)
    torch.testing.assert_close(estimator(100 * z), estimator(z), rtol=1e-12, atol=0)


def test_default_weights():
    assert VICRegEntropy("renyi").invariance_weight == VICRegEntropy("renyi").entropy_weight == 1
    rows = VICRegEntropy("renyi", normalize="rows")
    assert (rows.invariance, rows.invariance_weight, rows.entropy_weight) == ("von_mises_fisher", 2, 1)
    with pytest.raises(ValueError, match="Pass entropy_weight"):
        VICRegEntropy("renyi", normalize=None)


@pytest.mark.parametrize("order", [0, -1, 9, math.inf, "2"])
def test_an_order_that_float32_cannot_compute_is_refused(order):
    with pytest.raises(ValueError, match="order must be"):
        MatrixRenyi(order)
