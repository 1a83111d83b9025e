"""Invalid views raise an error that says what to do. Views of different dtypes are promoted to a common dtype."""

import warnings

import numpy as np
import pytest
import ranks
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from it_losses import EntropyRegularizer, LogDet, VICReg, VICRegEntropy, functional
from it_losses.adapters import eb_jepa, lightly, stable_pretraining
from it_losses.checks import ViewError, accepted, check_views

F64 = torch.float64
GOOD = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class DTensor(torch.Tensor):
    """A stand-in for torch's DTensor that needs no device mesh. Our check recognises a DTensor by these two methods."""

    def to_local(self):
        return self.as_subclass(torch.Tensor)

    def full_tensor(self):
        return self.as_subclass(torch.Tensor)


class Tagged(torch.Tensor):
    """A tensor subclass that our check must accept, such as torchvision's images."""


def quietly(build, *args, **options):
    """Return `build(*args, **options)` without showing torch's warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build(*args, **options)


#: name -> (argument that is no valid view, text of the error message, function that applies the remedy in that message)
BAD = {
    "sparse": (GOOD.to_sparse(), r"\.to_dense\(\)", lambda z: z.to_dense()),
    "compressed rows": (quietly(GOOD.to_sparse_csr), r"\.to_dense\(\)", lambda z: z.to_dense()),
    "mkldnn": (GOOD.to_mkldnn(), r"\.to_dense\(\)", lambda z: z.to_dense()),
    "nested": (quietly(torch.nested.nested_tensor, [GOOD, GOOD[:5]]), r"torch\.cat", lambda z: torch.cat(z.unbind())),
    "jagged": (
        quietly(torch.nested.nested_tensor, [GOOD, GOOD[:5]], layout=torch.jagged),
        r"torch\.cat",
        lambda z: torch.cat(z.unbind()),
    ),
    "masked": (quietly(torch.masked.masked_tensor, GOOD, GOOD > 0), r"get_data\(\)\[rows\]", lambda z: z.get_data()[:5]),
    "a DTensor": (GOOD.as_subclass(DTensor), r"to_local.*full_tensor", lambda z: z.to_local()),
    "complex": (GOOD.cfloat(), "view_as_real", lambda z: torch.view_as_real(z).flatten(-2)),
    "float8": (GOOD.to(torch.float8_e4m3fn), r"\.float\(\)", lambda z: z.float()),
    "integers": (GOOD.int(), r"\.float\(\)", lambda z: z.float()),
    "Booleans": (GOOD > 0, r"\.float\(\)", lambda z: z.float()),
    "quantised": (quietly(torch.quantize_per_tensor, GOOD, 0.1, 0, torch.qint8), "dequantize", lambda z: z.dequantize()),
    "NumPy": (GOOD.numpy(), r"torch\.as_tensor.*diagnostics", torch.as_tensor),
    "numbers": (GOOD.tolist(), r"torch\.as_tensor", torch.as_tensor),
    "a string": ("z", "got str", None),
}


def stacked(z):
    """Return a plain tensor [batch, dim] as [1, batch, dim], and any other object unchanged."""
    return z[None] if type(z) is torch.Tensor and z.layout is torch.strided and not z.is_nested else z


CALLS = {
    "VICReg": VICReg(),
    "VICRegEntropy": VICRegEntropy("log_det"),
    "VICReg.terms": VICReg().terms,
    "VICRegEntropy.terms": VICRegEntropy("pairwise").terms,
    "EntropyRegularizer": EntropyRegularizer("log_det"),
    "functional.vicreg": functional.vicreg,
    "functional.invariance": functional.invariance,
    "functional.global_entropy": lambda *z: functional.global_entropy(*z, entropy="log_det"),
    "lightly VICRegLoss": lightly.VICRegLoss(),
    "lightly LogDetLoss": lightly.LogDetLoss(),
    "lightly EntropyRegularized": lightly.EntropyRegularized(VICReg()),
    "lightly HypersphereLoss": lightly.HypersphereLoss(),
    "lightly KoLeoLoss": lambda *z: [lightly.KoLeoLoss()(view) for view in z],
    "lightly FroSSLLoss": lambda *z: lightly.FroSSLLoss()([*z, z[0]]),
    "lightly SIGReg": lambda *z: [lightly.SIGReg()(view) for view in z],
    "lightly LeJEPALoss": lambda *z: lightly.LeJEPALoss()(local_proj=stacked(z[-1]), global_proj=stacked(z[0])),
    "lightly lejepa_invariance_loss": lambda *z: lightly.lejepa_invariance_loss(all_proj=z[-1], global_proj=z[0]),
    "lightly invariance_loss": lightly.invariance_loss,
    "lightly variance_loss": lambda *z: [lightly.variance_loss(view) for view in z],
    "lightly covariance_loss": lambda *z: [lightly.covariance_loss(view) for view in z],
    "stable-pretraining VICRegLoss": stable_pretraining.VICRegLoss(),
    "stable-pretraining SlicedEppsPulley": stable_pretraining.SlicedEppsPulley(),
    "eb_jepa VICRegLoss": eb_jepa.VICRegLoss(),
    "eb_jepa EntropyLoss": eb_jepa.EntropyLoss(),
}
every_call = pytest.mark.parametrize("call", CALLS)


@every_call
@pytest.mark.parametrize("case", BAD)
def test_arguments_that_are_no_views_are_refused_with_a_remedy_that_works(call, case):
    bad, message, remedy = BAD[case]
    for views in ((bad, bad), (GOOD, bad), (bad, GOOD)):
        with pytest.raises(ViewError, match=message):
            CALLS[call](*views)
    if remedy is not None:
        assert CALLS[call](remedy(bad), remedy(bad)).__class__ is not None


@pytest.mark.parametrize("case", BAD)
def test_an_estimator_refuses_invalid_samples_too(case):
    bad, message, remedy = BAD[case]
    with pytest.raises(ViewError, match=message):
        LogDet()(bad)
    if remedy is not None:
        assert LogDet()(remedy(bad)).isfinite()


@every_call
@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([GOOD, GOOD], r"got list.*criterion\(\*views\)"),
        ((GOOD, GOOD), r"got tuple.*criterion\(\*views\)"),
        ({"a": GOOD, "b": GOOD}, r"got dict.*criterion\(\*views\.values\(\)\)"),
        (iter([GOOD, GOOD]), r"criterion\(\*views\)"),
        ((z for z in (GOOD, GOOD)), r"got generator.*criterion\(\*views\)"),
    ],
    ids=["list", "tuple", "dict", "iterator", "generator"],
)
def test_a_container_of_views_is_refused_with_the_call_to_use(call, views, message):
    with pytest.raises(ViewError, match=message):
        CALLS[call](views)
    with pytest.raises(ViewError, match=message):
        CALLS[call](views, views)


def refused_shards():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    z = distribute_tensor(GOOD, init_device_mesh("cpu", (2,)), [Shard(0)])
    with pytest.raises(ViewError, match=r"z\.to_local\(\)"):
        VICReg()(z, z)
    return VICReg()(z.to_local(), z.to_local()), VICReg(gather_distributed=False)(z.full_tensor(), z.full_tensor())


def test_a_sharded_tensor_is_refused_and_both_remedies_are_the_global_batch():
    for gathered, whole in ranks.run(2, refused_shards):
        torch.testing.assert_close(gathered, VICReg()(GOOD, GOOD))
        torch.testing.assert_close(whole, VICReg()(GOOD, GOOD))


@pytest.mark.parametrize("views", [None, 3, (GOOD for _ in range(2)), {"a": GOOD, "b": GOOD}, [GOOD], [], GOOD.to_sparse()])
def test_frossl_takes_a_list_of_two_views_or_more(views):
    with pytest.raises(ViewError, match=r"criterion\(\[z_a, z_b\]\)|to_dense"):
        lightly.FroSSLLoss()(views)


@pytest.mark.parametrize("term", [lightly.variance_loss, lightly.covariance_loss])
@pytest.mark.parametrize(("z", "message"), [(GOOD[:1], "batch size"), (GOOD[0], r"\(batch, \.\.\., dim\)")])
def test_a_term_refuses_one_sample(term, z, message):
    with pytest.raises(ViewError, match=message):
        term(z)


@pytest.mark.parametrize("criterion", [VICReg(), VICRegEntropy("log_det")], ids=["VICReg", "VICRegEntropy"])
def test_one_view_is_too_few(criterion):
    for call in (criterion, criterion.terms):
        with pytest.raises(ViewError, match=r"got NoneType\. Call criterion\(z_a, z_b\)\. .*stacked.*criterion\(\*views\)"):
            call(torch.stack([GOOD, GOOD]))
    assert torch.equal(criterion(*torch.stack([GOOD, GOOD])), criterion(GOOD, GOOD))


@pytest.mark.parametrize("z", [GOOD, nn.Parameter(GOOD), GOOD.as_subclass(Tagged)], ids=["tensor", "Parameter", "subclass"])
def test_tensors_of_plain_numbers_are_accepted(z):
    torch.testing.assert_close(VICReg()(z, GOOD + 1).detach().as_subclass(torch.Tensor), VICReg()(GOOD, GOOD + 1))


def test_meta_and_fake_tensors_are_taken():
    z = torch.empty(8, 4, device="meta")
    assert VICReg()(z, z).is_meta and VICRegEntropy("log_det")(z, z).shape == ()
    with FakeTensorMode():
        z = torch.randn(8, 4)
        assert VICReg()(z, z).shape == ()


def test_torch_func_transforms_work():
    z = torch.randn(3, 8, 4, dtype=F64)
    each = torch.func.vmap(lambda z: VICReg()(z, 2 * z))(z)
    torch.testing.assert_close(each, torch.stack([VICReg()(one, 2 * one) for one in z]))
    weight = torch.tensor(0.4, dtype=F64)
    slope = torch.func.grad(lambda w: functional.vicreg(z[0], 2 * z[0], covariance_weight=w))(weight)
    torch.testing.assert_close(slope, VICReg(0, 0, 1)(z[0], 2 * z[0]))


@pytest.mark.parametrize(
    "criterion", [VICReg(), VICRegEntropy("log_det"), VICRegEntropy("pairwise")], ids=lambda c: type(c).__name__
)
def test_compilers_trace_the_entrance(criterion):
    a, b = torch.randn(2, 8, 4)
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(a, b), criterion(a, b))
    torch.testing.assert_close(compiled(a, b.double()), criterion(a, b.double()))


CRITERIA = [VICReg(), VICRegEntropy("log_det"), VICRegEntropy("pairwise"), EntropyRegularizer("log_det"), functional.invariance]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, F64]


@pytest.mark.parametrize("criterion", CRITERIA, ids=["VICReg", "log_det", "pairwise", "regularizer", "invariance"])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("ours", DTYPES, ids=str)
@pytest.mark.parametrize("theirs", DTYPES, ids=str)
def test_views_of_two_dtypes_are_promoted(criterion, count, ours, theirs):
    z = [torch.randn(8, 4).to(ours if i == 0 else theirs).requires_grad_() for i in range(count)]
    widest = torch.promote_types(ours, theirs)
    promoted = [view.detach().to(widest).requires_grad_() for view in z]
    loss, expected = criterion(*z), criterion(*promoted)
    assert torch.equal(loss, expected) and loss.dtype == torch.promote_types(widest, torch.float32)
    loss.backward()
    expected.backward()
    for view, other in zip(z, promoted, strict=True):
        assert view.grad.dtype == view.dtype
        assert torch.equal(view.grad, other.grad.to(view.dtype))


def test_three_dtypes_meet_in_the_widest():
    z = [GOOD.half(), GOOD.bfloat16(), GOOD.half()]
    assert [view.dtype for view in accepted(*z)] == [torch.float32] * 3
    assert [view.dtype for view in accepted(GOOD, GOOD.double(), GOOD)] == [F64] * 3
    assert accepted(GOOD, GOOD) == (GOOD, GOOD)


@pytest.mark.parametrize(
    ("bad", "message"), [(GOOD[:5], "same shape"), (GOOD.to("meta"), "same device")], ids=["shape", "device"]
)
def test_other_shapes_and_devices_are_not_converted(bad, message):
    with pytest.raises(ViewError, match=message):
        VICReg()(GOOD.double(), bad)
    with pytest.raises(ViewError, match="same dtype"):
        check_views([GOOD, GOOD.double()])


def test_a_numpy_scalar_is_no_view():
    with pytest.raises(ViewError, match="got float32"):
        VICReg()(np.float32(1), GOOD)


def refuses_a_scalar_on_one_rank(name):
    z = torch.randn(8, 4)
    views = (torch.tensor(1.0), torch.tensor(2.0)) if dist.get_rank() == 0 else (z, z + 1)
    try:
        {"VICReg": VICReg, "log_det": VICRegEntropy}[name]()(*views)
    except ViewError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", ["VICReg", "log_det"])
def test_a_scalar_on_one_rank_makes_all_ranks_raise(name):
    first, second = ranks.run(2, refuses_a_scalar_on_one_rank, name)
    assert "(batch, ..., dim)" in first and "[0]" in second


def test_the_default_device_of_torch_does_not_leak_into_a_loss():
    z = torch.randn(256, 300, requires_grad=True)
    with torch.device("meta"):
        VICRegEntropy("log_det")(z, z.detach() + 1).backward()
    assert z.grad.isfinite().all()


def test_a_forward_mode_derivative_takes_the_reference():
    z, tangent = torch.randn(2, 40, 60, dtype=torch.float64)
    for criterion in (VICReg(), VICRegEntropy("log_det")):
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(criterion(forward_ad.make_dual(z, tangent), z + 1)).tangent
        leaf = z.clone().requires_grad_()
        (slope,) = torch.autograd.grad(criterion(leaf, z + 1), leaf)
        torch.testing.assert_close(found, (slope * tangent).sum())
