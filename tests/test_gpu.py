"""On a GPU the fused implementations agree with float64, run in CUDA graphs, do not wait for the device, and use little memory.

`make test-gpu` runs these tests.
"""

from __future__ import annotations

import copy
import functools

import pytest
import ranks
import torch
import torch.distributed as dist
from torch import Tensor

from it_losses import EntropyRegularizer, LogDet, Pairwise, VICReg, VICRegEntropy
from it_losses.kernels import self_test

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DEVICE = "cuda"
#: dtype -> allowed relative errors of (value, gradient). Four times the error of the float32 reference is added to them
ROUNDED = {torch.float32: (2e-6, 4e-6), torch.float16: (2e-4, 2e-3), torch.bfloat16: (2.0**-9, 2e-2)}
#: [N, D] or [N, groups, D] for batch size N and dimension D: small and odd sizes, N below, above and far below D
SHAPES = [(2, 1), (33, 70), (70, 33), (257, 131), (131, 257), (260, 515), (128, 2048), (40, 3, 20)]
#: the margins exceed every standard deviation of `samples`, so that rounding cannot switch a hinge on or off
CRITERIA = {
    "vicreg": VICReg(margin=4.0),
    "variance_covariance": VICRegEntropy("variance_covariance", margin=4.0),
    "log_det": VICRegEntropy("log_det", beta=2.0),
    "log_det, beta 1000": VICRegEntropy("log_det", beta=1e3),
    "pairwise": VICRegEntropy("pairwise"),
    "pairwise, two bandwidths": VICRegEntropy("pairwise", bandwidth=(20.0, 60.0)),
    "pairwise, no memory": VICRegEntropy("pairwise", memory_mib=0),
    # in evaluation mode each call draws the same slices
    "sigreg": VICRegEntropy("sigreg").eval(),
    "pairwise, pooled views": VICRegEntropy("pairwise", pool_views=True),
    "quadratic": VICRegEntropy("quadratic", bandwidth="auto", normalize=None, exclude_self=False),
    "regularizer": EntropyRegularizer("log_det"),
    "uniformity": VICRegEntropy("quadratic"),
    "renyi": VICRegEntropy("renyi"),
    "koleo": VICRegEntropy("koleo"),
    "spacings": VICRegEntropy("spacings"),
}


def criterion_named(name: str):
    """A fresh copy of a criterion, because criteria count their calls and warn only once."""
    return copy.deepcopy(CRITERIA[name])


every_dtype = pytest.mark.parametrize("dtype", ROUNDED, ids=str)
every_criterion = pytest.mark.parametrize("name", CRITERIA)


@pytest.fixture(autouse=True)
def self_test_is_off(monkeypatch):
    # if kernels fail the self-test, the reference replaces them, and the tests would compare the reference with itself
    monkeypatch.setenv(self_test.VARIABLE, "off")


@pytest.fixture(autouse=True)
def no_tf32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def samples(shape: tuple[int, ...], dtype: torch.dtype, count: int) -> list[Tensor]:
    """Views whose mean is not zero and whose columns have different scales, rounded to the dtype."""
    scales = torch.linspace(0.3, 1.5, shape[-1], dtype=torch.float64)
    common = torch.randn(shape, dtype=torch.float64)
    return [((common + 0.3 * torch.randn(shape, dtype=torch.float64)) * scales + 3).to(dtype) for _ in range(count)]


