"""Choose, for each call, the fused or reference implementation, CPU or GPU operations, and the N x N or D x D matrix."""

import functools
import importlib
import importlib.util
import os
from collections.abc import Sequence
from types import ModuleType

import torch
from torch.autograd import forward_ad

from it_losses.kernels import self_test, vicreg
from it_losses.kernels.batch import Batch, Plan
from it_losses.kernels.products import products_named as products_named

#: environment variable that chooses the implementation, and its values
VARIABLE = "IT_LOSSES_BACKEND"
BACKENDS = ("auto", "reference", "fused")
#: found at import, because compilers cannot trace the search for a package
HAS_TRITON = importlib.util.find_spec("triton") is not None
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@functools.cache
def module_named(name: str) -> ModuleType:
    """The module of one objective in this folder, with `evaluate`, `prefers_gram` and its constants."""
    return importlib.import_module(f"it_losses.kernels.{name}")


def plan(module: ModuleType, device: str, *, samples: int, dim: int, world: int) -> Plan:
    """Choose the module of matrix operations and the matrix, N x N or D x D. The device is "cpu" or "cuda"."""
    return Plan(products_named(device + module.PRODUCTS), module.prefers_gram(samples, dim, world))


def takes_published_order(fused: str, batch: Batch, normalize: str | None, terms: int) -> bool:
    """Whether to sum VICReg's terms in the order of the authors' code: only for two small views in one process on a CPU."""
    if fused != "vicreg" or normalize is not None or terms < 2 or batch.ranks.world > 1:
        return False
    first = batch.own[0]
    return batch.stacks == len(batch.own) == 2 and not first.is_cuda and first.numel() <= vicreg.TINY


def is_fused(name: str, constants: Sequence[object] | None, z: torch.Tensor) -> bool:
    """Whether the fused implementation runs for views like z, instead of the reference.

    The reference runs if `constants` is None, or if a constant is a tensor, whose gradient only the reference computes.

    Raises:
        ValueError: IT_LOSSES_BACKEND has an unknown value, or is "fused" where no fused implementation can run.
    """
    if not name or constants is None or any([isinstance(constant, torch.Tensor) for constant in constants]):
        return False
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in BACKENDS:
        raise ValueError(f"{VARIABLE} must be one of {list(BACKENDS)}, got {asked!r}. Unset it for the default.")
    if asked == "reference":
        return False
    reason = why_not_fused(name, z)
    if reason and asked == "fused":
        raise ValueError(f"{VARIABLE}=fused, but {reason}. Set {VARIABLE}=auto to use the reference implementation.")
    return not reason


def why_not_fused(name: str, z: torch.Tensor) -> str:
    """The reason why the fused implementation cannot run, or an empty string. On a GPU the first call tests the kernels."""
    reason = unsupported(name, z.dtype, z.device)
    if torch.compiler.is_compiling():
        return reason or self_test.seen_before(z)
    return reason or (self_test.failure(module_named(name).PRODUCTS, z) if z.is_cuda else "")


def unsupported(name: str, dtype: torch.dtype, device: torch.device) -> str:
    """The reason why there is no fused implementation for that device and dtype, or an empty string."""
    if not name:
        return "this entropy has no fused implementation"
    if device.type not in ("cpu", "cuda"):
        return f"fused implementations run on cpu and cuda, not on {device.type}"
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return "fused implementations do not support torch.func transforms or forward-mode derivatives"
    if dtype not in DTYPES:
        return f"fused implementations take {', '.join(map(str, DTYPES))}, not {dtype}"
    if device.type == "cuda" and dtype == torch.float64:
        return "on a GPU the fused implementations do not support float64"
    if device.type == "cuda" and not HAS_TRITON:
        return "on a GPU the fused implementations need Triton, which is not installed"
    return ""
