"""Observers: objects that are told of every call of a criterion, so that a monitor needs no hook on any module."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Observer(Protocol):
    """Anything that wants to be told."""

    def called(self, module: nn.Module, views: Sequence[Tensor], terms: Mapping[str, Tensor]) -> None:
        """A module was called with these views, and these are the terms of its loss by name."""


#: those who want to be told; an observer that nobody keeps any more is told nothing
OBSERVERS: list[weakref.ref[Observer]] = []


def add_observer(observer: Observer) -> None:
    """Tell the observer of every call from now on, for as long as somebody keeps it."""
    remove_observer(observer)
    OBSERVERS.append(weakref.ref(observer, _forget))


def remove_observer(observer: Observer) -> None:
    """Tell it no more; nothing happens where it was told nothing before."""
    OBSERVERS[:] = [known for known in OBSERVERS if known() is not observer]


def _forget(reference: weakref.ref[Observer]) -> None:
    OBSERVERS[:] = [known for known in OBSERVERS if known is not reference]


def tell(module: nn.Module, views: Sequence[Tensor], terms: Mapping[str, Tensor]) -> None:
    """Tell all observers of a call, unless there is nothing that they could see."""
    if can_be_seen():
        for observer in [known() for known in OBSERVERS]:
            if observer is not None:
                observer.called(module, views, terms)


def can_be_seen() -> bool:
    """Whether the call under way is one of the forward pass, with values: compiled code and torch.func transforms have none."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    # activation checkpointing repeats the calls of the forward pass in the backward pass
    return bool(torch._C._current_graph_task_id() == -1)
