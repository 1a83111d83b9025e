"""The criteria have the right values and terms in every convention and for many views, and refuse wrong arguments."""

import copy
import pickle
import warnings

import pytest
import torch

from it_losses import (
    BoundWeights,
    EntropyEstimator,
    EntropyRegularizer,
    LogDet,
    Pairwise,
    Terms,
    VarianceCovariance,
    VICReg,
    VICRegEntropy,
    functional,
)
from it_losses.vicreg_conventions import CONVENTIONS

F64 = torch.float64


def hinge(z):
    return torch.clamp(1 - (z.var(dim=0) + 1e-4).sqrt(), min=0).mean()


def squared_covariances(z):
    """All D (D - 1) squared off-diagonal covariances of z [batch, D], as a vector."""
    covariance = torch.cov(z.T).reshape(z.shape[1], z.shape[1])
    keep = torch.triu_indices(*covariance.shape, offset=1)
    upper = covariance[keep[0], keep[1]]
    return torch.cat([upper, upper]).square()


# the loss of each convention as in its source; a, b are views, and i, v, c weights of invariance, variance, covariance
def official(a, b, i, v, c):
    d = a.shape[1]
    covariances = squared_covariances(a).sum() / d + squared_covariances(b).sum() / d
    return i * (a - b).square().mean() + v * (hinge(a) / 2 + hinge(b) / 2) + c * covariances


def solo_learn(a, b, i, v, c):
    d = a.shape[1]
    covariances = squared_covariances(a).sum() / d + squared_covariances(b).sum() / d
    return i * (a - b).square().mean() + v * (hinge(a) + hinge(b)) + c * covariances


def vicregl(a, b, i, v, c):
    d = a.shape[1]
    covariances = squared_covariances(a).sum() / d / 2 + squared_covariances(b).sum() / d / 2
    return i * (a - b).square().mean() + v * (hinge(a) / 2 + hinge(b) / 2) + c * covariances


def eb_jepa(a, b, i, v, c):
    covariances = squared_covariances(a).mean() + squared_covariances(b).mean()
    return i * (a - b).square().mean() + v * (hinge(a) + hinge(b)) + c * covariances


def paper(a, b, i, v, c):
    d = a.shape[1]
    covariances = squared_covariances(a).sum() / d + squared_covariances(b).sum() / d
    return i * (a - b).square().sum(dim=1).mean() + v * (hinge(a) + hinge(b)) + c * covariances


SOURCES = {"official": official, "solo-learn": solo_learn, "vicregl": vicregl, "eb_jepa": eb_jepa, "paper": paper}


def views(*shape, dtype=F64, scale=0.7):
    return [(scale * torch.randn(*shape, dtype=dtype)).requires_grad_() for _ in range(2)]


def assert_same_loss(ours, theirs, a, b, *, rtol):
    """Assert that the values and both gradients agree, for an upstream gradient of -1.7."""
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=0)
    for mine, other in zip(torch.autograd.grad(-1.7 * ours, (a, b)), torch.autograd.grad(-1.7 * theirs, (a, b)), strict=True):
        assert (mine - other).norm() <= rtol * other.norm(), (mine - other).abs().max()


def test_every_convention_has_its_source_here():
    assert SOURCES.keys() == CONVENTIONS.keys()


@pytest.mark.parametrize("convention", SOURCES)
@pytest.mark.parametrize("shape", [(2, 3), (7, 5), (32, 64), (64, 32), (33, 33)], ids=str)
@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (3.0, 7.0, 0.4)], ids=str)
def test_each_convention_gives_its_sources_number(convention, shape, weights):
    a, b = views(*shape)
    theirs = SOURCES[convention](a, b, *weights)
    assert_same_loss(VICReg(*weights, convention=convention)(a, b), theirs, a, b, rtol=1e-12)


@pytest.mark.parametrize("convention", SOURCES)
def test_functional_vicreg_equals_the_module(convention):
    a, b = views(12, 5)
    assert torch.equal(functional.vicreg(a, b, convention=convention), VICReg(convention=convention)(a, b))


