"""What a class that replaces a host's own owes beside the number: constants under the host's names, and the host's dtype."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from it_losses.checks import check_positive, check_weight
from it_losses.distributed import distributed_options


class HostNames(nn.Module):
    """A criterion whose constants can be read and set under the names that the host gives them, and change the loss.

    `criterion.lambda_param = 1.0` sets `invariance_weight`, with its check. State dicts hold weights that train under the
    names of the host. A subclass says in `host_names` which name means which of our constants.
    """

    #: name of the host -> our name, where they differ
    host_names: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for theirs, ours in vars(cls).get("host_names", {}).items():
            setattr(cls, theirs, property(lambda self, ours=ours: getattr(self._constants(), ours), doc=f"Our `{ours}`."))

    def _constants(self) -> Any:
        """The module that holds the constants."""
        return self

    # not setters of the properties: a module takes a Parameter for itself before it looks at its properties
    def __setattr__(self, name: str, value: Any) -> None:
        ours = self.host_names.get(name)
        if ours is not None:
            setattr(self._constants(), ours, (check_positive if ours == "epsilon" else check_weight)(name, value))
        elif name == "gather_distributed":
            criterion = self._constants()
            _, group, reduction = criterion.distributed
            criterion.distributed = distributed_options(value, group or None, reduction)
        else:
            super().__setattr__(name, value)

    @property
    def gather_distributed(self) -> bool:
        """Whether the statistics are those of all ranks; can be set."""
        gathers: bool = self._constants().distributed.gather_distributed
        return gathers

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for theirs, ours in self.host_names.items():
            if prefix + ours in destination:
                destination[prefix + theirs] = destination.pop(prefix + ours)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *options: Any) -> None:
        for theirs, ours in self.host_names.items():
            if prefix + theirs in state_dict:
                state_dict[prefix + ours] = state_dict.pop(prefix + theirs)
        super()._load_from_state_dict(state_dict, prefix, *options)


def in_host_dtype(value: Tensor, *views: Tensor) -> Tensor:
    """The value in the dtype in which plain operations on the views end: float32 under autocast, or the widest of theirs."""
    kind = views[0].device.type
    # named, not asked for: older compilers cannot trace the question
    if kind in ("cpu", "cuda", "mps", "xpu") and torch.is_autocast_enabled(kind):
        return value
    return value.to(reduce(torch.promote_types, [z.dtype for z in views]))
