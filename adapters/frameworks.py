"""A framework that may be missing: import it, or say which line installs it."""

from __future__ import annotations

import importlib
from types import ModuleType


def framework(name: str, *, install: str) -> ModuleType:
    """The module of that name; ImportError that gives the line to install it where its package is not there."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # a framework that is there and broken has its own story to tell
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            raise
        raise ImportError(
            f"this adapter needs {name.partition('.')[0]}, which is not installed. Run: {install}", name=name
        ) from error
