"""Every public callable of embeddings refuses invalid arguments, and works in threads, copies and exported programs."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import it_losses
from it_losses import ESTIMATORS, EntropyRegularizer, VICReg, VICRegEntropy, diagnostics, functional
from it_losses.checks import check_weight

WEIGHTS = {"invariance_weight": 2.0, "entropy_weight": 3.0}
#: number of calls in the memory test; `make fuzz` asks for 10,000
CALLS = int(os.environ.get("FUZZ_CALLS", 100))

MODULES: dict[str, nn.Module] = {"VICReg": VICReg()}
for _name, _kind in ESTIMATORS.items():
    MODULES[_kind.__name__] = _kind()
    MODULES[f"VICRegEntropy({_name})"] = VICRegEntropy(_name, **WEIGHTS)
    MODULES[f"EntropyRegularizer({_name})"] = EntropyRegularizer(_name)
for _module in MODULES.values():
    # a random estimator draws the same numbers at each call in evaluation mode
    _module.eval()
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    name: function
    for name, function in inspect.getmembers(functional, inspect.isfunction)
    if function.__module__ == functional.__name__ and not name.startswith("_")
}
FUNCTIONS["global_entropy"] = partial(functional.global_entropy, entropy="log_det")
LOSSES = {**MODULES, **{f"functional.{name}": function for name, function in FUNCTIONS.items()}}
MEASUREMENTS = {
    name: getattr(diagnostics, name) for name in diagnostics.__all__ if inspect.isfunction(getattr(diagnostics, name))
}

every_module = pytest.mark.parametrize("name", MODULES)
every_loss = pytest.mark.parametrize("name", LOSSES)
every_measurement = pytest.mark.parametrize("name", MEASUREMENTS)


#: options for several views. The functions take one matrix, so they lack these options
OF_SEVERAL_VIEWS = {"pool_views", "exclude_positives"}


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if f"{name}_entropy" in FUNCTIONS])
def test_a_function_has_every_option_of_its_estimator(name):
    ours, theirs = (inspect.signature(call).parameters.keys() for call in (FUNCTIONS[f"{name}_entropy"], ESTIMATORS[name]))
    assert ours - {"z"} == theirs - OF_SEVERAL_VIEWS


def views_of(call: Callable[..., object]) -> int:
    """How many views the callable needs."""
    parameters = inspect.signature(call.forward if isinstance(call, nn.Module) else call).parameters
    return 2 if "z_b" in parameters or "x_b" in parameters else 1


def samples_for(call: Callable[..., object]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(12, 5, generator=generator).requires_grad_() for _ in range(views_of(call))]


def gradients(value: Tensor, views: list[Tensor], **options: bool) -> list[Tensor]:
    return list(torch.autograd.grad(value, views, **options))


def test_every_public_name_is_tested_here_or_is_no_callable_of_embeddings():
    others = {"BoundWeights", "EntropyEstimator", "ESTIMATORS", "Terms", "diagnostics", "functional", "theory"}
    tested = {name.split("(")[0] for name in MODULES}
    assert set(it_losses.__all__) <= others | tested
    assert set(diagnostics.__all__) - {"EntropyBounds", "Moments"} == MEASUREMENTS.keys()


BAD = {
    "None": None,
    "text": "views",
    "a number": 3.0,
    "a list": [[1.0, 2.0], [3.0, 4.0]],
    "integers": torch.ones(4, 3, dtype=torch.int64),
    "complex": torch.ones(4, 3, dtype=torch.complex64),
    "one axis": torch.randn(4),
    "a scalar": torch.tensor(1.0),
    "no samples": torch.empty(0, 4),
    "no dimensions": torch.empty(4, 0),
    "one sample": torch.randn(1, 4),
}


@every_loss
@pytest.mark.parametrize("bad", BAD)
def test_arguments_that_are_no_batch_are_refused_with_a_message(name, bad):
    views = [BAD[bad]] * views_of(LOSSES[name])
    with pytest.raises(ValueError, match="needs"):
        LOSSES[name](*views)


@every_measurement
@pytest.mark.parametrize("bad", ["text", "a number", "complex", "a scalar", "no samples", "no dimensions"])
def test_a_measurement_refuses_arguments_that_are_no_batch(name, bad):
    views = [BAD[bad]] * views_of(MEASUREMENTS[name])
    with pytest.raises(ValueError, match=r"\w{3,} \w{2,}"):
        MEASUREMENTS[name](*views)


@every_loss
def test_views_on_two_devices_are_refused(name):
    views = samples_for(LOSSES[name])
    if len(views) == 2:
        with pytest.raises(ValueError, match="same device"):
            LOSSES[name](views[0], views[1].to("meta"))


@every_loss
def test_without_a_gradient_the_value_is_the_same(name):
    views = samples_for(LOSSES[name])
    value, plain = LOSSES[name](*views), LOSSES[name](*[z.detach() for z in views])
    assert value.requires_grad and not plain.requires_grad
    with torch.inference_mode():
        inference = LOSSES[name](*views)
    with torch.no_grad():
        assert torch.equal(LOSSES[name](*views), plain)
    assert inference.is_inference() and torch.equal(inference, plain)
    torch.testing.assert_close(plain, value.detach())


@every_loss
def test_inputs_are_left_as_they_are(name):
    views = samples_for(LOSSES[name])
    before, versions = [z.detach().clone() for z in views], [z._version for z in views]
    gradients(LOSSES[name](*views), views)
    assert all(torch.equal(z, b) for z, b in zip(views, before, strict=True)) and versions == [z._version for z in views]


@every_loss
def test_the_gradient_of_one_view_alone_equals_its_gradient_with_all_views(name):
    views = samples_for(LOSSES[name])
    for i, expected in enumerate(gradients(LOSSES[name](*views), views)):
        one = [z.detach().requires_grad_(j == i) for j, z in enumerate(views)]
        torch.testing.assert_close(gradients(LOSSES[name](*one), one[i : i + 1])[0], expected)


@every_loss
def test_the_value_may_be_changed_in_place(name):
    views = samples_for(LOSSES[name])
    expected = gradients(LOSSES[name](*views), views)
    value = LOSSES[name](*views)
    value.mul_(2).add_(1)
    torch.testing.assert_close(gradients(value, views), [2 * g for g in expected])


@every_loss
def test_a_graph_that_is_kept_gives_the_gradient_again_and_one_that_is_not_raises(name):
    views = samples_for(LOSSES[name])
    value = LOSSES[name](*views)
    first = gradients(value, views, retain_graph=True)
    first[0].zero_()
    again = gradients(value, views)
    assert again[0].abs().max() > 0
    torch.testing.assert_close(again, gradients(LOSSES[name](*views), views))
    with pytest.raises(RuntimeError, match="second time"):
        gradients(value, views)


@every_module
def test_a_module_survives_copies_pickles_and_files(name):
    module, views = MODULES[name], samples_for(MODULES[name])
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    copies = (
        copy.copy(module),
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(file, weights_only=False),
    )
    for other in copies:
        assert torch.equal(other(*views), module(*views)) and repr(other) == repr(module)
    state = io.BytesIO()
    torch.save(module.state_dict(), state)
    state.seek(0)
    module.load_state_dict(torch.load(state, weights_only=True))


@every_loss
def test_tensors_without_numbers_give_a_scalar_without_one(name):
    meta = [z.to("meta") for z in samples_for(LOSSES[name])]
    value = LOSSES[name](*meta)
    assert value.is_meta and value.shape == () and value.dtype == torch.float32
    assert [g.shape for g in gradients(value, meta)] == [z.shape for z in meta]
    with FakeTensorMode():
        fake = fake_samples(LOSSES[name])
        value = LOSSES[name](*fake)
        assert value.shape == () and [g.shape for g in gradients(value, fake)] == [z.shape for z in fake]


def fake_samples(call: Callable[..., object]) -> list[Tensor]:
    return [torch.empty(12, 5, requires_grad=True) for _ in range(views_of(call))]


class Called(nn.Module):
    """A module that calls a function. torch.export takes only modules."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *views: Tensor) -> Tensor:
        return self.function(*views)


