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
    accumulation_dtype,
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
#: columns that the N x N side takes apart below some batch, and from there on: with a row of sums their products have 8 or 16
#: rows, a few percent of all
FEW_APART, APART_BATCH, APART = 7, 512, 15


class Saved(NamedTuple):
    """What the backward pass needs beside the views: the first alone or the others, empty where there is none; new memory."""

    #: the gradient itself, where the batch is small: [V groups, batch, dim]
    gradient: Tensor
    #: column means, and without Triton the mean of what is left less them, their rounding: [V groups, 1 or 2, dim]
    mean: Tensor
    #: [V groups, dim, dim] with a zero diagonal, or [V groups, batch, batch]
    matrix: Tensor
    #: coefficient of Zc, per column: [V groups, 1, dim]
    slope: Tensor
    #: for the N x N side, the gradient of the columns of the largest variances, finished: [V groups, apart, batch];
    #: with Triton the column of the largest variance itself, which stays out of the matrix: [2, batch, 1]
    apart: Tensor
    #: and which columns they are: [V groups, apart, 1]; with Triton the covariances with that column: [2, 1, dim]
    place: Tensor


def form(device_type: str, dtype: torch.dtype, views: int, groups: int, batch: int, dim: int) -> str:
    """Which way is taken; a function of device, dtype and shape alone.

    The N x N side costs N / D of the other, but subtracts the variances where that one zeroes them. Let R be the columns that
    are left when those of the largest variances are taken apart (`columns_apart`). Rounding moves the covariance term of a view
    by about eps sqrt(D) |C_R|_F^2 / D at most, the gradient of a column z of R by eps sqrt(N) 4 |C_R| |z| / ((N-1) D); sqrt(D)
    and sqrt(N) are what random rounding makes of sums of so many products. By the rank bound |C_R|_F^2 >= tr(C_R)^2 / (N-1) the
    former is at most the fraction eps sqrt(D) / (1 - (N-1) / n) of the term where n = tr(C_R)^2 / sum_R var^2, the number of
    columns of R that matter, is N or more. Nothing bounds the fraction where fewer, but more than are taken apart, outweigh all
    others and are decorrelated among themselves: that takes float64.
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


def columns_apart(batch: int) -> int:
    """How many columns the N x N side takes apart."""
    return APART if batch >= APART_BATCH else min(FEW_APART, batch)


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
    nothing, line, means = ((0,), full), ((stacks, 1, dim), full), ((stacks, 2, dim), full)
    if name in _FORWARD:
        return [((stacks, batch, dim), full), nothing, nothing, nothing, nothing, nothing]
    if name == "triton gram":
        return [nothing, line, ((stacks, batch, batch), dtype), line, ((stacks, batch, 1), full), line]
    if name == "triton covariance":
        return [nothing, line, ((stacks, dim, dim), dtype), line, nothing, nothing]
    if name == "covariance":
        return [nothing, means, ((stacks, dim, dim), full), line, nothing, nothing]
    apart = [((stacks, columns_apart(batch), batch), full), ((stacks, columns_apart(batch), 1), torch.int64)]
    return [nothing, means, ((stacks, batch, batch), full), line, *apart]


def backward(grad: Tensor, views: Sequence[Tensor], saved: Saved, weights: tuple[float, float, float]) -> Tensor:
    """Gradient of every view for the loss's gradient `grad` []: [V, groups, batch, dim], in the views' dtype."""
    groups, batch, dim = views[0].shape
    if saved.gradient.numel():
        return (saved.gradient * grad).to(views[0].dtype).view(len(views), groups, batch, dim)
    if _form_of(views).startswith("triton"):
        parts = cuda_vicreg.Saved(*saved[1:])
        return cuda_vicreg.backward(grad, views[0][0], views[1][0], parts, weights)[:, None]
    # the upstream gradient goes into the small tensors, before anything is rounded to the views' dtype
    force = grad * (4 * weights[2] / ((batch - 1) * dim) * _per_view(views))
    slope = saved.slope * grad
    pull = grad * (2 * weights[0] / (views[0].numel()))
    if saved.matrix.shape[-1] == dim:
        matrix = saved.matrix * force
        matrix.diagonal(dim1=1, dim2=2).copy_(slope[:, 0])
        return _covariance_gradient(views, saved.mean, matrix, pull)
    # H G: what rounding left of the means is in G too, and would move all samples alike
    matrix = torch.addcmul(saved.matrix.mean(dim=1, keepdim=True) * -force, saved.matrix, force)
    gradient = _gram_gradient(views, saved.mean, matrix, slope, pull)
    apart = (saved.apart * grad).to(gradient.dtype)
    gradient.mT.scatter_(1, saved.place.expand_as(apart), apart)
    return gradient.view(len(views), groups, batch, dim)


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
    residual, distance = torch.zeros_like(mean), mean.new_zeros(())
    scratch = scratch_for(batch, dim * len(mean), mean)
    for rows in blocks(batch, dim * len(mean), mean.device):
        zc = centred(views, mean, rows, EVERYTHING, scratch)
        residual += zc.sum(dim=1, keepdim=True)
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
    return loss, terms, Saved(nothing, torch.cat((mean, residual / batch), dim=1), covariance, slope, nothing, nothing)


def _with_gram(
    views: Sequence[Tensor], weights: tuple[float, float, float], margin: float, epsilon: float
) -> tuple[Tensor, Tensor, Saved]:
    """N x N: blocks of columns; statistics first, since the columns of the largest variances are taken apart."""
    _, batch, dim = views[0].shape
    freedom, force = batch - 1, 4 * weights[2] / ((batch - 1) * dim) * _per_view(views)
    mean = column_means(views)
    variance = torch.empty_like(mean)
    distance = mean.new_zeros(())
    strips = list(blocks(dim, batch * len(mean), mean.device))
    scratch = scratch_for(dim, batch * len(mean), mean)
    for cols in strips:
        zc = centred(views, mean, EVERYTHING, cols, scratch)
        torch.sum(zc.square_() if len(strips) > 1 else zc.square(), dim=1, keepdim=True, out=variance[:, :, cols])
        distance += _squared_distance(views, EVERYTHING, cols, mean.dtype)
    variance.mul_(1 / freedom)
    # dominant features would fill |G|^2 and cancel against their own variances
    top = variance[:, 0].topk(columns_apart(batch), dim=1).indices[:, :, None]  # [V groups, apart, 1]
    raw = _columns(views, top)
    exact = raw.double()
    exact = exact - exact.mean(dim=2, keepdim=True)
    lines = exact.to(mean.dtype)
    others = torch.ones_like(variance).scatter_(2, top.mT, 0)
    # with ones below them, whose products are sums: what rounding of the means left
    left = torch.cat((lines, torch.ones_like(lines[:, :1])), dim=1)
    gram, rows = mean.new_empty(len(mean), batch, batch), mean.new_empty(len(mean), left.shape[1], dim)
    for cols in strips:
        if len(strips) > 1:
            zc = centred(views, mean, EVERYTHING, cols, scratch)
        zc.mul_(others[:, :, cols])
        add_product_(rows[:, :, cols], left, zc, alpha=1 / freedom, beta=0)
        add_gram_(gram, zc, alpha=1 / freedom, fresh=cols.start == 0)
    mirror_(gram)
    # decorrelated, they push each other with the rounding of their products times their size: few, so in float64
    among = torch.bmm(exact, exact.mT).div_(freedom)
    among.diagonal(dim1=1, dim2=2).zero_()
    others.mul_(variance)
    energy = squared_norm(gram) - squared_norm(others) + 2 * squared_norm(rows[:, :-1])
    energy += squared_norm(among)
    hinge, slope = _hinge(variance[:, 0], weights[1], margin, epsilon, batch)
    # lines G + among lines, centred as G is not
    apart = torch.bmm(among, exact).to(mean.dtype).baddbmm_(lines, gram)
    apart = apart.sub_(apart.mean(dim=2, keepdim=True)).mul_(force).addcmul_(lines, slope.mT.gather(1, top))
    if len(views) == 2:
        apart.add_(raw.sub_(_columns(views[::-1], top)), alpha=2 * weights[0] / views[0].numel())
    # the others feel all columns, and subtract their own variance alone
    gram.baddbmm_(lines.mT, lines, alpha=1 / freedom)
    slope.sub_(others, alpha=force)
    loss, terms = _total(distance / views[0].numel(), hinge, energy * (_per_view(views) / dim), weights)
    means = torch.cat((mean, rows[:, -1:] * (freedom / batch)), dim=1)
    return loss, terms, Saved(mean.new_empty(0), means, gram, slope, apart, top)


def _columns(views: Sequence[Tensor], places: Tensor) -> Tensor:
    """Columns of each view: V x [groups, batch, dim], [V groups, k, 1] -> [V groups, k, batch], in the dtype of sums."""
    parts = places.expand(-1, -1, views[0].shape[1]).chunk(len(views))
    found = torch.cat([z.mT.gather(1, place) for z, place in zip(views, parts, strict=True)])
    return found.to(accumulation_dtype(found.dtype))


def _covariance_gradient(views: Sequence[Tensor], means: Tensor, matrix: Tensor, pull: Tensor) -> Tensor:
    """`pull (Z - Z') + Zc matrix`, block of rows by block of rows."""
    groups, batch, dim = views[0].shape
    mean, residual = means.chunk(2, dim=1)
    line = torch.bmm(residual, matrix).neg_()
    out = views[0].new_empty(len(mean), batch, dim)
    scratch = scratch_for(batch, dim * len(mean), mean)
    for rows in blocks(batch, dim * len(mean), mean.device):
        zc = centred(views, mean, rows, EVERYTHING, scratch)
        block = out[:, rows] if out.dtype == mean.dtype else torch.empty_like(zc)
        _fill_with_pull(block, views, rows, EVERYTHING, pull, line)
        add_product_(block, zc, matrix)
        if out.dtype != mean.dtype:
            out[:, rows] = block
    return out.view(len(views), groups, batch, dim)


def _gram_gradient(views: Sequence[Tensor], means: Tensor, matrix: Tensor, slope: Tensor, pull: Tensor) -> Tensor:
    """`pull (Z - Z') + Zc slope + matrix Zc`, block of columns by block of columns: [V groups, batch, dim]."""
    _, batch, dim = views[0].shape
    mean, residual = means.chunk(2, dim=1)
    line = residual * -slope
    out = views[0].new_empty(len(mean), batch, dim)
    scratch = scratch_for(dim, batch * len(mean), mean)
    for cols in blocks(dim, batch * len(mean), mean.device):
        zc = centred(views, mean, EVERYTHING, cols, scratch)
        block = out[:, :, cols] if out.dtype == zc.dtype else torch.empty_like(zc)
        _fill_with_pull(block, views, EVERYTHING, cols, pull, line[:, :, cols])
        block.addcmul_(zc, slope[:, :, cols])
        add_product_(block, matrix, zc)
        if out.dtype != zc.dtype:
            out[:, :, cols] = block
    return out


def _fill_with_pull(block: Tensor, views: Sequence[Tensor], rows: slice, cols: slice, pull: Tensor, line: Tensor) -> None:
    """`block = pull (Z - Z') + line` for each of two views; the line for any other number, which have no invariance here."""
    if len(views) != 2:
        block.copy_(line.expand_as(block))
        return
    difference = _difference(views, rows, cols, block.dtype)
    for out, own, sign in zip(block.chunk(2), line.chunk(2), (1, -1), strict=True):
        torch.addcmul(own, difference, pull, value=sign, out=out)


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
