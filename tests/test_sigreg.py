"""SIGReg equals closed forms and five published losses. All ranks draw the same slices, in compiled code too."""

import copy
import math
import pickle

import pytest
import ranks
import torch
import torch.distributed as dist
from definitions import assert_near, evaluated
from torch.utils._python_dispatch import TorchDispatchMode

from it_losses import SIGReg, VICRegEntropy, diagnostics, functional
from it_losses.checks import ViewError
from it_losses.entropy.sigreg import epps_pulley
from it_losses.kernels import sigreg
from it_losses.kernels.batch import Plan
from it_losses.kernels.products import cpu_slices
from it_losses.sigreg_conventions import CONVENTIONS, quadrature
from it_losses.slices import unit_directions

F64 = torch.float64
every_convention = pytest.mark.parametrize("convention", CONVENTIONS)


def two_views(*shape, seed=0):
    z = torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return [(scale * z + 0.3).requires_grad_() for scale in (0.8, 1.1)]


def normal_quantiles(count, variance):
    """Return `count` quantiles of N(0, variance) at equal steps of probability: [count, 1]."""
    places = (torch.arange(count, dtype=F64) + 0.5) / count
    return (torch.special.ndtri(places) * math.sqrt(variance))[:, None]


@every_convention
def test_the_statistic_of_a_gaussian_is_an_integral_whose_slope_is_known(convention):
    # in one dimension every slice is 1 or -1, so the projections are the samples up to a sign
    def statistic(variance):
        return functional.sigreg_entropy(normal_quantiles(20_000, variance), convention=convention, slices=2).item()

    factor = 20_000 if CONVENTIONS[convention].times_batch else 1
    for variance in (0.5, 2.0):
        slope = -(statistic(variance + 1e-3) - statistic(variance - 1e-3)) / 2e-3 / factor
        expected = math.sqrt(2 * math.pi) * ((2 + variance) ** -1.5 - (1 + 2 * variance) ** -1.5)
        assert slope == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("convention", "null", "collapse"), [("paper", 1.059, 0.409), ("lightly", 1.052, 0.402), ("eb_jepa", 1.050, 0.400)]
)
def test_the_statistic_of_normal_samples_and_of_one_point_is_known(convention, null, collapse):
    points, largest, *_ = CONVENTIONS[convention]
    each = 16 * epps_pulley(torch.randn(16, 10_000, dtype=F64), points=points, largest=largest)
    assert (each.mean() - null).abs() <= 4 * each.std() / 100
    assert null == pytest.approx(math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3)), rel=0.01)
    one_point = -functional.sigreg_entropy(torch.zeros(8, 5, dtype=F64), convention=convention).item()
    assert one_point / (8 if CONVENTIONS[convention].times_batch else 1) == pytest.approx(collapse, abs=5e-4)


def slope(variance, convention):
    """Return T'(v), where T(v) is the statistic of N(0, v) by the quadrature of the convention."""
    points, largest, *_ = CONVENTIONS[convention]
    knots, phi, weights = quadrature(points, largest, like=torch.zeros((), dtype=F64))
    damped = torch.exp(-variance * knots.square() / 2)
    return -(weights * knots.square() * damped * (damped - phi)).sum().item()


@every_convention
def test_the_default_weights_leave_collapse_and_stop_before_unit_variance(convention):
    invariance, entropy = CONVENTIONS[convention].weights
    # the squared distance of independent views is twice the variance. Some conventions multiply the statistic by the batch
    # size, here 64
    attraction, repulsion = 2 * invariance, entropy * (64 if CONVENTIONS[convention].times_batch else 1)
    assert attraction + repulsion * slope(0.0, convention) < 0 < attraction + repulsion * slope(0.999, convention)


@pytest.mark.parametrize(("disagreement", "variance"), [(1.0, 0.56), (0.1, 0.93)])
def test_the_variance_that_the_default_weights_lead_to_is_the_documented_one(disagreement, variance):
    invariance, entropy, _ = SIGReg().default_weights
    below, above = (2 * invariance * disagreement + entropy * slope(variance + d, "eb_jepa") for d in (-0.01, 0.01))
    assert below < 0 < above
    assert slope(0.0, "eb_jepa") == pytest.approx(-1.53, abs=0.01)


def test_the_measurement_is_the_statistic_in_float64():
    z = torch.randn(64, 5)
    statistic = diagnostics.sigreg_statistic(z, slices=100, seed=3)
    assert statistic.dtype == F64
    torch.testing.assert_close(statistic, -SIGReg(slices=100, seed=3)(z.double()))
    assert diagnostics.sigreg_statistic(torch.zeros(8, 3)) == pytest.approx(0.4, abs=1e-3)


# losses of the five sources, for two views and slices a [dim, S]. The first four functions are helpers


