"""Each of our VICReg classes behaves like the class of another library that it replaces. This library is called its host."""

import copy
import inspect
import io
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import warnings

import hosts
import pytest
import torch
from torch import nn

from it_losses.adapters import eb_jepa, lightly, stable_pretraining


def metric_learning():
    hosts.module("pytorch_metric_learning")
    from it_losses.adapters import pytorch_metric_learning

    return pytorch_metric_learning.VICRegLoss


#: host -> (its module, the environment variable that names its checkout, function that returns our class, its constants)
HOSTS = {
    "lightly": ("lightly.loss", None, lambda: lightly.VICRegLoss, ["lambda_param", "mu_param", "nu_param", "eps"]),
    "stable-pretraining": (
        "stable_pretraining.losses",
        "STABLE_PRETRAINING_HOME",
        lambda: stable_pretraining.VICRegLoss,
        ["sim_coeff", "vcreg_loss.std_coeff", "vcreg_loss.cov_coeff", "vcreg_loss.epsilon"],
    ),
    "pytorch-metric-learning": (
        "pytorch_metric_learning.losses",
        None,
        metric_learning,
        ["invariance_lambda", "variance_mu", "covariance_v", "eps"],
    ),
    "eb_jepa": ("eb_jepa.losses", "EB_JEPA_HOME", lambda: eb_jepa.VICRegLoss, ["std_coeff", "cov_coeff"]),
}
each_host = pytest.mark.parametrize("host", HOSTS)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def theirs(host):
    name, variable, *_ = HOSTS[host]
    return hosts.module(name, variable).VICRegLoss


def ours(host):
    return HOSTS[host][2]()


def called(host, criterion, a, b):
    """The loss of the criterion, called as users of the host call it."""
    result = criterion(a, ref_emb=b) if host == "pytorch-metric-learning" else criterion(a, b)
    return result["loss"] if host == "eb_jepa" else result


def views(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return (0.7 * torch.randn(2, 12, 6, generator=generator, dtype=torch.float64)).to(dtype)


def holder(criterion, attribute):
    """The object that holds an attribute with a dotted name, and the last part of that name."""
    *path, name = attribute.split(".")
    for part in path:
        criterion = getattr(criterion, part)
    return criterion, name


@each_host
def test_the_constructor_has_the_hosts_names_order_and_defaults(host):
    def arguments(cls):
        return [
            (p.name, p.default)
            for p in inspect.signature(cls).parameters.values()
            if p.kind is not p.VAR_KEYWORD and (cls is theirs(host) or p.name in known)
        ]

    known = set(inspect.signature(theirs(host)).parameters)
    assert arguments(ours(host)) == arguments(theirs(host))


@each_host
def test_it_is_called_with_the_hosts_keywords(host):
    names = list(inspect.signature(theirs(host).forward).parameters)[1:]
    a, b = views()
    chosen = ("embeddings", "ref_emb") if host == "pytorch-metric-learning" else names[:2]
    assert set(chosen) <= set(names)
    result = ours(host)()(**dict(zip(chosen, (a, b), strict=True)))
    value = result["loss"] if host == "eb_jepa" else result
    assert value == called(host, ours(host)(), a, b)


@each_host
def test_arguments_by_position_give_the_hosts_number(host):
    values = [3.0, 2.0, 0.5, 0.01][: len(HOSTS[host][3])]
    if host == "lightly":
        values.insert(3, False)
    a, b = views()
    expected = called(host, theirs(host)(*values), a, b)
    torch.testing.assert_close(called(host, ours(host)(*values), a, b), expected, rtol=1e-12, atol=0)


ATTRIBUTES = [(host, attribute) for host, row in HOSTS.items() for attribute in row[3]]


@pytest.mark.parametrize("host,attribute", ATTRIBUTES)
def test_an_attribute_that_is_set_changes_the_loss_as_the_hosts_does(host, attribute):
    a, b = views()
    criteria = [cls(host)() for cls in (theirs, ours)]
    was = [getattr(*holder(criterion, attribute)) for criterion in criteria]
    assert was[0] == was[1]
    unset = called(host, criteria[1], a, b)
    for criterion in criteria:
        setattr(*holder(criterion, attribute), 0.25)
    assert getattr(*holder(criteria[1], attribute)) == 0.25
    expected, found = (called(host, criterion, a, b) for criterion in criteria)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert abs(found - unset) > 1e-4


@pytest.mark.parametrize("host,attribute", [row for row in ATTRIBUTES if row[1] != "vcreg_loss.epsilon"])
def test_an_invalid_value_is_refused_with_the_hosts_name(host, attribute):
    criterion, name = holder(ours(host)(), attribute)
    before = getattr(criterion, name)
    with pytest.raises(ValueError, match=f"{name} must be a finite number"):
        setattr(criterion, name, -1.0)
    assert getattr(criterion, name) == before


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_host
def test_the_result_has_the_hosts_dtype(host, dtype):
    z = views(dtype).requires_grad_()
    expected = theirs(host)()(z[0], ref_emb=z[1]) if host == "pytorch-metric-learning" else theirs(host)()(*z)
    result = ours(host)()(z[0], ref_emb=z[1]) if host == "pytorch-metric-learning" else ours(host)()(*z)
    dtypes = [{k: v.dtype for k, v in r.items()} if isinstance(r, dict) else r.dtype for r in (expected, result)]
    assert dtypes[0] == dtypes[1]
    (gradient,) = torch.autograd.grad(called(host, ours(host)(), *z), z)
    assert gradient.dtype is dtype and gradient.isfinite().all()


@pytest.mark.parametrize(
    "autocast,dtypes",
    [
        (False, (torch.bfloat16, torch.float32)),
        (False, (torch.float32, torch.float16)),
        (True, (torch.bfloat16, torch.float32)),
        (True, (torch.float32, torch.bfloat16)),
    ],
    ids=str,
)
@each_host
def test_views_of_different_precision_give_the_hosts_number(host, autocast, dtypes):
    a, b = (z.to(dtype) for z, dtype in zip(views(), dtypes, strict=True))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        expected = called(host, theirs(host)(), a, b)
        found = called(host, ours(host)(), a, b)
    assert found.dtype is expected.dtype
    torch.testing.assert_close(found.float(), expected.float(), rtol=3e-2, atol=0)


@each_host
def test_copies_are_independent_and_have_the_number(host):
    a, b = views()
    name = HOSTS[host][3][-1]
    for made in (copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))):
        criterion = ours(host)()
        setattr(*holder(criterion, name), 0.5)
        value = called(host, criterion, a, b)
        other = made(criterion)
        assert called(host, other, a, b) == value
        setattr(*holder(other, name), 0.25)
        assert called(host, criterion, a, b) == value != called(host, other, a, b)


