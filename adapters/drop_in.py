"""Base of drop-in criteria: they use the names and dtypes of the replaced library, and load its pickles."""

from collections.abc import Mapping
from functools import reduce
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from it_losses.checks import check_positive, check_weight
from it_losses.distributed import distributed_options


class HostNames(nn.Module):
    """A criterion whose constants also have the names of the host, the replaced library.

    `criterion.lambda_param = 1.0` checks and sets `invariance_weight`. State dicts hold trainable weights under the host's
    names. A subclass maps the host's names to ours in `host_names`.
    """

    host_names: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for theirs, ours in vars(cls).get("host_names", {}).items():
            setattr(cls, theirs, property(lambda self, ours=ours: getattr(self._constants(), ours), doc=f"Our `{ours}`."))

    def _constants(self) -> Any:
        """The module with the constants."""
        return self

    # not property setters, because nn.Module registers a Parameter before it looks for a property
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
        """Whether the statistics use the samples of all ranks. You may set it."""
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


def in_host_dtype(value: Tensor, *views: Any) -> Tensor:
    """The value in the dtype of the host's result: float32 under autocast, else the widest dtype of the views."""
    kind = views[0].device.type
    # older compilers cannot trace a query for the device types with autocast
    if kind in ("cpu", "cuda", "mps", "xpu") and torch.is_autocast_enabled(kind):
        return value
    return value.to(reduce(torch.promote_types, [z.dtype for z in views]))


def check_can_gather(gather_distributed: bool) -> None:
    """Raise ValueError, as the replaced classes do, if gathering is requested without torch.distributed."""
    if gather_distributed and not dist.is_available():
        raise ValueError(
            "gather_distributed=True needs torch.distributed, which this build of torch lacks. "
            "Pass gather_distributed=False, or install another build of torch."
        )


def as_ours(criterion: nn.Module, cls: type[nn.Module], state: Mapping[str, Any], **arguments: Any) -> dict[str, Any]:
    """The state of our criterion, made from the pickled state of the replaced class.

    `cls.__init__(criterion, **arguments)` makes our attributes. From `state` come only hooks, and the attributes, parameters
    and submodules that a subclass added.
    """
    cls.__init__(criterion, **arguments)
    ours = {name: value for name, value in state.items() if name not in arguments}
    for kind in ("_parameters", "_buffers", "_modules"):
        others = {name: value for name, value in state[kind].items() if name not in arguments}
        ours[kind] = {**getattr(criterion, kind), **others}
    return ours
