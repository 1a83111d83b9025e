"""Constants are checked whenever they are set. A weight may be a trainable Parameter; other constants may not."""

import copy
import decimal
import fractions
import pickle
from typing import ClassVar

import numpy as np
import pytest
import ranks
import torch
import torch.distributed as dist
from torch import nn

from it_losses import (
    EntropyRegularizer,
    KoLeo,
    LogDet,
    MatrixRenyi,
    Pairwise,
    QuadraticRenyi,
    SIGReg,
    Spacings,
    VarianceCovariance,
    VICReg,
    VICRegEntropy,
    functional,
)
from it_losses.adapters.lightly.criteria import VICRegLoss
from it_losses.checks import check_count, check_positive
from it_losses.constants import Checked
from it_losses.vicreg_conventions import CONVENTIONS

F64 = torch.float64

#: (function that builds a criterion or estimator, name of one of its constants)
CONSTANTS = [
    (VICReg, "invariance_weight"),
    (VICReg, "variance_weight"),
    (VICReg, "covariance_weight"),
    (VICReg, "margin"),
    (VICReg, "epsilon"),
    (VICRegEntropy, "invariance_weight"),
    (VICRegEntropy, "entropy_weight"),
    (lambda: EntropyRegularizer("log_det"), "weight"),
    (LogDet, "beta"),
    (Pairwise, "bandwidth"),
    (Pairwise, "spread_fraction"),
    (Pairwise, "memory_mib"),
    (VarianceCovariance, "variance_weight"),
    (VarianceCovariance, "covariance_weight"),
    (VarianceCovariance, "margin"),
    (VarianceCovariance, "epsilon"),
]
every_constant = pytest.mark.parametrize(
    ("build", "name"), CONSTANTS, ids=[f"{b().__class__.__name__}.{n}" for b, n in CONSTANTS]
)
NO_NUMBERS = [
    -3.0,
    float("nan"),
    float("inf"),
    "1",
    b"1",
    None,
    True,
    np.True_,
    1j,
    [],
    10**400,
    torch.ones(2),
    np.ones(2),
    object(),
]


def views(count=2, dtype=F64):
    return [(0.7 * torch.randn(12, 5, dtype=dtype)).requires_grad_() for _ in range(count)]


def parameter(value, shape=(), dtype=F64):
    return nn.Parameter(torch.full(shape, value, dtype=dtype))


@every_constant
@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: "object" if type(value) is object else repr(value)[:24])
def test_a_constant_that_is_no_number_is_refused_when_it_is_set(build, name, value):
    if name == "bandwidth" and getattr(value, "shape", ()) == (2,):
        pytest.skip("several bandwidths are allowed")
    module = build()
    before = getattr(module, name)
    with pytest.raises(ValueError, match=name):
        setattr(module, name, value)
    assert getattr(module, name) == before


@every_constant
@pytest.mark.parametrize(
    "value",
    [
        2,
        np.float32(2),
        np.array(2.0),
        np.array([2.0]),
        torch.tensor(2.0),
        torch.tensor([2]),
        fractions.Fraction(2),
        decimal.Decimal(2),
    ],
    ids=repr,
)
def test_every_kind_of_number_is_kept_as_a_float(build, name, value):
    module = build()
    setattr(module, name, value)
    kept = getattr(module, name)
    assert kept in (2.0, (2.0,)) and type(kept if name != "bandwidth" else kept[0]) is float
    assert f"{name}={kept}" in repr(module)


@every_constant
@pytest.mark.parametrize(
    "value", [nn.Parameter(torch.tensor(0.7)), torch.tensor(0.7, requires_grad=True)], ids=["Parameter", "leaf"]
)
def test_a_constant_that_receives_a_gradient_trains_or_is_refused_by_name(build, name, value):
    module = build()
    if "weight" in name:
        setattr(module, name, value)
        assert getattr(module, name) is value
        assert "0.7 (trains)" in repr(module)
        assert (name in dict(module.named_parameters())) == isinstance(value, nn.Parameter)
    else:
        with pytest.raises(ValueError, match=f"{name} cannot be trained"):
            setattr(module, name, value)
        assert not list(module.parameters())


