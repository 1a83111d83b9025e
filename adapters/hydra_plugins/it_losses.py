"""Hydra finds this file by itself: a script of solo-learn's knows our methods, and `+it_losses=vicreg_logdet` our configs.

Every program of the environment that uses Hydra imports it, so it does nothing where solo-learn is not loaded already, and
whatever goes wrong is a warning.
"""

import sys
import warnings

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class ItLossesConfigs(SearchPathPlugin):
    """The config group `it_losses`, after everything that a program brings itself."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folder of the configs, for programs of solo-learn's alone."""
        if "solo.methods" in sys.modules:
            from it_losses.adapters.solo_learn import CONFIGS

            search_path.append("it_losses", f"file://{CONFIGS}")


if "solo.methods" in sys.modules:
    try:
        from it_losses.adapters.solo_learn import register

        register()
    except Exception as error:
        warnings.warn(f"the methods of it-losses are not registered with solo-learn: {error}", stacklevel=1)
