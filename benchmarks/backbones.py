"""timm backbones for small images, with a choice of the stem."""

from difflib import get_close_matches

import timm
import torch
from torch import nn

STEMS = ("auto", "small", "half", "original")


class BackboneError(Exception):
    """timm has no model of this name, or the model cannot take these images."""


def create(name: str, *, channels: int, side: int, stem: str = "auto", width: float = 1.0) -> nn.Module:
    """A timm model without its classifier: [batch, channels, side, side] -> [batch, module.num_features].

    Weights and activations are in channels-last memory, which makes convolutions of small images up to twice as fast on CPUs
    and on tensor cores.

    Args:
        name: any name that timm knows.
        channels: number of channels of the images.
        side: width and height of the images in pixels.
        stem: "small" keeps the resolution of small images: ResNets get a 3 x 3 convolution of stride 1 and no max-pool,
            ConvNeXts patches of 2 pixels, ViTs patches of 4. "half" is for ResNets on a CPU: the same convolution with
            stride 2. "original" changes nothing. "auto" is "small" up to 64 pixels, and "original" above.
        width: factor on the channels of a ResNet.

    Raises:
        BackboneError: timm does not know the name, the model is no ResNet but has a width or the stem "half", or the model
            cannot take the images.
    """
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=5)
        raise BackboneError(f"timm has no model {name!r}. Similar: {', '.join(near) or 'none'}. timm.list_models() lists all.")
    small = side <= 64 if stem == "auto" else stem == "small"
    family = timm.models.model_entrypoint(name).__module__.rsplit(".", 1)[-1]
    options: dict[str, object] = {"num_classes": 0, "in_chans": channels}
    if family == "resnet":
        # timm's default starts residual branches at 0, so that an untrained network consists of its shortcuts only
        options |= {"zero_init_last": False, "channels": tuple(round(full * width) for full in (64, 128, 256, 512))}
    elif width != 1 or stem == "half":
        raise BackboneError(f"--width and --stem half are for ResNets only, and {name} is none. Leave them out.")
    if family in {"vision_transformer", "deit"}:
        options |= {"img_size": side} | ({"patch_size": 4} if small else {})
    if family == "convnext" and small:
        options |= {"stem_type": "patch", "patch_size": 2}
    try:
        model = timm.create_model(name, **options)
        if family == "resnet" and (small or stem == "half"):
            _replace_resnet_stem(model, channels, stride=1 if small else 2)
        if family == "convnext" and small:
            # with a stem of stride 2, timm halves the resolution again in the first stage, which small images do not need
            model.stages[0].downsample = nn.Identity()
        return _tried(model, channels, side).to(memory_format=torch.channels_last)
    except (AssertionError, RuntimeError, TypeError, ValueError) as problem:
        raise BackboneError(f"{name} cannot take {channels} x {side} x {side} images: {problem}") from problem


def width_of(backbone: nn.Module) -> int:
    """Dimension of the features. If the last layer is wider than `num_features`, `head_hidden_size` has its width."""
    return getattr(backbone, "head_hidden_size", None) or backbone.num_features


def _replace_resnet_stem(model: nn.Module, channels: int, stride: int) -> None:
    """Use a 3 x 3 convolution without max-pool; with stride 1 as in SimCLR on CIFAR (arXiv 2002.05709, appendix B.9)."""
    model.conv1 = nn.Conv2d(channels, model.bn1.num_features, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()


@torch.no_grad()
def _tried(model: nn.Module, channels: int, side: int) -> nn.Module:
    """Return the model after a check that it takes these images and returns features of the declared dimension."""
    training = model.training
    features = model.eval()(torch.zeros(2, channels, side, side))
    if features.shape != (2, width_of(model)):
        raise ValueError(f"its features have shape {tuple(features.shape)}, not (2, {width_of(model)})")
    return model.train(training)
