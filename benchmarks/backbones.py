"""timm backbones for small images, with a choice of the stem."""

from difflib import get_close_matches

import timm
import torch
from torch import nn

from benchmarks import RequestError

STEMS = ("auto", "small", "half", "original")


def create(name: str, *, channels: int, side: int, stem: str = "auto", width: float = 1.0) -> nn.Module:
    """A timm model without its classifier: [batch, channels, side, side] -> [batch, width_of(model)].

    Weights and activations are in channels-last memory, which makes convolutions of small images up to twice as fast on CPUs
    and on tensor cores. `width` is a factor on the channels of a ResNet.

    The stem "small" is for small images. ResNets get a 3 x 3 convolution of stride 1 and no max-pool, ConvNeXts get patches
    of 2 pixels, and ViTs patches of 4 pixels. "half" is for ResNets on a CPU: the same convolution with stride 2. "original"
    changes nothing. "auto" is "small" up to 64 pixels, and "original" above.
    """
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=5)
        raise RequestError(f"timm has no model {name!r}. Similar: {', '.join(near) or 'none'}. timm.list_models() lists all.")
    small = side <= 64 if stem == "auto" else stem == "small"
    family = timm.models.model_entrypoint(name).__module__.rsplit(".", 1)[-1]
    options: dict[str, object] = {"num_classes": 0, "in_chans": channels}
    if family == "resnet":
        # timm's default starts residual branches at 0, so an untrained network would only be its shortcuts
        options |= {"zero_init_last": False, "channels": tuple(round(full * width) for full in (64, 128, 256, 512))}
    elif width != 1 or stem == "half":
        raise RequestError(f"--width and --stem half are for ResNets only. Leave them out for {name}.")
    if family in {"vision_transformer", "deit"}:
        options |= {"img_size": side} | ({"patch_size": 4} if small else {})
    if family == "convnext" and small:
        options |= {"stem_type": "patch", "patch_size": 2}
    try:
        model = timm.create_model(name, **options)
        if family == "resnet" and (small or stem == "half"):
            # stride 1 is that of SimCLR on CIFAR (arXiv 2002.05709, appendix B.9)
            stride, filters = 1 if small else 2, model.bn1.num_features
            model.conv1 = nn.Conv2d(channels, filters, 3, stride=stride, padding=1, bias=False)
            nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
            model.maxpool = nn.Identity()
        if family == "convnext" and small:
            # with a stem of stride 2, timm halves the resolution again in the first stage: too much for small images
            model.stages[0].downsample = nn.Identity()
        with torch.no_grad():
            features = model.eval()(torch.zeros(2, channels, side, side))
        if features.shape != (2, width_of(model)):
            raise ValueError(f"for two images the features have the shape {tuple(features.shape)}, not (2, {width_of(model)})")
        return model.train().to(memory_format=torch.channels_last)
    except (AssertionError, RuntimeError, TypeError, ValueError) as problem:
        raise RequestError(f"{name} cannot take {channels} x {side} x {side} images: {problem}") from problem


def width_of(backbone: nn.Module) -> int:
    """Dimension of the features. For models with a wider last layer than `num_features`, it is `head_hidden_size`."""
    return getattr(backbone, "head_hidden_size", None) or backbone.num_features
