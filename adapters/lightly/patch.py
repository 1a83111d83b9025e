"""install() and uninstall(): lightly's VICRegLoss and its term functions swapped for ours, for code that cannot be edited."""

from __future__ import annotations

from it_losses.adapters.frameworks import framework
from it_losses.adapters.lightly import criteria

PIP = 'pip install "it-losses[lightly]"'

#: module of lightly -> names in it that are swapped
SWAPPED = {
    "lightly.loss": ("VICRegLoss",),
    "lightly.loss.vicreg_loss": ("VICRegLoss", "invariance_loss", "variance_loss", "covariance_loss"),
    "lightly.loss.vicregl_loss": ("VICRegLoss", "invariance_loss", "variance_loss", "covariance_loss"),
}

_originals: dict[tuple[str, str], object] = {}


def install() -> None:
    """Swap the names in lightly's own modules; a second call changes nothing.

    Code that imports them afterwards gets ours, and `VICRegLLoss` computes with ours. A module that imported a name before
    keeps what it has: call this first.
    """
    for module, names in SWAPPED.items():
        home = framework(module, install=PIP)
        for name in names:
            if (module, name) not in _originals:
                _originals[module, name] = getattr(home, name)
                setattr(home, name, getattr(criteria, name))


def uninstall() -> None:
    """Put lightly's own back."""
    for (module, name), original in _originals.items():
        setattr(framework(module, install=PIP), name, original)
    _originals.clear()
