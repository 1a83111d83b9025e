"""VICReg with its gradient in closed form: the smaller of C = Zc^T Zc / (N-1) and G = Zc Zc^T / (N-1), twice.

    loss        w_i mean (z_a - z_b)^2  +  w_v mean_views mean_d relu(margin - std_d)  +  w_c sum_views sum_{i!=j} C_ij^2 / D
    energy      sum_{i!=j} C_ij^2 = |G|^2 - sum_d var_d^2
    gradient    dL/dZ = 2 w_i / (N D) (Z - Z')  +  Zc slope  +  4 w_c / ((N-1) D) (Zc offdiag(C)  or  G Zc - Zc var)

Both products are column-centred already, so the centring needs no backward. The mean over views and the sum over views are
those of two views; with V of them the energies are averaged and doubled. Derived; checked against autograd in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from it_losses.kernels import cuda_vicreg
from it_losses.kernels.blocks import (
    EVERYTHING,
    add_gram_,
    add_product_,
    blocks,
    centred,
    column_means,
    mirror_,
    scratch_for,
    squared_norm,
)
from it_losses.kernels.closed_vicreg_small import in_one_block, in_the_authors_order
from it_losses.kernels.optional_triton import is_installed

#: up to so many elements a view on a CPU, the authors' order of operations: their sums come out to the last bit
OFFICIAL_ELEMENTS = 2048
#: up to so many elements of all views and so large a dim, one block by the D x D side
SMALL_ELEMENTS, SMALL_DIM = 1 << 16, 128


class Saved(NamedTuple):
    """What the backward pass needs beside the views: the first alone or the others, empty where there is none; new memory."""

    #: the gradient itself, where the batch is small: [V groups, batch, dim]
    gradient: Tensor
    mean: Tensor  # [V groups, 1, dim]
    #: [V groups, dim, dim] with a zero diagonal, or [V groups, batch, batch]
    matrix: Tensor
    #: coefficient of Zc, per column: [V groups, 1, dim]
    slope: Tensor
    #: for the N x N side, the column of the largest variance, which stays out of the matrix: [V groups, batch, 1]
    column: Tensor
    #: and its products with the other columns: [V groups, 1, dim]
    row: Tensor


def form(device_type: str, dtype: torch.dtype, views: int, groups: int, batch: int, dim: int) -> str:
    """Which way is taken; a function of device, dtype and shape alone.

    The N x N side costs N / D of the other, but subtracts the variances where that one zeroes them: the rank bound
    |C|^2 >= tr(C)^2 / (N - 1) keeps digits in the difference unless N is close to D.
    """
    if device_type == "cuda" and (views, groups) == (2, 1) and dtype != torch.float64 and is_installed():
        return "triton gram" if _prefers_gram(batch, dim) else "triton covariance"
    if device_type == "cpu" and (views, groups) == (2, 1) and batch * dim <= OFFICIAL_ELEMENTS:
        return "authors' order"
    if views * groups * batch * dim <= SMALL_ELEMENTS and dim <= SMALL_DIM:
        return "one block"
    return "gram" if _prefers_gram(batch, dim) else "covariance"


def _prefers_gram(batch: int, dim: int) -> bool:
    return 8 * batch <= 7 * dim


def _form_of(views: Sequence[Tensor]) -> str:
    return form(views[0].device.type, views[0].dtype, len(views), *views[0].shape)


_FORWARD = {"authors' order": in_the_authors_order, "one block": in_one_block}


def forward(
    views: Sequence[Tensor], weights: tuple[float, float, float], margin: float, epsilon: float
) -> tuple[Tensor, Tensor, Saved]:
    """Loss [], terms (invariance, variance, covariance) [3], and Saved: V x [groups, batch, dim]."""
    name = _form_of(views)
    if name.startswith("triton"):
        uses_gram = name == "triton gram"
        loss, terms, parts = cuda_vicreg.forward(views[0][0], views[1][0], weights, margin, epsilon, uses_gram=uses_gram)
        return loss, terms, Saved(loss.new_empty(0), *parts)
    if name in _FORWARD:
        loss, terms, gradient = _FORWARD[name](views, weights, margin, epsilon)
        nothing = gradient.new_empty(0)
        return loss, terms, Saved(gradient, nothing, nothing, nothing, nothing, nothing)
    if name == "gram":
        return _with_gram(views, weights, margin, epsilon)
    return _with_covariance(views, weights, margin, epsilon)


def saved_shapes(
    device_type: str, dtype: torch.dtype, views: int, groups: int, batch: int, dim: int
) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of each part of Saved, for whoever has to know them before they are computed."""
    stacks, full = views * groups, torch.promote_types(dtype, torch.float32)
    name = form(device_type, dtype, views, groups, batch, dim)
    nothing, line = ((0,), full), ((stacks, 1, dim), full)
    if name in _FORWARD:
        return [((stacks, batch, dim), full), nothing, nothing, nothing, nothing, nothing]
    stored = dtype if name.startswith("triton") else full
    if name.endswith("gram"):
        return [nothing, line, ((stacks, batch, batch), stored), line, ((stacks, batch, 1), full), line]
    return [nothing, line, ((stacks, dim, dim), stored), line, nothing, nothing]


