"""Pairwise entropy on a GPU: products by cuBLAS in the dtype of the samples, everything made of pairs in one Triton pass.

    forward     row sums of exp(-rate_k |z_i - z_j|^2), of products that are kept, or tile by tile without their matrix
    backward    W of all scales at once, rounded once, and W Z, by as many rows as the memory bound allows

The algebra is that of `closed_pairwise`; norms come from the operand as rounded, the row sums of W from W as rounded, or the
differences of near points would be those of other points. Nothing waits for the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from it_losses.kernels.cuda_products import may_add_in_any_order, product
from it_losses.kernels.optional_triton import entropy_launches

#: a strip has at least so many rows, whatever the bound: fewer do not fill a GPU
FEWEST_ROWS = 64
#: the weights of pairs are at most twice this in float16, so that they are normal numbers down to 1e-8 of the largest
HALF_RANGE = 2.0**13


def forward(z: Tensor, scales: Tensor, memory_bytes: int, *, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Values [K, groups], row sums [K, groups, batch], and the products that are kept, or nothing: [groups, batch, dim]."""
    launch, batch = entropy_launches(), z.shape[1]
    x, norms, rates, _ = _operand(z, scales)
    kept = norms.new_empty(0)
    if not keep and may_add_in_any_order():
        sums = launch.pair_sums(x, norms, rates)
    else:
        sums = norms.new_empty(len(rates), *norms.shape)
        height = batch if keep else _height(x, memory_bytes, row_bytes=4 * batch)
        for rows in _strips(batch, height):
            products = product(x[:, rows], x.mT)
            launch.similarity_sums(products, norms, rates, sums, rows.start)
        kept = products if keep else kept
    return math.log(batch) - sums.log().mean(dim=2), sums, kept


def backward(grad: Tensor, z: Tensor, scales: Tensor, sums: Tensor, kept: Tensor, memory_bytes: int) -> Tensor:
    """Gradient of z for the values' gradient `grad` [K, groups]: [groups, batch, dim], in the dtype of z."""
    launch, (_, batch, dim) = entropy_launches(), z.shape
    x, norms, rates, unit = _operand(z, scales)
    slopes = grad.float() * 2 / (batch * scales.float() * unit)  # [K, groups]
    # products of the weights are taken at a size of order one, and multiplied by what they are in float32
    largest = slopes.abs().amax(dim=0).clamp_min(torch.finfo(torch.float32).tiny)
    size = HALF_RANGE / 2 ** math.ceil(math.log2(len(scales))) if z.dtype == torch.float16 else 1.0
    pulls = (slopes / largest * size)[:, :, None] / sums
    out = z.new_empty(z.shape)
    formed = 0 if kept.numel() else 4 * batch
    height = _height(x, memory_bytes, row_bytes=formed + x.element_size() * batch + 4 * dim)
    for rows in _strips(batch, height):
        products = kept[:, rows] if kept.numel() else product(x[:, rows], x.mT)
        weights, totals = launch.pair_weights(products, norms, rates, pulls, rows.start, x.dtype)
        launch.pulled(x, product(weights, x), totals, largest / size, out, rows.start)
    return out


def _operand(z: Tensor, scales: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`unit (z - mean)`, its squared norms [groups, batch], `1 / (t unit^2)` [K, groups], and the unit [groups]."""
    # float16 holds z - mean wherever it holds z, but not at any scale; the others have a range to spare
    unit = torch.ones_like(scales[0]) if z.dtype == torch.float16 else scales[0].rsqrt()
    unit = unit.float()
    # as in closed_pairwise: the mean of coincident samples is the sample itself
    first = z[:, :1].float()
    mean = first + (z - first).mean(dim=1, keepdim=True)
    x, norms = entropy_launches().centred(z, mean, unit)
    return x, norms, (1 / (scales.float() * unit.square())), unit


def _height(x: Tensor, memory_bytes: int, *, row_bytes: int) -> int:
    """Rows of a strip that stay within the bound."""
    return min(max(memory_bytes // (len(x) * row_bytes), FEWEST_ROWS), x.shape[1])


def _strips(batch: int, height: int) -> list[slice]:
    return [slice(start, min(start + height, batch)) for start in range(0, batch, height)]
