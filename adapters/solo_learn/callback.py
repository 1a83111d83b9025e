"""RegisterMethods: a Hydra callback, named in the YAML, that registers our methods."""

from __future__ import annotations

from it_losses.adapters.solo_learn.registration import check_hydra, register

check_hydra()
from hydra.experimental.callback import Callback  # noqa: E402


class RegisterMethods(Callback):
    """`hydra: callbacks: it_losses: _target_: it_losses.adapters.solo_learn.RegisterMethods` in any YAML of solo-learn.

    Hydra creates its callbacks before the script's main. Errors in a callback's later methods are only logged, so the
    constructor does everything.
    """

    def __init__(self) -> None:
        register()
