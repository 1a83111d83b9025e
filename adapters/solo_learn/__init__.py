"""solo-learn (GitHub main): `method: vicreg_logdet` in the YAML, and one of four ways to make the name known.

1. nothing: where it-losses is installed, a plugin registers the methods whenever a script of solo-learn starts under Hydra;
2. three lines in the YAML: `hydra: callbacks: it_losses: _target_: it_losses.adapters.solo_learn.RegisterMethods`;
3. `python -m it_losses.adapters.solo_learn main_knn.py ...` for the scripts without Hydra;
4. `it_losses.adapters.solo_learn.register()` in a script of one's own.

methods     the classes behind the names (imports solo)
backbones   `backbone: name: timm/<model>`
configs     YAML to run as it is; `python -m it_losses.adapters.solo_learn` prints where it lies

solo-learn itself is imported by register() alone: importing it takes names of timm's registry.
"""

from it_losses.adapters.solo_learn.callback import RegisterMethods
from it_losses.adapters.solo_learn.registration import CONFIGS, METHODS, register

__all__ = ["CONFIGS", "METHODS", "RegisterMethods", "register"]
