"""The twins as citizens of torch: registered ops, compilers, autocast, no silent second derivative; and the rule that picks."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.utils.checkpoint
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from twins import leaf

from it_losses import ESTIMATORS, EntropyRegularizer, LogDet, Pairwise, VICReg, VICRegEntropy, kernels
from it_losses.__main__ import report
from it_losses.entropy import saturation
from it_losses.kernels import closed_pairwise, closed_vicreg, closed_vicreg_apart, operators
from it_losses.kernels.choice import VARIABLE

WEIGHTS = (25.0, 25.0, 1.0)
#: opcheck itself looks at .grad of tensors that are no leaves
OPCHECK = pytest.mark.filterwarnings("ignore:The .grad attribute")
EVERY_DTYPE = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
#: every objective, with the constants of a user who names none
OBJECTIVES = {
    "vicreg": VICReg(),
    **{name: VICRegEntropy(name) for name in ESTIMATORS},
    "regularizer": EntropyRegularizer(LogDet(10.0)),
}
#: operators at which a host waits for its device
WAITS = {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}


def objective(z_a, z_b):
    return (
        kernels.vicreg((z_a, z_b), weights=WEIGHTS)[0]
        + kernels.log_det(z_a, beta=2.0)
        + kernels.pairwise(z_b, [20.0, 60.0]).sum()
    )


def views(batch, dim, *, dtype=torch.float32):
    z = torch.randn(batch, dim)
    return leaf(z, dtype), leaf(z + 0.3 * torch.randn(batch, dim), dtype)


@OPCHECK
@EVERY_DTYPE
@pytest.mark.parametrize(("batch", "dim"), [(4, 6), (40, 60), (140, 200), (200, 140)])
def test_vicreg_is_a_well_formed_op(batch, dim, dtype):
    stacks = [z[None] for z in views(batch, dim, dtype=dtype)]
    torch.library.opcheck(operators.vicreg_op, (stacks, list(WEIGHTS), 1.0, 1e-4))


@OPCHECK
@pytest.mark.parametrize(("batch", "dim"), [(40, 60), (60, 40)])
def test_vicreg_of_large_inputs_is_a_well_formed_op(batch, dim, monkeypatch):
    monkeypatch.setattr(closed_vicreg, "OFFICIAL_ELEMENTS", 0)
    monkeypatch.setattr(closed_vicreg, "SMALL_ELEMENTS", 0)
    stacks = [z[None] for z in views(batch, dim)]
    torch.library.opcheck(operators.vicreg_op, (stacks, list(WEIGHTS), 1.0, 1e-4))


@pytest.mark.parametrize("shape", [(8, 16), (40, 60), (700, 400)], ids=str)
def test_the_fused_twins_run_on_tensors_without_numbers(shape):
    with FakeTensorMode():
        z_a, z_b = (torch.randn(shape, requires_grad=True) for _ in range(2))
        objective(z_a, z_b).backward()
        assert z_a.grad.shape == shape


def test_a_fused_value_may_be_changed_in_place():
    z_a, z_b = views(10, 15)
    for value in (
        kernels.vicreg((z_a, z_b), weights=WEIGHTS)[0],
        kernels.log_det(z_a, beta=2.0),
        kernels.pairwise(z_a, [20.0]),
    ):
        value *= 2
        value.sum().backward()


@OPCHECK
@EVERY_DTYPE
@pytest.mark.parametrize(("batch", "dim"), [(10, 15), (15, 10)])
def test_log_det_is_a_well_formed_op(batch, dim, dtype):
    torch.library.opcheck(operators.log_det_op, (torch.randn(2, batch, dim, dtype=dtype, requires_grad=True), 0.1))


@OPCHECK
@EVERY_DTYPE
@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_pairwise_is_a_well_formed_op(memory_bytes, dtype):
    z, scales = torch.randn(2, 10, 15, dtype=dtype, requires_grad=True), torch.full((2, 2), 30.0)
    torch.library.opcheck(operators.pairwise_op, (z, scales, memory_bytes))


@pytest.mark.parametrize(("batch", "dim"), [(8, 16), (40, 200), (200, 140)])
def test_a_compiled_objective_is_one_graph_with_the_same_numbers(batch, dim):
    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    pair = views(batch, dim)
    results = [(f(*pair), torch.autograd.grad(1.7 * f(*pair), pair)) for f in (objective, compiled)]
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("criterion", [VICReg(), VICRegEntropy("log_det"), VICRegEntropy("pairwise")], ids=str)
def test_the_criteria_compile_into_one_graph(criterion):
    pair = views(24, 40)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    results = [(f(*pair), torch.autograd.grad(f(*pair), pair)) for f in (criterion, compiled)]
    torch.testing.assert_close(*results)


def evaluated(function, *views, upstream=-1.7):
    value = function(*views)
    return value, torch.autograd.grad(value, views, torch.tensor(upstream, dtype=value.dtype))


@pytest.fixture(scope="module")
def inductor_cache(tmp_path_factory):
    """A folder of our own: the one that all share does not see that an op of another commit returned other shapes."""
    return str(tmp_path_factory.mktemp("inductor"))


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="inductor needs a C++ compiler for a CPU")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_inductor_gives_the_numbers_of_eager_mode(name, monkeypatch, inductor_cache):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", inductor_cache)
    torch.compiler.reset()
    criterion = OBJECTIVES[name]
    pair = views(24, 40)
    compiled = torch.compile(criterion, fullgraph=True, backend="inductor")
    torch.testing.assert_close(evaluated(compiled, *pair), evaluated(criterion, *pair))


class NoWaits(TorchDispatchMode):
    """Raises where a host would wait for its device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name not in WAITS, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("shape", [(4, 8), (40, 60), (140, 200), (200, 140), (20, 3, 40)], ids=str)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_objective_waits_for_the_device(name, shape, monkeypatch):
    # what a CPU is asked has this answer elsewhere
    monkeypatch.setattr(closed_vicreg_apart, "may_dominate", lambda variance: True)
    criterion = OBJECTIVES[name]
    views = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    for few in (views[:2], views):
        with NoWaits():
            (-1.7 * criterion(*few)).backward()


