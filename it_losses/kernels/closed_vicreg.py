"""VICReg with its gradient in closed form: the smaller of C = Zc^T Zc / (N-1) and G = Zc Zc^T / (N-1), twice.

    loss        w_i mean (z_a - z_b)^2  +  w_v mean_views mean_d relu(margin - std_d)  +  w_c sum_views sum_{i!=j} C_ij^2 / D
    energy      sum_{i!=j} C_ij^2 = |G|^2 - sum_d var_d^2
    gradient    dL/dZ = 2 w_i / (N D) (Z - Z')  +  Zc slope  +  4 w_c / ((N-1) D) (Zc offdiag(C)  or  G Zc - Zc var)

Both products are column-centred already, so the centring needs no backward. The mean over views and the sum over views are
those of two views; with V of them the energies are averaged and doubled. Derived; checked against autograd in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from it_losses.kernels import closed_vicreg_covariance, closed_vicreg_gram, cuda_vicreg
from it_losses.kernels.closed_vicreg_apart import LINES, columns_apart
from it_losses.kernels.closed_vicreg_small import in_one_block, in_the_authors_order
from it_losses.kernels.optional_triton import is_installed

#: up to so many elements a view on a CPU, the authors' order of operations: their sums come out to the last bit
OFFICIAL_ELEMENTS = 2048
#: up to so many elements of all views, one block by the D x D side, if that is so small or not the larger one up to the second
SMALL_ELEMENTS, SMALL_DIM, SMALL_SIDE = 1 << 18, 128, 384


def form(device_type: str, dtype: torch.dtype, views: int, groups: int, batch: int, dim: int) -> str:
    """Which way is taken; a function of device, dtype and shape alone.

    The N x N side costs N / D of the other, but subtracts the variances where that one zeroes them: see `closed_vicreg_gram`.
    """
    if device_type == "cuda" and (views, groups) == (2, 1) and dtype != torch.float64 and is_installed():
        return "triton gram" if _prefers_gram(batch, dim) else "triton covariance"
    if device_type == "cpu" and (views, groups) == (2, 1) and batch * dim <= OFFICIAL_ELEMENTS:
        return "authors' order"
    prefers_gram = _prefers_gram(batch, dim)
    if views * groups * batch * dim <= SMALL_ELEMENTS and dim <= (SMALL_DIM if prefers_gram else SMALL_SIDE):
        return "one block"
    return "gram" if prefers_gram else "covariance"


def _prefers_gram(batch: int, dim: int) -> bool:
    return 8 * batch <= 7 * dim


def _form_of(views: Sequence[Tensor]) -> str:
    return form(views[0].device.type, views[0].dtype, len(views), *views[0].shape)


#: forms that finish the gradient in the forward pass, and those that leave it to the backward pass
_AT_ONCE = {"authors' order": in_the_authors_order, "one block": in_one_block}
_IN_BLOCKS = {"gram": closed_vicreg_gram, "covariance": closed_vicreg_covariance}


def forward(
    views: Sequence[Tensor], weights: tuple[float, float, float], margin: float, epsilon: float
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Loss [], terms (invariance, variance, covariance) [3], and what backward needs: V x [groups, batch, dim]."""
    name = _form_of(views)
    if name.startswith("triton"):
        uses_gram = name == "triton gram"
        loss, terms, parts = cuda_vicreg.forward(views[0][0], views[1][0], weights, margin, epsilon, uses_gram=uses_gram)
        return loss, terms, tuple(part for part in parts if part is not None)
    if name in _AT_ONCE:
        loss, terms, gradient = _AT_ONCE[name](views, weights, margin, epsilon)
        return loss, terms, (gradient,)
    loss, terms, parts = _IN_BLOCKS[name].forward(views, weights, margin, epsilon)
    return loss, terms, parts


def saved_shapes(
    device_type: str, dtype: torch.dtype, views: int, groups: int, batch: int, dim: int
) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of each part of what is saved, for whoever has to know them before they are computed."""
    stacks, full = views * groups, torch.promote_types(dtype, torch.float32)
    name = form(device_type, dtype, views, groups, batch, dim)
    if name in _AT_ONCE:
        return [((stacks, batch, dim), full)]
    side, kind = batch if name.endswith("gram") else dim, dtype if name.startswith("triton") else full
    shared: list[tuple[tuple[int, ...], torch.dtype]] = [
        ((stacks, 2, dim), full),
        ((stacks, side, side), kind),
        ((stacks, 1, dim), full),
    ]
    if name == "triton gram":
        return [*shared, *(((stacks, LINES, length), full) for length in (batch, dim))]
    if name == "gram":
        return [*shared, ((stacks, columns_apart(batch), batch), full), ((stacks, columns_apart(batch), 1), torch.int64)]
    return shared


def backward(grad: Tensor, views: Sequence[Tensor], saved: Sequence[Tensor], weights: tuple[float, float, float]) -> Tensor:
    """Gradient of every view for the loss's gradient `grad` []: [V, groups, batch, dim], in the views' dtype."""
    name, shape = _form_of(views), (len(views), *views[0].shape)
    if name in _AT_ONCE:
        (gradient,) = saved
        return (gradient * grad).to(views[0].dtype).view(shape)
    if name.startswith("triton"):
        return cuda_vicreg.backward(grad, views[0][0], views[1][0], cuda_vicreg.Saved(*saved), weights).view(shape)
    twin = _IN_BLOCKS[name]
    gradients: Tensor = twin.backward(grad, views, twin.Saved(*saved), weights)
    return gradients.view(shape)
