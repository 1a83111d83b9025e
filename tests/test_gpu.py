"""The fused twins on a GPU: exact, captured, without waiting, within their memory. `make test-gpu` runs them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from twins import assert_no_worse, log_det, pairwise, vicreg_terms

from it_losses import ESTIMATORS, LogDet, Pairwise, VICReg, VICRegEntropy, kernels
from it_losses.entropy.log_det import half_log_det
from it_losses.entropy.pairwise import spread_entropy, squared_distances

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DEVICE = "cuda"
WEIGHTS = (25.0, 25.0, 1.0)
#: error beyond the reference's in float32, of the value and of the gradient, where operands of products are rounded
ROUNDED = {torch.float32: (2e-6, 4e-6), torch.float16: (2e-4, 2e-3), torch.bfloat16: (2.0**-9, 1e-2)}
#: small, odd, both sides of N = D, and few rows with so many columns that their products are split
SHAPES = [(2, 1), (33, 70), (70, 33), (257, 131), (131, 257), (520, 1031), (256, 4096)]

every_dtype = pytest.mark.parametrize("dtype", ROUNDED, ids=str)
every_shape = pytest.mark.parametrize(("batch", "dim"), SHAPES)


@pytest.fixture(autouse=True)
def no_tf32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def samples(batch: int, dim: int, dtype: torch.dtype) -> Tensor:
    """Samples whose mean is not zero and whose columns differ, as the dtype holds them."""
    z = torch.randn(batch, dim, dtype=torch.float64) * torch.linspace(0.3, 1.5, dim, dtype=torch.float64) + 3
    return z.to(dtype)


def evaluated(function, views: list[Tensor], dtype: torch.dtype, device: str, upstream: float = -1.7) -> tuple[Tensor, Tensor]:
    """Value and gradients of the same numbers in a dtype on a device, both on the CPU."""
    own = [z.detach().to(device, dtype).requires_grad_() for z in views]
    value = function(*own)
    gradients = torch.autograd.grad(upstream * value.sum(), own)
    assert all(g.dtype == dtype for g in gradients)
    return value.cpu(), torch.stack(gradients).cpu()


def assert_fused(fused, reference, definition, views: list[Tensor], dtype: torch.dtype) -> None:
    """On the GPU in a dtype: no further from the definition in float64 than the reference in float32, beyond rounding."""
    got = evaluated(fused, views, dtype, DEVICE)
    plain = evaluated(reference, views, torch.float32, "cpu")
    exact = evaluated(definition, views, torch.float64, "cpu")
    assert_no_worse(1 + got[0], 1 + plain[0], 1 + exact[0], tolerance=ROUNDED[dtype][0])
    assert_no_worse(got[1], plain[1], exact[1], tolerance=ROUNDED[dtype][1])


def plain_vicreg(z_a: Tensor, z_b: Tensor) -> Tensor:
    return sum(weight * term for weight, term in zip(WEIGHTS, vicreg_terms(z_a, z_b), strict=True))


@every_dtype
@every_shape
def test_vicreg_is_the_definition(batch, dim, dtype):
    z = samples(batch, dim, dtype)
    views = [z, (z.double() + 0.3 * torch.randn(batch, dim, dtype=torch.float64)).to(dtype)]
    assert_fused(lambda a, b: kernels.vicreg((a, b), weights=WEIGHTS)[0], plain_vicreg, plain_vicreg, views, dtype)


@every_dtype
@every_shape
def test_log_det_is_the_definition(batch, dim, dtype):
    for beta in (2.0, 1e3):
        assert_fused(
            lambda z, beta=beta: kernels.log_det(z, beta=beta),
            lambda z, beta=beta: half_log_det(z, beta=beta),
            lambda z, beta=beta: log_det(z, beta=beta) if dim < 1000 else half_log_det(z, beta=beta),
            [samples(batch, dim, dtype)],
            dtype,
        )


@every_dtype
@every_shape
@pytest.mark.parametrize("memory_bytes", [0, None])
def test_pairwise_is_the_definition(batch, dim, dtype, memory_bytes):
    scales = [0.6 * dim, 3.0 * dim]
    assert_fused(
        lambda z: kernels.pairwise(z, scales, memory_bytes=memory_bytes),
        lambda z: torch.stack([spread_entropy(squared_distances(z), scale=t) for t in scales]),
        lambda z: torch.stack(
            [pairwise(z, scale=t) if batch * dim < 1 << 16 else spread_entropy(squared_distances(z), scale=t) for t in scales]
        ),
        [samples(batch, dim, dtype)],
        dtype,
    )


CRITERIA = {"vicreg": VICReg(), **{name: VICRegEntropy(name) for name in ESTIMATORS}}


def views_of(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, count: int = 2) -> list[Tensor]:
    return [torch.randn(shape, device=DEVICE).to(dtype).requires_grad_() for _ in range(count)]


@every_dtype
@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("shape", [(70, 33), (33, 70), (40, 3, 20)], ids=str)
def test_the_criteria_agree_with_themselves_on_a_cpu(shape, name, dtype):
    criterion = CRITERIA[name]
    for count in (2, 3):
        views = views_of(shape, dtype, count)
        assert_fused(criterion, criterion, criterion, views, dtype)


@every_dtype
@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("shape", [(64, 200), (200, 64)], ids=str)
def test_a_captured_graph_replays_what_eager_mode_computes(shape, name, dtype):
    criterion, views = CRITERIA[name], views_of(shape, dtype)

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
    # sums that programs add to in any order differ in their last digits
    torch.testing.assert_close(replayed, step(), rtol=ROUNDED[dtype][1], atol=1e-5)


@every_dtype
@pytest.mark.parametrize("name", [*CRITERIA, "bandwidth"])
@pytest.mark.parametrize("shape", [(64, 200), (200, 64), (256, 4096)], ids=str)
def test_no_step_waits_for_the_device(shape, name, dtype):
    # a given bandwidth is looked at, for a warning, at calls 1, 2, 4, 8; with two views a step the third makes calls 5 and 6
    criterion = CRITERIA.get(name) or VICRegEntropy(Pairwise(shape[1] ** 0.5))
    views = views_of(shape, dtype)
    for _ in range(2):
        criterion(*views).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(*views).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", CRITERIA)
def test_a_compiled_criterion_gives_the_numbers_of_eager_mode(name):
    torch.compiler.reset()
    criterion, views = CRITERIA[name], views_of((64, 200))
    compiled = torch.compile(criterion, fullgraph=True)
    results = [(f(*views), torch.autograd.grad(f(*views), views)) for f in (compiled, criterion)]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("criterion", "batch", "dim", "most_mib"),
    [
        (VICReg(), 1024, 8192, 110),
        (VICReg(), 256, 8192, 30),
        (LogDet(), 256, 8192, 30),
        (Pairwise(bandwidth=128**0.5, memory_mib=32), 8192, 128, 64),
    ],
    ids=["vicreg", "vicreg of few", "log_det", "pairwise"],
)
@every_dtype
def test_peak_memory_above_the_inputs_stays_within_its_bound(criterion, batch, dim, most_mib, dtype):
    count = 2 if isinstance(criterion, VICReg) else 1
    # libraries take their workspace at the first call
    criterion(*views_of((batch, dim), dtype, count)).backward()
    views = views_of((batch, dim), dtype, count)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    criterion(*views).backward()
    assert (torch.cuda.max_memory_allocated() - before) / 2**20 <= most_mib
