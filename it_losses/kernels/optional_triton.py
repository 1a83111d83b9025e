"""Whether Triton is there, and its launches once they are wanted: importing it takes a moment that a CPU need not spend."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType


@functools.cache
def is_installed() -> bool:
    """Whether Triton can be imported; elsewhere the same algebra runs in plain torch."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def launches() -> ModuleType:
    """The module `triton_launches`."""
    return importlib.import_module("it_losses.kernels.triton_launches")


@functools.cache
def entropy_launches() -> ModuleType:
    """The module `entropy_launches`."""
    return importlib.import_module("it_losses.kernels.entropy_launches")
