"""Make two random views of a batch of images, on the device of the batch. Digits, grey and colour images have a recipe each."""

import kornia.augmentation as K
import torch
from torch import Tensor, nn


class Views(nn.Module):
    """`views(images)` returns two random, standardised float views of uint8 images [batch, channels, side, side]."""

    def __init__(self, recipe: str, side: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.draw = K.AugmentationSequential(*RECIPES[recipe](side), data_keys=["input"])
        self.register_buffer("mean", mean.view(-1, 1, 1), persistent=False)
        self.register_buffer("std", std.view(-1, 1, 1), persistent=False)

    def standardised(self, images: Tensor) -> Tensor:
        """The standardised images without augmentation, for evaluation."""
        return (images.float() / 255 - self.mean) / self.std

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Augment the batch twice in one call, because kornia draws a random augmentation for every image."""
        # kornia changes colours by matrix products, which autocast would compute in half precision
        with torch.autocast(images.device.type, enabled=False):
            pixels = (images.float() / 255).repeat(2, 1, 1, 1)
            view_a, view_b = ((self.draw(pixels).clamp(0, 1) - self.mean) / self.std).chunk(2)
        return view_a, view_b


def channel_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel for pixels in [0, 1]: uint8 [images, channels, ...] -> 2 x [channels]."""
    pixels = images.transpose(0, 1).flatten(1)
    shares = torch.stack([torch.bincount(channel.int(), minlength=256) for channel in pixels]).double() / pixels.shape[1]
    levels = torch.arange(256, dtype=torch.double) / 255
    mean = shares @ levels
    std = (shares * (levels - mean[:, None]).square()).sum(1).sqrt()
    return mean.float(), std.clamp_min(1e-3).float()


#: name -> function that returns the augmentations in order, given the side of the images in pixels
RECIPES = {
    # flips are left out, because a mirrored 2 is no digit; rotations are small, because a turned 6 is a 9
    "digits": lambda side: (
        K.RandomAffine(degrees=15.0, translate=(0.12, 0.12), scale=(0.75, 1.2), shear=(-12.0, 12.0), p=1.0),
        K.RandomBrightness((0.7, 1.3), p=0.8),
        K.RandomContrast((0.6, 1.4), p=0.8),
        K.RandomGaussianNoise(std=0.08, p=0.5),
        K.RandomErasing(scale=(0.02, 0.12), p=0.3),
    ),
    # SimCLR's recipe without the changes of colour
    "grey": lambda side: (
        K.RandomResizedCrop((side, side), scale=(0.3, 1.0), cropping_mode="resample"),
        K.RandomHorizontalFlip(p=0.5),
        K.RandomBrightness((0.6, 1.4), p=0.8),
        K.RandomContrast((0.6, 1.4), p=0.8),
        K.RandomGaussianBlur((3, 3), (0.1, 1.0), p=0.2),
    ),
    # solo-learn's recipe for CIFAR
    "colour": lambda side: (
        K.RandomResizedCrop((side, side), scale=(0.2, 1.0), cropping_mode="resample"),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJiggle(0.4, 0.4, 0.2, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomSolarize(thresholds=(0.5, 0.5), additions=(0.0, 0.0), p=0.1),
    ),
}


def recipe_for(dataset: str, channels: int) -> str:
    return "digits" if dataset == "digits" else "grey" if channels == 1 else "colour"
