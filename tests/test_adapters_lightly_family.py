"""Our KoLeoLoss, FroSSLLoss, HypersphereLoss, LeJEPALoss and SIGReg behave like lightly's classes of these names."""

import copy
import importlib
import inspect
import pickle

import pytest
import ranks
import torch
import torch.distributed as dist
from torch import nn

from it_losses.adapters import lightly as ours
from it_losses.adapters.measured_step import MeasuredStep
from it_losses.slices import unit_directions

pytest.importorskip("lightly.loss.lejepa_loss", reason="needs a lightly with LeJEPALoss")
loss = importlib.import_module("lightly.loss")

#: class -> (its module in lightly, function that calls it with views [4, batch, dim], attributes, arguments)
CLASSES = {
    "KoLeoLoss": ("koleo_loss", lambda c, z: c(z[0]), ["eps"], (2, 1e-15)),
    "FroSSLLoss": ("frossl_loss", lambda c, z: c(list(z[:3])), ["invariance_weight"], (0.6,)),
    "HypersphereLoss": ("hypersphere_loss", lambda c, z: c(z[0], z[1]), ["t", "lam"], (1.5, 0.6, 2.0)),
    "LeJEPALoss": (
        "lejepa_loss",
        lambda c, z: c(local_proj=z[:3], global_proj=z[3:]),
        ["lambda_param", "sigreg.num_vectors"],
        (0.6, False, 9, 2.5, 48),
    ),
    "SIGReg": ("lejepa_loss", lambda c, z: c(z), ["num_vectors"], ()),
}
each_class = pytest.mark.parametrize("name", CLASSES)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def theirs(name):
    return getattr(importlib.import_module(f"lightly.loss.{CLASSES[name][0]}"), name)


def both(name, *arguments, **options):
    """lightly's criterion and ours. lightly's is patched to draw our directions, so that both must give the same number."""
    other, mine = theirs(name)(*arguments, **options), getattr(ours, name)(*arguments, **options)
    sliced = getattr(other, "sigreg", other)
    sliced._generate_unit_vectors = lambda device, dtype, dim: (
        unit_directions(sliced.num_vectors, dim, seed=0, draw=0, like=torch.empty(0, dtype=dtype)).mT
    )
    return other, mine


def called(name, criterion, z):
    return CLASSES[name][1](criterion, z)


