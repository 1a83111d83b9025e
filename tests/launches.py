"""Runs the GPU code of the package without a GPU: matrix products run on the CPU, and kernel launches are recorded."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import triton

from it_losses.kernels.products import cuda, cuda_pairs, cuda_passes, cuda_slices
from it_losses.precision import accumulation_dtype

MODULES = cuda_passes, cuda_pairs, cuda_slices
#: Triton functions that kernels call and that are never launched
PARTS = {"hashed", "rows_of"}
#: name -> kernel
KERNELS = {
    name: kernel
    for module in MODULES
    for name, kernel in vars(module).items()
    if isinstance(kernel, triton.runtime.KernelInterface) and name not in PARTS
}


class Launch(NamedTuple):
    """One launch: the name of the kernel, its arguments in order, and its constants and options by name."""

    kernel: str
    arguments: tuple[Any, ...]
    named: dict[str, Any]


class _Recorder:
    """Replaces one kernel: a launch `kernel[grid](...)` is recorded and computes nothing."""

    def __init__(self, kernel: str, launches: list[Launch]) -> None:
        self._kernel, self._launches = kernel, launches

    def __getitem__(self, grid: object) -> Any:
        return lambda *arguments, **named: self._launches.append(Launch(self._kernel, arguments, named))


def record_launches(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """Replace every kernel by a recorder until the test ends. Returns the list to which launches are added."""
    launches: list[Launch] = []
    for module in MODULES:
        for name in KERNELS.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, _Recorder(name, launches))
    return launches


def stand_in_for_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the GPU code run on a CPU: matrix products return float32, and gradients have the dtype that they have on a GPU."""
    for module in (cuda, cuda_pairs):
        monkeypatch.setattr(module, "product", lambda a, b: torch.bmm(a.float(), b.float()))
    monkeypatch.setattr(cuda, "gradient_dtype", lambda z: z.dtype if z.dtype == torch.bfloat16 else accumulation_dtype(z.dtype))
