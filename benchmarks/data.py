"""Image data sets as tensors in memory: training and held-out images, one function each, all under DATASETS.

Images are uint8 `[images, channels, height, width]`, labels int64 `[images]`. What fits in memory needs no workers: batches
are slices, and augmentation runs on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.idx import find_idx, read_idx


class DataError(Exception):
    """Raised if the data are not found, or are not what their name says."""


@dataclass(frozen=True)
class Images:
    """One data set, split once and for all."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: int

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.train.shape[1]

    def subset(self, images: int) -> Images:
        """The first `images` of each half: for trials."""
        return Images(
            self.train[:images], self.train_labels[:images], self.test[:images], self.test_labels[:images], self.classes
        )

    def validation(self, fraction: float = 0.2, seed: int = 0) -> Images:
        """The training half split by class into training and validation images, to choose settings without the test half."""
        from sklearn.model_selection import train_test_split

        labels = self.train_labels
        try:
            kept, held_out = train_test_split(range(len(labels)), test_size=fraction, random_state=seed, stratify=labels)
        except ValueError as problem:
            raise DataError(f"{len(labels)} training images cannot be split by class: {problem} Take more.") from problem
        return Images(self.train[kept], labels[kept], self.train[held_out], labels[held_out], self.classes)

    def resized(self, side: int) -> Images:
        """The same images, `side` by `side` pixels, bilinear."""
        return Images(_resize(self.train, side), self.train_labels, _resize(self.test, side), self.test_labels, self.classes)


def digits(root: Path | None, side: int) -> Images:
    """1,797 real handwritten digits of 8 x 8 pixels, inside scikit-learn; every fifth, by class, is held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    train, test = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    # grey levels run from 0 to 16
    images = torch.from_numpy(pixels * (255 / 16)).round().to(torch.uint8).view(-1, 1, 8, 8)
    labels = torch.from_numpy(labels).long()
    return Images(images[train], labels[train], images[test], labels[test], 10)


def fashion_mnist(root: Path | None, side: int) -> Images:
    """70,000 photographs of clothes, 28 x 28: the four IDX files, plain or gzipped, or torchvision's download."""
    root = _root(root, "fashion_mnist")
    names = ["train-images", "train-labels", "t10k-images", "t10k-labels"]
    suffix = {"images": "-idx3-ubyte", "labels": "-idx1-ubyte"}
    try:
        paths = [find_idx(root, name + suffix[name.split("-")[1]]) for name in names]
    except FileNotFoundError as missing:
        from torchvision.datasets import FashionMNIST

        halves = [_downloaded(FashionMNIST, root, missing, train=train) for train in (True, False)]
        train, test = ((half.data, half.targets) for half in halves)
    else:
        arrays = [read_idx(path) for path in paths]
        train, test = (arrays[0], arrays[1]), (arrays[2], arrays[3])
    return _checked(train[0][:, None], train[1], test[0][:, None], test[1])


def cifar10(root: Path | None, side: int) -> Images:
    """60,000 colour images of 10 kinds, 32 x 32; torchvision's folder, or its download."""
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, _root(root, "cifar10"))


def cifar100(root: Path | None, side: int) -> Images:
    """60,000 colour images of 100 kinds, 32 x 32; torchvision's folder, or its download."""
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, _root(root, "cifar100"))


def tiny_imagenet(root: Path | None, side: int) -> Images:
    """110,000 colour images of 200 kinds, 64 x 64: the unpacked folder `tiny-imagenet-200`; its `val` is held out."""
    from benchmarks.folders import tiny_imagenet_files

    return _from_files(tiny_imagenet_files(_root(root, "tiny_imagenet")), side)


def imagenette(root: Path | None, side: int) -> Images:
    """13,394 photographs of 10 kinds: the unpacked folder `imagenette2`, `-320` or `-160`; its `val` is held out."""
    from benchmarks.folders import imagenette_files

    return _from_files(imagenette_files(_root(root, "imagenette")), side)


def image_folder(root: Path | None, side: int) -> Images:
    """Any images in `train/<class>/` and `val/<class>/` (or `test/<class>/`), cut to a square and resized."""
    from benchmarks.folders import class_folder_files

    return _from_files(class_folder_files(_root(root, "image_folder")), side)


#: name on the command line -> loader, given `--data-root` and the side in pixels that files are read at
DATASETS: dict[str, Callable[[Path | None, int], Images]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "tiny_imagenet": tiny_imagenet,
    "imagenette": imagenette,
    "image_folder": image_folder,
}


def load(name: str, root: Path | None, side: int) -> Images:
    """The data set of that name, `side` by `side` pixels.

    Raises:
        DataError: it is not there, not readable, or not what its name says; the message says what to do.
    """
    try:
        return DATASETS[name](root, side).resized(side)
    except (OSError, ValueError, RuntimeError) as problem:
        raise DataError(f"{name}: {problem}") from problem


def _root(root: Path | None, name: str) -> Path:
    if root is None:
        raise DataError(f"{name} needs --data-root, the folder that holds it (or that it may be downloaded to).")
    return root


def _downloaded(dataset: type, root: Path, missing: FileNotFoundError, **options: object):
    """The data set of torchvision, downloaded if it is not in `root`."""
    try:
        return dataset(root, download=True, **options)
    except (OSError, RuntimeError) as problem:
        raise DataError(
            f"{missing} The download failed too: {problem}. Copy the files there, or check the network."
        ) from problem


def _cifar(dataset: type, root: Path) -> Images:
    missing = FileNotFoundError(f"{dataset.base_folder} is not in {root}.")
    train, test = (_downloaded(dataset, root, missing, train=train) for train in (True, False))
    train_images, test_images = (torch.from_numpy(half.data).permute(0, 3, 1, 2).contiguous() for half in (train, test))
    return _checked(train_images, torch.tensor(train.targets), test_images, torch.tensor(test.targets))


def _from_files(files: tuple[list, list], side: int) -> Images:
    from benchmarks.folders import read_images

    train, test = (read_images([path for path, _ in half], side) for half in files)
    labels = (torch.tensor([label for _, label in half]) for half in files)
    return _checked(train, next(labels), test, next(labels))


def _checked(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> Images:
    for half, images, labels in (("training", train, train_labels), ("held-out", test, test_labels)):
        if len(images) == 0 or len(images) != len(labels):
            raise ValueError(f"{len(images)} {half} images and {len(labels)} labels: they must be as many, and not none.")
    return Images(train, train_labels.long(), test, test_labels.long(), int(train_labels.max()) + 1)


def _resize(images: Tensor, side: int) -> Tensor:
    if images.shape[-2:] == (side, side):
        return images
    # in slices: floats take four times the memory
    slices = [
        F.interpolate(part.float(), (side, side), mode="bilinear", antialias=True).round().to(torch.uint8)
        for part in images.split(4096)
    ]
    return torch.cat(slices)
