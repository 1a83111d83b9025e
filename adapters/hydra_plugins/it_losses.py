"""The Hydra plugin that registers our methods and the config group `it_losses` in scripts of solo-learn.

Every program that uses Hydra in this environment imports this file. So it does nothing unless the program has imported
solo-learn, and turns errors into warnings.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


@contextmanager
def warned(consequence: str) -> Iterator[None]:
    """Turn an error in the `with` block into the warning "<consequence>: <error>"."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"{consequence}: {error}", stacklevel=1)


class ItLossesConfigs(SearchPathPlugin):
    """Adds the config group `it_losses`, which Hydra searches after the configs of the program itself."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folder of our configs in programs of solo-learn."""
        if "solo.methods" in sys.modules:
            with warned("Hydra cannot find the configs of it-losses"):
                from it_losses.adapters.solo_learn import CONFIGS

                search_path.append("it_losses", f"file://{CONFIGS}")


if "solo.methods" in sys.modules:
    with warned("solo-learn cannot find the methods of it-losses"):
        from it_losses.adapters.solo_learn import register

        register()