def half_rule(x, t, weights, phi):
    """Return the statistic of each slice. The knots t lie in [0, 3], and the weights are doubled to count -t too."""
    angles = x[:, :, None] * t
    return ((angles.cos().mean(0) - phi).square() + angles.sin().mean(0).square()) @ weights


def half_rule_tables(dtype=F64):
    t = torch.linspace(0, 3, 17, dtype=dtype)
    phi, weights = torch.exp(-t.square() / 2), torch.full_like(t, 2 * 3 / 16)
    weights[[0, -1]] = 3 / 16
    return t, weights * phi, phi


def whole_rule(x, t):
    phi = torch.exp(-t.square() / 2)
    error = ((1j * x[:, :, None] * t).exp().mean(0) - phi).abs().square() * phi
    return torch.trapezoid(error, t, dim=1)


def distance_to_centre(views):
    return torch.stack([(z - (views[0] + views[1]) / 2).square().mean() for z in views]).mean()


def paper(views, a):
    t = torch.linspace(-5, 5, 17, dtype=F64)
    statistic = torch.stack([whole_rule(z @ a, t).mean() * len(z) for z in views]).mean()
    return 0.95 * distance_to_centre(views) + 0.05 * statistic


def lejepa(views, a):
    statistic = torch.stack([half_rule(z @ a, *half_rule_tables()).mean() * len(z) for z in views]).mean()
    return 0.98 * distance_to_centre(views) + 0.02 * statistic


def stable_pretraining(views, a):
    pooled = torch.cat(views)
    return distance_to_centre(views) + 0.02 * half_rule(pooled @ a, *half_rule_tables()).mean() * len(pooled)


def eb_jepa(views, a):
    t = torch.linspace(-3, 3, 10, dtype=F64)
    statistic = (whole_rule(views[0] @ a, t).mean() + whole_rule(views[1] @ a, t).mean()) / 2
    return (views[0] - views[1]).square().mean() + 10 * statistic


def lightly(views, a, tables=None):
    loss = pytest.importorskip("lightly.loss.lejepa_loss").LeJEPALoss(sigreg_num_vectors=a.shape[1])
    loss.sigreg._generate_unit_vectors = lambda **_: a
    loss.sigreg.forward = lambda proj, own=loss.sigreg: own._integrate_via_trapezoidal_rule(
        own._compute_cf_error_at_each_frequency((proj @ a)[..., None] * own.t, proj.shape[-2]), proj.shape[-2]
    )
    if tables is not None:
        loss.sigreg.t, loss.sigreg.weights, loss.sigreg.phi = tables
    # lightly averages over views, so both views may be passed as global and as local views
    stacked = torch.stack(views)
    return loss(global_proj=stacked, local_proj=stacked)


SOURCES = {
    "paper": paper,
    "lejepa": lejepa,
    "lightly": lambda views, a: lightly(views, a, half_rule_tables()),
    "stable-pretraining": stable_pretraining,
    "eb_jepa": eb_jepa,
    # our convention differs from eb_jepa only in the number of slices
    "it_losses": eb_jepa,
}