def backward(grad: Tensor, views: Sequence[Tensor], saved: Saved, weights: tuple[float, float, float]) -> Tensor:
    """Gradient of every view for the loss's gradient `grad` []: [V, groups, batch, dim], in the views' dtype."""
    groups, batch, dim = views[0].shape
    if saved.gradient.numel():
        return (saved.gradient * grad).to(views[0].dtype).view(len(views), groups, batch, dim)
    if _form_of(views).startswith("triton"):
        parts = cuda_vicreg.Saved(*saved[1:])
        return cuda_vicreg.backward(grad, views[0][0], views[1][0], parts, weights)[:, None]
    # the upstream gradient goes into the small tensors, before anything is rounded to the views' dtype
    matrix = saved.matrix * (grad * (4 * weights[2] / ((batch - 1) * dim) * _per_view(views)))
    slope = saved.slope * grad
    pull = grad * (2 * weights[0] / (views[0].numel()))
    if saved.matrix.shape[-1] == dim:
        matrix.diagonal(dim1=1, dim2=2).copy_(slope[:, 0])
        return _covariance_gradient(views, saved.mean, matrix, pull)
    column = saved.column * (grad * (4 * weights[2] / ((batch - 1) * dim) * _per_view(views)))
    return _gram_gradient(views, saved._replace(matrix=matrix, slope=slope, column=column), pull)


def _per_view(views: Sequence[Tensor]) -> float:
    """Share of one view and group in the covariance term."""
    return 2 / (len(views) * views[0].shape[0])


def _with_covariance(
    views: Sequence[Tensor], weights: tuple[float, float, float], margin: float, epsilon: float
) -> tuple[Tensor, Tensor, Saved]:
    """D x D: blocks of rows, so that centring, products and squared distances read the samples from memory once."""
    _, batch, dim = views[0].shape
    mean = column_means(views)
    covariance = mean.new_empty(len(mean), dim, dim)
    distance = mean.new_zeros(())
    scratch = scratch_for(batch, dim * len(mean), mean)
    for rows in blocks(batch, dim * len(mean), mean.device):
        zc = centred(views, mean, rows, EVERYTHING, scratch)
        add_gram_(covariance, zc.mT, alpha=1 / (batch - 1), fresh=rows.start == 0)
        distance += _squared_distance(views, rows, EVERYTHING, mean.dtype)
    mirror_(covariance)
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    variance = diagonal.clone()
    # zeroed, not subtracted: for decorrelated samples the diagonal is all there is, and the difference has no digits
    diagonal.zero_()
    hinge, slope = _hinge(variance, weights[1], margin, epsilon, batch)
    energy = squared_norm(covariance) * (_per_view(views) / dim)
    loss, terms = _total(distance / views[0].numel(), hinge, energy, weights)
    nothing = mean.new_empty(0)
    return loss, terms, Saved(nothing, mean, covariance, slope, nothing, nothing)


def _with_gram(
    views: Sequence[Tensor], weights: tuple[float, float, float], margin: float, epsilon: float
) -> tuple[Tensor, Tensor, Saved]:
    """N x N: blocks of columns; statistics first, since the Gram matrix leaves out the column of the largest variance."""
    _, batch, dim = views[0].shape
    mean = column_means(views)
    variance, row = torch.empty_like(mean), torch.empty_like(mean)
    distance = mean.new_zeros(())
    strips = list(blocks(dim, batch * len(mean), mean.device))
    scratch = scratch_for(dim, batch * len(mean), mean)
    for cols in strips:
        zc = centred(views, mean, EVERYTHING, cols, scratch)
        torch.sum(zc.square(), dim=1, keepdim=True, out=variance[:, :, cols])
        distance += _squared_distance(views, EVERYTHING, cols, mean.dtype)
    variance.mul_(1 / (batch - 1))
    # one dominant feature would fill |G|^2 and cancel against its own variance: its products are taken apart
    top = variance.argmax(dim=2, keepdim=True)  # [V groups, 1, 1]
    column = torch.cat([z.gather(2, t.expand(-1, batch, 1)) for z, t in zip(views, top.chunk(len(views)), strict=True)])
    column = column.to(mean.dtype).sub_(mean.gather(2, top))
    others = torch.ones_like(variance).scatter_(2, top, 0)
    gram = mean.new_empty(len(mean), batch, batch)
    for cols in strips:
        if len(strips) > 1:
            zc = centred(views, mean, EVERYTHING, cols, scratch)
        zc.mul_(others[:, :, cols])
        add_product_(row[:, :, cols], column.mT, zc, alpha=1 / (batch - 1), beta=0)
        add_gram_(gram, zc, alpha=1 / (batch - 1), fresh=cols.start == 0)
    mirror_(gram)
    apart = variance * others
    energy = squared_norm(gram) - squared_norm(apart) + 2 * squared_norm(row)
    hinge, slope = _hinge(variance[:, 0], weights[1], margin, epsilon, batch)
    slope.sub_(apart, alpha=4 * weights[2] / ((batch - 1) * dim) * _per_view(views))
    loss, terms = _total(distance / views[0].numel(), hinge, energy * (_per_view(views) / dim), weights)
    return loss, terms, Saved(mean.new_empty(0), mean, gram, slope, column, row)


