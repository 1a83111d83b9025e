"""Modules that check their constants whenever they are set, and whose weights may be trainable."""

from typing import Any, ClassVar

from torch import Tensor, nn

from it_losses.checks import Check, Weight


class Checked(nn.Module):
    """A module whose constants are checked whenever they are set: `criterion.margin = -1` raises ValueError.

    A subclass lists its constants in `checks`. The constants of its parents are checked too. A weight may be a trainable
    Parameter. It can be replaced by a number later.
    """

    #: name of a constant -> function that checks its value
    checks: ClassVar[dict[str, Check]] = {}

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        cls.checks = {name: check for base in reversed(cls.__mro__) for name, check in vars(base).get("checks", {}).items()}

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), property):
            # a property is a second name of a constant, and nn.Module would register a Parameter under both names
            object.__setattr__(self, name, value)
            return
        if name in self.checks:
            value = self.checks[name](name, value)
            if name in self.__dict__.get("_parameters", {}) and not isinstance(value, nn.Parameter):
                # nn.Module refuses to replace a Parameter by a number, so delete it first
                del self._parameters[name]
        super().__setattr__(name, value)

    def has_trainable_weights(self) -> bool:
        """Whether any constant is a trainable tensor."""
        return any(isinstance(getattr(self, name), Tensor) for name in self.checks)

    def fixed_constants(self) -> dict[str, object]:
        """The constants that are not trainable, by name."""
        values = {name: getattr(self, name) for name in self.checks}
        return {name: value for name, value in values.items() if not isinstance(value, Tensor)}

    def extra_repr(self) -> str:
        """The constants as text."""
        constants = {name: getattr(self, name) for name in self.checks if name not in self._modules}
        return ", ".join(f"{name}={_shown(value)}" for name, value in constants.items())


def _shown(value: object) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    return f"{value.device if value.is_meta else format(value.detach().item(), 'g')} (trains)"


def factor(weight: Weight, term: Tensor) -> Weight:
    """The weight as a factor for the term: a number, or a scalar tensor in the dtype of the term."""
    return weight.to(term.dtype).reshape(()) if isinstance(weight, Tensor) else weight
