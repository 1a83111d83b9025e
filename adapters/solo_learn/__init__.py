"""solo-learn (GitHub main): `method: vicreg_logdet` in the YAML, registered in one of four ways.

1. nothing to do if it-losses is installed: a plugin registers the methods when a script of solo-learn starts under Hydra;
2. an entry in the YAML: `hydra: callbacks: it_losses: _target_: it_losses.adapters.solo_learn.RegisterMethods`;
3. `python -m it_losses.adapters.solo_learn main_knn.py ...` for the scripts without Hydra;
4. `it_losses.adapters.solo_learn.register()` in your own script.

methods     the classes behind the names (imports solo)
configs     YAML files that run unchanged; `python -m it_losses.adapters.solo_learn` prints their folder

Only register() imports solo-learn, because importing solo-learn changes timm's registry of models.
"""

from it_losses.adapters.solo_learn.registration import CONFIGS, METHODS, check_hydra, register

check_hydra()
from hydra.experimental.callback import Callback  # noqa: E402

__all__ = ["CONFIGS", "METHODS", "RegisterMethods", "register"]


class RegisterMethods(Callback):
    """A Hydra callback that registers our methods; the docstring of this package shows the YAML.

    Hydra creates its callbacks before the main function of the script. The constructor registers, because Hydra only logs the
    errors of other methods of a callback.
    """

    def __init__(self) -> None:
        register()
