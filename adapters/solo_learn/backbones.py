"""timm's models as backbones of solo-learn's: `backbone: name: timm/<model>`, its options under `backbone: kwargs:`."""

from __future__ import annotations

from typing import Any

from torch import nn

from it_losses.adapters.backbones import timm_backbone

PREFIX = "timm/"


class WithTimm(dict[str, Any]):
    """The backbones by name, and behind `timm/<model>` all of timm's."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and name.startswith(PREFIX))

    def __missing__(self, name: str) -> Any:
        if not name.startswith(PREFIX):
            raise KeyError(name)

        def build(method: str | None = None, **options: Any) -> nn.Module:
            # solo-learn tells its own backbones which method they serve
            return timm_backbone(name.removeprefix(PREFIX), **options)

        return build


def add_timm(base_method: Any) -> None:
    """Widen `BaseMethod._BACKBONES`; a second call changes nothing."""
    if not isinstance(base_method._BACKBONES, WithTimm):
        base_method._BACKBONES = WithTimm(base_method._BACKBONES)
