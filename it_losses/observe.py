"""Notify observers, such as a monitor, of every call of a criterion, without hooks on the modules."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn


class Observer(Protocol):
    """An object that is notified of every call of a criterion."""

    def called(self, module: nn.Module, views: Sequence[Tensor], terms: Mapping[str, Tensor]) -> None:
        """Called after `module` has evaluated these views; `terms` holds the terms of its loss by name."""


#: weak references, so an observer is dropped when no other code refers to it
OBSERVERS: list[weakref.ref[Observer]] = []


def add_observer(observer: Observer) -> Callable[[], None]:
    """Register an observer, and return a function that removes it. Keep a reference to the observer, or it is dropped."""
    reference = weakref.ref(observer, _forget)
    OBSERVERS.append(reference)
    return partial(_forget, reference)


def _forget(reference: weakref.ref[Observer]) -> None:
    OBSERVERS[:] = [known for known in OBSERVERS if known is not reference]


def tell(module: nn.Module, views: Sequence[Tensor], terms: Mapping[str, Tensor]) -> None:
    """Notify all observers of a call."""
    for observer in [known() for known in OBSERVERS]:
        if observer is not None:
            observer.called(module, views, terms)


def can_be_seen() -> bool:
    """Whether observers are notified of this call: only in a forward pass, and never under a compiler or torch.func."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    # activation checkpointing repeats forward calls in the backward pass, which must not count twice
    return bool(torch._C._current_graph_task_id() == -1)
