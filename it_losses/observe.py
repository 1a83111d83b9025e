"""Observers: objects that are told of every call of a criterion, so that a monitor needs no hook on any module."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn


class Observer(Protocol):
    """Anything that wants to be told."""

    def called(self, module: nn.Module, views: Sequence[Tensor], terms: Mapping[str, Tensor]) -> None:
        """A module was called with these views, and these are the terms of its loss by name."""


#: references are weak: an observer that nobody keeps any more is told nothing
_observers: weakref.WeakSet[Observer] = weakref.WeakSet()
Method = TypeVar("Method", bound=Callable[..., Any])


def add_observer(observer: Observer) -> None:
    """Tell the observer of every call from now on, for as long as somebody keeps it."""
    _observers.add(observer)


def remove_observer(observer: Observer) -> None:
    """Tell it no more; nothing happens where it was told nothing before."""
    _observers.discard(observer)


def tell(module: nn.Module, views: Sequence[Tensor], terms: Mapping[str, Tensor]) -> None:
    """Tell all observers of a call, unless there is nothing that they could see."""
    if not can_be_seen() or not len(_observers):
        return
    for observer in list(_observers):
        observer.called(module, views, terms)


def can_be_seen() -> bool:
    """Whether the call under way is one of the forward pass, with values: compiled code and torch.func transforms have none."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    # activation checkpointing repeats the calls of the forward pass in the backward pass
    return bool(torch._C._current_graph_task_id() == -1)


def observed(method: Method) -> Method:
    """The method of a criterion that takes views and returns named terms, with observers told of each call."""

    @wraps(method)
    def telling(self: nn.Module, *views: Tensor, **named_views: Tensor) -> Any:
        terms = method(self, *views, **named_views)
        tell(self, (*views, *named_views.values()), terms._asdict())
        return terms

    return cast(Method, telling)
