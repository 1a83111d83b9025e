"""Our torch operator works under compilers, export, autocast, checkpoints and grad modes. Double backward raises an error."""

from __future__ import annotations

import os
import shutil
from unittest.mock import patch

import pytest
import torch
import torch.utils.checkpoint
from definitions import OBJECTIVES, assert_near, correlated_views, evaluated, leaf
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from it_losses import ESTIMATORS, EntropyRegularizer, LogDet, Pairwise, VICReg, VICRegEntropy, kernels
from it_losses.kernels import torch_ops
from it_losses.kernels.products import cholesky, cpu

ENTROPIES = {
    "vicreg": (25.0, 1.0, 1.0, 1e-4),
    "log_det": (2.0, 1.0, 1.0),
    "koleo": (1e-8,),
    "spacings": (0.25, 0.0, 1e-8),
    "sigreg": (8.0, 2.0, 10.0, 3.0, 0.0, 1.0, 0.0, 0.0),
    "renyi": (2.0, 0.0),
    "pairwise": (2.0, 0.2, 0.0, 1.0, 2.0),
    "quadratic": (0.2, 0.0, 1.0, 1.0, 0.5),
}
#: every criterion, regularizer and estimator. In evaluation mode each call draws the same random numbers
CALLS = {
    "VICReg": VICReg(),
    "VICReg, eb_jepa": VICReg(convention="eb_jepa"),
    **{f"VICRegEntropy, {name}": VICRegEntropy(name).eval() for name in ESTIMATORS},
    "VICRegEntropy, two bandwidths": VICRegEntropy(Pairwise((2.0, 5.0), memory_mib=0.0)),
    **{f"EntropyRegularizer, {name}": EntropyRegularizer(name).eval() for name in ESTIMATORS},
    **{f"{name} alone": build().eval() for name, build in ESTIMATORS.items()},
}
every_entropy = pytest.mark.parametrize("fused", ENTROPIES)
every_call = pytest.mark.parametrize("name", CALLS)
every_objective = pytest.mark.parametrize("name", OBJECTIVES)
SIZES = pytest.mark.parametrize("shape", [(8, 16), (40, 100), (100, 40)], ids=str)


@pytest.fixture(autouse=True)
def only_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IT_LOSSES_BACKEND", "fused")


@pytest.fixture(autouse=True)
def fresh_compiler(request: pytest.FixtureRequest) -> None:
    if "graph" in request.node.name or "inductor" in request.node.name:
        torch.compiler.reset()


def called(name: str, views: list) -> torch.Tensor:
    return CALLS[name](*views[:1] if "alone" in name else views)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck itself looks at .grad of tensors that are no leaves
@every_entropy
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4, 6), torch.float64), ((40, 60), torch.float32), ((60, 40), torch.bfloat16), ((5, 2, 3, 7), torch.float16)],
)
def test_the_op_is_well_formed(fused, shape, dtype):
    for count, gradient, normalize in ((1, True, None), (2, True, "columns"), (3, True, "rows"), (2, False, None)):
        views = correlated_views(count, shape, dtype)
        if not gradient:
            views = [z.detach() for z in views]
        arguments = (
            views,
            fused,
            list(ENTROPIES[fused]),
            [25.0, 3.0],
            normalize,
            "gaussian",
            kernels.NO_GROUP,
            "mean",
            gradient,
            None,
        )
        # the last check differentiates a gradient, which raises an error by design, so it runs only without gradients
        checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")[: 4 - gradient]
        torch.library.opcheck(torch.ops.it_losses.evaluate.default, arguments, test_utils=checks)


@every_entropy
def test_the_op_is_the_autograd_function_of_eager_mode(fused):
    views, arguments = correlated_views(3, (20, 2, 7)), (fused, list(ENTROPIES[fused]), [25.0, 3.0])
    eager = evaluated(lambda *views: kernels.loss(views, *arguments)[0], views, -1.7)
    op = evaluated(
        lambda *v: torch.ops.it_losses.evaluate(list(v), *arguments, None, "gaussian", kernels.NO_GROUP, "mean", True, None)[0],
        views,
        -1.7,
    )
    torch.testing.assert_close(op, eager, rtol=0, atol=0)


@every_call
def test_one_graph_serves_every_batch_size(name):
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda *views: called(name, views), fullgraph=True, dynamic=True, backend=count)
    for batch in (24, 7, 2, 33, 64, 90, 128, 200):
        views = correlated_views(2, (batch, 31), torch.float32)
        torch.testing.assert_close(compiled(*views), called(name, views), rtol=1e-6, atol=1e-6)
    assert len(graphs) == 1


