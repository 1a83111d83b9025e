"""What the host does on a GPU, seen without one: kernels that record their launch stand in for those of Triton.

The numbers are nobody's; how often something is launched, and that nobody waits for a result, does not depend on them.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from it_losses.kernels import closed_log_det, cuda_log_det, cuda_pairs, cuda_vicreg, entropy_launches, triton_launches

#: operators at which a host waits for its device
WAITS = {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}
#: operators that launch nothing, and the one that makes the samples
ALLOCATES = {"aten::randn", "aten::empty", "aten::empty_strided", "aten::new_empty", "aten::empty_like"}
HALF = [torch.bfloat16, torch.float16]


class Recorder(TorchDispatchMode):
    """Counts what would be launched, by torch and by Triton."""

    def __init__(self):
        super().__init__()
        self.launches: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        assert name not in WAITS, name
        if not func.is_view and name not in ALLOCATES:
            self.launches.append(name)
        return func(*args, **(kwargs or {}))


class Kernels:
    """Stands in for a module of kernels: `kernels.name[grid](...)` is recorded and writes nothing."""

    def __init__(self, launches: list[str]):
        self._launches = launches

    def __getattr__(self, name):
        launches = self._launches

        class Kernel:
            def __getitem__(self, grid):
                return lambda *_, **__: launches.append(name)

        return Kernel()


@pytest.fixture
def recorder(monkeypatch):
    recording = Recorder()
    for module in (triton_launches, entropy_launches):
        monkeypatch.setattr(module, "kernels", Kernels(recording.launches))
    # what no kernel writes is at least a number
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size, **kw: new_empty(self, *size, **kw).fill_(1.0))
    ALLOCATES.add("aten::fill_")
    yield recording
    ALLOCATES.discard("aten::fill_")


def vicreg(shape, dtype, *, uses_gram):
    z_a, z_b = torch.randn(2, *shape).to(dtype)
    _, _, saved = cuda_vicreg.forward(z_a, z_b, (25.0, 25.0, 1.0), 1.0, 1e-4, uses_gram=uses_gram)
    return cuda_vicreg.backward(torch.tensor(1.0), z_a, z_b, saved, (25.0, 25.0, 1.0))


def log_det(shape, dtype):
    z, options = torch.randn(1, *shape).to(dtype), {"uses_gram": closed_log_det.uses_gram(*shape)}
    _, *saved = cuda_log_det.forward(z, 0.1, **options)
    return cuda_log_det.backward(torch.ones(1), z, *saved, 0.1, **options)


def pairwise(shape, dtype, *, keep):
    z, scales = torch.randn(1, *shape).to(dtype), torch.full((2, 1), 30.0)
    _, *saved = cuda_pairs.forward(z, scales, 1 << 28, keep=keep)
    return cuda_pairs.backward(torch.ones(2, 1), z, scales, *saved, 1 << 28)


CALLS = {
    "vicreg, N x N": (lambda dtype: vicreg((40, 60), dtype, uses_gram=True), 13),
    "vicreg, D x D": (lambda dtype: vicreg((60, 40), dtype, uses_gram=False), 9),
    "log-det, N x N": (lambda dtype: log_det((40, 60), dtype), 25),
    "log-det, D x D": (lambda dtype: log_det((60, 40), dtype), 25),
    "pairwise, kept": (lambda dtype: pairwise((40, 60), dtype, keep=True), 40),
    "pairwise, formed again": (lambda dtype: pairwise((40, 60), dtype, keep=False), 40),
}


@pytest.mark.parametrize("name", CALLS)
def test_forward_and_backward_launch_few_kernels(name, recorder):
    call, most = CALLS[name]
    with recorder:
        call(torch.float32)
    assert len(recorder.launches) <= most, recorder.launches


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_nothing_waits_in_half_precision_either(name, dtype, recorder):
    with recorder:
        assert CALLS[name][0](dtype).dtype == dtype


def test_launches_do_not_grow_with_the_number_of_scales(recorder):
    counts = []
    for scales in (1, 5):
        recorder.launches.clear()
        z, t = torch.randn(1, 40, 20), torch.full((scales, 1), 30.0)
        with recorder:
            _, *saved = cuda_pairs.forward(z, t, 0, keep=True)
            cuda_pairs.backward(torch.ones(scales, 1), z, t, *saved, 1 << 20)
        counts.append(len(recorder.launches))
    assert counts[0] == counts[1]
