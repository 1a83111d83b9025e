"""The Hydra plugin that registers our methods and the config group `it_losses` in scripts of solo-learn.

Every program that uses Hydra in this environment imports it. So it does nothing unless solo-learn is already loaded, and errors
become warnings.
"""

import sys
import warnings

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class ItLossesConfigs(SearchPathPlugin):
    """The config group `it_losses`, searched after the configs of the program itself."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folder of our configs in programs of solo-learn."""
        if "solo.methods" in sys.modules:
            from it_losses.adapters.solo_learn import CONFIGS

            search_path.append("it_losses", f"file://{CONFIGS}")


if "solo.methods" in sys.modules:
    try:
        from it_losses.adapters.solo_learn import register

        register()
    except Exception as error:
        warnings.warn(f"the methods of it-losses are not registered with solo-learn: {error}", stacklevel=1)
