"""The ranks that share one batch: how many samples each rank has, and their collectives.

Before any other collective, the ranks exchange the shapes of their views (`check_ranks_agree`). Ranks may hold different
numbers of samples. If anything else differs, every rank raises an error instead of hanging. The exchange is a small message
between CPUs, so it does not wait for a GPU.
"""

import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from it_losses.checks import ViewError, check_flag, check_views

_DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
#: `dist.is_initialized`; without distributed support `bool`, because `bool()` is False
is_initialized: Callable[[], bool] = dist.is_initialized if dist.is_available() else bool
#: numbers that a rank sends instead of its shapes if its views are invalid
_REFUSED = (0, 0, 0, 0, 0, 0)
#: bytes of the text in which a rank describes its objective if ranks disagree
_LONGEST = 400
#: the criterion or estimator that runs, for error messages; "" in compiled code, which cannot set it
_evaluated: ContextVar[object] = ContextVar("evaluated", default="")
_cpu_groups: weakref.WeakKeyDictionary[dist.ProcessGroup, dist.ProcessGroup] = weakref.WeakKeyDictionary()


class DistributedOptions(NamedTuple):
    """Which ranks share one batch, and how the training loop combines their gradients."""

    #: whether the loss is computed from the samples of all ranks
    gather_distributed: bool = False
    #: name of the process group that shares one batch; "" for all ranks
    process_group: str = ""
    #: "mean" (DDP, FSDP) or "sum"
    gradient_reduction: str = "mean"

    def is_active(self) -> bool:
        """Whether there may be other ranks. Process groups can change, so call this in every forward pass."""
        return self.gather_distributed and is_initialized() and (bool(self.process_group) or dist.get_world_size() > 1)


#: options for a loss of the samples of this process alone
LOCAL = DistributedOptions()


def distributed_options(gather_distributed: bool, process_group: object, gradient_reduction: str) -> DistributedOptions:
    """The options, or ValueError. A process group is stored by its name, because a name can be copied and pickled."""
    if gradient_reduction not in ("mean", "sum"):
        raise ValueError(f'gradient_reduction must be "mean" (DDP, FSDP) or "sum", got {gradient_reduction!r}.')
    if process_group is not None and not isinstance(process_group, str):
        if not isinstance(process_group, dist.ProcessGroup):
            hint = " Pass mesh.get_group()." if hasattr(process_group, "get_group") else ""
            raise ValueError(f"process_group must be a process group that contains this rank, got {process_group!r}.{hint}")
        process_group = process_group.group_name
    return DistributedOptions(check_flag("gather_distributed", gather_distributed), process_group or "", gradient_reduction)


@contextmanager
def evaluating(objective: object) -> Iterator[None]:
    """Inside the context, errors of collectives name this criterion or estimator."""
    token = _evaluated.set(objective)
    try:
        yield
    finally:
        _evaluated.reset(token)


class Ranks:
    """The ranks that share one batch, with their collectives; see `kernels.batch.Ranks`."""

    def __init__(self, group: dist.ProcessGroup, rows: Sequence[int], objective: str = "") -> None:
        self._group, self._rows, self._objective = group, tuple(rows), objective
        start = sum(self._rows[: group.rank()])
        self.samples = sum(self._rows)
        self.world = group.size()
        self.own = slice(start, start + self._rows[group.rank()])

    def summed(self, own: Tensor) -> Tensor:
        """All-reduce: the sum over all ranks."""
        total = own.clone(memory_format=torch.contiguous_format)
        with explained(self._group, self._objective):
            dist.all_reduce(total, group=self._group)
        return total

    def gathered(self, own: Tensor) -> Tensor:
        """All-gather the rows of all ranks, in rank order: [n, ...] -> [samples, ...]."""
        largest = max(self._rows)
        if len(own) < largest:
            # all ranks must send equal sizes, so a smaller tensor is padded
            own = torch.cat((own, own.new_zeros(largest - len(own), *own.shape[1:])))
        all_ranks = own.new_empty(len(self._rows) * largest, *own.shape[1:])
        with explained(self._group, self._objective):
            all_gather_single(all_ranks, own.contiguous(), group=self._group)
        if len(all_ranks) == self.samples:
            return all_ranks
        return torch.cat([part[:n] for part, n in zip(torch.split(all_ranks, largest), self._rows, strict=True)])