def evaluated(criterion, views: list[Tensor], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Evaluate the criterion in this dtype on this device. Return value and gradients in float64 on the CPU."""
    own = [z.detach().to(device, dtype).requires_grad_() for z in views]
    value = criterion(*own)
    # gradients are of the order of 1 / dim, so they are scaled to avoid underflow in float16
    scale = views[0].shape[-1]
    gradients = torch.autograd.grad(-1.7 * scale * value, own)
    assert all(g.dtype == dtype for g in gradients)
    return value.detach().cpu().double(), torch.stack(gradients).cpu().double() / scale


@every_dtype
@pytest.mark.parametrize("less", [0, 7])
@pytest.mark.parametrize("products", self_test.ROWS)
def test_the_self_test_passes(products, less, dtype):
    rows, dim = self_test.ROWS[products] - less, self_test.DIM - less
    assert not self_test.fault(products, torch.device(DEVICE, torch.cuda.current_device()), dtype, rows=rows, dim=dim)


@every_dtype
@every_criterion
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradient_agree_with_float64(shape, name, dtype, monkeypatch):
    criterion = criterion_named(name)
    for count in (2, 3) if len(shape) == 3 else (2,):
        views = samples(shape, dtype, count)
        got = evaluated(criterion, views, dtype, DEVICE)
        monkeypatch.setenv("IT_LOSSES_BACKEND", "reference")
        plain, exact = (evaluated(criterion, views, kind, "cpu") for kind in (torch.float32, torch.float64))
        monkeypatch.delenv("IT_LOSSES_BACKEND")
        scales = exact[0].abs().clamp_min(1), exact[1].abs().max().clamp_min(1e-12)
        for ours, theirs, right, scale, tolerance in zip(got, plain, exact, scales, ROUNDED[dtype], strict=True):
            error, allowed = (ours - right).abs().max() / scale, (theirs - right).abs().max() / scale
            assert error <= 4 * allowed + tolerance


def views_of(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, count: int = 2) -> list[Tensor]:
    return [torch.randn(shape, device=DEVICE).to(dtype).requires_grad_() for _ in range(count)]


@every_dtype
@every_criterion
@pytest.mark.parametrize("shape", [(64, 200), (200, 64)], ids=str)
def test_a_captured_graph_replays_the_numbers_of_eager_mode(shape, name, dtype):
    criterion, views = criterion_named(name), views_of(shape, dtype)

    def step():
        loss = criterion(*views)
        return loss, *torch.autograd.grad(loss, views)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = step()
    with torch.no_grad():
        for z in views:
            z.copy_(torch.randn(shape, device=DEVICE))
    graph.replay()
    # thread blocks add to a sum in any order, so the last digits of two runs differ
    torch.testing.assert_close(replayed, step(), rtol=ROUNDED[dtype][1], atol=1e-5)


@every_dtype
@pytest.mark.parametrize("name", [*(name for name in CRITERIA if "bandwidths" not in name), "one bandwidth"])
@pytest.mark.parametrize("shape", [(64, 200), (200, 64), (256, 4096)], ids=str)
def test_forward_and_backward_do_not_wait_for_the_device(shape, name, dtype):
    # at calls 1, 2, 4, 8, ... a criterion reads values, to warn if they are out of range. The third call must not wait
    criterion = criterion_named(name) if name in CRITERIA else VICRegEntropy(Pairwise(shape[1] ** 0.5))
    views = views_of(shape, dtype)
    for _ in range(2):
        criterion(*views).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(*views).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_criterion
def test_a_compiled_criterion_gives_the_numbers_of_eager_mode(name):
    torch.compiler.reset()
    criterion, views = criterion_named(name), views_of((64, 200))
    compiled = torch.compile(criterion, fullgraph=True)
    results = [(f(*views), torch.autograd.grad(f(*views), views)) for f in (compiled, criterion)]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("criterion", "batch", "dim", "most_mib"),
    [
        (VICReg(), 1024, 8192, 150),
        (VICReg(), 256, 8192, 40),
        (LogDet(), 256, 8192, 40),
        (Pairwise(bandwidth=128**0.5, memory_mib=32), 8192, 128, 64),
    ],
    ids=["vicreg", "vicreg of few", "log_det", "pairwise"],
)
@every_dtype
def test_peak_memory_above_the_inputs_stays_within_its_bound(criterion, batch, dim, most_mib, dtype):
    count = 2 if isinstance(criterion, VICReg) else 1
    # libraries such as cuBLAS allocate a workspace in the first call, which is not measured
    criterion(*views_of((batch, dim), dtype, count)).backward()
    views = views_of((batch, dim), dtype, count)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    criterion(*views).backward()
    # the gradient of float16 views is computed in float32, which takes more memory
    allowed = 1.2 * most_mib if dtype == torch.float16 else most_mib
    assert (torch.cuda.max_memory_allocated() - before) / 2**20 <= allowed


#: name -> function of `gather_distributed` that makes a criterion
OVER_RANKS = {
    "vicreg": functools.partial(VICReg, margin=4.0),
    "log_det": functools.partial(VICRegEntropy, "log_det", beta=2.0),
    "pairwise": functools.partial(VICRegEntropy, "pairwise"),
    "renyi": functools.partial(VICRegEntropy, "renyi"),
    "koleo": functools.partial(VICRegEntropy, "koleo"),
}


def errors_of_a_rank(name: str, shape: tuple[int, int], dtype: torch.dtype) -> list[tuple[float, float]]:
    """Return (error, tolerance) of this rank's value and gradient. Errors are differences from one float64 process."""
    torch.cuda.set_device(0)
    torch.manual_seed(7)
    whole = samples(shape, dtype, 2)
    rows, first = shape[0] - shape[0] // 3, dist.get_rank() == 0
    part = slice(rows) if first else slice(rows, None)
    ours = evaluated(OVER_RANKS[name](gather_distributed=True), [z[part] for z in whole], dtype, DEVICE)
    exact = evaluated(OVER_RANKS[name](gather_distributed=False), whole, torch.float64, "cpu")
    # DDP averages the gradients of the two ranks, so each rank returns twice the gradient of its samples
    right = exact[0], 2 * exact[1][:, part]
    scales = right[0].abs().clamp_min(1), right[1].abs().max().clamp_min(1e-12)
    errors = [((a - b).abs().max() / s).item() for a, b, s in zip(ours, right, scales, strict=True)]
    return list(zip(errors, (2 * t for t in ROUNDED[dtype]), strict=True))


@every_dtype
@pytest.mark.parametrize("name", OVER_RANKS)
@pytest.mark.parametrize("shape", [(96, 200), (200, 96), (257, 131)], ids=str)
def test_two_ranks_on_one_gpu_are_one_process(shape, name, dtype):
    for found in ranks.run(2, errors_of_a_rank, name, shape, dtype):
        for error, tolerance in found:
            assert error <= tolerance
