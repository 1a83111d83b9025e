"""Images in folders, one folder for each class: their files, and their pixels in one tensor."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Files = list[tuple[Path, int]]
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}
LARGEST_GIB = 16


def class_folder_files(root: Path) -> tuple[Files, Files]:
    """`train/<class>/*` and `val/<class>/*` (or `test/`): files and class numbers, classes in alphabetical order."""
    train = _existing(root / "train")
    held_out = next((root / name for name in ("val", "test") if (root / name).is_dir()), root / "val")
    classes = _classes(train)
    unknown = set(_classes(_existing(held_out))) - set(classes)
    if unknown:
        raise ValueError(f"{held_out} has classes that {train} has not: {', '.join(sorted(unknown)[:5])}.")
    return _files(train, classes), _files(held_out, [name for name in classes if (held_out / name).is_dir()], classes)


def imagenette_files(root: Path) -> tuple[Files, Files]:
    """The folder as it is unpacked, or the folder that holds it; of several sizes the smallest."""
    unpacked = sorted(path for path in root.glob("imagenette2*") if path.is_dir())
    if not unpacked and not (root / "train").is_dir():
        raise FileNotFoundError(
            f"{root}/imagenette2-160 is missing. Unpack imagenette2-160.tgz (https://github.com/fastai/imagenette) there."
        )
    return class_folder_files(min(unpacked, key=_size_in_name) if unpacked else root)


def tiny_imagenet_files(root: Path) -> tuple[Files, Files]:
    """The folder as it is unpacked: `train/<class>/images/*`, `val/images/*` with `val/val_annotations.txt`."""
    root = root / "tiny-imagenet-200" if (root / "tiny-imagenet-200").is_dir() else root
    annotations = root / "val" / "val_annotations.txt"
    if not annotations.is_file():
        raise FileNotFoundError(
            f"{annotations} is missing. Unpack tiny-imagenet-200.zip (http://cs231n.stanford.edu/tiny-imagenet-200.zip) there."
        )
    classes = _classes(_existing(root / "train"))
    numbers = {name: number for number, name in enumerate(classes)}
    rows = [line.split("\t") for line in annotations.read_text().splitlines() if line]
    held_out = [(root / "val" / "images" / row[0], numbers[row[1]]) for row in rows if row[1] in numbers]
    return _files(root / "train", classes), held_out


def read_images(paths: list[Path], side: int) -> Tensor:
    """RGB pixels, the short side scaled to `side`, the middle square: [images, 3, side, side], uint8."""
    gib = len(paths) * 3 * side**2 / 2**30
    if gib > LARGEST_GIB:
        raise ValueError(f"{len(paths)} images of {side} pixels take {gib:.0f} GiB of memory. Use a smaller --image-size.")
    images = np.empty((len(paths), side, side, 3), np.uint8)

    def read(number: int) -> None:
        images[number] = _square(paths[number], side)

    with ThreadPoolExecutor() as pool:
        list(pool.map(read, range(len(paths))))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _square(path: Path, side: int) -> np.ndarray:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BILINEAR))
    except UnidentifiedImageError as problem:
        raise ValueError(f"{path} is not an image that can be read. Remove it.") from problem


def _size_in_name(folder: Path) -> float:
    size = folder.name.rpartition("-")[2]
    return int(size) if size.isdigit() else float("inf")


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} is missing: images are expected in {folder}/<class>/.")
    return folder


def _classes(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def _files(folder: Path, names: list[str], classes: list[str] | None = None) -> Files:
    numbers = {name: number for number, name in enumerate(classes or names)}
    found = [
        (path, numbers[name])
        for name in names
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise FileNotFoundError(f"no images in {folder}/<class>/ (looked for {', '.join(sorted(SUFFIXES))}).")
    return found