def all_gather_single(out: Tensor, own: Tensor, *, group: dist.ProcessGroup | None = None) -> None:
    """All-gather into one tensor. The function has another name in newer versions of torch."""
    newest = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    newest(out, own, group=group)


@contextmanager
def explained(group: dist.ProcessGroup, objective: str) -> Iterator[None]:
    """If a collective fails or times out, raise an error that names the objective and a remedy."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"rank {group.rank()} of {group.size()} failed in a collective while it evaluated {objective or 'a criterion'} "
            f"for the batch of all ranks: {str(error).splitlines()[0]}. Every rank must call the criterion as often as "
            "the others. Give all ranks the same number of batches (drop_last=True, a DistributedSampler), or pass "
            "gather_distributed=False. If another rank failed first, see its error message."
        ) from error


def process_group(name: str) -> dist.ProcessGroup:
    """The process group of that name ("" for all ranks); ValueError if there is none on this rank."""
    if not name:
        return dist.distributed_c10d._get_default_group()
    try:
        return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined, arg-type]
    except (LookupError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"no process group is named {name!r} on this rank. Create it before the first forward pass."
        ) from error


def check_ranks_agree(views: Sequence[Tensor], group_name: str, *, objective: tuple[object, ...]) -> Ranks:
    """The ranks that share the batch; ViewError on every rank if anything but the number of samples differs between ranks."""
    group = process_group(group_name)
    traits, refusal = _traits(views, objective)
    evaluated = _evaluated.get() or str(objective[0])
    name = evaluated if isinstance(evaluated, str) else type(evaluated).__name__
    with explained(group, name):
        all_ranks = gather_sizes(traits, group)
    if refusal is not None:
        raise refusal
    refused = [rank for rank, (rows, *_) in enumerate(all_ranks) if rows == 0]
    if refused:
        raise ViewError(f"ranks {refused} of the group raised an error before the loss was computed. See their error messages.")
    if any(row[1:] != all_ranks[0][1:] for row in all_ranks):
        named = _gather_text(f"{evaluated} with constants and weights {objective[1:]}", group)
        brought = [
            f"rank {rank}: {v} views of shape [samples, groups, dim] = [{n}, {g}, {d}], {_DTYPES[t]}, objective {named[rank]}"
            for rank, (n, v, g, d, t, _) in enumerate(all_ranks)
        ]
        raise ViewError(
            "all ranks must call the same objective with the same number of views, groups, dim and dtype, but they differ:\n"
            + "\n".join(brought)
            + "\nBuild the same model and criterion on every rank, with the same IT_LOSSES_BACKEND, and set its constants at "
            "the same step."
        )
    rows = [row[0] for row in all_ranks]
    if sum(rows) < 2:
        raise ViewError(f"the objective needs a global batch size > 1 for its statistics, got {rows} samples on the ranks.")
    return Ranks(group, rows, name)


def tell_ranks_of_refusal(distributed: DistributedOptions) -> None:
    """Tell the other ranks that this rank raises an error, so that they raise an error too instead of waiting."""
    if not distributed.is_active():
        return
    group = process_group(distributed.process_group)
    with explained(group, ""):
        gather_sizes(_REFUSED, group)


def gathered_views(
    views: Sequence[Tensor], distributed: DistributedOptions, objective: object, *settings: object
) -> Sequence[Tensor]:
    """All-gather the views for the reference implementation: V x [n, ..., dim] -> V x [samples, ..., dim].

    Every rank then repeats the whole computation. The backward pass returns the gradient of the rows of this rank. All ranks
    must pass the same `objective` (an estimator or a name) and `settings`.
    """
    if not distributed.is_active():
        return views
    if torch._C._are_functorch_transforms_active():
        # older versions of torch would wrap the exchanged sizes in tensors of the transform
        with torch._C._DisableFuncTorch():
            tell_ranks_of_refusal(distributed)
        raise RuntimeError("torch.func transforms cannot gather the samples of other ranks. Pass gather_distributed=False.")
    if not torch.compiler.is_compiling():
        return list(_Gather.apply(distributed, (objective, *settings), *views))
    # not a decorator, which would import the compiler together with this file
    return list(torch.compiler.disable(_Gather.apply)(distributed, (objective, *settings), *views))  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distributed: DistributedOptions, objective: tuple[object, ...], *views: Tensor) -> tuple[Tensor, ...]:
        ranks = check_ranks_agree(views, distributed.process_group, objective=_named(*objective))
        # the backward pass multiplies by the number of ranks, because DDP divides by it
        ctx.own, ctx.world = ranks.own, ranks.world
        return tuple(ranks.gathered(z) for z in views)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("losses of several ranks have no second derivative. Pass gather_distributed=False.")
        return None, None, *(gradient[ctx.own] * ctx.world for gradient in gradients)


def _named(objective: object, *settings: object) -> tuple[object, ...]:
    """Name, constants and settings of an objective, without trainable weights, which ranks may round differently."""
    name = objective if isinstance(objective, str) else type(objective).__name__
    constants: dict[str, object] = getattr(objective, "fixed_constants", dict)()
    return name, *_alike(constants.items()), *_alike(value for value in settings if not isinstance(value, Tensor))


def _alike(values: Iterable[object]) -> Iterator[object]:
    """The values. An object such as a function is replaced by its type name, because its repr differs between ranks."""
    for value in values:
        plain = value is None or isinstance(value, bool | int | float | str)
        yield tuple(_alike(value)) if isinstance(value, tuple | list) else value if plain else type(value).__qualname__


def _traits(views: Sequence[Tensor], objective: tuple[object, ...]) -> tuple[list[int], Exception | None]:
    """(samples, views, groups, dim, dtype, objective) of this rank as numbers; for invalid views zeros, and the error."""
    try:
        check_views(views, min_batch=1)
        stamp = zlib.crc32(repr(objective).encode())
        dtype = _DTYPES.index(views[0].dtype)
    except ValueError as error:
        # raise the error after the exchange, because the other ranks wait for this rank
        return list(_REFUSED), error
    return [len(views[0]), len(views), views[0][0, ..., 0].numel(), views[0].shape[-1], dtype, stamp], None


def gather_sizes(numbers: Sequence[int], group: dist.ProcessGroup) -> list[list[int]]:
    """All-gather numbers on the CPU: a list for each rank, in rank order."""
    mine = torch.tensor(numbers, device="cpu")
    all_ranks = mine.new_empty(group.size() * len(mine))
    all_gather_single(all_ranks, mine, group=cpu_group(group))
    return all_ranks.view(group.size(), -1).tolist()


def _gather_text(text: str, group: dist.ProcessGroup) -> list[str]:
    """All-gather the beginning of a text on the CPU: a text for each rank, in rank order."""
    own = text.encode()[:_LONGEST].ljust(_LONGEST)
    return [bytes(numbers).decode(errors="replace").strip() for numbers in gather_sizes(list(own), group)]


def cpu_group(group: dist.ProcessGroup) -> dist.ProcessGroup:
    """The group if it can send CPU tensors, else a gloo group of the same ranks."""
    if "cpu" in dist.get_backend_config(group):
        return group
    if group not in _cpu_groups:
        ranks = dist.get_process_group_ranks(group)
        gloo_group = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)
        assert isinstance(gloo_group, dist.ProcessGroup)
        _cpu_groups[group] = gloo_group
    return _cpu_groups[group]