@each_host
def test_state_dicts_go_both_ways(host):
    mine, their = ours(host)(), theirs(host)()
    assert set(mine.state_dict()) == set(their.state_dict()) == set()
    mine.load_state_dict(their.state_dict())
    their.load_state_dict(mine.state_dict())


@each_host
def test_subclasses_override_the_constructor_and_the_call(host):
    class Doubled(ours(host)):
        def __init__(self, *arguments, factor=2.0):
            super().__init__(*arguments)
            self.factor, self.head = factor, nn.Linear(6, 6)

        def forward(self, *arguments, **keywords):
            result = super().forward(*arguments, **keywords)
            return result | {"loss": self.factor * result["loss"]} if isinstance(result, dict) else self.factor * result

    a, b = views()
    criterion = Doubled(3.0)
    torch.testing.assert_close(called(host, criterion, a, b), 2 * called(host, ours(host)(3.0), a, b))
    assert set(criterion.state_dict()) == {"head.weight", "head.bias"}
    assert called(host, copy.deepcopy(criterion), a, b) == called(host, criterion, a, b)


def value_elsewhere(answers, criterion, host, a, b):
    answers.put(called(host, criterion, a, b).item())


@pytest.mark.slow
def test_criteria_are_sent_to_spawned_processes():
    context = multiprocessing.get_context("spawn")
    a, b = views()
    for host in ("lightly", "eb_jepa"):
        criterion = ours(host)(3.0)
        answers = context.SimpleQueue()
        process = context.Process(target=value_elsewhere, args=(answers, criterion, host, a, b))
        process.start()
        assert answers.get() == called(host, criterion, a, b).item()
        process.join()


@each_host
def test_it_prints_its_constants(host):
    criterion = ours(host)()
    setattr(*holder(criterion, HOSTS[host][3][0]), 7.5)
    assert "VICRegLoss" in repr(criterion) and "7.5" in repr(criterion)


