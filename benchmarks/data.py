"""Image data sets as tensors in memory: training and held-out images, one function each, all under DATASETS.

Images are uint8 `[images, channels, height, width]`, labels int64 `[images]`. What fits in memory needs no workers: batches
are slices, and augmentation runs on the device.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

LARGEST_GIB = 16
Files = list[tuple[str, int]]


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
        halves = (half[:images] for half in (self.train, self.train_labels, self.test, self.test_labels))
        return Images(*halves, self.classes)

    def validation(self, fraction: float = 0.2, seed: int = 0) -> Images:
        """The training half split by class into training and validation images, to choose settings without the test half."""
        images, labels = self.train, self.train_labels
        try:
            kept, held_out = train_test_split(range(len(labels)), test_size=fraction, random_state=seed, stratify=labels)
        except ValueError as problem:
            raise DataError(f"{len(labels)} training images cannot be split by class: {problem} Take more.") from problem
        return Images(images[kept], labels[kept], images[held_out], labels[held_out], self.classes)

    def resized(self, side: int) -> Images:
        """The same images, `side` by `side` pixels, bilinear."""
        return replace(self, train=_resize(self.train, side), test=_resize(self.test, side))


def digits(root: Path | None, side: int) -> Images:
    """1,797 real handwritten digits of 8 x 8 pixels, inside scikit-learn; every fifth, by class, is held out."""
    pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    train, test = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    # grey levels run from 0 to 16
    images = (pixels * (255 / 16)).round().to(torch.uint8).view(-1, 1, 8, 8)
    return Images(images[train], labels[train].long(), images[test], labels[test].long(), 10)


def fashion_mnist(root: Path | None, side: int) -> Images:
    """70,000 photographs of clothes, 28 x 28: the four IDX files, plain or gzipped, or torchvision's download."""
    root, arrays = _root(root, "fashion_mnist"), []
    for half in ("train", "t10k"):
        files = [_idx_file(root, half + name) for name in ("-images-idx3-ubyte", "-labels-idx1-ubyte")]
        if all(files):
            arrays += [_read_idx(file) for file in files if file]
        else:
            downloaded = _torchvision("FashionMNIST", root, half == "train")
            arrays += [downloaded.data, downloaded.targets]
    return _checked(arrays[0][:, None], arrays[1], arrays[2][:, None], arrays[3])


def cifar10(root: Path | None, side: int) -> Images:
    """60,000 colour images of 10 kinds, 32 x 32; torchvision's folder, or its download."""
    return _cifar("CIFAR10", _root(root, "cifar10"))


def cifar100(root: Path | None, side: int) -> Images:
    """60,000 colour images of 100 kinds, 32 x 32; torchvision's folder, or its download."""
    return _cifar("CIFAR100", _root(root, "cifar100"))


def tiny_imagenet(root: Path | None, side: int) -> Images:
    """110,000 colour images of 200 kinds, 64 x 64: the unpacked folder `tiny-imagenet-200`; its `val` is held out."""
    root = _root(root, "tiny_imagenet")
    root = root / "tiny-imagenet-200" if (root / "tiny-imagenet-200").is_dir() else root
    annotations, source = root / "val" / "val_annotations.txt", "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    if not annotations.is_file():
        raise FileNotFoundError(f"{annotations} is missing. Unpack tiny-imagenet-200.zip ({source}) there.")
    numbers, train = _classes(root / "train")
    names = [line.split("\t")[:2] for line in annotations.read_text().splitlines() if line]
    return _from_files(train, [(str(root / "val" / "images" / file), numbers[name]) for file, name in names], side)


def imagenette(root: Path | None, side: int) -> Images:
    """13,394 photographs of 10 kinds: the unpacked folder `imagenette2`, `-320` or `-160`; its `val` is held out."""
    root = _root(root, "imagenette")
    # of several sizes the smallest; the full one has no number in its name
    unpacked = [path for path in root.glob("imagenette2*") if path.is_dir()]
    sizes = {int(path.name.rpartition("-")[2]) if "-" in path.name else 9999: path for path in unpacked}
    if not sizes and not (root / "train").is_dir():
        source = "https://github.com/fastai/imagenette"
        raise FileNotFoundError(f"{root}/imagenette2-160 is missing. Unpack imagenette2-160.tgz ({source}) there.")
    return image_folder(sizes[min(sizes)] if sizes else root, side)


