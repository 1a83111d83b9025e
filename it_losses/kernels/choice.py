"""Which twin of an objective runs, and why: the reference (plain torch) or the fused one (closed-form gradient)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from it_losses.kernels import closed_log_det, closed_pairwise, closed_vicreg
from it_losses.kernels.blocks import under_torch_func
from it_losses.kernels.optional_triton import is_installed

#: what overrides the rule
VARIABLE = "IT_LOSSES_BACKEND"
BACKENDS = ("auto", "reference", "fused")
#: kinds of device that the fused twins were written and checked for
DEVICES = ("cpu", "cuda")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Choice(NamedTuple):
    """The twin that runs and the reason, for people."""

    twin: str
    reason: str

    @property
    def is_fused(self) -> bool:
        """Whether the fused twin runs."""
        return self.twin == "fused"


def choose(op: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str, *, views: int = 1) -> Choice:
    """The twin of `op` ("vicreg", "log_det", "pairwise") for samples `[..., batch, dim]`.

    IT_LOSSES_BACKEND = auto (the rule: fused wherever it can run) | reference | fused.

    Raises:
        ValueError: an unknown name of an op or backend; "fused" asked for where there is no fused twin.
    """
    if op not in _FORMS:
        raise ValueError(f"op must be one of {sorted(_FORMS)}, got {op!r}.")
    obstacle = _obstacle(dtype, torch.device(device))
    return Choice("reference", obstacle) if obstacle else Choice("fused", _FORMS[op](shape, dtype, torch.device(device), views))


def is_fused(z: Tensor) -> bool:
    """Whether the fused twin runs for samples z: `choose` without its reasons, for every call."""
    return not _obstacle(z.dtype, z.device)


def _obstacle(dtype: torch.dtype, device: torch.device) -> str:
    """Why the reference runs; empty where the fused twin does."""
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in BACKENDS:
        raise ValueError(f"{VARIABLE} must be one of {list(BACKENDS)}, got {asked!r}. Unset it for the rule.")
    if asked == "reference":
        return f"{VARIABLE}=reference"
    missing = _missing(dtype, device)
    if missing and asked == "fused":
        raise ValueError(f"{VARIABLE}=fused, but {missing}. Set {VARIABLE}=auto to let the reference take over.")
    return missing


def _missing(dtype: torch.dtype, device: torch.device) -> str:
    """Why there is no fused twin; empty where there is one."""
    if device.type not in DEVICES:
        return f"fused twins run on {' and '.join(DEVICES)}, not on {device.type}"
    if under_torch_func():
        return "torch.func transforms need an objective made of plain torch operators"
    if dtype not in DTYPES:
        return f"fused twins take {', '.join(str(d) for d in DTYPES)}, not {dtype}"
    return ""


def _vicreg_form(shape: Sequence[int], dtype: torch.dtype, device: torch.device, views: int) -> str:
    batch, dim = shape[-2:]
    groups = torch.Size(shape[:-2]).numel()
    gram, covariance = f"N x N = {batch} x {batch} Gram matrix", f"D x D = {dim} x {dim} covariance"
    return {
        "authors' order": "tiny: the authors' order of operations, gradient in the forward pass",
        "one block": f"small: D x D = {dim} x {dim} in one block, gradient in the forward pass",
        "gram": f"{gram}, the smaller side",
        "covariance": f"{covariance}, the smaller side or close to it",
        "triton gram": f"{gram}, the smaller side, with Triton",
        "triton covariance": f"{covariance}, the smaller side or close to it, with Triton",
    }[closed_vicreg.form(device.type, dtype, views, groups, batch, dim)]


def _log_det_form(shape: Sequence[int], dtype: torch.dtype, device: torch.device, views: int) -> str:
    batch, dim = shape[-2:]
    side = "N x N Gram" if closed_log_det.uses_gram(batch, dim) else "D x D covariance"
    return f"Cholesky factor of the {side} matrix of {min(batch, dim)}, the smaller side{_with_triton(dtype, device)}"


def _pairwise_form(shape: Sequence[int], dtype: torch.dtype, device: torch.device, views: int) -> str:
    if triton := _with_triton(dtype, device):
        return f"{shape[-2]} x {shape[-2]} pairs in one pass over their products{triton}"
    height = closed_pairwise.strip_height(shape, device)
    return f"lower triangle of {shape[-2]} x {shape[-2]} pairs in strips of at most {height} rows"


def _with_triton(dtype: torch.dtype, device: torch.device) -> str:
    return ", with Triton" if device.type == "cuda" and dtype != torch.float64 and is_installed() else ""


_FORMS = {"vicreg": _vicreg_form, "log_det": _log_det_form, "pairwise": _pairwise_form}
