"""The self-test of the GPU operations ("products") finds planted faults. Here CPU operations replace the GPU operations.

tests/interpreted_kernels.py plants faults in the Triton kernels themselves.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from it_losses import ESTIMATORS, VICRegEntropy
from it_losses.kernels import dispatch, self_test
from it_losses.kernels.products import cpu, cpu_pairs, cpu_slices
from it_losses.slices import unit_directions

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture
def plant(monkeypatch):
    """Return a function that plants faulty operations. It returns a list of the modules that the self-test asks for."""
    monkeypatch.setattr(self_test, "_passed", set())
    monkeypatch.setattr(self_test, "_failed", {})
    monkeypatch.delenv(self_test.VARIABLE, raising=False)

    def planted(**faults):
        asked = []
        known = {"cpu": cpu, "cpu_pairs": cpu_pairs, "cpu_slices": cpu_slices}
        known |= {name.replace("cpu", "cuda"): SimpleNamespace(**vars(module) | faults) for name, module in known.items()}
        monkeypatch.setattr(self_test, "products_named", lambda name: asked.append(name) or known[name])
        return asked

    return planted


def views(rows=64, dim=32, dtype=torch.float32):
    return torch.randn(rows, dim).to(dtype)


@every_dtype
@pytest.mark.parametrize("products", self_test.ROWS)
def test_right_products_are_tested_once_for_each_kind_of_shape(products, dtype, plant):
    asked = plant()
    for count, shape in enumerate([(64, 32), (64, 31), (63, 32), (63, 31)], 1):
        for _ in range(3):
            assert self_test.failure(products, views(*shape, dtype)) == ""
        # half precision is tested in float32 too, because normalized views are multiplied in float32
        assert asked == ["cuda" + products, "cpu" + products] * count * (1 if dtype == torch.float32 else 2)


def test_the_products_of_every_estimator_have_a_self_test():
    modules = [dispatch.module_named(kind.fused) for kind in ESTIMATORS.values() if kind.fused]
    assert {module.PRODUCTS for module in modules} == self_test.ROWS.keys()


def without_last_row(batch, **options):
    gram, norms, zc = cpu.gram(batch, **options)
    gram[:, -1] = 0
    return gram, norms, zc


def without_last_column(batch, **options):
    covariance, norms, zc = cpu.covariance(batch, **options)
    return covariance, norms.index_fill(2, torch.tensor([norms.shape[2] - 1]), 0), zc


def without_slope(*arguments, slope=None, **options):
    return cpu.gradient(*arguments, **options)


def unwritten(*arguments, **options):
    distance, gradient = cpu.gradient(*arguments, **options)
    gradient[0, 0, 0] = torch.nan
    return distance, gradient


def one_pair_less(*arguments, **options):
    sums, pairs = cpu_pairs.pair_sums(*arguments, **options)
    return sums - 1, pairs


def of_half_the_knots(x, knots, slices):
    return cpu_slices.waves(x, knots / 2, slices)


def raises(error):
    def fault(*arguments, **options):
        raise error

    return fault


WRONG = {
    "Gram matrix": {"gram": without_last_row},
    "squared norm of a column": {"covariance": without_last_column},
    "gradient by the Gram matrix": {"gradient": without_slope},
    "a gradient by .* nan": {"gradient": unwritten},
    "distance of the views": {"distance": lambda batch, weight, out=None: cpu.distance(batch, weight, out) * 1.01},
    "sum over pairs": {"pair_sums": one_pair_less},
    "random direction": {"unit_directions": lambda *numbers, **options: 1.001 * unit_directions(*numbers, **options)},
    "a sum of waves": {"waves": of_half_the_knots},
    "a slope of waves": {"wave_slopes_": lambda waves, weights: waves.x},
    "gradient of pairs": {"add_pair_gradient_": lambda out, pairs, weights: None},
    "CompilationError": {"gram": raises(type("CompilationError", (Exception,), {})("at 4:8: invalid type"))},
    "RuntimeError: invalid argument": {"gradient": raises(RuntimeError("invalid argument"))},
    "AssertionError: no message": {"gram": raises(AssertionError())},
}  # fmt: skip


@every_dtype
@pytest.mark.parametrize("seen", WRONG)
def test_a_fault_is_reported_once_and_the_reference_takes_over(seen, dtype, plant):
    asked = plant(**WRONG[seen])
    kinds = {"distance": "_pairs", "pair_sums": "_pairs", "add_pair_gradient_": "_pairs"}
    kinds |= dict.fromkeys(("unit_directions", "waves", "wave_slopes_"), "_slices")
    products = kinds.get(next(iter(WRONG[seen])), "")
    with pytest.warns(UserWarning, match=f"(?s)self-test in {dtype} on cpu: .*{seen}.*seed.*now uses the reference.*report"):
        assert "self-test" in self_test.failure(products, views(dtype=dtype))
    tested = len(asked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shape in [(64, 32), (63, 31)]:
            assert "self-test" in self_test.failure(products, views(*shape, dtype))
    assert len(asked) == tested


def test_products_that_cannot_be_imported_are_a_fault(plant, monkeypatch):
    plant()
    monkeypatch.setattr(self_test, "products_named", raises(ImportError("cannot import name 'tl'")))
    with pytest.warns(UserWarning, match="ImportError"):
        assert self_test.failure("", views())


def test_a_fault_in_one_dtype_leaves_the_others(plant):
    plant(gradient=lambda batch, *a, **k: (unwritten if batch.own[0].dtype == torch.float16 else cpu.gradient)(batch, *a, **k))
    with pytest.warns(UserWarning, match="float16"):
        assert self_test.failure("", views(dtype=torch.float16))
    assert not self_test.failure("", views()) and not self_test.failure("_pairs", views(dtype=torch.float16))


def test_the_environment_makes_a_fault_an_error_or_trusts_the_products(plant, monkeypatch):
    asked = plant(gradient=unwritten)
    monkeypatch.setenv(self_test.VARIABLE, "off")
    assert self_test.failure("", views()) == "" and not asked
    monkeypatch.setenv(self_test.VARIABLE, "sometimes")
    with pytest.raises(ValueError, match="must be one of"):
        self_test.failure("", views())
    monkeypatch.setenv(self_test.VARIABLE, "error")
    with pytest.raises(RuntimeError, match=f"error of nan.*{self_test.VARIABLE}=auto"):
        self_test.failure("", views())


def capture(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)


def test_nothing_is_tested_in_a_capture_or_without_numbers(plant, monkeypatch):
    asked = plant(gradient=unwritten)
    with torch._subclasses.FakeTensorMode():
        assert self_test.failure("", views()) == ""
    capture(monkeypatch)
    assert self_test.failure("", views()) == "" and not asked


def test_an_earlier_result_of_the_self_test_holds_in_a_capture(plant, monkeypatch):
    plant(gradient=unwritten)
    with pytest.warns(UserWarning):
        seen = self_test.failure("", views())
    capture(monkeypatch)
    assert self_test.failure("", views(63)) == seen


@pytest.mark.slow
@pytest.mark.parametrize("products", self_test.ROWS)
def test_a_compiled_criterion_runs_the_reference_where_any_products_have_failed(products, monkeypatch):
    views = torch.randn(2, 20, 6, requires_grad=True)
    eager = VICRegEntropy("log_det")(*views)
    counted = CompileCounterWithBackend("eager")
    failed = {(products, torch.device("cpu"), torch.float32): "planted"}
    for failures in ({}, failed):
        monkeypatch.setattr(self_test, "_failed", failures)
        torch.compiler.reset()
        assert torch.allclose(torch.compile(VICRegEntropy("log_det"), backend=counted, fullgraph=True)(*views), eager)
    fused, reference = ("it_losses" in graph.code for graph in counted.graphs)
    assert fused and not reference


def test_a_lack_of_memory_is_no_fault(plant):
    plant(gram=raises(torch.OutOfMemoryError("out of memory")))
    assert self_test.failure("", views()) == ""
    plant()
    assert self_test.failure("", views()) == "" and self_test._passed


class OnGpu(Tensor):
    is_cuda = True


def test_a_criterion_runs_the_reference_where_the_products_fail(plant, monkeypatch):
    plant(gradient=unwritten)
    failure = self_test.failure
    monkeypatch.setattr(self_test, "failure", lambda products, z: failure(products, z.as_subclass(Tensor)))
    z = torch.randn(2, 20, 6).as_subclass(OnGpu)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with pytest.warns(UserWarning, match="now uses the reference"):
        loss = VICRegEntropy("log_det")(*z)
    monkeypatch.setenv(dispatch.VARIABLE, "fused")
    with pytest.raises(ValueError, match="fused, but the GPU kernels failed their self-test"):
        VICRegEntropy("log_det")(*z)
    monkeypatch.setenv(dispatch.VARIABLE, "reference")
    assert torch.equal(loss, VICRegEntropy("log_det")(*z))


def test_the_random_numbers_of_the_user_are_left_alone(plant):
    plant()
    before = torch.get_rng_state()
    assert self_test.failure("", torch.zeros(64, 32)) == self_test.failure("_pairs", torch.zeros(64, 32)) == ""
    assert torch.equal(torch.get_rng_state(), before)
