"""Import an optional framework, or raise an error that says how to install it."""

from __future__ import annotations

import importlib
from types import ModuleType


def framework(name: str, *, install: str) -> ModuleType:
    """The module of that name; ImportError with the command that installs it if its package is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # an installed framework that fails to import raises its own error
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            raise
        raise ImportError(
            f"this adapter needs {name.partition('.')[0]}, which is not installed. Run: {install}", name=name
        ) from error
