"""Pairwise entropy with its gradient in closed form: additive row sums of similarities, one product back.

    e_ij = exp(-|z_i - z_j|^2 / t),   s_i = sum_j e_ij (j = i included, so s_i >= 1 and no maximum is needed)
    value       log N - mean_i log s_i
    gradient    2 / (N t) (w_i z_i - (W Z)_i),   W_ij = e_ij (1/s_i + 1/s_j) off the diagonal and 0 on it,   w = W 1

Only the lower triangle is formed, in strips of rows. Several t share the products: W is the sum of theirs. The unit of length
is a power of two near the root of the first t, so that it rounds nothing; with the narrowest first none overflows. Derived.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from it_losses.kernels import cuda_pairs, cuda_products
from it_losses.kernels.blocks import accumulation_dtype, add_product_

#: rows of a strip on a CPU: with fewer the calls cost more than the triangle saves, with more it saves less of the square
CPU_ROWS = 256
#: elements of a strip on a CPU, 8 MiB of float32
CPU_STRIP = 1 << 21
#: on a GPU a strip is this part of the batch, so that the triangle saves nearly half of the square
GPU_STRIPS = 8
#: elements of a strip on a GPU: enough to fill it
GPU_STRIP = 1 << 24
#: rows below which a product runs at a fraction of its speed
FEWEST_ROWS = 64


class Saved(NamedTuple):
    """What the backward pass needs beside z."""

    sums: Tensor  # [K, groups, batch]
    #: the lower triangle, strip by strip, of `-|z_i - z_j|^2` in units or (K = 1) of e_ij: [groups, triangle], or empty;
    #: with Triton the products of the centred samples: [groups, batch, batch]
    kept: Tensor
    #: where the triangle is kept, `z - mean` in units, in the dtype of z: [groups, batch, dim], or empty
    scaled: Tensor


def saved_shapes(z: Tensor, scales: int, memory_bytes: int) -> list[tuple[int, ...]]:
    """Shape of each part of Saved, for whoever has to know them before they are computed.

    What does not fit into memory_bytes is empty, and formed again for the backward pass: the pairs for a third more time.
    """
    groups, batch, dim = z.shape
    sums = (scales, groups, batch)
    if cuda_products.serves(z):
        # a GPU centres the samples anew at the speed of its memory
        pairs = (groups, batch, batch)
        return [sums, pairs if 4 * math.prod(pairs) <= memory_bytes else (0,), (0,)]
    dtype, triangle = accumulation_dtype(z.dtype), (groups, _triangle(z))
    if dtype.itemsize * math.prod(triangle) > memory_bytes:
        return [sums, (0,), (0,)]
    # of half precision a copy would take twice as much as z
    fits = dtype.itemsize * (math.prod(triangle) + groups * batch * dim) <= memory_bytes and z.dtype == dtype
    return [sums, triangle, (groups, batch, dim) if fits else (0,)]


def forward(z: Tensor, scales: Tensor, memory_bytes: int) -> tuple[Tensor, Saved]:
    """`log N - mean_i log sum_j exp(-|z_i - z_j|^2 / t)` for scales t [K, groups]: [groups, batch, dim] -> [K, groups]."""
    groups, batch, _ = z.shape
    if cuda_products.serves(z):
        keep = len(saved_shapes(z, len(scales), memory_bytes)[1]) > 1
        value, sums, kept = cuda_pairs.forward(z, scales, memory_bytes, keep=keep)
        return value, Saved(sums, kept, value.new_empty(0))
    unit, widths = _units(z, scales)
    zs = _scaled(z, unit)
    norms = _squared_norms(zs)
    _, triangle, samples = saved_shapes(z, len(scales), memory_bytes)
    kept, scaled = zs.new_empty(triangle), zs if samples == zs.shape else zs.new_empty(0)
    # the similarity of each to itself
    sums = zs.new_ones(len(scales), groups, batch)
    for rows in _strips(z):
        known = _known(zs, norms, rows, widths, kept)
        for total, width in zip(sums, widths, strict=True):
            similarities = known if len(scales) == 1 else _similarities(known, rows, width)
            total[:, rows].add_(similarities.sum(dim=2))
            if rows.start > 0:
                total[:, : rows.start].add_(similarities[:, :, : rows.start].sum(dim=1))
    return math.log(batch) - sums.log().mean(dim=2), Saved(sums, kept, scaled)


def backward(grad: Tensor, z: Tensor, scales: Tensor, saved: Saved, memory_bytes: int) -> Tensor:
    """Gradient of z for the values' gradient `grad` [K, groups]: [groups, batch, dim], in the dtype of z."""
    groups, batch, _ = z.shape
    if cuda_products.serves(z):
        return cuda_pairs.backward(grad, z, scales, saved.sums, saved.kept, memory_bytes)
    unit, widths = _units(z, scales)
    zs = saved.scaled if saved.scaled.numel() else _scaled(z, unit)
    norms = zs.new_empty(0) if saved.kept.numel() else _squared_norms(zs)
    # z / t = zs / (width unit)
    pulls = (grad / (widths * unit) * (2 / batch))[:, :, None] / saved.sums
    weight = zs.new_zeros(groups, batch, 1)
    out = torch.empty_like(zs)
    strips = _strips(z)
    # fresh pages for every strip would cost as much as its arithmetic
    scratch = zs.new_empty(groups * strips[0].stop * batch)
    for rows in strips:
        pairs = _pair_weights(_recalled(zs, norms, rows, widths, saved), rows, widths, pulls, scratch)
        weight[:, rows].add_(pairs.sum(dim=2, keepdim=True))
        add_product_(out[:, rows], pairs, zs[:, : rows.stop], alpha=-1, beta=0)
        if rows.start > 0:
            weight[:, : rows.start].add_(pairs[:, :, : rows.start].sum(dim=1)[:, :, None])
            add_product_(out[:, : rows.start], pairs[:, :, : rows.start].mT, zs[:, rows], alpha=-1)
    return out.addcmul_(zs, weight).to(z.dtype)


