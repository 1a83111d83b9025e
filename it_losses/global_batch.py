"""The loss of the global batch on every rank, with the gradient that makes training that of one process.

Where an entropy has a form for many ranks (`kernels.sharded`) each rank computes its share of it, `shared_loss`; any other gets
the samples of all ranks, `gathered`.

Every rank evaluates the same loss L, so dL/dz of its own samples needs no word from the others in the backward pass. DDP and
FSDP then take the mean over W ranks of the gradients of parameters, which are sums over samples: dL/dz is returned W times.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from it_losses.distributed import DistributedOptions, check_ranks_agree
from it_losses.kernels import sharded
from it_losses.kernels.sharded_ranks import Layout
from it_losses.precision import full_precision

#: "rows" or "covariance" overrides `kernels.sharded_ranks.Form.cheaper`; the same on all ranks
LAYOUT_VARIABLE = "IT_LOSSES_LAYOUT"


def shared_loss(
    views: Sequence[Tensor],
    form: str,
    constants: Sequence[float],
    *,
    weights: tuple[float, float],
    distributed: DistributedOptions,
) -> tuple[Tensor, Tensor]:
    """`weights[0] * invariance - weights[1] * entropy` [] of the global batch, and (invariance, entropy, *parts) for logging.

    V x [n, ..., dim], the entropy by the name of its form.
    """
    _, group, reduction = distributed
    loss, terms, _ = _shared_loss(list(views), form, list(constants), list(weights), group, reduction)
    return loss, terms.detach()


@torch.library.custom_op(
    "it_losses::shared_loss",
    mutates_args=(),
    # spelled out: older torch cannot read a schema from postponed annotations
    schema=(
        "(Tensor[] views, str form, float[] constants, float[] weights, str group, str reduction) -> (Tensor, Tensor, Tensor)"
    ),
)
def _shared_loss(
    views: Sequence[Tensor], form: str, constants: Sequence[float], weights: Sequence[float], group: str, reduction: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [], terms [2 + parts], gradient [V, n, ..., dim] in full precision: an op, so that compilers see no collective."""
    with full_precision(views[0]):
        asked = os.environ.get(LAYOUT_VARIABLE, "auto")
        ranks = check_ranks_agree(views, group, objective=(form, *constants, *weights, asked))
        evaluate = layout(form, ranks.samples, views[0].shape[-1], asked)
        flat = [z.flatten(1, -2) if z.ndim > 2 else z[:, None] for z in views]
        terms, gradient = sharded.loss(evaluate, flat, ranks, (weights[0], weights[1]), constants)
        if reduction == "mean":
            gradient.mul_(ranks.world)
        return terms[0].clone(), terms[1:].clone(), gradient.view(len(views), *views[0].shape)


@_shared_loss.register_fake
def _(views, form, constants, weights, group, reduction):  # type: ignore[no-untyped-def]
    dtype = torch.promote_types(views[0].dtype, torch.float32)
    terms = 2 + sharded.FORMS[form].parts
    shapes = (), (terms,), (len(views), *views[0].shape)
    return tuple(views[0].new_empty(shape, dtype=dtype) for shape in shapes)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.dtype, ctx.others = inputs[0][0].dtype, len(inputs) - 1
    ctx.save_for_backward(output[2])


def _backward(ctx: Any, grad: Tensor | None, grad_terms: None, grad_gradient: Tensor | None) -> tuple[Any, ...]:
    if grad_gradient is not None:
        raise RuntimeError("the loss of several ranks has no second derivative. Use gather_distributed=False for one.")
    (gradient,) = ctx.saved_tensors
    # scaled before it is rounded: in half precision a bare gradient would underflow
    own = [None] * len(gradient) if grad is None else list((gradient * grad).to(ctx.dtype).unbind())
    return own, *[None] * ctx.others


_shared_loss.register_autograd(_backward, setup_context=_save)


def gathered(views: Sequence[Tensor], distributed: DistributedOptions) -> list[Tensor]:
    """The views with the samples of all ranks, for an entropy that has no form of its own: V x [n, ...] -> V x [samples, ...].

    Every rank then repeats the whole computation; the backward pass takes the rows of this rank.
    """
    if not torch.compiler.is_compiling():
        return list(_Gather.apply(distributed, *views))
    # no decorator: to disable the compiler at import is to import it
    return list(torch.compiler.disable(_Gather.apply)(distributed, *views))  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distributed: DistributedOptions, *views: Tensor) -> tuple[Tensor, ...]:
        ranks = check_ranks_agree(views, distributed.process_group, objective=())
        ctx.own, ctx.factor = ranks.own, ranks.world if distributed.gradient_reduction == "mean" else 1
        return tuple(ranks.gathered(views))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(gradient[ctx.own] * ctx.factor for gradient in gradients)


def layout(form: str, samples: int, dim: int, asked: str = "auto") -> Layout:
    """How a form is spread over the ranks of that global batch: the cheaper layout, or the one asked for where there is one."""
    if asked not in ("auto", "rows", "covariance"):
        raise ValueError(f'{LAYOUT_VARIABLE} must be "auto", "rows" or "covariance", got {asked!r}.')
    chosen = sharded.FORMS[form]
    if asked == "auto":
        asked = chosen.cheaper(samples, dim)
    return chosen.covariance if asked == "covariance" and chosen.covariance else chosen.rows
