"""NT-Xent, decoupled contrastive learning, alignment and uniformity, and BYOL equal our criteria up to a constant."""

from __future__ import annotations

import math

import pytest
import ranks
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from it_losses import Pairwise, QuadraticRenyi, VICRegEntropy, functional, theory

SHAPES = [(2, 3), (5, 3), (64, 33), (70, 130)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
temperatures = pytest.mark.parametrize("temperature", [0.1, 0.5])


def views_of(*shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2)]


def evaluated(loss, views: list[Tensor]) -> list[Tensor]:
    value = loss(*views)
    return [value.detach(), *torch.autograd.grad(value, views)]


def assert_differ_by(ours: list[Tensor], theirs: list[Tensor], constant: float) -> None:
    """Assert `their value = our value + constant`, and that the gradients agree to 1e-12 of the largest element."""
    torch.testing.assert_close(ours[0] + constant, theirs[0], rtol=1e-12, atol=1e-12)
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        assert (mine - other).abs().max() <= 1e-12 * other.abs().max()


def contrastive(temperature: float, *, positives: bool, **options: object) -> VICRegEntropy:
    """Return our criterion, which equals a contrastive loss minus `constant(...)`.

    The loss is SimCLR's if `positives` is true, and otherwise the decoupled contrastive loss.
    """
    entropy = Pairwise(temperature**0.5, normalize="rows", exclude_self=True, pool_views=True, exclude_positives=not positives)
    return VICRegEntropy(
        entropy, invariance="von_mises_fisher", invariance_weight=1 / temperature, entropy_weight=1.0, **options
    )


def constant(temperature: float, dim: int, pairs: int) -> float:
    """Return a contrastive loss minus our criterion: the entropy of one Gaussian component, plus log(pairs per sample)."""
    return dim / 2 * math.log(2 * math.pi * math.e * temperature) + math.log(pairs)


