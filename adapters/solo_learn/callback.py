"""RegisterMethods: the Hydra callback that makes our methods known, written in the YAML where everyone sees it."""

from __future__ import annotations

from it_losses.adapters.solo_learn.registration import check_hydra, register

check_hydra()
from hydra.experimental.callback import Callback  # noqa: E402


class RegisterMethods(Callback):
    """`hydra: callbacks: it_losses: _target_: it_losses.adapters.solo_learn.RegisterMethods` in any YAML of solo-learn's.

    Hydra makes its callbacks before the script's main; what a callback raises later is only logged, so all is done here.
    """

    def __init__(self) -> None:
        register()
