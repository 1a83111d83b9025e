"""A warning, once, that a pairwise estimate stands at log N: every point is alone, and the gradient is gone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

#: the estimate counts as saturated when what is missing to log N is below this fraction of log N
MARGIN = 1e-3


class SaturationWarning:
    """Warns at the first saturated estimate it looks at; afterwards it does not look again."""

    def __init__(self) -> None:
        self._calls = 0
        self._warned = False

    def look_at(self, estimates: Sequence[Tensor], *, limit: float) -> None:
        """Warn if every one of the estimates `[...]` stands at the limit."""
        # a compiler and a torch.func transform have no values to look at
        if self._warned or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return
        self._calls += 1
        if self._may_wait_for(estimates[0]) and _smallest(estimates) > (1 - MARGIN) * limit:
            self._warned = True
            warnings.warn(
                "pairwise entropy stands at log(batch): the bandwidth is so small that no pair of samples overlaps, "
                'and there is no gradient. Raise the bandwidth, or use bandwidth="auto".',
                stacklevel=2,
            )

    def _may_wait_for(self, estimate: Tensor) -> bool:
        if not estimate.is_cuda:
            return estimate.device.type == "cpu"
        # reading a value makes the host wait for the device: at calls 1, 2, 4, 8, ... that costs nothing in the long run
        return self._calls & (self._calls - 1) == 0 and not torch.cuda.is_current_stream_capturing()


def _smallest(estimates: Sequence[Tensor]) -> float:
    values = torch.stack([e.detach() for e in estimates]).flatten().tolist()
    return min(values, default=0.0)