def _covariance_gradient(views: Sequence[Tensor], mean: Tensor, matrix: Tensor, pull: Tensor) -> Tensor:
    """`pull (Z - Z') + Zc matrix`, block of rows by block of rows."""
    groups, batch, dim = views[0].shape
    out = views[0].new_empty(len(mean), batch, dim)
    scratch = scratch_for(batch, dim * len(mean), mean)
    for rows in blocks(batch, dim * len(mean), mean.device):
        zc = centred(views, mean, rows, EVERYTHING, scratch)
        block = out[:, rows] if out.dtype == mean.dtype else torch.empty_like(zc)
        _fill_with_pull(block, views, rows, EVERYTHING, pull)
        add_product_(block, zc, matrix)
        if out.dtype != mean.dtype:
            out[:, rows] = block
    return out.view(len(views), groups, batch, dim)


def _gram_gradient(views: Sequence[Tensor], saved: Saved, pull: Tensor) -> Tensor:
    """`pull (Z - Z') + Zc slope + column row + G Zc`, block of columns by block of columns."""
    groups, batch, dim = views[0].shape
    out = views[0].new_empty(len(saved.mean), batch, dim)
    scratch = scratch_for(dim, batch * len(saved.mean), saved.mean)
    for cols in blocks(dim, batch * len(saved.mean), saved.mean.device):
        zc = centred(views, saved.mean, EVERYTHING, cols, scratch)
        block = out[:, :, cols] if out.dtype == zc.dtype else torch.empty_like(zc)
        _fill_with_pull(block, views, EVERYTHING, cols, pull)
        block.addcmul_(zc, saved.slope[:, :, cols])
        block.addcmul_(saved.column, saved.row[:, :, cols])
        add_product_(block, saved.matrix, zc)
        if out.dtype != zc.dtype:
            out[:, :, cols] = block
    return out.view(len(views), groups, batch, dim)


def _fill_with_pull(block: Tensor, views: Sequence[Tensor], rows: slice, cols: slice, pull: Tensor) -> None:
    """`block = pull (Z - Z')` for each of two views; zero for any other number, which have no invariance here."""
    if len(views) != 2:
        block.zero_()
        return
    a, b = block.chunk(2)
    torch.mul(_difference(views, rows, cols, block.dtype), pull, out=a)
    torch.neg(a, out=b)


def _difference(views: Sequence[Tensor], rows: slice, cols: slice, dtype: torch.dtype) -> Tensor:
    return views[0][:, rows, cols].to(dtype) - views[1][:, rows, cols].to(dtype)


def _squared_distance(views: Sequence[Tensor], rows: slice, cols: slice, dtype: torch.dtype) -> Tensor | float:
    """`sum (z_a - z_b)^2` over a block of two views: []."""
    if len(views) != 2:
        return 0.0
    return _difference(views, rows, cols, dtype).square_().sum()


def _hinge(variance: Tensor, weight: float, margin: float, epsilon: float, batch: int) -> tuple[Tensor, Tensor]:
    """`mean relu(margin - std)` [] and its slope in Zc [V groups, 1, dim]; variance is [V groups, dim]."""
    std = (variance + epsilon).sqrt_()
    hinge = torch.relu(margin - std).mean()
    return hinge, _hinge_slope(std, weight, margin, batch, shares=len(variance))


def _hinge_slope(std: Tensor, weight: float, margin: float, batch: int, *, shares: int) -> Tensor:
    push = std.reciprocal().mul_(-weight / (shares * std.shape[1] * (batch - 1)))
    return torch.where(std < margin, push, 0.0)[:, None]


def _total(invariance: Tensor, hinge: Tensor, energy: Tensor, weights: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    loss = weights[0] * invariance + weights[1] * hinge + weights[2] * energy
    return loss, torch.stack((invariance, hinge, energy))
