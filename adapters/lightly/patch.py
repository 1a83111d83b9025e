"""install() and uninstall(): replace lightly's VICRegLoss and its term functions by ours, for code that cannot be edited."""

from __future__ import annotations

import copyreg
import functools
import types
from typing import Any

from it_losses.adapters.frameworks import framework
from it_losses.adapters.lightly import criteria

PIP = 'pip install "it-losses[lightly]"'

#: module of lightly -> names in it that are replaced
SWAPPED = {
    "lightly.loss": ("VICRegLoss",),
    "lightly.loss.vicreg_loss": ("VICRegLoss", "invariance_loss", "variance_loss", "covariance_loss"),
    "lightly.loss.vicregl_loss": ("VICRegLoss", "invariance_loss", "variance_loss", "covariance_loss"),
}

_originals: dict[tuple[str, str], Any] = {}


def install() -> None:
    """Replace the names in lightly's own modules. A second call changes nothing.

    Code that imports them afterwards gets ours, and `VICRegLLoss` computes with ours. Call this first: a module that imported
    a name before keeps lightly's. A pickled criterion of lightly is loaded as ours.
    """
    if _originals:
        return
    for module, names in SWAPPED.items():
        home = framework(module, install=PIP)
        for name in names:
            _originals[module, name] = getattr(home, name)
            setattr(home, name, getattr(criteria, name))
    original = _originals["lightly.loss", "VICRegLoss"]
    original.__init__ = _with_own_name(original)
    # pickle looks a class up by its name and would find ours, so lightly's class pickles as ours
    copyreg.pickle(original, lambda criterion: (object.__new__, (criteria.VICRegLoss,), criterion.__dict__))


def uninstall() -> None:
    """Restore lightly's own names."""
    if not _originals:
        return
    original = _originals["lightly.loss", "VICRegLoss"]
    original.__init__ = original.__init__.__wrapped__
    copyreg.dispatch_table.pop(original)
    for (module, name), value in _originals.items():
        setattr(framework(module, install=PIP), name, value)
    _originals.clear()


def _with_own_name(original: Any) -> Any:
    """The constructor of lightly's class with its own globals, in which `super(VICRegLoss, ...)` still names that class."""
    constructor = original.__init__
    names = constructor.__globals__ | {original.__name__: original}
    arguments = (constructor.__code__, names, constructor.__name__, constructor.__defaults__, constructor.__closure__)
    renamed = functools.wraps(constructor)(types.FunctionType(*arguments))
    renamed.__kwdefaults__ = constructor.__kwdefaults__
    return renamed