@every_loss
@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["not strict", "strict"])
def test_an_exported_objective_has_the_same_value(name, strict):
    call, views = LOSSES[name], tuple(z.detach() for z in samples_for(LOSSES[name]))
    module = call if isinstance(call, nn.Module) else Called(call)
    exported = torch.export.export(module, views, strict=strict).module()
    torch.testing.assert_close(exported(*views), call(*views))


@every_loss
def test_results_do_not_mix_between_threads(name):
    batches = [[(1 + 0.1 * i) * z.detach() for z in samples_for(LOSSES[name])] for i in range(8)]

    def step(batch: list[Tensor]) -> tuple[Tensor, ...]:
        views = [z.clone().requires_grad_() for z in batch]
        value = LOSSES[name](*views)
        return value.detach(), *gradients(value, views)

    expected = [step(batch) for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            torch.testing.assert_close(list(threads.map(step, batches)), expected, rtol=0, atol=0)


ZERO = {
    "VICReg": VICReg(0.0, 0.0, 0.0),
    **{f"VICRegEntropy({name})": VICRegEntropy(name, invariance_weight=0.0, entropy_weight=0.0) for name in ESTIMATORS},
    **{f"EntropyRegularizer({name})": EntropyRegularizer(name, 0.0) for name in ESTIMATORS},
}


@pytest.mark.parametrize("name", ZERO)
def test_zero_weights_give_zero(name):
    views = samples_for(ZERO[name])
    value = ZERO[name](*views)
    assert value == 0 and not torch.stack(gradients(value, views)).any()


def weights_of(name: str) -> list[str]:
    """Return the names of an objective's weights. Names of weights of its estimator start with "entropy."."""
    call = LOSSES[name]
    if not isinstance(call, nn.Module):
        return [parameter for parameter in inspect.signature(call).parameters if parameter.endswith("_weight")]
    own = [weight for weight, check in type(call).checks.items() if check is check_weight]
    entropy = getattr(call, "entropy", None)
    inner = type(entropy).checks.items() if isinstance(entropy, nn.Module) else ()
    return own + [f"entropy.{weight}" for weight, check in inner if check is check_weight]


def with_weight(name: str, weight: str, value: float) -> Callable[..., Tensor]:
    """The objective with one of its weights set."""
    if not isinstance(LOSSES[name], nn.Module):
        return partial(LOSSES[name], **{weight: value})
    module = copy.deepcopy(LOSSES[name])
    owner, _, attribute = weight.rpartition(".")
    setattr(module.get_submodule(owner), attribute, value)
    return module


@pytest.mark.parametrize(("name", "weight"), [(name, weight) for name in LOSSES for weight in weights_of(name)])
def test_a_weight_of_zero_takes_away_its_term_and_no_other(name, weight):
    def step(value: float) -> Tensor:
        views = [z.detach().double().requires_grad_() for z in samples_for(LOSSES[name])]
        loss = with_weight(name, weight, value)(*views)
        return torch.cat([loss.detach()[None], *(g.flatten() for g in gradients(loss, views))])

    # an objective is linear in each weight, so its values at weights 0, 1 and 2 lie on a line
    none, one, two = step(0.0), step(1.0), step(2.0)
    torch.testing.assert_close(none, 2 * one - two)
    assert none.isfinite().all() and not torch.equal(none, one)


def test_weights_of_zero_are_tested_for_each_objective_that_has_weights():
    without = {name for name in LOSSES if not weights_of(name)}
    estimators = {kind.__name__ for kind in ESTIMATORS.values()} - {"VarianceCovariance", "Spacings"}
    functions = {f"functional.{name}" for name in FUNCTIONS} - {"functional.vicreg", "functional.spacings_entropy"}
    assert without == estimators | functions


def memory_in_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc, which only Linux has")
@every_loss
def test_memory_does_not_grow_with_the_number_of_calls(name):
    def calls(count: int) -> tuple[float, int]:
        for _ in range(count):
            views = [z.detach().requires_grad_() for z in samples]
            LOSSES[name](*views).backward()
        gc.collect()
        return memory_in_mib(), len(gc.get_objects())

    samples = samples_for(LOSSES[name])
    calls(50)
    # from now on the garbage collector ignores the objects that exist already
    gc.freeze()
    try:
        before, objects = calls(30)
        after, more = calls(CALLS)
    finally:
        gc.unfreeze()
    # if every call left an object behind, the number of objects would grow by about CALLS. Other lost memory shows only after
    # 10,000 calls
    assert more - objects < CALLS / 10 and after - before < 3


def embeddings_for(name: str) -> list[Tensor]:
    """The arguments of a measurement: 40 samples of 24 dimensions, or for LiDAR 2 views of each of 40 images."""
    shape = (40, 2, 24) if name == "lidar" else (40, 24)
    return [torch.randn(shape) for _ in range(views_of(MEASUREMENTS[name]))]


def assert_same(measured: object, expected: object) -> None:
    assert type(measured) is type(expected)
    if isinstance(expected, str | None):
        assert measured == expected
    else:
        torch.testing.assert_close(measured, expected, rtol=0, atol=0)


@every_measurement
def test_a_measurement_is_the_same_in_inference_mode(name):
    views = embeddings_for(name)
    expected = MEASUREMENTS[name](*views)
    with torch.inference_mode():
        assert_same(MEASUREMENTS[name](*views), expected)
        assert_same(MEASUREMENTS[name](*[z.clone() for z in views]), expected)


@every_measurement
def test_each_thread_has_its_own_measurement(name):
    batches = [embeddings_for(name) for _ in range(2)]
    expected = [MEASUREMENTS[name](*batch) for batch in batches]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(3):
            for measured, own in zip(threads.map(lambda batch: MEASUREMENTS[name](*batch), batches), expected, strict=True):
                assert_same(measured, own)


@every_measurement
def test_a_measurement_survives_a_pickle(name):
    measured = MEASUREMENTS[name](*embeddings_for(name))
    assert_same(pickle.loads(pickle.dumps(measured)), measured)


def test_moments_survive_copies_and_pickles_and_go_on():
    first, second = torch.randn(2, 40, 24)
    expected = diagnostics.Moments().update(first).update(second)
    moments = diagnostics.Moments().update(first)
    for other in (copy.deepcopy(moments), pickle.loads(pickle.dumps(moments))):
        other.update(second)
        assert other.count == 80 and torch.equal(other.covariance, expected.covariance)
    assert moments.count == 40


def without_numbers(kind: str, views: list[Tensor]) -> list[Tensor]:
    """Return meta or fake tensors with the shapes of the views."""
    if kind == "meta":
        return [z.to("meta") for z in views]
    with FakeTensorMode() as mode:
        return [mode.from_tensor(z) for z in views]


@every_measurement
@pytest.mark.parametrize("kind", ["meta", "fake"])
@pytest.mark.parametrize("given", [list, lambda views: [[z] for z in views]], ids=["a batch", "a list of batches"])
def test_a_measurement_refuses_tensors_without_numbers_and_says_what_to_pass(name, kind, given):
    views = given(without_numbers(kind, embeddings_for(name)))
    message = f"got a {kind} tensor, which has none. Pass an ordinary tensor"
    with pytest.raises(ValueError, match=message):
        MEASUREMENTS[name](*views)
    with FakeTensorMode(), pytest.raises(ValueError, match=message):
        MEASUREMENTS[name](*views)


@pytest.mark.parametrize("kind", ["meta", "fake"])
def test_moments_that_refuse_a_tensor_without_numbers_stay_as_they_were(kind):
    moments = diagnostics.Moments().update(torch.ones(3, 2))
    with pytest.raises(ValueError, match=f"got a {kind} tensor"):
        moments.update(*without_numbers(kind, [torch.ones(3, 2)]))
    assert moments.count == 3 and torch.equal(moments.mean, torch.ones(2, dtype=torch.float64))