@pytest.mark.slow
@every_objective
def test_a_graph_of_dynamic_sizes_has_the_numbers_of_eager_mode(name):
    criterion = OBJECTIVES[name].criterion
    compiled = torch.compile(criterion, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (24, 7, 40):
        views = correlated_views(2, (batch, 31))
        torch.testing.assert_close(evaluated(compiled, views, -1.7), evaluated(criterion, views, -1.7), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="inductor needs a C++ compiler to compile for CPUs")
def test_inductor_gives_the_numbers_of_eager_mode(monkeypatch, tmp_path):
    # the test has its own cache, because the shared one may hold code that another commit compiled
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def step(z_a, z_b):
        # inductor could fuse the losses with the operators around them
        z_a, z_b = z_a.tanh(), z_b.tanh()
        return sum(2 * OBJECTIVES[name].criterion(z_a, z_b) for name in ("VICReg", "log_det", "pairwise", "sigreg"))

    compiled = torch.compile(step, fullgraph=True, dynamic=True)
    for batch in (24, 17):
        views = correlated_views(2, (batch, 31))
        torch.testing.assert_close(evaluated(compiled, views, -1.7), evaluated(step, views, -1.7))


@pytest.mark.slow
@every_objective
@pytest.mark.parametrize("strict", [True, False])
def test_a_criterion_is_exported_with_a_dynamic_batch(name, strict):
    criterion, batch = OBJECTIVES[name].criterion, torch.export.Dim("batch", min=2)
    views = tuple(torch.randn(2, 24, 31))
    exported = torch.export.export(criterion, views, dynamic_shapes=({0: batch}, {0: batch}), strict=strict)
    for rows in (2, 9, 24, 150):
        views = torch.randn(2, rows, 31)
        torch.testing.assert_close(exported.module()(*views), criterion(*views))


@SIZES
@every_objective
def test_a_criterion_runs_on_tensors_without_numbers(name, shape):
    with FakeTensorMode():
        views = [torch.randn(shape, requires_grad=True) for _ in range(2)]
        OBJECTIVES[name].criterion(*views).backward()
        assert views[0].grad.shape == shape


@every_call
def test_the_meta_device_runs_the_reference(name, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", "auto")
    views = [torch.randn(8, 5, device="meta", requires_grad=True) for _ in range(2)]
    called(name, views).backward()
    assert views[0].grad.shape == (8, 5)


@SIZES
@every_objective
def test_a_second_derivative_raises(name, shape):
    views = correlated_views(2, shape)
    gradients = torch.autograd.grad(OBJECTIVES[name].criterion(*views), views, create_graph=True)
    assert all(g.isfinite().all() for g in gradients)
    with pytest.raises(RuntimeError, match="second derivative"):
        # views[0].sum() has a derivative. Without our error, backward would use it and ignore the missing second derivative
        (gradients[0].square().sum() + views[0].sum()).backward()


@SIZES
@every_objective
def test_the_saved_gradient_is_not_written_over_while_the_graph_is_kept(name, shape):
    views, criterion = correlated_views(2, shape), OBJECTIVES[name].criterion
    value = criterion(*views)
    first = torch.autograd.grad(value, views, retain_graph=True)
    kept = [g.clone() for g in first]
    for g in first:
        g.mul_(torch.nan)
    value *= 2  # the caller may change the loss in place
    second = torch.autograd.grad(value, views, torch.tensor(0.5, dtype=value.dtype), retain_graph=True)
    torch.testing.assert_close(list(second), kept, rtol=0, atol=0)
    value.backward(retain_graph=True)
    value.backward()
    torch.testing.assert_close([z.grad for z in views], [4 * g for g in kept], rtol=1e-14, atol=0)


@every_objective
def test_a_gradient_is_a_tensor_of_its_own(name):
    views = correlated_views(2, (40, 60))
    value = OBJECTIVES[name].criterion(*views)
    for keep in (True, False):
        assert not any(g.requires_grad for g in torch.autograd.grad(value, views, retain_graph=keep))


@every_objective
def test_several_upstream_gradients_in_one_pass(name):
    views = correlated_views(2, (40, 60))
    value = OBJECTIVES[name].criterion(*views)
    (one,) = torch.autograd.grad(value, views[:1], retain_graph=True)
    (three,) = torch.autograd.grad(value, views[:1], torch.tensor([1.0, 2.0, 0.5], dtype=value.dtype), is_grads_batched=True)
    torch.testing.assert_close(three, torch.stack((one, 2 * one, one / 2)), rtol=1e-14, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("compiles", [False, True], ids=["eager", "compiled"])
@every_objective
def test_an_objective_may_be_checkpointed(name, compiles):
    criterion = OBJECTIVES[name].criterion
    function = torch.compile(criterion, backend="aot_eager") if compiles else criterion
    views = correlated_views(2, (40, 60))
    checkpointed = evaluated(lambda *v: torch.utils.checkpoint.checkpoint(function, *v, use_reentrant=False), views)
    torch.testing.assert_close(checkpointed, evaluated(criterion, views), rtol=1e-14, atol=0)


@every_objective
def test_the_gradient_of_a_view_does_not_depend_on_which_others_need_one(name):
    objective = OBJECTIVES[name].criterion
    views = correlated_views(3, (30, 20))
    value, *all_gradients = evaluated(objective, views)
    for wanted in (0, 2):
        some = [z if i == wanted else z.detach() for i, z in enumerate(views)]
        loss = objective(*some)
        torch.testing.assert_close(loss, value, rtol=0, atol=0, check_layout=False)
        (gradient,) = torch.autograd.grad(loss, [views[wanted]])
        torch.testing.assert_close(gradient, all_gradients[wanted], rtol=0, atol=0)


@every_objective
def test_no_gradient_is_computed_if_no_view_needs_one(name):
    views, wanted = correlated_views(2, (40, 60)), []

    def spy(*arguments):
        result = evaluate(*arguments)
        wanted.append(result[2].numel() > 0)
        return result

    evaluate, criterion = torch_ops.evaluate, OBJECTIVES[name].criterion
    with patch.object(torch_ops, "evaluate", spy):
        value = criterion(*views)
        with torch.no_grad():
            alone = criterion(*views)
        detached = criterion(*(z.detach() for z in views))
        with torch.inference_mode():
            inferred = criterion(*views)
    assert wanted == [True, False, False, False]
    assert not (alone.requires_grad or detached.requires_grad or inferred.requires_grad)
    for other in (alone, detached, inferred):
        torch.testing.assert_close(other.clone(), value.detach(), rtol=1e-12, atol=1e-12)


@every_objective
def test_terms_beside_the_loss_have_no_gradient(name):
    loss, *others = OBJECTIVES[name].criterion.terms(*correlated_views(2, (12, 7)))
    assert loss.requires_grad and not any(term.requires_grad for term in others)


@SIZES
@every_objective
def test_autocast_changes_nothing_neither_forward_nor_backward(name, shape):
    views, criterion = correlated_views(2, shape, torch.float32), OBJECTIVES[name].criterion
    plain = evaluated(criterion, views)
    with torch.autocast("cpu", torch.bfloat16):
        under = evaluated(criterion, views)
    torch.testing.assert_close(under, plain, rtol=0, atol=0)


@every_call
def test_torch_func_transforms_run_the_reference(name, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", "auto")
    z_a, z_b = correlated_views(2, (12, 6))
    slope = torch.func.grad(lambda z: called(name, [z, z_b.detach()]))(z_a.detach())
    assert_near([slope], [torch.autograd.grad(called(name, [z_a, z_b.detach()]), z_a)[0]], 1e-10)
    if "pairwise" not in name:  # torch has no batching rule for the automatic bandwidth, and warns
        several = torch.stack([z_a.detach(), z_b.detach()])
        values = torch.func.vmap(lambda z: called(name, [z, z_b.detach()]))(several)
        torch.testing.assert_close(values, torch.stack([called(name, [z, z_b.detach()]) for z in several]))


def test_torch_func_transforms_that_are_asked_for_the_fused_implementation_are_told_why_not():
    with pytest.raises(ValueError, match=r"torch\.func"):
        torch.func.grad(LogDet())(torch.randn(8, 5))


class NoWaits(TorchDispatchMode):
    """Raises an error at an operator that makes the host wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}
        assert func._schema.name not in waits, func
        return func(*args, **(kwargs or {}))


@SIZES
@pytest.mark.parametrize("name", ["VICReg", "log_det", "log_det in nats", "pairwise", "sigreg", "renyi"])
def test_no_operator_waits_for_the_device(name, shape, monkeypatch):
    # the factorization for CPUs waits for the device, so the test uses the one for GPUs
    monkeypatch.setattr(cpu, "factorize_", cholesky.factorize_)
    views = correlated_views(3, shape)
    expected = evaluated(OBJECTIVES[name].definition, views)
    with NoWaits():
        ours = evaluated(OBJECTIVES[name].criterion, views)
    assert_near(ours, expected, 1e-9)


def test_the_mode_sees_an_operator_that_waits():
    for wait in (lambda z: z.sum().item(), lambda z: z[z > 0], bool):
        with pytest.raises(AssertionError), NoWaits():
            wait(torch.ones(()))


@pytest.mark.parametrize("memory_mib", [0.0, 0.05, 256.0])
def test_no_pair_matrix_is_saved_for_the_backward_pass(memory_mib):
    z, saved = torch.randn(300, 8, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        Pairwise(2.0, memory_mib=memory_mib)(z)
    assert sum(t.numel() for t in saved) == z.numel()


@every_call
def test_only_the_gradient_is_saved_for_the_backward_pass(name):
    views, saved = correlated_views(2, (60, 50), torch.bfloat16), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        called(name, views)
    gradients = [t for t in saved if t.numel() > 1]
    assert [t.numel() for t in gradients] == [60 * 50 * (1 if "alone" in name else 2)]
    assert gradients[0].dtype == torch.float32


def test_a_view_that_is_passed_twice_gets_both_gradients():
    (z,) = correlated_views(1, (12, 7))
    (ours,) = torch.autograd.grad(VICReg()(z, z), z)
    copies = [leaf(z, z.dtype) for _ in range(2)]
    assert_near([ours], [sum(torch.autograd.grad(VICReg()(*copies), copies))], 1e-12)