@pytest.mark.parametrize("shape", [(2, 3), (16, 48), (48, 16), (16, 3, 8)], ids=str)
@pytest.mark.parametrize(("dtype", "rtol"), [(F64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_lightly_agrees(shape, dtype, rtol):
    theirs = pytest.importorskip("lightly.loss").VICRegLoss()
    a, b = views(*shape, dtype=dtype)
    assert_same_loss(VICReg()(a, b), theirs(a, b), a, b, rtol=rtol)


@pytest.mark.filterwarnings("ignore")
def test_a_trace_of_torch_jit_has_the_value_of_the_criterion():
    a, b = torch.randn(2, 96, 80, dtype=F64)
    torch.testing.assert_close(torch.jit.trace(VICReg(), (a, b))(a, b), VICReg()(a, b))


def test_vicreg_is_the_bound_with_its_surrogate_entropy():
    a, b = views(12, 5)
    assert_same_loss(VICReg()(a, b), VICRegEntropy("variance_covariance")(a, b), a, b, rtol=1e-12)


def test_vicreg_terms_add_up():
    a, b = views(12, 5)
    terms = VICReg(3.0, 7.0, 0.4).terms(a, b)
    torch.testing.assert_close(terms.loss, 3 * terms.invariance + 7 * terms.variance + 0.4 * terms.covariance)
    torch.testing.assert_close(terms.loss, 3 * terms.invariance - terms.entropy)
    torch.testing.assert_close(terms.variance, (hinge(a) + hinge(b)) / 2)
    torch.testing.assert_close(terms.covariance, (squared_covariances(a).sum() + squared_covariances(b).sum()) / 5)


def test_the_loss_of_a_regularizer_is_minus_its_weighted_entropy():
    a, b = views(12, 5)
    terms = EntropyRegularizer("log_det", 0.3).terms(a, b)
    torch.testing.assert_close(terms.loss, -0.3 * terms.entropy)
    torch.testing.assert_close(terms.entropy, functional.log_det_entropy(torch.stack((a, b), dim=1), per_dimension=True))


@pytest.mark.parametrize(
    "criterion",
    [VICReg(), VICRegEntropy("log_det"), VICRegEntropy("pairwise"), EntropyRegularizer("log_det"), EntropyRegularizer("koleo")],
    ids=repr,
)
def test_only_the_loss_of_the_terms_back_propagates(criterion):
    a, b = views(8, 4)
    loss, *others = criterion.terms(a, b)
    assert loss.requires_grad and loss.shape == ()
    assert not any(term.requires_grad for term in others)
    assert torch.equal(loss, criterion(a, b))


def test_terms_has_the_three_names():
    assert Terms._fields == ("loss", "invariance", "entropy")


@pytest.mark.parametrize("count", [2, 3, 5])
def test_invariance_of_many_views_is_the_mean_over_pairs(count):
    z = list(torch.randn(count, 6, 4, dtype=F64))
    pairs = [(z[i] - z[j]).square().mean() for i in range(count) for j in range(i)]
    torch.testing.assert_close(functional.invariance(*z), torch.stack(pairs).mean())


@pytest.mark.parametrize("criterion", [VICReg(), VICRegEntropy("log_det"), VICRegEntropy("pairwise")], ids=repr)
def test_order_of_many_views_is_free_and_repeating_the_views_changes_no_entropy(criterion):
    a, b, c = torch.randn(3, 9, 4, dtype=F64)
    torch.testing.assert_close(criterion(a, b, c), criterion(c, a, b))
    torch.testing.assert_close(criterion.terms(a, b, a, b).entropy, criterion.terms(a, b).entropy)


@pytest.mark.parametrize("name", ["variance_covariance", "log_det", "pairwise"])
def test_defaults_are_the_estimators_own(name):
    criterion = VICRegEntropy(name)
    weights = criterion.invariance_weight, criterion.entropy_weight, criterion.invariance
    assert weights == criterion.entropy.default_weights
    assert VICRegEntropy(name, entropy_weight=0.0).entropy_weight == 0.0


def test_log_det_in_nats_takes_the_weight_it_is_given():
    a, b = views(8, 4)
    in_nats = VICRegEntropy("log_det", per_dimension=False, entropy_weight=2.0)
    torch.testing.assert_close(in_nats(a, b), VICRegEntropy("log_det", entropy_weight=8.0)(a, b))


@pytest.mark.parametrize("beta", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("difference", [0.05, 0.5, 1.0])
def test_log_det_weights_give_each_direction_the_variance_their_docstring_says(beta, difference):
    criterion, side = VICRegEntropy("log_det", beta=beta), 64
    # the views are `shared + noise` and `shared - noise`; their columns are orthogonal and have the same variance
    columns = torch.linalg.qr(torch.randn(4 * side, 2 * side, dtype=F64)).Q
    columns = torch.linalg.qr(columns - columns.mean(dim=0)).Q * (4 * side) ** 0.5
    shared, noise = (1 - difference / 2) ** 0.5 * columns[:, :side], (difference / 2) ** 0.5 * columns[:, side:]
    scale = torch.tensor(((4 * max(beta, 1) / difference - 1) / beta) ** 0.5, dtype=F64, requires_grad=True)
    criterion(scale * (shared + noise), scale * (shared - noise)).backward()
    assert scale.grad.abs() < 1e-6 * criterion.entropy_weight


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 30.0])
@pytest.mark.parametrize("difference", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("dim", [6, 100])
def test_the_anchor_holds_each_direction_at_the_variance_its_docstring_says(beta, difference, dim):
    shared = torch.linalg.qr(torch.randn(40, 12, dtype=F64)).Q
    shared, noise = (torch.linalg.qr(shared - shared.mean(dim=0)).Q * 40**0.5).chunk(2, dim=1)
    # zeros pad the views to `dim` dimensions
    shared, noise = (torch.nn.functional.pad(part, (0, dim - 6)) for part in (shared, noise))
    shared, noise = (1 - difference / 2) ** 0.5 * shared, (difference / 2) ** 0.5 * noise
    target = dim / min(39, dim)
    criterion = VICRegEntropy("log_det", beta=beta, anchor=True)
    variance = 1 / (beta / (1 + beta * target) + 100 * difference / criterion.entropy_weight) - 1 / beta
    # a positive variance means no collapse, even for independent views (difference 1)
    assert variance > 0
    scale = torch.tensor(variance**0.5, dtype=F64, requires_grad=True)
    criterion(scale * (shared + noise), scale * (shared - noise)).backward()
    assert scale.grad.abs() < 1e-11 * criterion.entropy_weight


@pytest.mark.parametrize(("beta", "weight"), [(0.1, 22000), (0.5, 1200), (1, 400), (100, 4)])
def test_the_default_weight_of_the_anchored_entropy_is_the_documented_one(beta, weight):
    assert VICRegEntropy("log_det", beta=beta, anchor=True).entropy_weight == pytest.approx(weight)


def test_an_estimator_may_be_passed_instead_of_its_name():
    a, b = views(8, 4)
    assert torch.equal(VICRegEntropy(LogDet(3.0))(a, b), VICRegEntropy("log_det", beta=3.0)(a, b))


class Marginal(EntropyEstimator):
    """An estimator that a user could write with public names only."""

    unit, direction, rotation_invariant, cost = "nats", "upper bound for a Gaussian", False, "N D"

    @property
    def default_weights(self):
        return BoundWeights(invariance=3.0, entropy=0.7)

    def entropy(self, z):
        return 0.5 * (z.var(dim=-2) + 1e-4).log().sum(dim=-1)


def test_a_user_defined_estimator_is_accepted():
    a, b = views(8, 4)
    entropy = sum(0.5 * (z.var(dim=0) + 1e-4).log().sum() for z in (a, b)) / 2
    assert_same_loss(VICRegEntropy(Marginal())(a, b), 3 * (a - b).square().mean() - 0.7 * entropy, a, b, rtol=1e-12)
    torch.testing.assert_close(EntropyRegularizer(Marginal(), 0.1)(a, b), -0.1 * entropy)


@pytest.mark.parametrize(("beta", "weight"), [(0.1, 4000.0), (1.0, 400.0), (10.0, 400.0), (100.0, 400.0)])
def test_the_default_weight_of_log_det_follows_the_ablation(beta, weight):
    # linear probe on digits in docs/report.md: beta 100 loses 7.4 +- 2.3 points at weight 4, and 1.2 +- 1.0 at weight 400,
    # compared with beta 1 at weight 400
    assert VICRegEntropy("log_det", beta=beta).entropy_weight == weight


@pytest.mark.parametrize("criterion", [VICReg(convention="eb_jepa"), VICRegEntropy(), EntropyRegularizer("pairwise")], ids=repr)
def test_criteria_pickle_copy_and_print_their_constants(criterion):
    a, b = views(8, 4)
    for copied in (pickle.loads(pickle.dumps(criterion)), copy.deepcopy(criterion)):
        assert torch.equal(copied(a, b), criterion(a, b))
    assert "gather_distributed=True" in repr(criterion)
    assert not criterion.state_dict()


GOOD = torch.randn(4, 3)
BAD_VIEWS = {
    "a batch of one": ((GOOD[:1], GOOD[:1]), "batch size > 1"),
    "two shapes": ((GOOD, GOOD[:3]), "same shape"),
    "two devices": ((GOOD, GOOD.to("meta")), "same device"),
    "integers": ((GOOD.int(), GOOD.int()), "floating-point"),
    "complex numbers": ((GOOD.cfloat(), GOOD.cfloat()), "floating-point"),
    "a vector": ((GOOD[0], GOOD[0]), "shape"),
    "no dimension": ((GOOD[:, :0], GOOD[:, :0]), "not empty"),
    "no tensor": (([[1.0], [2.0]], GOOD), "tensor"),
}


@pytest.mark.parametrize("criterion", [VICReg(), VICRegEntropy("log_det"), VICRegEntropy("pairwise")], ids=repr)
@pytest.mark.parametrize("case", BAD_VIEWS)
def test_bad_views_are_refused_with_advice(criterion, case):
    bad, message = BAD_VIEWS[case]
    with pytest.raises(ValueError, match=message) as refused:
        criterion(*bad)
    # lightly's classes raise AssertionError, and code that catches it must keep working
    assert isinstance(refused.value, AssertionError)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VICRegEntropy("logdet"), "log_det"),
        (lambda: VICRegEntropy("log_det", invariance_weight=-1), "invariance_weight"),
        (lambda: VICRegEntropy("log_det", entropy_weight=float("nan")), "entropy_weight"),
        (lambda: VICRegEntropy(LogDet(), beta=2.0), "beta"),
        (lambda: VICRegEntropy("log_det", per_dimension=False), "Pass entropy_weight"),
        (lambda: VICReg(covariance_weight=-1), "covariance_weight"),
        (lambda: VICReg(convention="facebook"), "official"),
        (lambda: functional.vicreg(*torch.randn(2, 4, 3), convention="facebook"), "official"),
        (lambda: VICReg(margin=0), "margin"),
        (lambda: VICReg(epsilon=-1e-4), "epsilon"),
        (lambda: VarianceCovariance(variance_weight=float("inf")), "variance_weight"),
        (lambda: LogDet(beta=0), "beta"),
        (lambda: Pairwise(bandwidth=0), "bandwidth"),
        (lambda: Pairwise(bandwidth=1e-13), "between 1e-12 and 1e\\+12"),
        (lambda: Pairwise(bandwidth=(1.0, 1e13)), "Rescale the embeddings"),
        (lambda: Pairwise(bandwidth=[1.0, -1.0]), "bandwidth"),
        (lambda: Pairwise(bandwidth=[]), "bandwidth"),
        (lambda: Pairwise(bandwidth="silverman"), "auto"),
        (lambda: Pairwise(divergence="chernoff"), "bhattacharyya"),
        (lambda: Pairwise(spread_fraction=0), "spread_fraction"),
        (lambda: Pairwise(None), "bandwidth"),
        (lambda: Pairwise(memory_mib=-1), "memory_mib must be a finite number >= 0, got -1.$"),
        (lambda: LogDet("1"), "beta must be a finite number > 0, got '1'"),
        (lambda: LogDet(torch.ones(2)), "beta"),
        (lambda: VICReg("25"), "invariance_weight"),
        (lambda: EntropyRegularizer("pairwise", -0.1), "weight"),
        (lambda: functional.vicreg(GOOD, GOOD, variance_weight=-1), "variance_weight"),
        (lambda: functional.vicreg(GOOD, GOOD, margin=float("nan")), "margin"),
    ],
)
def test_bad_constants_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_bandwidth_may_be_any_number():
    z = torch.randn(16, 8)
    torch.testing.assert_close(Pairwise(torch.tensor(2.0))(z), Pairwise(2)(z))
    torch.testing.assert_close(Pairwise(torch.tensor([1.0, 2.0]))(z), Pairwise([1, 2])(z))


def test_a_saturated_bandwidth_warns_once():
    z, estimator = torch.randn(16, 8), Pairwise(1e-3)
    with pytest.warns(UserWarning, match=r"log\(batch\)"):
        estimator(z)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator(z)


def test_a_bandwidth_that_overlaps_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pairwise(2.0)(torch.randn(16, 8))
        Pairwise()(torch.randn(16, 8))


def test_a_saturated_bandwidth_has_no_gradient():
    z = torch.randn(16, 8, requires_grad=True)
    estimator = Pairwise(1e-3)
    with pytest.warns(UserWarning, match="no gradient"):
        estimator(z).backward()
    assert z.grad.abs().max() == 0
