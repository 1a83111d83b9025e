"""EmbeddingMonitor: one Lightning callback that watches the embeddings of any framework built on Lightning.

    Trainer(callbacks=[EmbeddingMonitor(every_n_steps=100)])

Every so many steps it logs the terms of the criterion, entropies in nats, RankMe, and the spectrum of the covariance, and
says so when the embeddings have collapsed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from it_losses import VICReg, VICRegEntropy, diagnostics
from it_losses.adapters.frameworks import framework

#: where lightly (projection_head), solo-learn and stable-pretraining (projector) keep what makes the embeddings
PROJECTORS = ("projector", "projection_head")


def _lightning() -> Any:
    # the two names of one library; a trainer takes the callbacks of either
    try:
        return framework("lightning.pytorch", install="pip install lightning")
    except ImportError:
        return framework("pytorch_lightning", install="pip install lightning")


lightning = _lightning()


class EmbeddingMonitor(lightning.Callback):  # type: ignore[misc]
    """Logs, every `every_n_steps`, what a step's embeddings are like; measured on each rank's batch, averaged over ranks.

    `<prefix>/invariance`, `/entropy`, ... : terms of the criterion, where one of ours is part of the module;
    `<prefix>/gaussian_entropy_nats`, `/log_det_entropy_nats`, `/pairwise_lower_nats`, `/pairwise_upper_nats`: entropies;
    `<prefix>/rank_me`, `/participation_ratio`, `/spread`, `/std`, `/mean_norm`: see diagnostics; `<prefix>/collapsed`: 0 or 1.

    Args:
        module: name of the submodule whose output is the embedding; None takes what our criterion is called with (or its
            `terms`), or else the output of `projector` or `projection_head`.
        every_n_steps: how often; the other steps cost nothing.
        spectrum_to: folder for plots of the spectrum, as `spectrum-<step>.png`; loggers with figures get them anyway.
        on_collapse: "warn" once, "stop" the training, or "raise".
        prefix: of the logged names.

    Raises:
        ValueError: at the first step, where the module has no submodule of that name, or nothing to watch.
    """

    def __init__(
        self,
        module: str | None = None,
        *,
        every_n_steps: int = 100,
        spectrum_to: str | Path | None = None,
        on_collapse: Literal["warn", "stop", "raise"] = "warn",
        prefix: str = "embeddings",
    ) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}.")
        if on_collapse not in ("warn", "stop", "raise"):
            raise ValueError(f'on_collapse must be "warn", "stop" or "raise", got {on_collapse!r}.')
        self.module, self.every_n_steps, self.prefix = module, every_n_steps, prefix
        self.spectrum_to = None if spectrum_to is None else Path(spectrum_to)
        self.on_collapse = on_collapse
        self._views: dict[str, list[Tensor]] = {}
        self._watching = ExitStack()
        self._steps = 0
        self._warned: set[str] = set()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Watch the modules that make or take embeddings, for this step."""
        # not batch_idx, which starts again with every epoch, however short
        self._steps += 1
        if (self._steps - 1) % self.every_n_steps:
            return
        self._views = {"taken": [], "made": []}
        criteria = _criteria(pl_module)
        for criterion in criteria:
            self._watch_criterion(criterion)
        modules = dict(pl_module.named_modules())
        names = [name for name in (PROJECTORS if self.module is None else (self.module,)) if name in modules]
        for name in names:
            self._watching.callback(modules[name].register_forward_hook(self._keep_output).remove)
        if not names and (self.module is not None or not criteria):
            known = [name for name, _ in pl_module.named_children()]
            raise ValueError(f"nothing to watch: name the module that makes the embeddings; this one has {known}.")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure what was seen, log it, and let go."""
        self._watching.close()
        views = self._views.get("made" if self.module else "taken") or self._views.get("made") or []
        self._views = {}
        if not views:
            self._warn("EmbeddingMonitor saw no embeddings in this step: name the module that makes them.")
            return
        z = torch.cat([view.reshape(-1, view.shape[-1]) for view in views]).float()
        measured = _terms(pl_module, views) | diagnostics.measure(z) | _pairwise(z)
        alarm = diagnostics.collapse_alarm(z)
        measured["collapsed"] = float(alarm is not None)
        collapsed = self._log(trainer, pl_module, measured)["collapsed"]
        self._plot(trainer, z)
        # all ranks stop or none: one that went on alone would wait for the others for ever
        if collapsed > 0:
            self._alarm(trainer, alarm or "the embeddings of another rank have collapsed.")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Let go of a step that did not end."""
        self._watching.close()

    def _log(self, trainer: Any, pl_module: Any, measured: dict[str, float]) -> dict[str, float]:
        here = torch.tensor(list(measured.values()), device=pl_module.device)
        everywhere = dict(zip(measured, trainer.strategy.reduce(here, reduce_op="mean").tolist(), strict=True))
        named = {f"{self.prefix}/{name}": value for name, value in everywhere.items()}
        # Lightning writes what is logged at every log_every_n_steps-th step alone, which need not be one of these
        for logger in trainer.loggers:
            logger.log_metrics(named, step=trainer.global_step)
        pl_module.log_dict(named, on_step=True, on_epoch=False, logger=False, batch_size=1)
        return everywhere

    def _watch_criterion(self, criterion: Any) -> None:
        self._watching.callback(criterion.register_forward_pre_hook(self._keep_arguments, with_kwargs=True).remove)
        terms = criterion.terms

        def kept(*args: Any, **kwargs: Any) -> Any:
            self._keep_arguments(criterion, args, kwargs)
            return terms(*args, **kwargs)

        # a step that asks for the terms goes past every hook
        criterion.terms = kept
        self._watching.callback(delattr, criterion, "terms")

    def _keep_arguments(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._views["taken"] = [z.detach() for z in (*args, *kwargs.values()) if isinstance(z, Tensor)]

    def _keep_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            self._views["made"].append(output.detach())

    def _alarm(self, trainer: Any, alarm: str) -> None:
        message = f"step {trainer.global_step}: {alarm}"
        if self.on_collapse == "raise":
            raise RuntimeError(message)
        if self.on_collapse == "stop":
            trainer.should_stop = True
        self._warn(message, kind="collapse")

    def _warn(self, message: str, kind: str = "nothing seen") -> None:
        """Once for each kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, stacklevel=3)

    def _plot(self, trainer: Any, z: Tensor) -> None:
        sinks = _figure_sinks(trainer, f"{self.prefix}/spectrum")
        if self.spectrum_to is not None and trainer.is_global_zero:
            self.spectrum_to.mkdir(parents=True, exist_ok=True)
            sinks.append(lambda figure: figure.savefig(self.spectrum_to / f"spectrum-{trainer.global_step}.png"))
        if sinks:
            figure = spectrum_figure(diagnostics.spectrum(z))
            for sink in sinks:
                sink(figure)


def spectrum_figure(eigenvalues: Tensor) -> Any:
    """Eigenvalues of a covariance against their rank, logarithmic: [dim] -> matplotlib Figure."""
    framework("matplotlib", install="pip install matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3), layout="constrained")
    axes = figure.add_subplot(xlabel="rank", ylabel="eigenvalue of the covariance", yscale="log")
    positive = eigenvalues[eigenvalues > 0].cpu()
    axes.plot(range(1, len(positive) + 1), positive)
    return figure


def _criteria(pl_module: nn.Module) -> list[nn.Module]:
    return [module for module in pl_module.modules() if isinstance(module, VICReg | VICRegEntropy)]


def _terms(pl_module: nn.Module, views: list[Tensor]) -> dict[str, float]:
    """Terms of the module's criterion at the views of the step; none where the views came in one tensor."""
    criteria = _criteria(pl_module)
    if not criteria or len(views) < 2 or any(view.shape != views[0].shape for view in views):
        return {}
    with torch.no_grad():
        return {name: float(value) for name, value in criteria[0].terms(*views)._asdict().items()}  # type: ignore[operator]


def _pairwise(z: Tensor) -> dict[str, float]:
    """Bounds on the entropy by pairwise distances; equal rows give no bandwidth, and no entropy."""
    differ = bool((z != z[0]).any())
    lower, upper = diagnostics.pairwise_entropy_bounds(z) if differ else (-torch.inf, -torch.inf)
    return {"pairwise_lower_nats": float(lower), "pairwise_upper_nats": float(upper)}


def _figure_sinks(trainer: Any, name: str) -> list[Callable[[Any], None]]:
    """What TensorBoard's and W&B's loggers do with a figure; on rank zero alone."""
    if not trainer.is_global_zero:
        return []
    sinks: list[Callable[[Any], None]] = []
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            sinks.append(lambda figure, logger=logger: logger.log_image(name, [figure], step=trainer.global_step))
        elif hasattr(logger.experiment, "add_figure"):
            sinks.append(partial(logger.experiment.add_figure, name, global_step=trainer.global_step))
    return sinks