@pytest.fixture(params=["fused", "reference"], autouse=True)
def both(request, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", request.param)


@every_shape
@temperatures
def test_nt_xent(shape, temperature):
    lightly = pytest.importorskip("lightly.loss")
    views, (batch, dim) = views_of(*shape), shape
    theirs = evaluated(lightly.NTXentLoss(temperature, memory_bank_size=0), views)
    ours = evaluated(contrastive(temperature, positives=True), views)
    assert_differ_by(ours, theirs, constant(temperature, dim, 2 * batch - 1))
    assert_differ_by(evaluated(lambda *z: functional.nt_xent(*z, temperature=temperature), views), theirs, 0.0)


@every_shape
@temperatures
def test_decoupled_contrastive_learning(shape, temperature):
    lightly = pytest.importorskip("lightly.loss")
    views, (batch, dim) = views_of(*shape), shape
    theirs = evaluated(lightly.DCLLoss(temperature), views)
    ours = evaluated(contrastive(temperature, positives=False), views)
    assert_differ_by(ours, theirs, constant(temperature, dim, 2 * batch - 2))


def test_nt_xent_by_its_formula():
    views = views_of(9, 4)

    def nt_xent(z_a: Tensor, z_b: Tensor) -> Tensor:
        u = F.normalize(torch.cat((z_a, z_b)), dim=1)
        logits = (u @ u.T / 0.3).fill_diagonal_(-math.inf)
        return F.cross_entropy(logits, torch.arange(18).roll(9))

    assert_differ_by(evaluated(lambda *z: functional.nt_xent(*z, temperature=0.3), views), evaluated(nt_xent, views), 0.0)


@temperatures
def test_the_default_weights_of_a_pooled_density_of_unit_vectors_equal_nt_xents(temperature):
    default = VICRegEntropy("pairwise", bandwidth=temperature**0.5, normalize="rows", exclude_self=True, pool_views=True)
    assert default.invariance == "von_mises_fisher"
    views = views_of(7, 5)
    torch.testing.assert_close(evaluated(default, views), evaluated(contrastive(temperature, positives=True), views))


def errors_on_a_rank(name: str, temperature: float, rows: tuple[int, ...]) -> tuple[float, float]:
    """Return how much our value and gradient differ from lightly's. Rank r holds `rows[r]` samples.

    lightly's loss runs on the ranks if all hold equally many samples, and otherwise in one process.
    """
    import lightly.loss

    positives = name == "NTXentLoss"
    whole, start = views_of(sum(rows), 6), sum(rows[: dist.get_rank()])
    own = slice(start, start + rows[dist.get_rank()])
    mine = [z.detach()[own].clone().requires_grad_() for z in whole]
    pairs = 2 * sum(rows) - (1 if positives else 2)
    value, *gradients = evaluated(contrastive(temperature, positives=positives), mine)
    if len(set(rows)) == 1:
        theirs, *slopes = evaluated(getattr(lightly.loss, name)(temperature, gather_distributed=True), mine)
        # lightly's value on a rank is the mean over the samples of this rank, so the mean over the ranks is taken
        dist.all_reduce(theirs)
        theirs /= len(rows)
    else:
        theirs, *slopes = evaluated(getattr(lightly.loss, name)(temperature), whole)
        # DDP averages gradients, so ours are those of one process times the number of ranks
        slopes = [len(rows) * slope[own] for slope in slopes]
    wrong = max(((g - s).abs().max() / s.abs().max()).item() for g, s in zip(gradients, slopes, strict=True))
    return (value + constant(temperature, 6, pairs) - theirs).abs().item(), wrong


@temperatures
@pytest.mark.parametrize("rows", [(5, 5), (3, 8)], ids=str)
@pytest.mark.parametrize("name", ["NTXentLoss", "DCLLoss"])
def test_contrastive_losses_on_two_ranks(name, temperature, rows):
    pytest.importorskip("lightly.loss")
    for value, gradient in ranks.run(2, errors_on_a_rank, name, temperature, rows):
        assert value < 1e-12 and gradient < 1e-12


@every_shape
@pytest.mark.parametrize("t", [1.0, 2.0])
def test_alignment_and_uniformity(shape, t):
    hypersphere = pytest.importorskip("lightly.loss.hypersphere_loss")
    views = views_of(*shape)
    ours = VICRegEntropy(QuadraticRenyi.of_uniformity(t), invariance_weight=2.0, entropy_weight=0.7)
    theirs = hypersphere.HypersphereLoss(t=t, lam=0.7)
    assert_differ_by(evaluated(ours, views), evaluated(theirs, views), 0.0)
    in_nats = VICRegEntropy("quadratic", bandwidth=(4 * t) ** -0.5, invariance_weight=2.0, entropy_weight=0.7)
    # lightly leaves out the constant dim/2 log(4 pi s^2), where s is the bandwidth and t = 1 / (4 s^2)
    assert_differ_by(evaluated(in_nats, views), evaluated(theirs, views), 0.7 * shape[1] / 2 * math.log(math.pi / t))


def test_uniformity_of_many_dimensions_is_exact_to_float32_precision():
    z = torch.randn(16, 2048, generator=torch.Generator().manual_seed(0))
    exact, found = (QuadraticRenyi.of_uniformity(1.0)(z.to(dtype)).double() for dtype in (torch.float64, torch.float32))
    assert (found - exact).abs() < 1e-6 * exact.abs()


def test_alignment_and_uniformity_of_the_default_criterion():
    views = views_of(9, 4)

    def wang_and_isola(z_a: Tensor, z_b: Tensor) -> Tensor:
        u_a, u_b = F.normalize(z_a), F.normalize(z_b)
        uniformity = [torch.pdist(u).square().mul(-2).exp().mean().log() for u in (u_a, u_b)]
        return (u_a - u_b).square().sum(dim=1).mean() + sum(uniformity) / 2

    assert_differ_by(evaluated(VICRegEntropy("quadratic"), views), evaluated(wang_and_isola, views), 2 * math.log(math.pi / 2))


@every_shape
def test_byol_and_simsiam_are_the_likelihood_alone(shape):
    lightly = pytest.importorskip("lightly.loss")
    views = views_of(*shape)
    cosine = VICRegEntropy("log_det", invariance="von_mises_fisher", invariance_weight=1.0, entropy_weight=0.0)
    assert_differ_by(evaluated(cosine, views), evaluated(lightly.NegativeCosineSimilarity(), views), -1.0)
    byol = VICRegEntropy("log_det", invariance="von_mises_fisher", invariance_weight=2.0, entropy_weight=0.0)
    distance = evaluated(lambda a, b: (F.normalize(a) - F.normalize(b)).square().sum(dim=1).mean(), views)
    assert_differ_by(evaluated(byol, views), distance, 0.0)


@pytest.mark.parametrize("concentration", [1e-3, 0.5, 2.0, 10.0, 100.0, 3e3])
def test_the_von_mises_fisher_constant_of_a_sphere_in_space(concentration):
    # log sinh k = k + log(1 - exp(-2k)) - log 2 does not overflow for a large concentration k
    log_sinh = concentration + math.log(-math.expm1(-2 * concentration)) - math.log(2)
    expected = math.log(concentration / (4 * math.pi)) - log_sinh
    assert theory.von_mises_fisher_log_constant(concentration, 3) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(("concentration", "dim"), [(0.1, 1), (0.1, 2), (2.0, 5), (10.0, 64), (200.0, 64), (2e3, 512)])
def test_the_von_mises_fisher_constant_has_the_bessel_function_of_scipy(concentration, dim):
    special = pytest.importorskip("scipy.special")
    scaled = special.ive(dim / 2 - 1, concentration)
    expected = (dim / 2 - 1) * math.log(concentration) - dim / 2 * math.log(2 * math.pi) - math.log(scaled) - concentration
    assert theory.von_mises_fisher_log_constant(concentration, dim) == pytest.approx(expected, rel=1e-11, abs=1e-11)


def test_a_wide_von_mises_fisher_density_is_uniform():
    area = math.log(2) + 64 * math.log(math.pi) - math.lgamma(64)
    assert theory.von_mises_fisher_log_constant(1e-6, 128) == pytest.approx(-area, rel=1e-9)


@pytest.mark.parametrize(("concentration", "dim"), [(0.0, 3), (-1.0, 3), (math.inf, 3), (1.0, 0), (1.0, 2.5)])
def test_invalid_von_mises_fisher_constants_are_refused(concentration, dim):
    with pytest.raises(ValueError, match=r"concentration|dim"):
        theory.von_mises_fisher_log_constant(concentration, dim)


def test_the_likelihood_in_nats_is_minus_the_weighted_distance_plus_a_constant():
    z_a, z_b = views_of(9, 5)
    nats = theory.von_mises_fisher_log_likelihood(z_a, z_b, concentration=4.0)
    criterion = VICRegEntropy("log_det", invariance="von_mises_fisher")
    expected = -4 * criterion.terms(z_a, z_b).invariance + 4 + theory.von_mises_fisher_log_constant(4.0, 5)
    torch.testing.assert_close(nats, expected, rtol=1e-12, atol=1e-12, check_device=False)


@temperatures
def test_nt_xent_is_the_bound_of_a_von_mises_fisher_density_and_likelihood(temperature):
    # NT-Xent is log(2N - 1) - (H + E log q) with batch size N, entropy H and likelihood q. The normalising constant in H
    # and in q cancels
    views = views_of(9, 5)
    log_constant = theory.von_mises_fisher_log_constant(1 / temperature, 5)
    u = F.normalize(torch.cat(views), dim=1)
    log_density = (u @ u.T / temperature + log_constant).fill_diagonal_(-math.inf).logsumexp(dim=1) - math.log(17)
    likelihood = theory.von_mises_fisher_log_likelihood(*views, concentration=1 / temperature)
    bound = -log_density.mean() + likelihood
    torch.testing.assert_close(functional.nt_xent(*views, temperature=temperature), math.log(17) - bound, rtol=1e-12, atol=0)


def test_nt_xent_refuses_constants_that_it_cannot_use():
    with pytest.raises(ValueError, match="temperature"):
        functional.nt_xent(*views_of(4, 3), temperature=0.0)
    with pytest.raises(ValueError, match="batch size"):
        functional.nt_xent(*views_of(1, 3))
