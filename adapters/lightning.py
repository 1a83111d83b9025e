"""EmbeddingMonitor: one Lightning callback that watches the embeddings of any framework built on Lightning.

    Trainer(callbacks=[EmbeddingMonitor(every_n_steps=100)])

Every so many steps it logs the terms of each criterion, entropies in nats, RankMe, and the spectrum of the covariance, and
says so when the embeddings have collapsed.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from it_losses.adapters.embedding_numbers import mean_spectrum, numbers
from it_losses.adapters.frameworks import framework
from it_losses.adapters.measured_step import MeasuredStep
from it_losses.adapters.spectrum_plot import INSTALL, figure_sinks, spectrum_figure


def _lightning() -> Any:
    # the two names of one library; a trainer takes the callbacks of either
    try:
        return framework("lightning.pytorch", install="pip install lightning")
    except ImportError:
        return framework("pytorch_lightning", install="pip install lightning")


lightning = _lightning()


class EmbeddingMonitor(lightning.Callback):  # type: ignore[misc]
    """Logs, every `every_n_steps`, what a step's embeddings are like; measured on each rank's batch, averaged over ranks.

    Each criterion of ours that the step calls is logged under its own name in the module, with the views it is called with;
    the second call of a step is `<name>-2`, and so on. Other modules are watched where they are named, or where no criterion
    is called and there is a `projector` or `projection_head`. For each name:

    `<prefix>/<name>/invariance`, `/entropy`, ...: the terms of the criterion, in its own units;
    `<prefix>/<name>/pairwise_lower_nats`, `/pairwise_upper_nats`: `diagnostics.sphere_entropy_bounds`, 0 at collapse;
    `<prefix>/<name>/gaussian_entropy_nats`, `/log_det_entropy_nats`, `/rank_me`, `/participation_ratio`, `/spread`, `/std`,
    `/norm_of_mean`: `diagnostics.measure`, with the beta of the criterion where it has one.

    `<prefix>/collapsed` is the fraction of ranks on which any of them has collapsed. A row is an image: what has positions,
    tokens or groups is averaged over them. Embeddings of [N, D], [N, tokens, D], [N, D, H, W] and [N, D, 1, 1] are taken.

    Args:
        module: name of the submodule whose output is the embedding; None for the views of the criteria.
        every_n_steps: how often, in batches; the other steps cost nothing.
        rows: the most rows of a step that are measured of each name, spread evenly over its views and the batch.
        spectrum_to: folder for plots of the spectrum, as `spectrum-<name>-<step>.png`; loggers with figures get them anyway.
        on_collapse: "warn" once, "stop" the training, or "raise".
        prefix: of the logged names.

    Raises:
        ValueError: where the module has no submodule of that name, or one that makes no embeddings, or nothing to watch.
    """

    def __init__(
        self,
        module: str | None = None,
        *,
        every_n_steps: int = 100,
        rows: int = 512,
        spectrum_to: str | Path | None = None,
        on_collapse: Literal["warn", "stop", "raise"] = "warn",
        prefix: str = "embeddings",
    ) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}.")
        if rows < 2:
            raise ValueError(f"rows must be at least 2, got {rows}.")
        if on_collapse not in ("warn", "stop", "raise"):
            raise ValueError(f'on_collapse must be "warn", "stop" or "raise", got {on_collapse!r}.')
        if spectrum_to is not None:
            framework("matplotlib", install=INSTALL)
        self.module, self.every_n_steps, self.rows, self.prefix = module, every_n_steps, rows, prefix
        self.spectrum_to = None if spectrum_to is None else Path(spectrum_to)
        self.on_collapse = on_collapse
        self._step: MeasuredStep | None = None
        self._batches = 0
        self._warned: set[str] = set()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Watch the modules that make or take embeddings, where this step is to be measured."""
        self._close()
        # not batch_idx, which starts again with every epoch, however short
        self._batches += 1
        if (self._batches - 1) % self.every_n_steps == 0:
            self._step = MeasuredStep(pl_module, self.module, self.rows)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure what was seen, and log it."""
        step = self._close()
        if step is None:
            return
        measured, alarm = self._measure(step)
        everywhere = _mean_over_ranks(trainer, pl_module.device, measured)
        self._log(trainer, pl_module, everywhere)
        self._plot(trainer, step.embeddings)
        # all ranks stop or none: one that went on alone would wait for the others for ever
        if everywhere.get("collapsed", 0) > 0:
            self._alarm(trainer, alarm or "the embeddings of another rank have collapsed.")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Let go of a step that did not end."""
        self._close()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Let go of a step that did not end: what follows is no training."""
        self._close()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Let go of a step that did not end, such as one whose epoch the module ended by returning -1."""
        self._close()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Let go of a step that did not end."""
        self._close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let go of a step that did not end."""
        self._close()

    def __getstate__(self) -> dict[str, Any]:
        """A copy has neither the step under way nor the logging functions that Lightning lends: they are of one module."""
        return {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")} | {"_step": None}

    def _close(self) -> MeasuredStep | None:
        """End the step under way, if there is one, and hand it over."""
        step, self._step = self._step, None
        if step is not None:
            step.close()
        return step

    def _measure(self, step: MeasuredStep) -> tuple[dict[str, float], str | None]:
        """All numbers of the step by name, and the first alarm."""
        measured = {f"{name}/{term}": float(value) for name, terms in step.terms.items() for term, value in terms.items()}
        alarms = []
        for name, views in step.embeddings.items():
            found, alarm = numbers(views, beta=step.betas.get(name, 1.0))
            measured |= {f"{name}/{number}": value for number, value in found.items()}
            alarms += [] if alarm is None else [f"{name}: {alarm}"]
        if step.embeddings:
            measured["collapsed"] = float(bool(alarms))
        else:
            self._nothing_seen(step)
        return measured, next(iter(alarms), None)

    def _nothing_seen(self, step: MeasuredStep) -> None:
        if step.unreadable is not None:
            raise ValueError(step.unreadable)
        if not step.can_see:
            raise ValueError("nothing to watch: name the module that makes the embeddings, EmbeddingMonitor('name').")
        self._warn(
            "EmbeddingMonitor saw no embeddings of two rows or more in this step: name the module that makes them. "
            "Inside a compiled module nothing can be seen: compile its submodules instead."
        )

    def _log(self, trainer: Any, pl_module: Any, measured: dict[str, float]) -> None:
        named = {f"{self.prefix}/{name}": value for name, value in measured.items()}
        # Lightning writes what is logged at every log_every_n_steps-th step alone, which need not be one of these
        for logger in trainer.loggers:
            logger.log_metrics(named, step=trainer.global_step)
        pl_module.log_dict(named, on_step=True, on_epoch=False, logger=False, batch_size=1)

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

    def _plot(self, trainer: Any, embeddings: dict[str, list[Tensor]]) -> None:
        for name, views in embeddings.items():
            sinks = figure_sinks(trainer, f"{self.prefix}/{name}/spectrum")
            if self.spectrum_to is not None and trainer.is_global_zero:
                self.spectrum_to.mkdir(parents=True, exist_ok=True)
                path = self.spectrum_to / f"spectrum-{name}-{trainer.global_step}.png"
                sinks.append(lambda figure, path=path: figure.savefig(path))
            if sinks:
                figure = spectrum_figure(mean_spectrum(views))
                for sink in sinks:
                    sink(figure)


def _mean_over_ranks(trainer: Any, device: Any, measured: dict[str, float]) -> dict[str, float]:
    """Each number averaged over the ranks that have it; of the names that the first rank has, and whether any has collapsed."""
    names = trainer.strategy.broadcast(["collapsed", *(name for name in measured if name != "collapsed")])
    rows = [[measured.get(name, 0.0), float(name in measured)] for name in names]
    sums = trainer.strategy.reduce(torch.tensor(rows, dtype=torch.float32, device=device), reduce_op="sum").tolist()
    return {name: total / count for name, (total, count) in zip(names, sums, strict=True) if count}
