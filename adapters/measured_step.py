"""MeasuredStep records the embeddings and the terms of the criteria in one training step, for EmbeddingMonitor."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from it_losses import EntropyRegularizer, LogDet, VICReg, VICRegEntropy
from it_losses.observe import add_observer, can_be_seen

CRITERIA = (VICReg, VICRegEntropy, EntropyRegularizer)
#: the projector in solo-learn and stable-pretraining; the one in lightly
PROJECTORS = ("projector", "projection_head")
#: at most this many calls of a criterion or outputs of a module are recorded; optimizer closures may make more
MOST_CALLS = 8


class MeasuredStep:
    """Records embeddings, and the terms of criteria, from its construction to `close()`.

    Its forward hooks do nothing in copies and pickles of the modules. Garbage collection closes the object too.

    Args:
        root: the module to observe.
        module_name: the submodule whose outputs are the embeddings; None: see `embeddings`.
        rows: the largest number of rows kept for each name, spread evenly over its views and the batch.
    """

    def __init__(self, root: nn.Module, module_name: str | None, rows: int) -> None:
        modules = dict(root.named_modules())
        self.module_name, self.rows = module_name, rows
        self.terms: dict[str, dict[str, Tensor]] = {}
        self.betas: dict[str, float] = {}
        self.unreadable: str | None = None
        self._taken: dict[str, list[Tensor]] = {}
        self._made: dict[str, list[Tensor]] = {}
        # torch.compile(module) wraps the module as the submodule `_orig_mod`
        self._names = {module: name.replace("._orig_mod", "") for name, module in modules.items()}
        criteria = [name for name, module in modules.items() if isinstance(module, CRITERIA)]
        projectors = (
            # a ScriptModule accepts no hook
            [name for name in PROJECTORS if name in modules and not isinstance(modules[name], torch.jit.ScriptModule)]
            if module_name is None
            else [_existing(module_name, modules)]
        )
        self._has_criteria = bool(criteria)
        #: whether there is a criterion or module to observe
        self.can_see = bool(projectors or criteria)
        handles = [modules[name].register_forward_hook(HookOf(self._made_by)) for name in projectors]
        compiled = [name.removesuffix("._orig_mod") for name in criteria if name.endswith("._orig_mod")]
        handles += [modules[name].register_forward_hook(HookOf(self._compiled_call), with_kwargs=True) for name in compiled]
        self.close = weakref.finalize(self, _close, handles, add_observer(self))
        self.close.atexit = False

    @property
    def embeddings(self) -> dict[str, list[Tensor]]:
        """The recorded views [rows, dim] with at least two rows, by name of the criterion or module.

        They are the outputs of `module_name`. Without a name they are the views of criteria, or the outputs of projectors if no
        criterion was called.
        """
        chosen = self._made if self.module_name is not None else self._taken or self._made
        chosen = {name: views for name, views in chosen.items() if views}
        most = {name: max(self.rows // len(views), 2) for name, views in chosen.items()}
        return {name: [z if len(z) <= most[name] else _evenly(z, most[name]) for z in views] for name, views in chosen.items()}

    def called(self, module: nn.Module, views: Sequence[Tensor], terms: Mapping[str, Tensor]) -> None:
        """Record the views and terms of one call of a criterion."""
        if self.close.alive and isinstance(module, CRITERIA):
            self._keep_call(module, views, terms)

    def _compiled_call(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], loss: Tensor) -> None:
        """Record a call of a compiled criterion, which does not notify observers."""
        views = [z for z in (*arguments, *named.values()) if isinstance(z, Tensor)]
        self._keep_call(module._orig_mod, views, {"loss": loss})  # type: ignore[arg-type]

    def _keep_call(self, module: nn.Module, views: Sequence[Tensor], terms: Mapping[str, Tensor]) -> None:
        # a criterion outside the module tree, such as in a list, gets the name of its class
        name = self._names.get(module) or type(module).__name__
        calls = (name, *(f"{name}-{call}" for call in range(2, MOST_CALLS + 1)))
        free = next((call for call in calls if call not in self.terms), None)
        if free is None:
            return
        self.terms[free] = {term: value.detach() for term, value in terms.items()}
        estimator = getattr(module, "entropy", None)
        if isinstance(estimator, LogDet):
            self.betas[free] = float(estimator.beta)
        self._taken[free] = [_mean_over_groups(_evenly(z, self.rows)) for z in views if len(z) > 1]

    def _made_by(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        name = self._names[module]
        views = list(output) if isinstance(output, list | tuple) else [output]
        why = _why_unreadable(views)
        if why is not None:
            if self.module_name is None and self._has_criteria:
                return
            self.unreadable = f"{name!r} {why} Name a submodule that returns embeddings [batch, dim]."
            return
        made = self._made.setdefault(name, [])
        made += [_mean_over_positions(_evenly(z, self.rows)) for z in views[: MOST_CALLS - len(made)] if len(z) > 1]


class HookOf:
    """A forward hook that calls a method as long as its object exists. In a copy of the module it does nothing."""

    def __init__(self, method: Callable[..., None]) -> None:
        self._method = weakref.WeakMethod(method)

    def __call__(self, module: nn.Module, *call: Any) -> None:
        """Call the method with the arguments of the hook."""
        if not can_be_seen():
            return
        method = self._method()
        if method is not None:
            method(module, *call)

    def __reduce__(self) -> tuple[Any, ...]:
        return _hook_of_a_copy, ()


def _hook_of_a_copy() -> Callable[..., None]:
    return _nothing


def _nothing(*call: Any) -> None:
    pass


def _existing(name: str, modules: Mapping[str, nn.Module]) -> str:
    if name not in modules:
        children = [child for child in modules if child and "." not in child]
        raise ValueError(f"nothing to measure, because the module has no submodule {name!r}. It has {children}.")
    if isinstance(modules[name], CRITERIA):
        raise ValueError(
            f"{name!r} is a criterion, which returns a loss and no embeddings. Leave the name out to measure the views of "
            "criteria, or name the module that returns embeddings."
        )
    return name


def _close(handles: Sequence[Any], stop_notifying: Callable[[], None]) -> None:
    stop_notifying()
    for handle in handles:
        handle.remove()


def _why_unreadable(views: Sequence[Any]) -> str | None:
    """The reason why outputs are not views [batch, ...] of one shape; None if they are."""
    for z in views:
        if not isinstance(z, Tensor):
            return f"returned a {type(z).__name__}, which is not a tensor."
        if z.ndim < 2 or not z.is_floating_point():
            return f"returned {z.dtype} of shape {tuple(z.shape)}, which is not a batch of embeddings."
    shapes = {z.shape[1:] for z in views}
    return None if len(shapes) == 1 else f"returned {len(views)} tensors of {len(shapes)} different shapes."


def _evenly(z: Tensor, most: int) -> Tensor:
    """At most `most` rows, evenly spaced, copied in case z is changed in place: [batch, ...] -> [rows, ...]."""
    count = min(len(z), most)
    chosen = torch.arange(count, device=z.device) * len(z) // count
    return z.detach()[chosen]


def _mean_over_groups(z: Tensor) -> Tensor:
    """A view of a criterion, averaged over its groups: [batch, ..., dim] -> [batch, dim]."""
    full = z.to(torch.promote_types(z.dtype, torch.float32))
    return full if z.ndim == 2 else full.flatten(1, -2).mean(dim=1)


def _mean_over_positions(z: Tensor) -> Tensor:
    """Output of a module, tokens [batch, tokens, dim] or maps [batch, dim, ...], averaged over positions: [batch, dim].

    Positions do not count as samples, because they differ even if all images have the same embedding.
    """
    return _mean_over_groups(z if z.ndim < 4 else z.flatten(2).mT)
