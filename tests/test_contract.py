"""The contract of entropy estimators: every estimator in ESTIMATORS must pass these tests."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from it_losses import ESTIMATORS, EntropyRegularizer, Pairwise, VICRegEntropy
from it_losses.entropy import EntropyEstimator
from it_losses.normalize import normalized

# the bandwidth "auto" depends on the batch but gets no gradient, so a numerical derivative would differ. The tests use 2.0
SMOOTH = {"pairwise": {"bandwidth": 2.0}}
# the default covariance_weight puts the maximum of the Spacings entropy at a scale that the tests do not try, so they use 1
SMOOTH["spacings"] = {"covariance_weight": 1.0}

every_estimator = pytest.mark.parametrize("name", ESTIMATORS)
every_shape = pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 5), (2, 1), (6, 2, 3)], ids=str)


def build(name, **options) -> EntropyEstimator:
    # in evaluation mode an estimator that draws random numbers draws the same ones at every call
    return ESTIMATORS[name](**options).eval()


def batch(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def gradient(estimator, z, upstream=1.0):
    z = z.detach().clone().requires_grad_()
    (upstream * estimator(z)).backward()
    return z.grad


def rotation(dim, seed=1):
    return torch.linalg.qr(batch(dim, dim, seed=seed)).Q


@every_estimator
def test_every_estimator_declares_its_properties(name):
    estimator = build(name)
    assert estimator.unit and estimator.direction and estimator.cost
    assert isinstance(estimator.rotation_invariant, bool) and isinstance(estimator.translation_invariant, bool)
    assert estimator.scaling in ("grows", "invariant", "target")
    assert min(estimator.default_weights[:2]) > 0


@every_estimator
def test_only_a_random_estimator_gives_another_value_at_the_next_call_in_training(name):
    z, estimator = batch(20, 4), build(name).train()
    assert (estimator(z) != estimator(z)) == estimator.is_random
    assert estimator.eval()(z) == estimator(z)


@every_estimator
@every_shape
def test_gradient_is_the_derivative(name, shape):
    z = batch(*shape).requires_grad_()
    assert torch.autograd.gradcheck(build(name, **SMOOTH.get(name, {})), (z,))


@every_estimator
@given(rows=st.integers(2, 9), dim=st.integers(1, 9), shift=st.floats(-1e3, 1e3), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_order_and_translation_do_not_matter(name, rows, dim, shift, seed):
    z = batch(rows, dim, seed=seed)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    estimator = build(name)
    moved = z[order] + shift if estimator.translation_invariant else z[order]
    torch.testing.assert_close(estimator(moved), estimator(z), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(gradient(estimator, moved), gradient(estimator, z)[order], rtol=1e-6, atol=1e-8)


@every_estimator
def test_a_translation_matters_exactly_as_declared(name):
    z, estimator = batch(20, 4), build(name)
    same = torch.allclose(estimator(z + 0.7), estimator(z), rtol=1e-10)
    assert same == estimator.translation_invariant


@every_estimator
def test_scale_matters_exactly_as_declared(name):
    estimator = build(name, **SMOOTH.get(name, {}))
    small, middle, large = (estimator(scale * batch(64, 4)) for scale in (0.3, 1.0, 3.0))
    if estimator.scaling == "invariant":
        torch.testing.assert_close(torch.stack((small, large)), middle.expand(2), rtol=1e-9, atol=1e-9)
    elif estimator.scaling == "target":
        assert max(small, large) < middle
    else:
        assert small < middle < large


@every_estimator
def test_rotation_matters_exactly_as_declared(name):
    # z is wide in one direction and narrow in the others, so that a rotation changes the variances of the coordinates
    z = batch(20, 4) * torch.tensor([3.0, 0.3, 0.2, 0.1], dtype=torch.float64)
    estimator = build(name)
    same = torch.allclose(estimator(z @ rotation(4)), estimator(z), rtol=1e-10)
    assert same == estimator.rotation_invariant


@every_estimator
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_exact_collapse_is_finite(name, dtype):
    z = torch.full((8, 5), 3.0, dtype=dtype)
    estimator = build(name)
    assert estimator(z).isfinite()
    assert gradient(estimator, z).isfinite().all()


@every_estimator
@pytest.mark.parametrize("spread", [1e-1, 1e-3, 1e-5])
def test_gradient_spreads_a_nearly_collapsed_batch(name, spread):
    z, estimator = 5 + spread * batch(16, 6), build(name)
    ascent = gradient(estimator, z)
    outward = z - z.mean(dim=0)
    if estimator.scaling == "invariant" and estimator.translation_invariant:
        # by Euler's theorem the gradient of a scale-invariant entropy is orthogonal to the centred samples
        assert (ascent * outward).sum().abs() <= 1e-8 * ascent.norm() * outward.norm()
    else:
        assert (ascent * outward).sum() > 0


@every_estimator
def test_halving_the_spread_lowers_the_entropy(name):
    z = batch(32, 8)
    estimator = build(name, **SMOOTH.get(name, {}))
    if estimator.scaling == "invariant":
        pytest.skip("the value does not depend on the scale")
    # the standard deviations stay below VICReg's margin, above which more spread would change nothing
    values = torch.stack([estimator(z * 0.8 * 0.5**k) for k in range(5)])
    assert (values.diff() < 0).all(), values


@every_estimator
def test_upstream_gradient_scales_the_gradient(name):
    z, estimator = batch(6, 4), build(name)
    torch.testing.assert_close(gradient(estimator, z, upstream=-0.37), -0.37 * gradient(estimator, z))


@every_estimator
@pytest.mark.parametrize("shape", [(257, 3), (3, 257), (2, 1), (127, 131)], ids=str)
def test_odd_sizes_and_strides_change_nothing(name, shape):
    z, estimator = batch(*shape), build(name)
    padded = torch.full((shape[0], 2 * shape[1]), torch.nan, dtype=z.dtype)
    padded[:, ::2] = z
    for strided in (padded[:, ::2], z.T.contiguous().T):
        torch.testing.assert_close(estimator(strided), estimator(z), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient(estimator, strided), gradient(estimator, z), rtol=1e-10, atol=1e-12)


@every_estimator
def test_an_expanded_batch_is_a_collapsed_one(name):
    point, estimator = batch(1, 5), build(name)
    torch.testing.assert_close(estimator(point.expand(8, 5)), estimator(point.repeat(8, 1)))


@every_estimator
def test_groups_are_averaged(name):
    z, estimator = batch(9, 2, 3, 4), build(name)
    groups = torch.stack([estimator(z[:, i, j]) for i in range(2) for j in range(3)])
    torch.testing.assert_close(estimator(z), groups.mean())


@every_estimator
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("shape", [(16, 4), (4, 16)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_one_nan_or_inf_makes_the_entropy_not_finite(name, poison, shape, dtype):
    z = batch(*shape).to(dtype)
    z[1, 2] = poison
    assert not build(name)(z).isfinite()


@every_estimator
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(name, dtype):
    z, estimator = batch(24, 12).to(dtype), build(name)
    value, slope = estimator(z), gradient(estimator, z)
    assert value.dtype == torch.float32
    assert slope.dtype == dtype
    torch.testing.assert_close(value, estimator(z.float()))
    torch.testing.assert_close(slope.float(), gradient(estimator, z.float()), rtol=torch.finfo(dtype).eps, atol=1e-6)


@every_estimator
def test_autocast_is_off_inside(name):
    z, estimator = batch(24, 12, dtype=torch.float32), build(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = estimator(z)
    assert torch.equal(inside, estimator(z))


@every_estimator
def test_fp16_sizes_that_overflow_a_covariance_are_fine(name):
    # a variance of 36 summed over 2048 samples is more than 65504, the largest number in float16
    z = (6 * batch(2048, 8)).half()
    estimator = build(name)
    assert estimator(z).isfinite()
    assert gradient(estimator, z).isfinite().all()


@every_estimator
def test_pickles_copies_and_prints_its_constants(name):
    z, estimator = batch(6, 4), build(name)
    for copied in (pickle.loads(pickle.dumps(estimator)), copy.deepcopy(estimator)):
        assert torch.equal(copied(z), estimator(z))
    assert "=" in repr(estimator)
    assert not estimator.state_dict()


@every_estimator
def test_the_criterion_is_invariance_minus_entropy(name):
    z_a, z_b = batch(2, 12, 5)
    estimator = build(name)
    criterion = VICRegEntropy(name, invariance="gaussian", invariance_weight=3.0, entropy_weight=0.7)
    u_a, u_b = (normalized(z, estimator.normalize) for z in (z_a, z_b))
    expected = 3.0 * (u_a - u_b).square().mean() - 0.7 * (estimator(z_a) + estimator(z_b)) / 2
    torch.testing.assert_close(criterion(z_a, z_b), expected, rtol=1e-12, atol=1e-12)


@every_estimator
def test_the_criterion_takes_the_cosine_in_the_place_of_the_distance(name):
    z_a, z_b = batch(2, 12, 5)
    estimator = build(name)
    criterion = VICRegEntropy(name, invariance="von_mises_fisher", invariance_weight=3.0, entropy_weight=0.7)
    cosine = torch.nn.functional.cosine_similarity(z_a, z_b)
    expected = 3.0 * (1 - cosine).mean() - 0.7 * (estimator(z_a) + estimator(z_b)) / 2
    torch.testing.assert_close(criterion(z_a, z_b), expected, rtol=1e-12, atol=1e-12)


@every_estimator
def test_the_regularizer_is_minus_the_entropy(name):
    z_a, z_b = batch(2, 12, 5)
    estimator = build(name)
    torch.testing.assert_close(EntropyRegularizer(name, 0.2)(z_a), -0.2 * estimator(z_a))
    torch.testing.assert_close(EntropyRegularizer(name, 0.2)(z_a, z_b), -0.1 * (estimator(z_a) + estimator(z_b)))


@every_estimator
def test_a_few_steps_of_descent_spread_a_collapsed_pair_of_views(name):
    z_a = (1e-2 * batch(32, 8)).requires_grad_()
    criterion = VICRegEntropy(name)
    before, entropy = z_a.detach().std(dim=0).mean(), criterion.entropy(z_a.detach())
    optimiser = torch.optim.SGD([z_a], lr=0.05)
    for _ in range(20):
        optimiser.zero_grad()
        criterion(z_a, z_a + 1e-3 * batch(32, 8, seed=2)).backward()
        optimiser.step()
    assert criterion.entropy(z_a.detach()) > entropy
    assert criterion.entropy.scaling == "invariant" or z_a.detach().std(dim=0).mean() > before


def test_an_estimator_without_an_entropy_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        EntropyEstimator()


@pytest.mark.parametrize("method", ["variances", "mean_entropy"])
def test_a_subclass_that_computes_anything_else_takes_its_own_reference(method):
    class Wider(Pairwise):
        pass

    changed = type("Changed", (Wider,), {method: lambda self, z: [100.0] if method == "variances" else z.sum()})
    assert Wider.fused == "pairwise" and changed.fused == ""
