"""timm models as backbones in solo-learn: `backbone: name: timm/<model>`, with options under `backbone: kwargs:`."""

from __future__ import annotations

from typing import Any

from torch import nn

from it_losses.adapters.backbones import timm_backbone

PREFIX = "timm/"


class WithTimm(dict[str, Any]):
    """solo-learn's backbones by name, and every timm model as `timm/<model>`."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and name.startswith(PREFIX))

    def __missing__(self, name: str) -> Any:
        if not name.startswith(PREFIX):
            raise KeyError(name)

        def build(method: str | None = None, **options: Any) -> nn.Module:
            # solo-learn passes the name of the method to its own backbones
            return timm_backbone(name.removeprefix(PREFIX), **options)

        return build


def add_timm(base_method: Any) -> None:
    """Add timm models to `BaseMethod._BACKBONES`. A second call changes nothing."""
    if not isinstance(base_method._BACKBONES, WithTimm):
        base_method._BACKBONES = WithTimm(base_method._BACKBONES)