def test_the_mode_sees_who_waits():
    for wait in (lambda z: z.sum().item(), lambda z: z[z > 0], bool):
        with pytest.raises(AssertionError), NoWaits():
            wait(torch.ones(()))


def test_a_given_bandwidth_is_looked_at_on_a_gpu_at_calls_that_double_and_never_while_captured(monkeypatch):
    # on a CPU, where nobody waits, every call is looked at
    capturing, looked = False, []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(saturation, "_smallest", lambda estimates: looked.append(None) or 0.0)
    warning, estimate = saturation.SaturationWarning("saturated"), SimpleNamespace(is_cuda=True)
    calls = []
    for call in range(1, 40):
        capturing = call == 16
        before = len(looked)
        warning.look_at([estimate], above=1.0)
        calls += [call] * (len(looked) - before)
    assert calls == [1, 2, 4, 8, 32]


def test_autocast_changes_nothing_neither_forward_nor_backward():
    for shape in ((8, 16), (40, 200), (200, 140)):
        pair = views(*shape)
        plain = torch.autograd.grad(objective(*pair), pair)
        with torch.autocast("cpu", torch.bfloat16):
            under = torch.autograd.grad(objective(*pair), pair)
        torch.testing.assert_close(under, plain, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["vicreg", "log_det", "pairwise"])
def test_a_second_derivative_raises(name):
    z_a, z_b = views(8, 5)
    value = {
        "vicreg": lambda: kernels.vicreg((z_a, z_b), weights=WEIGHTS)[0],
        "log_det": lambda: kernels.log_det(z_a, beta=2.0),
        "pairwise": lambda: kernels.pairwise(z_a, [5.0])[0],
    }[name]()
    (gradient,) = torch.autograd.grad(value, z_a, create_graph=True)
    assert gradient.isfinite().all()
    with pytest.raises(RuntimeError, match="second derivative"):
        # beside a term with a derivative of its own, where silence would pass unnoticed
        (gradient.square().sum() + z_a.sum()).backward()


@pytest.mark.parametrize("compiles", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("batch", "dim"), [(8, 16), (40, 200), (200, 140)])
def test_an_objective_may_be_checkpointed(batch, dim, compiles):
    def checkpointed(*pair):
        return torch.utils.checkpoint.checkpoint(function, *pair, use_reentrant=False)

    function = torch.compile(objective, backend="aot_eager") if compiles else objective
    pair = views(batch, dim)
    results = [(f(*pair), torch.autograd.grad(f(*pair), pair, create_graph=not compiles)) for f in (objective, checkpointed)]
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_a_graph_may_be_walked_twice():
    pair = views(40, 200)
    value = objective(*pair)
    twice = [torch.autograd.grad(value, pair, retain_graph=True) for _ in range(2)]
    torch.testing.assert_close(*twice, rtol=0, atol=0)


def test_torch_func_transforms_run_the_reference_and_the_twins_refuse():
    z_a, z_b = views(12, 6)
    criterion = VICReg()
    expected = torch.autograd.grad(criterion(z_a, z_b), z_a)[0]
    torch.testing.assert_close(torch.func.grad(criterion)(z_a.detach(), z_b.detach()), expected)
    with pytest.raises(RuntimeError, match=r"torch\.func"):
        torch.func.grad(objective)(z_a.detach(), z_b.detach())


