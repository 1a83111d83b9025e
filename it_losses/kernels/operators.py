"""The twins as differentiable functions: autograd functions where Python runs them, torch.library ops where a compiler does.

Each op is registered in four visible pieces: the op, its fake (shapes without numbers), its backward op, and what the one hands
to the other. An op costs a call some 50 us more than an autograd function, so eager code takes the latter; both call the same
two pure functions. No twin has a second derivative: asking for one raises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from it_losses.kernels import closed_log_det, closed_pairwise, closed_vicreg
from it_losses.kernels.blocks import accumulation_dtype, under_torch_func
from it_losses.precision import full_precision

Weights = tuple[float, float, float]


def is_compiling() -> bool:
    """Whether a compiler looks on, which needs the registered op; an error under torch.func, which neither form supports."""
    if under_torch_func():
        raise RuntimeError("fused twins do not run under torch.func transforms. Set IT_LOSSES_BACKEND=reference for them.")
    return torch.compiler.is_compiling()


class _NoSecondDerivative(torch.autograd.Function):
    """A gradient that may be read but not differentiated; silence would let a gradient penalty train nothing."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError("fused twins have no second derivative. Set IT_LOSSES_BACKEND=reference for one.")


def _once(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    """That backward, with results whose own derivative raises."""

    def guarded(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        # once: what checkpointing has recomputed may not be asked for again
        saved = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return backward(ctx, saved, *grads)
        with torch.no_grad():
            results = backward(ctx, saved, *grads)
        return tuple(None if g is None else _NoSecondDerivative.apply(g, *saved) for g in results)

    return guarded


def grouped(z: Tensor) -> Tensor:
    """`[..., batch, dim] -> [groups, batch, dim]`."""
    return z[None] if z.ndim == 2 else z.flatten(0, -3)


class VICReg(torch.autograd.Function):
    """Loss [] and terms [3] of views [..., batch, dim]."""

    @staticmethod
    def forward(ctx: Any, weights: Weights, margin: float, epsilon: float, *views: Tensor) -> tuple[Tensor, Tensor]:
        """Value, and what backward will need."""
        # grouped here, where no derivative of the grouping is recorded
        stacks = [grouped(z) for z in views]
        with full_precision(views[0]):
            loss, terms, saved = closed_vicreg.forward(stacks, weights, margin, epsilon)
        ctx.save_for_backward(*views, *saved)
        ctx.weights, ctx.count = weights, len(views)
        ctx.mark_non_differentiable(terms)
        ctx.set_materialize_grads(False)
        return loss, terms

    @staticmethod
    @_once
    def backward(ctx: Any, saved: tuple[Tensor, ...], grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        """Gradient of the samples."""
        if grad is None:
            return (None, None, None, *([None] * ctx.count))
        views, parts = saved[: ctx.count], saved[ctx.count :]
        with full_precision(views[0]):
            gradients = closed_vicreg.backward(grad, [grouped(z) for z in views], parts, ctx.weights)
        return None, None, None, *gradients.view(ctx.count, *views[0].shape).unbind()


@torch.library.custom_op(
    "it_losses::vicreg",
    mutates_args=(),
    schema="(Tensor[] views, float[] weights, float margin, float epsilon) -> (Tensor, Tensor, Tensor[])",
)
def vicreg_op(
    views: Sequence[Tensor], weights: Sequence[float], margin: float, epsilon: float
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Loss, terms, and what backward needs."""
    with full_precision(views[0]):
        loss, terms, saved = closed_vicreg.forward(views, _three(weights), margin, epsilon)
    return loss, terms, list(saved)


@vicreg_op.register_fake
def _(views: Sequence[Tensor], weights: Sequence[float], margin: float, epsilon: float) -> tuple[Tensor, Tensor, list[Tensor]]:
    dtype = accumulation_dtype(views[0].dtype)
    saved = closed_vicreg.saved_shapes(views[0].device.type, views[0].dtype, len(views), *views[0].shape)
    loss, terms, *parts = [views[0].new_empty(shape, dtype=kind) for shape, kind in [((), dtype), ((3,), dtype), *saved]]
    return loss, terms, parts


@torch.library.custom_op(
    "it_losses::vicreg_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor[] views, Tensor[] saved, float[] weights) -> Tensor",
)
def vicreg_backward_op(grad: Tensor, views: Sequence[Tensor], saved: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Gradient of the views: [V, groups, batch, dim]."""
    with full_precision(views[0]):
        return closed_vicreg.backward(grad, views, saved, _three(weights))


@vicreg_backward_op.register_fake
def _(grad: Tensor, views: Sequence[Tensor], saved: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return views[0].new_empty(len(views), *views[0].shape)


def _save_vicreg(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, list[Tensor]]) -> None:
    views, ctx.weights = inputs[:2]
    ctx.count = len(views)
    ctx.save_for_backward(*views, *output[2])
    ctx.set_materialize_grads(False)


def _vicreg_gradients(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:
        return [None] * ctx.count, None, None, None
    tensors = ctx.saved_tensors
    views, saved = tensors[: ctx.count], tensors[ctx.count :]
    return list(vicreg_backward_op(grad, list(views), list(saved), ctx.weights).unbind()), None, None, None


vicreg_op.register_autograd(_vicreg_gradients, setup_context=_save_vicreg)


def _three(weights: Sequence[float]) -> Weights:
    return weights[0], weights[1], weights[2]


class LogDet(torch.autograd.Function):
    """Value [...] of samples [..., batch, dim]."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: float) -> Tensor:
        """Value, and what backward will need."""
        with full_precision(z):
            value, saved = closed_log_det.forward(grouped(z), scale)
        ctx.save_for_backward(z, *saved)
        ctx.scale = scale
        # memory of its own: what is a view may not be changed in place
        return value.view(z.shape[:-2]).clone()

    @staticmethod
    @_once
    def backward(ctx: Any, saved: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, None]:
        """Gradient of the samples."""
        z, *parts = saved
        with full_precision(z):
            gradient = closed_log_det.backward(grad.reshape(-1), grouped(z), closed_log_det.Saved(*parts), ctx.scale)
        return gradient.view(z.shape), None


@torch.library.custom_op("it_losses::log_det", mutates_args=(), schema="(Tensor z, float scale) -> (Tensor, Tensor, Tensor)")
def log_det_op(z: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Value, and the two parts of Saved."""
    with full_precision(z):
        value, saved = closed_log_det.forward(z, scale)
    return value, *saved


@log_det_op.register_fake
def _(z: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    groups, batch, dim = z.shape
    side = batch if closed_log_det.uses_gram(batch, dim) else dim
    dtype = accumulation_dtype(z.dtype)
    # the factor comes from LAPACK column by column
    factor = z.new_empty(groups, side, side, dtype=dtype).mT
    middle = z.new_empty(groups, batch if closed_log_det.keeps(z) else 1, dim, dtype=dtype)
    return z.new_empty(groups, dtype=dtype), middle, factor


@torch.library.custom_op(
    "it_losses::log_det_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor z, Tensor middle, Tensor factor, float scale) -> Tensor",
)
def log_det_backward_op(grad: Tensor, z: Tensor, middle: Tensor, factor: Tensor, scale: float) -> Tensor:
    """Gradient of z."""
    with full_precision(z):
        return closed_log_det.backward(grad, z, closed_log_det.Saved(middle, factor), scale)


@log_det_backward_op.register_fake
def _(grad: Tensor, z: Tensor, middle: Tensor, factor: Tensor, scale: float) -> Tensor:
    return z.new_empty(z.shape)


def _save_log_det(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z, ctx.scale = inputs
    ctx.save_for_backward(z, *output[1:])
    ctx.set_materialize_grads(False)


def _log_det_gradient(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, None]:
    return None if grad is None else log_det_backward_op(grad, *ctx.saved_tensors, ctx.scale), None


log_det_op.register_autograd(_log_det_gradient, setup_context=_save_log_det)


class Pairwise(torch.autograd.Function):
    """Values [K, ...] of samples [..., batch, dim] at scales [K, groups]."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, scales: Tensor, memory_bytes: int) -> Tensor:
        """Value, and what backward will need."""
        with full_precision(z):
            value, saved = closed_pairwise.forward(grouped(z), scales, memory_bytes)
        ctx.save_for_backward(z, scales, *saved)
        ctx.memory_bytes = memory_bytes
        # memory of its own: what is a view may not be changed in place
        return value.view(len(scales), *z.shape[:-2]).clone()

    @staticmethod
    @_once
    def backward(ctx: Any, saved: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of the samples."""
        z, scales, *parts = saved
        with full_precision(z):
            gradient = closed_pairwise.backward(
                grad.reshape(scales.shape), grouped(z), scales, closed_pairwise.Saved(*parts), ctx.memory_bytes
            )
        return gradient.view(z.shape), None, None


@torch.library.custom_op(
    "it_losses::pairwise",
    mutates_args=(),
    schema="(Tensor z, Tensor scales, int memory_bytes) -> (Tensor, Tensor, Tensor, Tensor)",
)
def pairwise_op(z: Tensor, scales: Tensor, memory_bytes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values, and the three parts of Saved."""
    with full_precision(z):
        value, saved = closed_pairwise.forward(z, scales, memory_bytes)
    return value, *saved


@pairwise_op.register_fake
def _(z: Tensor, scales: Tensor, memory_bytes: int) -> tuple[Tensor, ...]:
    dtype = accumulation_dtype(z.dtype)
    shapes = [(len(scales), z.shape[0]), *closed_pairwise.saved_shapes(z, len(scales), memory_bytes)]
    return tuple(z.new_empty(shape, dtype=dtype) for shape in shapes)


@torch.library.custom_op(
    "it_losses::pairwise_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor z, Tensor scales, Tensor[] saved, int memory_bytes) -> Tensor",
)
def pairwise_backward_op(grad: Tensor, z: Tensor, scales: Tensor, saved: Sequence[Tensor], memory_bytes: int) -> Tensor:
    """Gradient of z."""
    with full_precision(z):
        return closed_pairwise.backward(grad, z, scales, closed_pairwise.Saved(*saved), memory_bytes)


@pairwise_backward_op.register_fake
def _(grad: Tensor, z: Tensor, scales: Tensor, saved: Sequence[Tensor], memory_bytes: int) -> Tensor:
    return z.new_empty(z.shape)


def _save_pairwise(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z, scales, ctx.memory_bytes = inputs
    ctx.save_for_backward(z, scales, *output[1:])
    ctx.set_materialize_grads(False)


def _pairwise_gradient(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, None, None]:
    if grad is None:
        return None, None, None
    z, scales, *saved = ctx.saved_tensors
    return pairwise_backward_op(grad, z, scales, saved, ctx.memory_bytes), None, None


pairwise_op.register_autograd(_pairwise_gradient, setup_context=_save_pairwise)
