"""A warning, given once, that an estimate has left the range in which it can be trusted."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor


class SaturationWarning:
    """Warns once, at the first values above a bound; afterwards it reads no more values."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._calls = 0
        self._warned = False

    def warn_if_saturated(self, values: Sequence[Tensor], *, above: float) -> None:
        """Warn if every one of the values `[...]` is finite and above the bound."""
        # under a compiler or a torch.func transform there are no values
        if self._warned or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return
        self._calls += 1
        if self._may_wait_for(values[0]) and above < _smallest(values) < math.inf:
            self._warned = True
            warnings.warn(self._message, stacklevel=2)

    def _may_wait_for(self, value: Tensor) -> bool:
        if not value.is_cuda:
            return value.device.type == "cpu" and type(value) is Tensor
        # reading a value makes the host wait for the device, so it is read at calls 1, 2, 4, 8, ... only
        return self._calls & (self._calls - 1) == 0 and not torch.cuda.is_current_stream_capturing()


def _smallest(values: Sequence[Tensor]) -> float:
    return min((number for value in values for number in value.detach().flatten().tolist()), default=0.0)