def _units(z: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """The unit of length [groups], and every t in its square [K, groups]."""
    scales = scales.to(accumulation_dtype(z.dtype))
    # what rounded it would round every exponent alike, which a narrow bandwidth multiplies
    unit = scales[0].log2().mul_(0.5).ceil_().exp2_()
    return unit, scales / unit.square()


def _scaled(z: Tensor, unit: Tensor) -> Tensor:
    """`(z - mean) / unit`: [groups, batch, dim]."""
    # distances do not see the mean, but their rounding does; that of coincident samples, found as the mean of differences, is
    # the sample itself, or what rounding left of it would pull at them
    first = z[:, :1].to(unit.dtype)
    zs = z - first
    torch.sub(z, first + zs.mean(dim=1, keepdim=True), out=zs)
    return zs.mul_(unit.reciprocal()[:, None, None])


def _squared_norms(zs: Tensor) -> Tensor:
    """[groups, batch, dim] -> [groups, batch, 1]."""
    return zs.square().sum(dim=2, keepdim=True)


def strip_height(shape: Sequence[int], device: torch.device) -> int:
    """Rows of a strip, for samples `[..., batch, dim]`."""
    *groups, batch, _ = shape
    elements, tallest = (CPU_STRIP, CPU_ROWS) if device.type == "cpu" else (GPU_STRIP, -(-batch // GPU_STRIPS))
    return max(min(elements // (math.prod(groups) * batch), tallest), FEWEST_ROWS)


def _strips(z: Tensor) -> list[slice]:
    height, batch = strip_height(z.shape, z.device), z.shape[1]
    return [slice(start, min(start + height, batch)) for start in range(0, batch, height)]


def _triangle(z: Tensor) -> int:
    """Elements of the strips of a group."""
    height, batch = strip_height(z.shape, z.device), z.shape[1]
    whole = batch // height
    return height * height * whole * (whole + 1) // 2 + (batch - whole * height) * batch


def _strip(kept: Tensor, rows: slice, height: int) -> Tensor:
    """The pairs of rows i and all j before their end, in the triangle: [groups, rows, rows.stop]."""
    start = rows.start * (rows.start + height) // 2
    return kept[:, start : start + (rows.stop - rows.start) * rows.stop].view(kept.shape[0], -1, rows.stop)


def _known(zs: Tensor, norms: Tensor, rows: slice, widths: Tensor, kept: Tensor) -> Tensor:
    """Of the rows i and all j before their end: `-|z_i - z_j|^2`, or where one t is all their e_ij, in kept if any."""
    before = slice(0, rows.stop)
    if kept.numel():
        out = _strip(kept, rows, strip_height(zs.shape, zs.device))
    else:
        out = zs.new_empty(len(zs), rows.stop - rows.start, rows.stop)
    torch.add(norms[:, rows], norms[:, before].mT, out=out)
    # the upper half of the rows needs no pair with the lower half, which has it
    half = (rows.stop - rows.start) // 2
    middle = rows.start + half
    add_product_(out[:, :half, :middle], zs[:, rows.start : middle], zs[:, :middle].mT, beta=-1, alpha=2)
    add_product_(out[:, half:], zs[:, middle : rows.stop], zs[:, before].mT, beta=-1, alpha=2)
    out[:, :half, middle:] = out[:, half:, rows.start : middle].mT
    # a distance is no less than zero, whatever rounding says
    out.clamp_max_(0)
    return out if len(widths) > 1 else _of_others_(out.div_(widths[0][:, None, None]).exp_(), rows)


def _recalled(zs: Tensor, norms: Tensor, rows: slice, widths: Tensor, saved: Saved) -> Tensor:
    """What the forward pass knew of a strip, kept or formed again."""
    if saved.kept.numel():
        return _strip(saved.kept, rows, strip_height(zs.shape, zs.device))
    return _known(zs, norms, rows, widths, saved.kept)


def _similarities(known: Tensor, rows: slice, width: Tensor) -> Tensor:
    """e_ij of a strip, for one t [groups]: [groups, rows, rows.stop]."""
    return _of_others_((known / width[:, None, None]).exp_(), rows)


def _of_others_(similarities: Tensor, rows: slice) -> Tensor:
    """Without a point's own, which does not move it and would drown all others in the difference of two pulls."""
    similarities[:, :, rows].diagonal(dim1=1, dim2=2).zero_()
    return similarities


def _pair_weights(known: Tensor, rows: slice, widths: Tensor, pulls: Tensor, scratch: Tensor) -> Tensor:
    """W of a strip, each scale weighted by its upstream gradient: [groups, rows, rows.stop]."""
    before = slice(0, rows.stop)
    total = scratch[: known.numel()].view(known.shape)
    if len(widths) == 1:
        return torch.add(pulls[0][:, rows, None], pulls[0][:, None, before], out=total).mul_(known)
    total.zero_()
    for width, pull in zip(widths, pulls, strict=True):
        total.addcmul_(_similarities(known, rows, width), pull[:, rows, None] + pull[:, None, before])
    return total