@every_constant
def test_a_number_that_yaml_reads_as_text_is_explained(build, name):
    with pytest.raises(ValueError, match="1.0e-4" if name != "bandwidth" else '"auto"'):
        setattr(build(), name, "1e-4")


def test_a_frozen_parameter_is_no_constant_either():
    with pytest.raises(ValueError, match="beta cannot be trained"):
        LogDet(nn.Parameter(torch.tensor(2.0), requires_grad=False))


@pytest.mark.parametrize(
    "value", [parameter(-1.0), parameter(float("nan")), parameter(1.0, (2,))], ids=["negative", "nan", "two"]
)
def test_a_parameter_that_is_no_weight_is_refused(value):
    with pytest.raises(ValueError, match="covariance_weight"):
        VICReg(25, 25, value)


def test_a_parameter_and_a_number_replace_each_other():
    criterion = VICReg()
    criterion.variance_weight = parameter(3.0)
    assert [name for name, _ in criterion.named_parameters()] == ["variance_weight"]
    criterion.variance_weight = 4
    assert criterion.variance_weight == 4.0 and not criterion.state_dict()
    criterion.variance_weight = torch.tensor(5.0, requires_grad=True)
    criterion.variance_weight = parameter(6.0)
    assert criterion.variance_weight.item() == 6.0 and "variance_weight" in criterion.state_dict()


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("trained", [(0,), (2,), (0, 1, 2)], ids=str)
def test_the_weights_of_vicreg_train(convention, trained, count):
    z, numbers = views(count), [3.0, 7.0, 0.4]
    weights = [parameter(number, shape=(1,) * (i % 2)) if i in trained else number for i, number in enumerate(numbers)]
    criterion = VICReg(*weights, convention=convention)
    terms, expected = criterion.terms(*z), VICReg(*numbers, convention=convention).terms(*z)
    for ours, theirs in zip(terms, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert sum(term.requires_grad for term in terms) == 1
    for ours, theirs in zip(
        torch.autograd.grad(terms.loss, z, retain_graph=True), torch.autograd.grad(expected.loss, z), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert len(list(criterion.parameters())) == len(trained)
    for i, slope in zip(trained, torch.autograd.grad(terms.loss, [weights[i] for i in trained]), strict=True):
        only = [float(i == j) for j in range(3)]
        torch.testing.assert_close(slope.sum(), VICReg(*only, convention=convention)(*z).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["variance_covariance", "log_det", "pairwise"])
def test_the_weights_of_the_bound_train(name):
    z, invariance, entropy = views(3), parameter(3.0), parameter(0.7)
    criterion = VICRegEntropy(name, invariance_weight=invariance, entropy_weight=entropy)
    terms, expected = criterion.terms(*z), VICRegEntropy(name, invariance_weight=3.0, entropy_weight=0.7).terms(*z)
    for ours, theirs in zip(terms, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(terms.loss, z, retain_graph=True), torch.autograd.grad(expected.loss, z), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    terms.loss.backward()
    torch.testing.assert_close(invariance.grad, expected.invariance, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(entropy.grad, -expected.entropy, rtol=1e-12, atol=1e-12)


def test_the_weights_of_the_surrogate_train():
    z, variance, covariance = views(1)[0], parameter(7.0), parameter(0.4)
    estimator = VarianceCovariance(variance, covariance)
    value, expected = estimator(z), VarianceCovariance(7.0, 0.4)(z)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    slopes = torch.autograd.grad(value, (z, variance, covariance))
    torch.testing.assert_close(slopes[0], torch.autograd.grad(expected, z)[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(slopes[1], VarianceCovariance(1, 0)(z).detach())
    torch.testing.assert_close(slopes[2], VarianceCovariance(0, 1)(z).detach())


def test_the_weight_of_the_regularizer_trains():
    z, weight = views(1)[0], parameter(0.2)
    EntropyRegularizer("log_det", weight)(z).backward()
    torch.testing.assert_close(weight.grad, -LogDet()(z).detach())


def test_the_weights_of_the_functional_form_train():
    a, b = views()
    weight = parameter(0.4)
    functional.vicreg(a, b, covariance_weight=2 * weight).backward()
    torch.testing.assert_close(weight.grad, 2 * VICReg(0, 0, 1)(a, b).detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, F64], ids=str)
def test_the_dtype_of_a_weight_is_not_that_of_the_loss(dtype):
    a, b = views(dtype=torch.float32)
    loss = VICReg(parameter(3.0, dtype=dtype))(a, b)
    assert loss.dtype == torch.float32 and loss.shape == ()
    loss.backward()


def test_a_trained_weight_is_copied_pickled_and_compiled():
    a, b = views()
    criterion = VICReg(25, 25, parameter(0.7))
    for again in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert torch.equal(again(a, b), criterion(a, b))
        assert again.covariance_weight is not criterion.covariance_weight and len(list(again.parameters())) == 1
    compiled = torch.compile(criterion, backend="aot_eager", fullgraph=True)
    slope = torch.autograd.grad(compiled(a, b), criterion.covariance_weight)
    torch.testing.assert_close(slope, torch.autograd.grad(criterion(a, b), criterion.covariance_weight))


@pytest.mark.parametrize("flag", ["false", "no", 0, 1, None, 1.0, [True], np.ones(2, dtype=bool)], ids=repr)
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("gather_distributed", lambda flag: VICReg(gather_distributed=flag)),
        ("gather_distributed", lambda flag: VICRegEntropy(gather_distributed=flag)),
        ("gather_distributed", lambda flag: EntropyRegularizer("log_det", gather_distributed=flag)),
        ("per_dimension", lambda flag: LogDet(per_dimension=flag)),
        ("per_dimension", lambda flag: setattr(LogDet(), "per_dimension", flag)),
        ("per_dimension", lambda flag: functional.log_det_entropy(torch.randn(4, 2), per_dimension=flag)),
    ],
)
def test_a_flag_is_true_or_false(name, build, flag):
    with pytest.raises(ValueError, match=f"{name} must be True or False"):
        build(flag)


@pytest.mark.parametrize("flag", [False, np.False_, torch.tensor(False)], ids=repr)
def test_a_flag_may_come_from_numpy(flag):
    assert VICReg(gather_distributed=flag).distributed.gather_distributed is False
    assert LogDet(per_dimension=flag).per_dimension is False


@pytest.mark.parametrize(
    ("build", "name", "value", "message"),
    [
        (VICReg, "convention", "facebook", "official"),
        (VICReg, "convention", None, "convention"),
        (VICReg, "distributed", True, "_replace"),
        (VICReg, "distributed", VICReg().distributed._replace(gather_distributed="false"), "True or False"),
        (VICReg, "distributed", VICReg().distributed._replace(gradient_reduction="max"), "gradient_reduction"),
        (VICRegEntropy, "entropy", "logdet", "log_det"),
        (VICRegEntropy, "entropy", nn.Linear(2, 2), "EntropyEstimator"),
        (VICRegEntropy, "entropy", None, "EntropyEstimator"),
        (VICRegEntropy, "entropy", LogDet, "EntropyEstimator or one of"),
        (VICRegEntropy, "entropy", ["log_det"], "EntropyEstimator or one of"),
        (Pairwise, "divergence", "chernoff", "bhattacharyya"),
        (Pairwise, "divergence", [], "bhattacharyya"),
        (Pairwise, "bandwidth", "silverman", "auto"),
        (Pairwise, "bandwidth", (1.0, 1e13), "Rescale"),
        (Pairwise, "bandwidth", (1.0, True), "bandwidth"),
        (Pairwise, "bandwidth", torch.ones(2, requires_grad=True), "cannot be trained"),
    ],
)
def test_constants_that_are_no_numbers_are_checked_as_well(build, name, value, message):
    with pytest.raises(ValueError, match=message):
        setattr(build(), name, value)


def test_another_estimator_may_be_set_by_name():
    criterion = VICRegEntropy("log_det")
    criterion.entropy = "pairwise"
    assert isinstance(criterion.entropy, Pairwise)


def test_a_subclass_has_its_own_constants_and_its_parents():
    class Scaled(LogDet):
        checks: ClassVar = {"scale": check_positive}

        def __init__(self, scale):
            super().__init__(2.0)
            self.scale = scale

    module = Scaled(3)
    assert "beta=2.0, per_dimension=True, anchor=False, scale=3.0" in repr(module)
    for name in ("beta", "scale"):
        with pytest.raises(ValueError, match=name):
            setattr(module, name, 0)


def test_a_module_is_made_without_memory_and_filled_later():
    with torch.device("meta"):
        criterion = VICReg(25, 25, nn.Parameter(torch.tensor(0.7)))
    assert "covariance_weight=meta (trains)" in repr(criterion)
    criterion.to_empty(device="cpu").load_state_dict({"covariance_weight": torch.tensor(0.4)})
    a, b = torch.randn(2, 8, 4)
    torch.testing.assert_close(criterion(a, b), VICReg(25, 25, 0.4)(a, b))


def test_trained_weights_are_exported_and_may_be_arguments():
    a, b = torch.randn(2, 8, 4)
    criterion = VICReg(25, 25, nn.Parameter(torch.tensor(0.7)))
    exported = torch.export.export(criterion, (a, b)).module()
    torch.testing.assert_close(exported(a, b), criterion(a, b))
    slope = torch.func.grad(lambda weights: torch.func.functional_call(criterion, weights, (a, b)))(
        dict(criterion.state_dict())
    )
    torch.testing.assert_close(slope["covariance_weight"], VICReg(0, 0, 1)(a, b))


def test_a_compiler_with_dynamic_shapes_takes_whole_numbers():
    a, b = torch.randn(2, 8, 4)
    for call in (
        lambda: functional.vicreg(a, b, invariance_weight=3),
        lambda: functional.sigreg_entropy(a),
        lambda: functional.spacings_entropy(a, window=2),
        lambda: functional.renyi_entropy(a, order=2),
    ):
        torch.testing.assert_close(torch.compile(call, backend="eager", fullgraph=True, dynamic=True)(), call())


@pytest.mark.parametrize("name", ["koleo", "spacings"])
@pytest.mark.parametrize("epsilon", [1e-23, 1e20])
def test_a_length_whose_square_float32_cannot_hold_is_refused(name, epsilon):
    with pytest.raises(ValueError, match="epsilon must be between 1e-18 and 1e"):
        VICRegEntropy(name, epsilon=epsilon)


def test_compilers_trace_the_check_of_a_weight():
    a, b = torch.randn(2, 8, 4)
    compiled = torch.compile(functional.vicreg, backend="eager", fullgraph=True)
    for weight in (3.0, 4.0, nn.Parameter(torch.tensor(5.0))):
        expected = functional.vicreg(a, b, invariance_weight=weight)
        torch.testing.assert_close(compiled(a, b, invariance_weight=weight), expected)


@pytest.mark.parametrize("name", ["gather_distributed", "lambda_param", "eps"])
def test_the_names_of_another_library_are_checked_as_ours(name):
    criterion = VICRegLoss()
    for bad in ("false", None, -1.0):
        with pytest.raises(ValueError, match="must be"):
            setattr(criterion, name, bad)
    with pytest.raises(ValueError, match="must be"):
        VICRegLoss(**{name: "false"})
    if name == "lambda_param":
        criterion.lambda_param = parameter(3.0)
        assert [key for key, _ in criterion.named_parameters()] == ["invariance_weight"]
        assert criterion.lambda_param is criterion.invariance_weight


def test_attributes_that_are_no_constants_are_set_as_in_any_module():
    module = Checked()
    module.anything = -1
    module.layer = nn.Linear(2, 2)
    assert module.anything == -1 and len(list(module.parameters())) == 2


@pytest.mark.parametrize("value", [0, 1.5, -1, "3", None, True, float("inf")], ids=repr)
def test_a_count_is_a_whole_number(value):
    with pytest.raises(ValueError, match="draws must be a whole number >= 1"):
        check_count("draws", value)
    assert check_count("draws", np.int64(3)) == 3


def slopes(build, reduction):
    """The gradients of the weights, summed over ranks, and of this rank's views. "mean" needs a division by the world size."""
    world, rank = dist.get_world_size(), dist.get_rank()
    z = [half.requires_grad_() for half in torch.randn(2, 8, 5, dtype=F64).chunk(world, dim=1)[rank]]
    criterion = BUILT[build](reduction)
    criterion(*z).backward()
    found = [weight.grad for weight in criterion.parameters()]
    for slope in found:
        dist.all_reduce(slope)
    scale = world if reduction == "mean" else 1
    return [slope / scale for slope in found], [view.grad / scale for view in z]


BUILT = {
    "vicreg": lambda reduction: VICReg(parameter(3.0), 7, parameter(0.4), gradient_reduction=reduction),
    "pairwise": lambda reduction: VICRegEntropy(
        "pairwise", entropy_weight=parameter(0.7), invariance_weight=parameter(3.0), gradient_reduction=reduction
    ),
    "regularizer": lambda reduction: EntropyRegularizer("log_det", parameter(0.7), gradient_reduction=reduction),
}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("build", BUILT)
def test_weights_train_on_two_ranks_as_on_one(build, reduction):
    torch.manual_seed(0)
    z = list(torch.randn(2, 8, 5, dtype=F64).requires_grad_())
    criterion = BUILT[build](reduction)
    of_weights = torch.autograd.grad(criterion(*z), list(criterion.parameters()))
    for theirs, _ in ranks.run(2, slopes, build, reduction):
        torch.testing.assert_close(theirs, list(of_weights), rtol=1e-10, atol=1e-12)
    of_views = torch.stack(
        [torch.cat(halves) for halves in zip(*(own for _, own in ranks.run(2, slopes, build, reduction)), strict=True)]
    )
    expected = torch.stack(torch.autograd.grad(criterion(*z), z))
    torch.testing.assert_close(of_views, expected, rtol=1e-10, atol=1e-12)


def gradient_of_a_constant(reduction):
    weight = nn.Parameter(torch.tensor(0.7, dtype=F64))
    regularizer = EntropyRegularizer(VarianceCovariance(weight), gradient_reduction=reduction)
    z = 0.1 * torch.randn(12, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    own = z.chunk(world)[rank].clone().requires_grad_()
    regularizer(own).backward()
    return weight.grad.item(), own.grad


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_constant_of_an_estimator_trains_as_on_one_process(reduction):
    constant, rows = gradient_of_a_constant(reduction)
    found = ranks.run(2, gradient_of_a_constant, reduction)
    divisor = 2 if reduction == "mean" else 1
    assert sum(one for one, _ in found) / divisor == pytest.approx(constant)
    torch.testing.assert_close(torch.cat([own for _, own in found]) / divisor, rows)


@pytest.mark.parametrize("name", ["exclude_self", "pool_views", "exclude_positives"])
def test_flags_that_need_each_other_are_checked_when_one_is_set(name):
    decoupled = {"exclude_self": True, "pool_views": True, "exclude_positives": True}
    estimator = Pairwise(**decoupled) if name != "exclude_positives" else Pairwise(exclude_self=True)
    before = getattr(estimator, name)
    with pytest.raises(ValueError, match="exclude_positives needs"):
        setattr(estimator, name, not before)
    assert getattr(estimator, name) is before
    estimator.exclude_positives = False
    estimator.exclude_self = estimator.pool_views = False


def test_the_number_of_draws_is_a_whole_number():
    estimator = SIGReg()
    for bad in ("x", -1, 1.5, torch.zeros(2)):
        with pytest.raises(ValueError, match="draws"):
            estimator.draws = bad
    estimator.draws = 7
    assert estimator.draws.dtype == torch.int64 and estimator.draw() == 7 and estimator.draw() == 8


@pytest.mark.parametrize("build", [Pairwise, QuadraticRenyi, KoLeo, MatrixRenyi])
@pytest.mark.parametrize("normalize", [None, "rows", "columns", "uncentred_columns"])
def test_facts_follow_a_normalization_that_is_set_later(build, normalize):
    later, z = build(), torch.randn(20, 4, dtype=F64) * torch.tensor([3.0, 1.0, 0.5, 0.2])
    later.normalize = normalize
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=F64)).Q
    facts = later.rotation_invariant, later.translation_invariant, later.scaling == "invariant"
    for fact, moved in zip(facts, (z @ rotation, z + 0.7, 3 * z), strict=True):
        assert torch.allclose(later(moved), later(z), rtol=1e-10) == fact


def test_the_scaling_follows_constants_that_are_set_later():
    estimator, spacings = LogDet(), Spacings()
    estimator.anchor, spacings.covariance_weight = True, 0.0
    assert (estimator.scaling, spacings.scaling) == ("target", "grows")
    estimator.anchor, spacings.covariance_weight = False, parameter(0.0)
    assert (estimator.scaling, spacings.scaling) == ("grows", "target")