def test_a_traced_criterion_has_the_number():
    a, b = views(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(lightly.VICRegLoss(), (a, b))
    torch.testing.assert_close(traced(b, a + 1), lightly.VICRegLoss()(b, a + 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_compiled_criterion_has_the_hosts_dtype_in_one_graph(dtype):
    criterion = lightly.VICRegLoss(3.0)
    result = torch.compile(criterion, fullgraph=True, backend="aot_eager")(*views(dtype))
    assert result.dtype is dtype
    torch.testing.assert_close(result, criterion(*views(dtype)))


def test_a_saved_module_is_loaded_by_torch():
    saved = io.BytesIO()
    torch.save(nn.ModuleDict({"criterion": lightly.VICRegLoss(3.0)}), saved)
    saved.seek(0)
    assert torch.load(saved, weights_only=False)["criterion"].lambda_param == 3.0


@pytest.mark.parametrize("host", ["lightly", "eb_jepa"])
def test_a_weight_that_trains_is_a_parameter_under_the_hosts_name(host):
    a, b = views()
    name = HOSTS[host][3][0]
    criterion, other = ours(host)(), theirs(host)()
    for each in (criterion, other):
        setattr(each, name, nn.Parameter(torch.tensor(3.0, dtype=torch.float64)))
        called(host, each, a, b).backward()
    assert criterion.state_dict() == other.state_dict() == {name: torch.tensor(3.0)}
    torch.testing.assert_close(getattr(criterion, name).grad, getattr(other, name).grad)
    criterion.load_state_dict({name: torch.tensor(5.0)})
    assert getattr(criterion, name).item() == 5.0


def test_metric_learning_accepts_and_refuses_the_same_arguments_as_the_library():
    library, VICRegLoss = theirs("pytorch-metric-learning"), ours("pytorch-metric-learning")
    reducers = hosts.module("pytorch_metric_learning.reducers")
    distances = hosts.module("pytorch_metric_learning.distances")
    a, b = views()
    torch.testing.assert_close(VICRegLoss()(a), library()(a), rtol=1e-12, atol=0)
    torch.testing.assert_close(VICRegLoss(reducer=reducers.MeanReducer())(a, ref_emb=b), library()(a, ref_emb=b))
    for options in ({"distance": distances.LpDistance()}, {"embedding_regularizer": nn.Identity()}):
        for cls in (library, VICRegLoss):
            with pytest.raises(ValueError, match=r"distance|regularizer"):
                cls(**options)
    with pytest.raises(ValueError, match="own VICRegLoss"):
        VICRegLoss(reducer=reducers.DoNothingReducer())


def run_tests(folder, *arguments, **environment):
    """Run tests of a host in a separate process, and assert that they pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "markers=regression", *arguments]
    options = {"cwd": folder, "env": {**os.environ, **environment}, "capture_output": True, "text": True, "timeout": 280}
    answer = subprocess.run(command, **options, check=False)
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-1000:]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_metric_learnings_own_tests_pass_with_the_import_swapped(dtype, tmp_path):
    hosts.module("pytorch_metric_learning")
    file = "tests/losses/test_vicreg_loss.py"
    home = hosts.checkout("PYTORCH_METRIC_LEARNING_HOME", file)
    (tmp_path / "tests" / "losses").mkdir(parents=True)
    for name in ("tests/__init__.py", "tests/losses/__init__.py"):
        shutil.copy(home / name, tmp_path / name)
    swapped(
        home / file, tmp_path / file, "from pytorch_metric_learning.losses", "from it_losses.adapters.pytorch_metric_learning"
    )
    run_tests(tmp_path, file, TEST_DTYPES=dtype, TEST_DEVICE="cpu")


@pytest.mark.slow
def test_stable_pretrainings_regression_test_passes_with_the_class_swapped(tmp_path):
    home = hosts.checkout("STABLE_PRETRAINING_HOME", "stable_pretraining/tests/regression/test_methods.py")
    hosts.module("stable_pretraining.losses", "STABLE_PRETRAINING_HOME")
    source = home / "stable_pretraining/tests/regression/test_methods.py"
    ours = "__import__('it_losses.adapters.stable_pretraining', fromlist=['x'])"
    swapped(source, tmp_path / "test_methods.py", "losses.VICRegLoss()", f"{ours}.VICRegLoss()")
    path = os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")])
    # without SPT_CACHE_DIR the test would write to the user's own registry of runs
    run_tests(tmp_path, "test_methods.py", "-k", "vicreg", PYTHONPATH=path, SPT_CACHE_DIR=str(tmp_path / "runs"))


@pytest.mark.slow
def test_eb_jepas_own_tests_pass_with_the_import_swapped(tmp_path):
    home = hosts.checkout("EB_JEPA_HOME", "tests/test_loss_equivalences.py")
    ours = "from it_losses.adapters.eb_jepa import VICRegLoss\n\n\nclass TestStdLossEquivalence"
    path = tmp_path / "test_loss_equivalences.py"
    swapped(home / "tests/test_loss_equivalences.py", path, "class TestStdLossEquivalence", ours)
    run_tests(tmp_path, path.name, PYTHONPATH=os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")]))


def swapped(source, target, theirs, ours):
    """Copy a test file of the host, with the text `theirs` replaced by `ours`."""
    text = source.read_text()
    assert theirs in text
    target.write_text(text.replace(theirs, ours))