@pytest.mark.parametrize("name", ["log_det", "pairwise", "variance_covariance"])
def test_the_environment_picks_the_twin_and_both_agree(name, monkeypatch):
    criterion, results = VICRegEntropy(name), {}
    pair = views(48, 200, dtype=torch.float64)
    for backend in ("reference", "fused", "auto"):
        monkeypatch.setenv(VARIABLE, backend)
        results[backend] = torch.autograd.grad(criterion(*pair), pair)
    torch.testing.assert_close(results["fused"], results["reference"])
    torch.testing.assert_close(results["fused"], results["auto"], rtol=0, atol=0)


def test_the_choice_says_which_and_why(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert kernels.choose("vicreg", (256, 8192), torch.float32, "cpu", views=2).reason.startswith("N x N = 256 x 256")
    assert kernels.choose("vicreg", (8192, 128), torch.float32, "cpu", views=2).reason.startswith("D x D = 128 x 128")
    assert kernels.choose("log_det", (256, 8192), torch.float32, "cpu").is_fused
    assert not kernels.choose("pairwise", (256, 64), torch.float32, "meta").is_fused
    monkeypatch.setenv(VARIABLE, "reference")
    assert kernels.choose("log_det", (256, 64), torch.float32, "cpu").twin == "reference"


def test_what_cannot_be_had_is_an_error_with_advice(monkeypatch):
    monkeypatch.setenv(VARIABLE, "fused")
    with pytest.raises(ValueError, match=r"not on meta.*auto"):
        kernels.choose("log_det", (4, 4), torch.float32, "meta")
    monkeypatch.setenv(VARIABLE, "fastest")
    with pytest.raises(ValueError, match="must be one of"):
        VICReg()(*views(4, 4))
    with pytest.raises(ValueError, match="op must be"):
        kernels.choose("barlow", (4, 4), torch.float32, "cpu")


def test_the_doctor_says_which_twin_runs_and_why(monkeypatch):
    monkeypatch.setenv(VARIABLE, "auto")
    assert "vicreg               fused: N x N = 64 x 64 Gram matrix" in report(64, 4096)
    monkeypatch.setenv(VARIABLE, "reference")
    assert f"log_det              reference: {VARIABLE}=reference" in report(64, 4096)


def test_an_estimator_bounds_the_memory_of_its_pairs():
    z = torch.randn(200, 8, requires_grad=True)
    free, bound = (Pairwise(2.0, memory_mib=mib)(z) for mib in (1.0, 0.0))
    torch.testing.assert_close(free, bound)
    torch.testing.assert_close(*(torch.autograd.grad(value, z)[0] for value in (free, bound)))


@pytest.mark.parametrize(
    ("dtype", "mib", "formed"), [(torch.float32, 1.0, 0), (torch.float32, 0.0, 1), (torch.bfloat16, 1.0, 1)]
)
def test_where_pairs_are_kept_so_are_the_centred_samples(dtype, mib, formed, monkeypatch):
    value = Pairwise(2.0, memory_mib=mib)(torch.randn(20, 8, dtype=dtype, requires_grad=True))
    centre, calls = closed_pairwise._scaled, []
    monkeypatch.setattr(closed_pairwise, "_scaled", lambda *arguments: calls.append(1) or centre(*arguments))
    value.backward()
    assert len(calls) == formed


@pytest.mark.parametrize("mib", [0.0, 0.1, 0.24, 0.26, 8.2, 8.3])
def test_what_waits_for_the_backward_pass_of_pairs_is_bounded(mib):
    z, saved = torch.randn(256, 8192, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        Pairwise(64.0, memory_mib=mib)(z)
    kept = sum(t.nbytes for t in saved if t.untyped_storage().data_ptr() != z.untyped_storage().data_ptr())
    assert kept <= mib * 2**20 + 8 * 256
    assert (kept > 2**17) == (mib > 0.25) and (kept > 2**22) == (mib > 8.25)


@pytest.mark.parametrize("batch", [64, 256, 300, 1024])
def test_only_the_lower_triangle_of_pairs_waits(batch):
    z, saved = torch.randn(batch, 2, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        Pairwise(2.0)(z)
    pairs = max(t.numel() for t in saved)
    height = closed_pairwise.CPU_ROWS
    assert pairs == sum((min(i + height, batch) - i) * min(i + height, batch) for i in range(0, batch, height))


def test_a_fixed_bandwidth_runs_under_vmap_with_the_reference(monkeypatch):
    monkeypatch.setenv(VARIABLE, "reference")
    z = torch.randn(3, 8, 5)
    each = torch.stack([Pairwise(2.0)(one) for one in z])
    torch.testing.assert_close(torch.func.vmap(Pairwise(2.0))(z), each)