@every_convention
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_a_convention_with_its_default_weights_is_the_loss_of_that_source(convention, backend, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", backend)
    views = two_views(40, 6)
    a = unit_directions(CONVENTIONS[convention].slices, 6, seed=5, draw=0, like=views[0]).mT
    ours = evaluated(VICRegEntropy("sigreg", convention=convention, seed=5), views)
    assert_near(ours, evaluated(lambda *views: SOURCES[convention](views, a), views), 1e-12)
    # slices that are given as a tensor give the same loss
    named = VICRegEntropy("sigreg", convention=convention, slices=3 * a)
    monkeypatch.setenv("IT_LOSSES_BACKEND", "auto")
    assert_near(evaluated(named, views), ours, 1e-12)


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize(("options", "count"), [({}, 600), ({"convention": "eb_jepa"}, 256), ({"slices": 20}, 20)], ids=str)
def test_the_default_has_two_slices_for_each_dimension_unless_their_number_is_named(options, count, backend, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", backend)
    views = two_views(12, 300)
    a = unit_directions(count, 300, seed=0, draw=0, like=views[0]).mT
    ours = evaluated(VICRegEntropy("sigreg", **options), views)
    assert_near(ours, evaluated(lambda *views: eb_jepa(views, a), views), 1e-12)


def test_lightly_itself_differs_by_the_rounding_of_its_float32_tables():
    views = two_views(40, 6)
    a = unit_directions(1024, 6, seed=0, draw=0, like=views[0]).mT
    ours, theirs = (evaluated(f, views) for f in (VICRegEntropy("sigreg", convention="lightly"), lambda *v: lightly(v, a)))
    assert_near(ours, theirs, 1e-7)


def test_pooled_views_of_groups_are_pooled_in_each_group():
    views = two_views(12, 2, 5)
    estimator = SIGReg("stable-pretraining", slices=20).eval()
    together = VICRegEntropy(estimator, invariance_weight=0.0, entropy_weight=1.0)
    pooled = torch.cat(views)
    each = torch.stack([estimator(pooled[:, group]) for group in range(2)])
    torch.testing.assert_close(together(*views), -each.mean(), rtol=1e-12, atol=0)


def test_slices_are_unit_vectors_without_a_preferred_direction():
    a = unit_directions(1 << 16, 9, seed=0, draw=0, like=torch.zeros((), dtype=F64))
    torch.testing.assert_close(a.norm(dim=1), torch.ones(len(a), dtype=F64))
    # uniform directions in 9 dimensions have mean 0, second moment I / 9 and fourth moment 3 / (9 * 11)
    assert a.mean(dim=0).abs().max() < 5 / 3 / 256
    assert (9 * a.T @ a / len(a) - torch.eye(9, dtype=F64)).abs().max() < 5 * 1.3 / 256
    assert a.pow(4).mean() == pytest.approx(3 / 99, rel=0.01)


def test_a_direction_in_one_dimension_is_one_or_minus_one():
    # regression: cos(pi / 2) is 6e-17 in float64. Division by max(norm, 1e-12) left this number far below 1
    a = unit_directions(1 << 17, 1, seed=0, draw=0, like=torch.zeros((), dtype=F64))
    assert torch.equal(a.abs(), torch.ones_like(a))


@pytest.mark.parametrize("draw", range(4))
def test_slices_are_no_symmetric_matrix(draw):
    a = 200**0.5 * unit_directions(200, 200, seed=0, draw=draw, like=torch.zeros((), dtype=F64))
    assert (a * a.mT).mean().abs() < 5 / 200
    # elements on the diagonal are nearly standard normal, so their mean absolute value is near 0.8
    assert 0.6 < a.diagonal().abs().mean() < 1.0


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_slices_depend_on_draw_and_seed_and_not_on_dtype(dim):
    like = torch.zeros((), dtype=F64)
    one, again = (unit_directions(50, dim, seed=1, draw=3, like=like) for _ in range(2))
    assert torch.equal(one, again)
    torch.testing.assert_close(unit_directions(50, dim, seed=1, draw=3, like=like.float()).double(), one, rtol=0, atol=1e-6)
    assert torch.equal(unit_directions(50, dim, seed=1, draw=torch.tensor(3), like=like), one)
    for seed, draw in ((1, 4), (2, 3), (3, 1), (1 + 2**20, 3)):
        assert not torch.equal(unit_directions(50, dim, seed=seed, draw=draw, like=like), one)


def test_the_slices_of_a_seed_and_a_draw_number_change_only_on_purpose():
    known = torch.tensor([[0.2804, -0.4473, 0.8493], [0.9787, 0.1552, -0.1341]], dtype=F64)
    torch.testing.assert_close(unit_directions(2, 3, seed=1, draw=3, like=known), known, rtol=0, atol=1e-4)


def test_training_draws_other_slices_at_each_call_and_evaluation_keeps_them():
    (z, _), state = two_views(20, 6), torch.get_rng_state()
    estimator = SIGReg(slices=8)
    first, second = estimator(z), estimator(z)
    assert first != second
    with torch.no_grad():
        third = estimator(z)
        assert estimator(z) == third != second
    evaluating = estimator.eval()(z)
    assert evaluating == third == estimator(z)
    copies = copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator)), SIGReg(slices=8)
    assert estimator.train()(z) == third
    assert [copied(z) == third for copied in copies] == [True, True, False]
    assert not estimator.state_dict()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_both_implementations_count_their_calls(backend, monkeypatch):
    views = two_views(20, 6)
    calls = {}
    for name in (backend, "auto"):
        monkeypatch.setenv("IT_LOSSES_BACKEND", name)
        criterion = VICRegEntropy("sigreg")
        calls[name] = [criterion(*views) for _ in range(3)]
    torch.testing.assert_close(calls[backend], calls["auto"], rtol=1e-12, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_compiled_code_counts_its_calls_in_one_graph(backend, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", backend)
    torch.compiler.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    eager, compiled = VICRegEntropy("sigreg", slices=8), VICRegEntropy("sigreg", slices=8)
    function = torch.compile(compiled, fullgraph=True, dynamic=True, backend=count)
    for rows in (9, 20, 9, 14):
        views = two_views(rows, 6)
        assert_near(evaluated(function, views), evaluated(eager, views), 1e-12)
    assert len(graphs) == 1
    # called eagerly, `compiled` continues the count of `function`
    torch.testing.assert_close(compiled(*views), eager(*views), rtol=1e-12, atol=0)


def test_the_op_that_compilers_see_takes_the_draw():
    views = [z.detach() for z in two_views(12, 5)]
    constants = [8.0, 2.0, 10.0, 3.0, 0.0, 0.0, 0.0]
    arguments = (views, "sigreg", constants, [1.0, 3.0], None, "gaussian", "-", "mean", False, torch.tensor(4))
    torch.library.opcheck(torch.ops.it_losses.evaluate.default, arguments)
    loss = torch.ops.it_losses.evaluate(*arguments)[0]
    assert loss == torch.ops.it_losses.evaluate(views, "sigreg", [*constants, 4.0], *arguments[3:-1], None)[0]


def losses_of_training(convention):
    """Return the largest error on this rank at each of three steps. Errors are differences from one process."""
    found = []
    own, alone = (VICRegEntropy("sigreg", convention=convention, gather_distributed=gather) for gather in (True, False))
    part = slice(0, 7) if dist.get_rank() == 0 else slice(7, 20)
    for step in range(3):
        whole = two_views(20, 6, seed=step)
        mine = [z.detach()[part].clone().requires_grad_() for z in whole]
        ours, theirs = evaluated(own, mine), evaluated(alone, whole)
        found.append(max((ours[0] - theirs[0]).abs().item(), (ours[1] - 2 * theirs[1][part]).abs().max().item()))
    return found


@pytest.mark.slow
@every_convention
def test_ranks_share_their_slices_during_training(convention):
    for found in ranks.run(2, losses_of_training, convention):
        assert max(found) < 1e-12


def told_of_another_count():
    criterion, views = VICRegEntropy("sigreg"), two_views(8, 3)
    if dist.get_rank() == 1:
        criterion.entropy.draw()
    try:
        criterion(*views)
    except ViewError as error:
        return str(error)


def test_ranks_that_have_called_unequally_often_are_told_so():
    assert all("objective" in told for told in ranks.run(2, told_of_another_count))


def test_a_criterion_that_was_built_in_inference_mode_trains():
    with torch.inference_mode():
        criterion = VICRegEntropy("sigreg")
    criterion(*torch.randn(2, 16, 8, requires_grad=True)).backward()
    assert criterion.entropy.draws == 1


@pytest.mark.parametrize("world", [1, 4])
def test_all_ranks_make_the_same_number_of_blocks(world):
    # each block of slices is one all-reduce, so ranks with different numbers of rows must make the same blocks
    class Ranks:
        pass

    batch, rule = type("Batch", (), {"ranks": Ranks()}), sigreg.Rule(*quadrature(10, 3.0, like=torch.zeros(())), 2000)
    plan, Ranks.world = Plan(cpu_slices, by_gram=False), world
    at_once = {sigreg._slices_at_once(torch.empty(2, 64, rows, device="meta"), batch, rule, plan) for rows in (1, 500, 2000)}
    assert len(at_once) == 1


class Largest(TorchDispatchMode):
    """Records how many elements the largest output of an operator has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_cosines_of_all_slices_are_never_in_memory_at_once():
    z = torch.randn(500, 20, requires_grad=True)
    with Largest() as largest:
        SIGReg("lightly")(z).backward()
    # the largest tensor holds the projections. Cosines at all 16 knots would have 16 times as many elements
    assert largest.numbers == 500 * 1024


def test_trainable_and_fixed_weights_use_the_same_slices():
    z, weights = two_views(20, 6), (2.0, torch.nn.Parameter(torch.tensor(2.0)))
    fixed, trained = (VICRegEntropy("sigreg", invariance_weight=1.0, entropy_weight=weight) for weight in weights)
    for _ in range(3):
        torch.testing.assert_close(trained(*z), fixed(*z))


def test_named_slices_stay_and_must_fit():
    a = torch.randn(6, 10)
    estimator, (z, _) = SIGReg(slices=a), two_views(20, 6)
    assert estimator(z) == estimator(z) and estimator.slices == 10 and not estimator.state_dict()
    torch.testing.assert_close(estimator(z), SIGReg(slices=7.5 * a.double())(z), rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="must have 5 rows, one for each dimension, got 6"):
        estimator(z[:, :5])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"convention": "vicreg"}, "convention must be one of"),
        ({"slices": 0}, "slices must be a whole number >= 1"),
        ({"slices": torch.ones(3, 4, dtype=torch.int64)}, "slices must be a floating-point"),
        ({"slices": torch.ones(3)}, "slices must have shape"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
    ],
)
def test_impossible_constants_are_errors_that_name_them(options, told):
    with pytest.raises(ValueError, match=told):
        SIGReg(**options)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_projections_without_digits_warn_once(backend, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", backend)
    estimator, z = SIGReg(), 1e5 * torch.randn(8, 4)
    with pytest.warns(UserWarning, match="sigreg: a projection"):
        estimator(z)
    estimator(z)
    SIGReg()(z.double())
