"""The loss `weights[0] * invariance - weights[1] * entropy` as one operator, whose forward pass also computes the gradient.

The backward pass multiplies this gradient by the upstream gradient and rounds it to the dtype of the views. Eager code calls an
autograd.Function. Compiled code calls a custom op of torch.library, which would add 100 us to each eager call.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from it_losses.distributed import check_ranks_agree
from it_losses.kernels import dispatch, vicreg
from it_losses.kernels.batch import Batch, Evaluation, Request, SingleRank
from it_losses.kernels.normalize import normalized
from it_losses.precision import accumulation_dtype, full_precision, gradient_dtype

#: value of `group` for a loss of this process alone ("" is the group of all ranks)
NO_GROUP = "-"


def loss(
    views: Sequence[Tensor],
    fused: str,
    constants: Sequence[float],
    weights: Sequence[float],
    *,
    normalize: str | None = None,
    likelihood: str = "gaussian",
    group: str = NO_GROUP,
    reduction: str = "mean",
    draw: int | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss [] with a gradient, and (invariance, entropy, *parts) [2 + k] for logging, from V views [n, ..., dim].

    The loss is `weights[0] * invariance - weights[1] * entropy` of the batch of all ranks in `group`. With one weight it is
    `-weights[0] * entropy`, and the invariance is 0. `fused` names a module of this folder. If it is "", the entropy is 0.
    The views are first normalized by `normalize`. `reduction` is how the training loop combines the gradients
    of the ranks, "mean" or "sum". For a random entropy, `draw` is the number of the draw; it becomes the last constant.
    """
    needs_gradient = torch.is_grad_enabled() and any(z.requires_grad for z in views)
    # not [], because torch treats an empty list as tensors that need gradients
    arguments = fused, list(constants) or [0.0], list(weights), normalize, likelihood, group, reduction
    # tensor subclasses, such as FakeTensor, must go through the registered op
    if torch.compiler.is_compiling() or type(views[0]) not in (Tensor, torch.nn.Parameter):
        value, terms, _ = _op(list(views), *arguments, needs_gradient, None if draw is None else torch.as_tensor(draw))
        return value, terms.detach()
    if not needs_gradient:
        value, terms, _ = evaluate(views, *arguments, False, draw)
        return value, terms
    value, terms, _ = _Evaluate.apply(*arguments, draw, *views)
    return value, terms


