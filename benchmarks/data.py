"""Load the training and test images of a data set as tensors. DATASETS has a loader for each data set.

Images are uint8 `[images, channels, height, width]`, labels int64 `[images]`. Training needs no worker processes, because
all images are in memory and augmentation runs on the device.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision import datasets

from benchmarks import RequestError

#: fraction of each class that is held out: as validation images, or as test images if a data set has none
HELD_OUT = 0.2
LARGEST_GIB = 16
LEAST_OF_A_CLASS = 100
# Pillow refuses very large pictures as a possible attack, but these files are the user's own
Image.MAX_IMAGE_PIXELS = None
#: path and class number of each image
Files = list[tuple[str, int]]


@dataclass(frozen=True)
class Images:
    """A data set with its fixed split into training and test images."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: int

    @property
    def digest(self) -> str:
        """A short hash of all pixels and labels."""
        parts = self.train, self.train_labels, self.test, self.test_labels
        return hashlib.sha256(b"".join(hashlib.sha256(part.contiguous().numpy()).digest() for part in parts)).hexdigest()[:12]

    @property
    def channels(self) -> int:
        return self.train.shape[1]

    def subset(self, images: int) -> Images:
        """The first `images` training images and the first `images` test images, for short trials."""
        halves = (half[:images] for half in (self.train, self.train_labels, self.test, self.test_labels))
        return Images(*halves, self.classes)

    def validation(self) -> Images:
        """The training images, split into training and validation images to choose settings without the test images."""
        try:
            return _split(self.train, self.train_labels, self.classes)
        except ValueError as problem:
            raise RequestError(f"{len(self.train)} training images cannot be split by class: {problem} Use more.") from problem

    def resized(self, side: int) -> Images:
        return replace(self, train=_resized(self.train, side), test=_resized(self.test, side))


def digits(root: Path | None, side: int) -> Images:
    """1,797 handwritten digits of 8 x 8 pixels, which scikit-learn contains. A fifth of each class is held out."""
    pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    # grey levels run from 0 to 16
    return _split((pixels * (255 / 16)).round().to(torch.uint8).view(-1, 1, 8, 8), labels.long(), 10)


def fashion_mnist(root: Path, side: int) -> Images:
    """70,000 photographs of clothes, 28 x 28 pixels, in four IDX files, plain or gzipped. Missing files are downloaded."""
    if not any(root.rglob("train-images?idx3-ubyte*")):
        datasets.FashionMNIST(root, download=True)
    return _images(*((_idx(root, f"{half}-images")[:, None], _idx(root, f"{half}-labels")) for half in ("train", "t10k")))


def cifar10(root: Path, side: int) -> Images:
    """60,000 colour images of 10 classes, 32 x 32 pixels, in torchvision's layout. torchvision downloads them if missing."""
    return _images(*(_cifar(datasets.CIFAR10(root, train=half, download=True)) for half in (True, False)))


def cifar100(root: Path, side: int) -> Images:
    """60,000 colour images of 100 classes, 32 x 32 pixels, in torchvision's layout. torchvision downloads them if missing."""
    return _images(*(_cifar(datasets.CIFAR100(root, train=half, download=True)) for half in (True, False)))


def tiny_imagenet(root: Path, side: int) -> Images:
    """110,000 colour images of 200 classes, 64 x 64, in the unpacked folder `tiny-imagenet-200`. The test images are in `val`.

    The archive is http://cs231n.stanford.edu/tiny-imagenet-200.zip
    """
    root = root / "tiny-imagenet-200" if (root / "tiny-imagenet-200").is_dir() else root
    train = datasets.ImageFolder(root / "train")
    lines = (root / "val" / "val_annotations.txt").read_text().splitlines()
    names = [line.split("\t")[:2] for line in lines if line]
    test = [(str(root / "val" / "images" / file), train.class_to_idx[name]) for file, name in names]
    return _from_files(train.samples, test, side)


def image_folder(root: Path, side: int) -> Images:
    """Any images in `train/<class>/` and `val/<class>/` (or `test/<class>/`), or in `<class>/`, cut to a square and resized.

    Without `train`, a fifth of each class is held out; symbolic links and classes of fewer than 100 images are left out.
    """
    if not (root / "train").is_dir():
        return _one_folder(root, side)
    held_out = "test" if (root / "test").is_dir() and not (root / "val").is_dir() else "val"
    train, test = (datasets.ImageFolder(root / half) for half in ("train", held_out))
    if unknown := set(test.classes) - set(train.classes):
        raise ValueError(f"{test.root} has classes that {train.root} lacks ({', '.join(sorted(unknown)[:5])}): remove them")
    # the test images may lack a class, so classes are numbered as in the training images
    files = [(path, train.class_to_idx[test.classes[number]]) for path, number in test.samples]
    return _from_files(train.samples, files, side)


