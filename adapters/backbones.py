"""timm models as encoders without a head, with a stem for small images."""

from typing import Any

from torch import nn

from it_losses.adapters import framework

#: prefix of timm models among solo-learn's backbones
PREFIX = "timm/"


def timm_backbone(name: str, *, small_images: bool = False, **options: Any) -> nn.Module:
    """A timm model without a head, as an encoder: images -> [batch, backbone.num_features].

    Args:
        name: a timm model.
        small_images: for images of about 32 pixels, replace the stem of a ResNet (stride 4) by a 3x3 convolution of stride 1.
            For transformers pass `img_size=32, patch_size=4` instead.
        options: other arguments of `timm.create_model`.

    Raises:
        ValueError: an unknown model; `num_classes` other than 0, which would add a head.
    """
    if options.pop("num_classes", 0):
        raise ValueError(
            "timm_backbone makes an encoder without a head, so num_classes must be 0. "
            "Leave it out, and put torch.nn.Linear(backbone.num_features, num_classes) after the encoder."
        )
    timm = framework("timm", install="pip install timm")
    # timm's own model, because a framework may have registered another model under this name
    model = _entrypoint(timm, name)(num_classes=0, **options)
    if small_images:
        _keep_resolution(model, name)
    # in some models the pooled features pass through one more layer, which changes their width
    model.num_features = getattr(model, "head_hidden_size", None) or model.num_features
    return model


def _entrypoint(timm: Any, name: str) -> Any:
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = timm.list_models(f"*{architecture[:6]}*")[:8]
        raise ValueError(f"timm has no model {name!r}. Similar names: {near}. timm.list_models() lists all.")
    own = timm.model_entrypoint(architecture)
    if own.__module__.startswith("timm."):
        return lambda **options: timm.create_model(name, **options)
    for module in vars(timm.models).values():
        if getattr(module, "__name__", "").startswith("timm.models.") and architecture in getattr(module, "__all__", ()):
            return lambda **options: getattr(module, architecture)(**options)
    raise ValueError(f"{name!r} is not a model of timm: {own.__module__} registered this name. Pass the name of a timm model.")


def _keep_resolution(model: Any, name: str) -> None:
    stem, pool = getattr(model, "conv1", None), getattr(model, "maxpool", None)
    if not isinstance(stem, nn.Conv2d) or pool is None:
        raise ValueError(f"small_images=True is for ResNets only, got {name!r}. Pass options of this model instead.")
    model.conv1 = nn.Conv2d(stem.in_channels, stem.out_channels, kernel_size=3, stride=1, padding=1, bias=False)
    model.maxpool = nn.Identity()


class WithTimm(dict[str, Any]):
    """solo-learn's dict of backbones, with every timm model as `timm/<model>`."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and name.startswith(PREFIX))

    def __missing__(self, name: str) -> Any:
        if not name.startswith(PREFIX):
            raise KeyError(name)

        def build(method: str | None = None, **options: Any) -> nn.Module:
            # solo-learn passes `method` to every backbone
            return timm_backbone(name.removeprefix(PREFIX), **options)

        return build


def add_timm(base_method: Any) -> None:
    """Add timm models to `BaseMethod._BACKBONES`. A second call changes nothing."""
    if not isinstance(base_method._BACKBONES, WithTimm):
        base_method._BACKBONES = WithTimm(base_method._BACKBONES)