def views(dtype=torch.float64):
    return (0.4 + torch.randn(4, 12, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).to(dtype)


def evaluated(name, criterion, z):
    z = z.clone().requires_grad_()
    value = called(name, criterion, z)
    return value.detach(), *torch.autograd.grad(value, z)


def holder(criterion, attribute):
    *path, name = attribute.split(".")
    for part in path:
        criterion = getattr(criterion, part)
    return criterion, name


def assert_same(name, mine, other, z, tolerance):
    for found, expected in zip(evaluated(name, mine, z), evaluated(name, other, z), strict=True):
        assert found.dtype == expected.dtype
        assert (found - expected).norm() <= tolerance * expected.norm()


@each_class
def test_the_constructor_and_the_call_have_lightlys_names_order_and_defaults(name):
    for function in ("__init__", "forward"):
        mine, other = (inspect.signature(getattr(cls, function)).parameters for cls in (getattr(ours, name), theirs(name)))
        # our second view defaults to None, so that a call without it raises our message instead of Python's
        missing = {"z_b": None} if function == "forward" else {}
        shape = [
            [(p.name, p.kind, missing.get(p.name, p.default)) for p in parameters.values()] for parameters in (mine, other)
        ]
        assert shape[0] == shape[1]


#: class -> allowed relative difference from lightly, if not 1e-12; lightly's SIGReg integrates with float32 weights
TOLERANCE = {"SIGReg": 1e-7, "LeJEPALoss": 1e-7}


@each_class
def test_value_and_gradient_equal_lightlys(name):
    arguments = CLASSES[name][3]
    for z in (views(), views()[:, :5], torch.randn(4, 70, 33, dtype=torch.float64)):
        other, mine = both(name, *arguments)
        assert_same(name, mine, other, z, TOLERANCE.get(name, 1e-12))
        other, mine = both(name, *arguments)
        assert_same(name, mine, other, z.float(), 1e-5)


@each_class
def test_the_defaults_equal_lightlys(name):
    other, mine = both(name)
    # lightly's KoLeo adds eps = 1e-8 to each difference and to the distance; ours does not, so the numbers differ slightly
    assert_same(name, mine, other, views(), 1e-7 if name == "KoLeoLoss" else TOLERANCE.get(name, 1e-12))


@pytest.mark.parametrize("name,attribute", [(name, a) for name, row in CLASSES.items() for a in row[2] if a != "eps"])
def test_an_attribute_that_is_set_changes_the_loss_as_lightlys_does(name, attribute):
    other, mine = both(name)
    before = called(name, mine.eval(), views())
    assert getattr(*holder(mine, attribute)) == getattr(*holder(other, attribute))
    value = 40 if attribute.endswith("num_vectors") else 0.25
    for criterion in (other, mine):
        setattr(*holder(criterion, attribute), value)
    assert getattr(*holder(mine, attribute)) == value
    assert (called(name, mine, views()) - before).abs() > 1e-4
    assert_same(name, mine, other, views(), TOLERANCE.get(name, 1e-12))


def test_eps_is_the_distance_at_which_the_logarithm_levels_off():
    criterion = ours.KoLeoLoss(eps=1e-3)
    assert criterion.eps == 1e-3
    row = torch.tensor([[1.0]])
    # a batch of one sample is accepted, as in lightly
    torch.testing.assert_close(criterion(row), theirs("KoLeoLoss")(eps=1e-3)(row))
    criterion.eps = 0.1
    torch.testing.assert_close(criterion(row), -torch.tensor(0.2).log())
    for value in (0.0, -1.0):
        with pytest.raises(ValueError, match="eps must be a finite number"):
            criterion.eps = value


@pytest.mark.parametrize(
    "refused",
    [
        lambda: ours.KoLeoLoss(p=1),
        lambda: ours.HypersphereLoss(alpha=1.0),
        lambda: ours.HypersphereLoss(t=0.0),
        lambda: ours.LeJEPALoss(lambda_param=1.1),
        lambda: setattr(ours.LeJEPALoss(), "lambda_param", -0.1),
        lambda: ours.SIGReg(knots=1),
        lambda: ours.FroSSLLoss(-1.0),
        lambda: ours.FroSSLLoss()([torch.randn(8, 32)]),
        lambda: ours.FroSSLLoss()([]),
        lambda: ours.LeJEPALoss()(local_proj=torch.randn(2, 8, 4), global_proj=torch.randn(2, 8, 5)),
    ],
)
def test_impossible_arguments_are_refused(refused):
    with pytest.raises(ValueError, match=r"must (be|hold|have)"):
        refused()


def test_gathering_without_torch_distributed_is_refused(monkeypatch):
    monkeypatch.setattr(dist, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"torch\.distributed"):
        ours.LeJEPALoss(gather_distributed=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_class
def test_the_result_has_lightlys_dtype(name, dtype):
    other, mine = both(name)
    value, gradient = evaluated(name, mine, views(dtype))
    # lightly's HypersphereLoss uses torch.pdist, which has no half precision on a CPU; ours keeps the dtype of the views
    missing = name == "HypersphereLoss" and dtype.itemsize == 2
    assert value.dtype is (dtype if missing else called(name, other, views(dtype)).dtype)
    assert gradient.dtype is dtype and value.isfinite() and gradient.isfinite().all()


@each_class
def test_autocast_changes_nothing(name):
    other, mine = (getattr(ours, name)().eval() for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = called(name, mine, views(torch.float32))
    torch.testing.assert_close(value, called(name, other, views(torch.float32)), rtol=0, atol=0)


def test_a_weight_of_frossl_and_of_the_uniformity_may_train():
    for name, attribute in (("FroSSLLoss", "invariance_weight"), ("HypersphereLoss", "lam")):
        other, mine = both(name)
        for criterion in (other, mine):
            setattr(criterion, attribute, nn.Parameter(torch.tensor(0.7, dtype=torch.float64)))
            called(name, criterion, views()).backward()
        torch.testing.assert_close(getattr(mine, attribute).grad, getattr(other, attribute).grad)
        assert set(mine.state_dict()) == set(other.state_dict()) == {attribute}


@each_class
def test_state_dicts_go_both_ways(name):
    other, mine = both(name)
    for key, value in other.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[key], value, rtol=0, atol=0)
    mine.load_state_dict(other.state_dict())
    other.load_state_dict(mine.state_dict())


@each_class
def test_copies_and_pickles_have_the_number(name):
    criterion = getattr(ours, name)(*CLASSES[name][3]).eval()
    value = called(name, criterion, views())
    for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert called(name, other, views()) == value
    assert name in repr(criterion)


@each_class
def test_it_compiles_in_one_graph(name):
    criterion = getattr(ours, name)().eval()
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(called(name, compiled, views(torch.float32)), called(name, criterion, views(torch.float32)))


@pytest.fixture
def installed():
    ours.install()
    yield
    ours.uninstall()


@each_class
def test_install_swaps_every_name_and_uninstall_restores_it(name):
    modules = [importlib.import_module(f"lightly.loss.{CLASSES[name][0]}"), loss]
    modules = [module for module in modules if hasattr(module, name)]
    original = theirs(name)
    constructor = original.__init__
    ours.install()
    try:
        assert all(getattr(module, name) is getattr(ours, name) for module in modules)
        assert called(name, original(), views()).isfinite()
    finally:
        ours.uninstall()
    assert all(getattr(module, name) is original for module in modules) and original.__init__ is constructor


@each_class
def test_a_pickle_of_lightlys_class_loads_with_ours(name):
    arguments, options = CLASSES[name][3], {"knots": 9, "t_max": 2.5, "num_vectors": 48} if name == "SIGReg" else {}
    other, mine = both(name, *arguments, **options)
    for criterion in (other, getattr(other, "sigreg", other)):
        vars(criterion).pop("_generate_unit_vectors", None)
    other.note, other.head = "kept", nn.Linear(2, 3)
    pickled = pickle.dumps(other.eval())
    ours.install()
    try:
        loaded, at_once = pickle.loads(pickled), pickle.loads(pickle.dumps(other))
    finally:
        ours.uninstall()
    for criterion in (loaded, at_once, pickle.loads(pickle.dumps(loaded))):
        assert type(criterion) is getattr(ours, name) and criterion.note == "kept" and not criterion.training
        assert torch.equal(criterion.head.weight, other.head.weight)
        assert called(name, criterion, views()) == called(name, mine.eval(), views())


def test_lightlys_losses_that_build_on_sigreg_compute_with_ours(installed):
    world_model = pytest.importorskip("lightly.loss.lewm_loss")
    criterion = world_model.LeWMLoss()
    assert type(criterion.sigreg) is ours.SIGReg
    with pytest.raises(ValueError, match="p must be 2"):
        loss.KoLeoLoss(p=1)


@each_class
def test_the_monitor_sees_its_views_and_terms(name):
    criterion = getattr(ours, name)()
    step = MeasuredStep(nn.ModuleDict({"criterion": criterion}), None, rows=512)
    called(name, criterion, views())
    seen = {"KoLeoLoss": 1, "FroSSLLoss": 3, "HypersphereLoss": 2}.get(name, 4)
    where = "criterion.sigreg" if name == "LeJEPALoss" else "criterion"
    assert len(step.embeddings[where]) == seen and step.terms[where]["entropy"].isfinite()
    step.close()


def test_slices_come_from_a_seed_and_torchs_random_numbers_stay():
    z, criterion = views(), ours.SIGReg(num_vectors=16)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    z.requires_grad_()
    first, second = criterion(z).item(), criterion(z).item()
    assert first != second and torch.equal(torch.get_rng_state(), state)
    again = ours.SIGReg(num_vectors=16)
    assert [again(z).item(), again(z).item()] == [first, second]
    again.entropy.seed = 1
    assert again(z).item() not in (first, second)


def on_two_ranks(rows):
    """Return the relative differences of this rank's value and gradient from one process. Rank r holds `rows[r]` samples.

    If all ranks hold equally many samples, the differences from lightly follow in the list.
    """
    whole = views()[:, : sum(rows)]
    start = sum(rows[: dist.get_rank()])
    own = slice(start, start + rows[dist.get_rank()])
    other, mine = both("SIGReg", gather_distributed=True)
    value, gradient = evaluated("SIGReg", mine, whole[:, own])
    lightlys = evaluated("SIGReg", other, whole[:, own]) if len(set(rows)) == 1 else None
    dist.destroy_process_group()
    expected, slope = evaluated("SIGReg", both("SIGReg")[1], whole)
    # DDP averages gradients over the ranks, so each rank's gradient must be larger by a factor of the world size
    pairs = [(value, expected), (gradient, len(rows) * slope[:, own])]
    if lightlys is not None:
        pairs += [(value, lightlys[0]), (gradient, lightlys[1])]
    return [((a - b).norm() / b.norm()).item() for a, b in pairs]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [(6, 6), (3, 8)], ids=str)
def test_sigreg_of_two_ranks_is_that_of_one_process_and_of_lightly(rows):
    for errors in ranks.run(2, on_two_ranks, rows):
        assert max(errors[:2]) < 1e-12 and max(errors[2:], default=0) < 1e-7


def of_samples(name, rank):
    return called(name, getattr(ours, name)().eval(), views()[:, 6 * rank :][:, :6]).item()


def of_own_samples(name):
    return of_samples(name, dist.get_rank())


@each_class
def test_each_rank_has_its_own_samples_by_default_as_in_lightly(name):
    for rank, found in enumerate(ranks.run(2, of_own_samples, name)):
        assert found == pytest.approx(of_samples(name, rank), rel=1e-12)


@pytest.mark.parametrize("name", ["t", "phi", "weights"])
@pytest.mark.parametrize("change", ["set", "written", "loaded"])
def test_changed_quadrature_buffers_are_refused(name, change):
    criterion, z = ours.SIGReg(knots=9), torch.randn(8, 4)
    criterion(z)
    other = ours.SIGReg(knots=9, t_max=5.0).state_dict()
    if change == "loaded":
        criterion.load_state_dict(other)
    elif change == "written":
        getattr(criterion, name).mul_(2)
    else:
        setattr(criterion, name, other[name])
    with pytest.raises(ValueError, match=r"buffer .* was changed.*SIGReg\(knots"):
        criterion(z)


@pytest.mark.parametrize(
    "alike",
    [
        lambda c: c.load_state_dict(c.state_dict()),
        lambda c: c.half(),
        lambda c: c.bfloat16().float(),
        lambda c: c.double(),
    ],
    ids=["loaded", "half", "bfloat16 and back", "double"],
)
def test_unchanged_quadrature_buffers_are_accepted(alike):
    criterion, z = ours.SIGReg().eval(), torch.randn(8, 4)
    expected = criterion(z)
    alike(criterion)
    assert torch.equal(criterion(z), expected)
    assert torch.equal(copy.deepcopy(criterion)(z), expected) and torch.equal(
        pickle.loads(pickle.dumps(criterion))(z), expected
    )


def test_koleo_has_lightlys_distance():
    criterion, z = ours.KoLeoLoss(eps=1e-3), torch.randn(2, 8, 4)
    assert torch.equal(criterion.pairwise_distance(*z), nn.PairwiseDistance(p=2, eps=1e-3)(*z))