def evaluate(
    views: Sequence[Tensor],
    fused: str,
    constants: Sequence[float],
    weights: Sequence[float],
    normalize: str | None,
    likelihood: str,
    group: str,
    reduction: str,
    gradient: bool,
    draw: int | Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [], terms [2 + k], and the gradient [V groups, n, dim] in `gradient_dtype` (empty if not `gradient`)."""
    if draw is not None:
        constants = [*constants, float(draw)]
    # kernels run on the current device, which may not be that of the views
    device = torch.cuda.device(views[0].device) if views[0].is_cuda else nullcontext()
    with full_precision(views[0]), device:
        objective = (fused, *constants, *weights, normalize, likelihood)
        ranks = SingleRank(views[0].shape[0]) if group == NO_GROUP else check_ranks_agree(views, group, objective=objective)
        batch = Batch([_grouped(z) for z in views], ranks)
        if dispatch.takes_published_order(fused, batch, normalize, len(weights)):
            return vicreg.evaluate_tiny(batch.own, constants, weights, gradient)
        # the derivative of standardised columns has a collective, so a rank that needs no gradient takes part too
        forms_gradient = gradient or (normalize not in (None, "rows") and ranks.world > 1)
        derivative = None
        if normalize is not None:
            # unit vectors stay in float32, because removing the radial part of the gradient amplifies rounding errors
            may_round = not fused or getattr(dispatch.module_named(fused), "ROUNDS_SAMPLES", True)
            batch, derivative = normalized(batch, normalize, rounded=normalize != "rows" and may_round)
        loss, terms, formed = _evaluate(fused, batch, constants, weights, likelihood, forms_gradient)
        if derivative is not None and formed is not None:
            formed = derivative(formed).to(gradient_dtype(views[0]))
        if formed is None or not gradient:
            return loss, terms, loss.new_empty(0)
        if ranks.world > 1 and reduction == "mean":
            # DDP and FSDP will divide by the number of ranks
            formed.mul_(ranks.world)
        return loss, terms, formed


def _evaluate(
    fused: str, batch: Batch, constants: Sequence[float], weights: Sequence[float], likelihood: str, gradient: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    # the invariance is the mean over view pairs, groups and samples, and for a Gaussian likelihood also over dimensions
    distance_scale = 1 / (max(len(batch.own) - 1, 1) * batch.groups * batch.samples)
    distance_scale *= 0.5 if likelihood == "von_mises_fisher" else 1 / batch.dim
    *invariance_weight, entropy_weight = weights
    difference_weight = 2 * distance_scale * invariance_weight[0] if invariance_weight else None
    result = _result(fused, batch, constants, Request(difference_weight, entropy_weight, gradient))
    if not invariance_weight:
        return -entropy_weight * result.entropy, torch.stack((result.distance, result.entropy, *result.parts)), result.gradient
    invariance = batch.ranks.summed(result.distance).mul_(distance_scale)
    loss = (invariance_weight[0] * invariance).sub_(result.entropy, alpha=entropy_weight)
    return loss, torch.stack((invariance, result.entropy, *result.parts)), result.gradient


def _result(fused: str, batch: Batch, constants: Sequence[float], request: Request) -> Evaluation:
    device = batch.own[0].device.type
    if fused:
        module = dispatch.module_named(fused)
        plan = dispatch.plan(module, device, samples=batch.samples, dim=batch.dim, world=batch.ranks.world)
        result: Evaluation = module.evaluate(batch, plan, constants, request)
        return result
    products = dispatch.products_named(device)
    gradient = products.empty_gradient(batch) if request.needs_gradient else None
    distance = products.distance(batch, request.difference_weight, out=gradient)
    return Evaluation(torch.zeros_like(distance), (), distance, gradient)


def _grouped(z: Tensor) -> Tensor:
    """Put groups first: [n, ..., dim] -> [groups, n, dim]."""
    return z.unsqueeze(0) if z.ndim == 2 else z.flatten(1, -2).movedim(1, 0)


def _save(ctx: Any, view: Tensor, gradient: Tensor) -> None:
    ctx.set_materialize_grads(False)
    ctx.dtype, ctx.shape = view.dtype, view.shape
    # the op also returns the gradient, so that a double backward reaches `_gradients`, which raises an error
    ctx.save_for_backward(gradient)


def _gradients(ctx: Any, upstream: Tensor | None, of_gradient: Tensor | None, overwrite: bool = False) -> list[Tensor | None]:
    """Gradients of the views, V x [n, ..., dim]. With `overwrite` they use the memory of the saved gradient."""
    if of_gradient is not None:
        raise RuntimeError("fused losses have no second derivative. Set IT_LOSSES_BACKEND=reference.")
    (gradient,) = ctx.saved_tensors
    n, *groups, dim = ctx.shape
    if upstream is None:
        return [None] * (len(gradient) // math.prod(groups))
    # multiply before rounding: without the loss scale in `upstream`, the gradient could underflow in float16
    # in place only if `to` makes no copy: if a copy failed, a retry of backward would multiply a second time
    multiplied = gradient.detach().mul_ if overwrite and gradient.dtype == ctx.dtype else gradient.mul
    scaled = multiplied(upstream).to(ctx.dtype)
    return [g.movedim(-2, 0) for g in scaled.view(-1, *groups, n, dim)] if groups else list(scaled.unbind())


def _is_last_read(upstream: Tensor | None) -> bool:
    """Whether this is the last read of the gradient: backward frees the graph, and is not compiled, captured or batched."""
    if upstream is None or torch.compiler.is_compiling() or (upstream.is_cuda and torch.cuda.is_current_stream_capturing()):
        return False
    try:
        is_batch = torch._C._are_functorch_transforms_active() or torch._C._functorch.is_legacy_batchedtensor(upstream)
        return not (is_batch or torch._C._autograd._get_current_graph_task_keep_graph())
    except AttributeError:
        return False  # this version of torch cannot tell


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        fused: str,
        constants: Sequence[float],
        weights: Sequence[float],
        normalize: str | None,
        likelihood: str,
        group: str,
        reduction: str,
        draw: int | Tensor | None,
        *views: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        value, terms, gradient = evaluate(views, fused, constants, weights, normalize, likelihood, group, reduction, True, draw)
        _save(ctx, views[0], gradient)
        ctx.mark_non_differentiable(terms)
        return value, terms, gradient

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, _: None, of_gradient: Tensor | None) -> tuple[Any, ...]:
        return *[None] * 8, *_gradients(ctx, upstream, of_gradient, overwrite=_is_last_read(upstream))


_op = torch.library.custom_op(
    "it_losses::evaluate",
    evaluate,
    mutates_args=(),
    # explicit, because older versions of torch cannot infer it from string annotations
    schema="(Tensor[] views, str fused, float[] constants, float[] weights, str? normalize, str likelihood, str group,"
    " str reduction, bool gradient, Tensor? draw) -> (Tensor, Tensor, Tensor)",
)


@_op.register_fake
def _(views, fused, constants, weights, normalize, likelihood, group, reduction, gradient, draw):  # type: ignore[no-untyped-def]
    n, *groups, dim = views[0].shape
    parts = dispatch.module_named(fused).PARTS if fused else 0
    value, terms = (views[0].new_empty(shape, dtype=accumulation_dtype(views[0].dtype)) for shape in ((), (2 + parts,)))
    shape = (len(views) * math.prod(groups), n, dim) if gradient else (0,)
    return value, terms, views[0].new_empty(shape, dtype=gradient_dtype(views[0]) if gradient else value.dtype)


_op.register_autograd(
    lambda ctx, upstream, _, of_gradient: (_gradients(ctx, upstream, of_gradient), *[None] * 9),
    setup_context=lambda ctx, inputs, output: _save(ctx, inputs[0][0], output[2]),
)
