"""The IDX format of MNIST and its heirs: big-endian magic, sizes, then bytes; plain or gzipped."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

#: third byte of the magic number: 0x08 is unsigned bytes, all that image sets use
UNSIGNED_BYTE = 8


def read_idx(path: Path) -> Tensor:
    """The uint8 array of an IDX file; `.gz` is unpacked on the way.

    Raises:
        ValueError: another magic number, or a file shorter or longer than its sizes say.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile) as problem:
        raise ValueError(f"{path} is not a whole gzip file ({problem}). Copy or download it again.") from problem
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes: it starts with {content[:4].hex() or 'nothing'}.")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise ValueError(f"{path} ends within its header. Copy or download it again.")
    sizes = struct.unpack(f">{content[3]}I", content[4:header])
    pixels = np.frombuffer(content, np.uint8, offset=header)
    if pixels.size != int(np.prod(sizes)):
        raise ValueError(f"{path} should hold {sizes} bytes, it has {pixels.size}. Copy or download it again.")
    return torch.from_numpy(pixels.reshape(sizes).copy())


def find_idx(folder: Path, name: str) -> Path:
    """`folder/name` or `folder/name.gz`, also with the dot that some copies write before `idx`, and in sub-folders `raw`."""
    spellings = [name, name.replace("-idx", ".idx")]
    places = [folder, folder / "raw", folder / "FashionMNIST" / "raw"]
    candidates = [place / f"{spelling}{end}" for place in places for spelling in spellings for end in ("", ".gz")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"neither {name} nor {name}.gz is in {folder}.")
