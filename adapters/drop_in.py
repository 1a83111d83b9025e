"""Base of drop-in criteria: constants and dtypes as in the replaced library, whose pickles can be loaded."""

from collections.abc import Mapping
from functools import reduce
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from it_losses.checks import check_positive, check_weight
from it_losses.distributed import distributed_options


class HostNames(nn.Module):
    """A criterion whose constants can also be read and set under the names of the host (the replaced library).

    `criterion.lambda_param = 1.0` checks and sets `invariance_weight`. State dicts hold trainable weights under the names
    of the host. A subclass maps the names of the host to ours in `host_names`.
    """

    host_names: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for theirs, ours in vars(cls).get("host_names", {}).items():
            setattr(cls, theirs, property(lambda self, ours=ours: getattr(self._constants(), ours), doc=f"Our `{ours}`."))

    def _constants(self) -> Any:
        """The module that holds the constants."""
        return self

    # setters of properties would come too late, because a module registers a Parameter before it looks for a property
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
        """Whether the statistics use the samples of all ranks. It can be set."""
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
    """The value in the dtype that the host would return: float32 under autocast, else the widest dtype of the views."""
    kind = views[0].device.type
    # devices are listed here, because older compilers cannot trace a query for them
    if kind in ("cpu", "cuda", "mps", "xpu") and torch.is_autocast_enabled(kind):
        return value
    return value.to(reduce(torch.promote_types, [z.dtype for z in views]))


def check_can_gather(gather_distributed: bool) -> None:
    """Raise ValueError if gathering is requested and torch has no torch.distributed, as the replaced classes do."""
    if gather_distributed and not dist.is_available():
        raise ValueError(
            "gather_distributed=True needs torch.distributed, which this build of torch lacks. "
            "Pass gather_distributed=False, or install a torch with distributed support."
        )


def as_ours(criterion: nn.Module, cls: type[nn.Module], state: Mapping[str, Any], **arguments: Any) -> dict[str, Any]:
    """Construct our criterion by `cls.__init__`, and return its state plus the rest of the replaced class's pickled state.

    The rest is hooks, and the attributes, parameters and submodules that a subclass added.
    """
    cls.__init__(criterion, **arguments)
    ours = {name: value for name, value in state.items() if name not in arguments}
    for kind in ("_parameters", "_buffers", "_modules"):
        others = {name: value for name, value in state[kind].items() if name not in arguments}
        ours[kind] = {**getattr(criterion, kind), **others}
    return ours