def image_folder(root: Path | None, side: int) -> Images:
    """Any images in `train/<class>/` and `val/<class>/` (or `test/<class>/`), cut to a square and resized."""
    root = _root(root, "image_folder")
    numbers, train = _classes(root / "train")
    held_out = root / "test" if (root / "test").is_dir() and not (root / "val").is_dir() else root / "val"
    unknown = set(_classes(held_out)[0]) - set(numbers)
    if unknown:
        raise ValueError(f"{held_out} has classes that {root / 'train'} has not: {', '.join(sorted(unknown)[:5])}.")
    return _from_files(train, _classes(held_out, numbers)[1], side)


#: name on the command line -> loader, given `--data-root` and the side in pixels that files are read at
LOADERS = (digits, fashion_mnist, cifar10, cifar100, tiny_imagenet, imagenette, image_folder)
DATASETS: dict[str, Callable[[Path | None, int], Images]] = {loader.__name__: loader for loader in LOADERS}


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


def _torchvision(name: str, root: Path, train: bool) -> Any:
    """Half of the data set of torchvision, downloaded if it is not in `root`."""
    try:
        return getattr(datasets, name)(root, download=True, train=train)
    except (OSError, RuntimeError) as problem:
        raise DataError(f"{name} is not in {root}, and its download failed: {problem}. Copy it there.") from problem


def _cifar(name: str, root: Path) -> Images:
    halves = [_torchvision(name, root, train) for train in (True, False)]
    arrays = [(torch.from_numpy(half.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(half.targets)) for half in halves]
    return _checked(*arrays[0], *arrays[1])


def _idx_file(folder: Path, name: str) -> Path | None:
    """The file, also gzipped, with the dot that some copies write before `idx`, and in torchvision's sub-folders."""
    places = [folder, folder / "raw", folder / "FashionMNIST" / "raw"]
    names = [spelling + end for spelling in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def _read_idx(path: Path) -> Tensor:
    """The unsigned bytes of an IDX file: a magic number, big-endian sizes, then the bytes."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        sizes = struct.unpack_from(f">{content[3]}I", content, 4) if content[:3] == b"\0\0\x08" else None
    except (EOFError, gzip.BadGzipFile, struct.error, IndexError) as problem:
        raise ValueError(f"{path} is not a whole file ({problem}). Copy or download it again.") from problem
    if sizes is None:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes: it starts with {content[:4].hex() or 'nothing'}.")
    pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes))
    if pixels.size != np.prod(sizes):
        raise ValueError(f"{path} should hold {sizes} bytes, it has {pixels.size}. Copy or download it again.")
    return torch.from_numpy(pixels.reshape(sizes).copy())


def _classes(folder: Path, numbers: dict[str, int] | None = None) -> tuple[dict[str, int], Files]:
    """The numbers of the class folders, in alphabetical order unless they are given, and the images in them."""
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} is missing: images are expected in {folder}/<class>/.")
    numbers = numbers or find_classes(folder)[1]
    files = make_dataset(folder, numbers, IMG_EXTENSIONS, allow_empty=True)
    if not files:
        raise FileNotFoundError(f"no images in {folder}/<class>/ (looked for {', '.join(IMG_EXTENSIONS)}).")
    return numbers, files


def _from_files(train: Files, test: Files, side: int) -> Images:
    halves = [(_read_images([path for path, _ in half], side), torch.tensor([n for _, n in half])) for half in (train, test)]
    return _checked(*halves[0], *halves[1])


def _read_images(paths: list[str], side: int) -> Tensor:
    """RGB pixels, the middle square scaled to `side`: [images, 3, side, side], uint8."""
    gib = len(paths) * 3 * side**2 / 2**30
    if gib > LARGEST_GIB:
        raise ValueError(f"{len(paths)} images of {side} pixels take {gib:.0f} GiB of memory. Use a smaller --image-size.")
    images = np.empty((len(paths), side, side, 3), np.uint8)

    def read(number: int) -> None:
        images[number] = _square(paths[number], side)

    with ThreadPoolExecutor() as pool:
        list(pool.map(read, range(len(paths))))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _square(path: str, side: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BILINEAR))
    except UnidentifiedImageError as problem:
        raise ValueError(f"{path} is not an image that can be read. Remove it.") from problem


def _checked(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> Images:
    for half, images, labels in (("training", train, train_labels), ("held-out", test, test_labels)):
        if len(images) == 0 or len(images) != len(labels):
            raise ValueError(f"{len(images)} {half} images and {len(labels)} labels: they must be as many, and not none.")
    return Images(train, train_labels.long(), test, test_labels.long(), int(train_labels.max()) + 1)


def _resize(images: Tensor, side: int) -> Tensor:
    if images.shape[-2:] == (side, side):
        return images
    # in slices: floats take four times the memory
    slices = (F.interpolate(part.float(), (side, side), mode="bilinear", antialias=True) for part in images.split(4096))
    return torch.cat([part.round().to(torch.uint8) for part in slices])