#: a loader gets `--data-root` and the side in pixels to which it scales image files; `--dataset` takes the loader's name
LOADERS = (digits, fashion_mnist, cifar10, cifar100, tiny_imagenet, image_folder)
DATASETS: dict[str, Callable[[Any, int], Images]] = {loader.__name__: loader for loader in LOADERS}


def load(name: str, root: Path | None, side: int) -> Images:
    """The named data set with images of `side` by `side` pixels; a RequestError says which files are expected."""
    if root is None and name != "digits":
        raise RequestError(f"{name} needs --data-root: the folder of the data set, or a folder for its download.")
    try:
        return DATASETS[name](root, side).resized(side)
    except (OSError, ValueError, RuntimeError) as problem:
        expected = " ".join(str(DATASETS[name].__doc__).split())
        raise RequestError(f"{name} cannot be read in {root}: {problem}. What is expected there: {expected}") from problem


def _parts(labels: Sequence[int] | Tensor) -> tuple[list[int], list[int]]:
    """Indices of training and of held-out images: a split by class with a fixed seed."""
    train, held_out = train_test_split(range(len(labels)), test_size=HELD_OUT, random_state=0, stratify=labels)
    return train, held_out


def _split(images: Tensor, labels: Tensor, classes: int) -> Images:
    train, held_out = _parts(labels)
    return Images(images[train], labels[train], images[held_out], labels[held_out], classes)


def _images(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Images:
    return Images(train[0], train[1].long(), test[0], test[1].long(), int(train[1].max()) + 1)


def _idx(root: Path, name: str) -> Tensor:
    """The bytes of an IDX file: a magic number whose fourth byte is the number of dimensions, big-endian sizes, data."""
    # some copies have a dot before `idx` in file names, and torchvision puts the files into sub-folders
    path = min(root.rglob(f"{name}?idx?-ubyte*"), default=root / name)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        sizes = np.frombuffer(content, ">i4", content[3], offset=4)
        pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)
    except (EOFError, OSError, IndexError, ValueError) as problem:
        raise ValueError(f"{path} is not a whole IDX file ({problem}). Copy or download it again") from problem
    return torch.from_numpy(pixels.copy())


def _cifar(half: datasets.CIFAR10) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(half.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(half.targets)


def _one_folder(root: Path, side: int) -> Images:
    # leave out links, because a picture that is linked into a second class would have two labels
    endings = datasets.folder.IMG_EXTENSIONS
    found = datasets.ImageFolder(
        root, is_valid_file=lambda path: path.lower().endswith(endings) and not Path(path).is_symlink(), allow_empty=True
    )
    kept = [label for label, count in sorted(Counter(found.targets).items()) if count >= LEAST_OF_A_CLASS]
    if not kept:
        raise ValueError(f"{root} needs a folder train, or folders of at least {LEAST_OF_A_CLASS} images")
    files = [(path, kept.index(label)) for path, label in found.samples if label in kept]
    train, test = ([files[number] for number in part] for part in _parts([label for _, label in files]))
    return _from_files(train, test, side)


def _from_files(train: Files, test: Files, side: int) -> Images:
    gib = (len(train) + len(test)) * 3 * side**2 / 2**30
    if gib > LARGEST_GIB:
        raise ValueError(f"images of {side} pixels would take {gib:.0f} GiB of memory: use a smaller --image-size")
    return _images(_read_images(train, side), _read_images(test, side))


def _read_images(files: Files, side: int) -> tuple[Tensor, Tensor]:
    """The central square of each image, scaled: RGB on white [images, 3, side, side], and the labels [images]."""
    paths, labels = zip(*files, strict=True)
    # no more than a thread per CPU, because decoding a large picture may take gigabytes of memory
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pixels = np.fromiter(pool.map(partial(_square, side), paths), np.dtype((np.uint8, (side, side, 3))), len(paths))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def _square(side: int, path: str) -> np.ndarray:
    with Image.open(path) as image:
        pixels = image.convert("RGBA") if image.has_transparency_data else image.convert("RGB")
        fitted = ImageOps.fit(pixels, (side, side), Image.Resampling.BILINEAR)
    if fitted.mode == "RGBA":
        fitted = Image.alpha_composite(Image.new("RGBA", fitted.size, "white"), fitted).convert("RGB")
    return np.asarray(fitted)


def _resized(images: Tensor, side: int) -> Tensor:
    if images.shape[-2:] == (side, side):
        return images
    # one slice at a time, because floats take four times the memory of bytes
    slices = (F.interpolate(part.float(), (side, side), mode="bilinear", antialias=True) for part in images.split(4096))
    return torch.cat([part.round().to(torch.uint8) for part in slices])
