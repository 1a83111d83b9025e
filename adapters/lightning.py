"""EmbeddingMonitor: a Lightning callback that measures the embeddings in any framework built on Lightning.

    Trainer(callbacks=[EmbeddingMonitor(every_n_steps=100)])

It logs the terms of each criterion, entropies, RankMe and the spectrum, and warns if the embeddings have collapsed.
"""

import warnings
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from it_losses.adapters import framework
from it_losses.adapters.embedding_numbers import INSTALL, figure_sinks, mean_spectrum, numbers, spectrum_figure, step_of
from it_losses.adapters.measured_step import MeasuredStep
from it_losses.checks import Check, check_count, check_name


def _lightning() -> Any:
    # Lightning has two package names, and a Trainer of either accepts callbacks of both
    try:
        return framework("lightning.pytorch", install="pip install lightning")
    except ImportError:
        return framework("pytorch_lightning", install="pip install lightning")


def _check_folder(name: str, folder: str | Path | None) -> Path | None:
    if folder is not None:
        framework("matplotlib", install=INSTALL)
    return None if folder is None else Path(folder)


lightning = _lightning()
#: constant -> the check that runs whenever the constant is set
CHECKS: dict[str, Check] = {
    "every_n_steps": check_count,
    "rows": partial(check_count, at_least=2),
    "spectrum_to": _check_folder,
    "on_collapse": check_name("warn", "stop", "raise"),
}


class EmbeddingMonitor(lightning.Callback):  # type: ignore[misc]
    """Measures the embeddings of every `every_n_steps`-th step on each rank's batch, and logs the averages over ranks.

    With `module` it measures the output of that submodule. Otherwise it measures the views of each of our criteria that the
    step calls. If there is none, it measures the output of `projector` or `projection_head`. `<name>` is the name of the
    criterion or submodule in the LightningModule; a second call in the step gets `<name>-2`, and so on. The log has:

    `<prefix>/<name>/invariance`, `/entropy`, ...: the terms of a criterion, in its own units;
    `<prefix>/<name>/pairwise_lower_nats`, `/pairwise_upper_nats`: `diagnostics.sphere_entropy_bounds`, 0 at collapse;
    `<prefix>/<name>/gaussian_entropy_nats`, `/log_det_entropy_nats`, `/rank_me`, `/participation_ratio`, `/spread`, `/std`,
    `/norm_of_mean`: `diagnostics.measure`, with the beta of the criterion if it has one.

    `<prefix>/collapsed` is the fraction of ranks on which any embeddings have collapsed. Embeddings may be [N, D],
    [N, tokens, D] or [N, D, H, W]. They are first averaged over tokens, positions and groups, so that a row is an image.

    Args:
        module: name of the submodule whose output is the embedding; None for the views of the criteria.
        every_n_steps: measure every n-th batch; the others cost nothing.
        rows: the largest number of rows measured for each name in a step, spread evenly over views and batch.
        spectrum_to: folder for plots of the spectrum, `spectrum-<name>-<step>.png`. TensorBoard and W&B get the plots anyway.
        on_collapse: "warn" once, "stop" the training, or "raise".
        prefix: first part of the logged names.

    Raises:
        ValueError: the module has no submodule of that name, the submodule returns no embeddings, or there is nothing to
            measure.
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
        self.module, self.every_n_steps, self.rows, self.prefix = module, every_n_steps, rows, prefix
        self.spectrum_to = spectrum_to
        self.on_collapse = on_collapse
        self._step: MeasuredStep | None = None
        self._batches = 0
        self._warned: set[str] = set()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, CHECKS[name](name, value) if name in CHECKS else value)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Allow each warning once in this fit."""
        self._warned.clear()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start to observe criteria and modules if this step is to be measured."""
        self._close()
        # counted here, because batch_idx starts again in every epoch
        self._batches += 1
        if (self._batches - 1) % self.every_n_steps == 0:
            self._step = MeasuredStep(pl_module, self.module, self.rows)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure the embeddings that were observed, and log the numbers."""
        step = self._close()
        if step is None:
            return
        measured, alarm = self._measure(step)
        everywhere = _mean_over_ranks(trainer, pl_module.device, measured)
        self._log(trainer, pl_module, everywhere)
        self._plot(trainer, step.embeddings)
        # all ranks must stop together: a rank that continues alone would wait for the others forever
        if everywhere.get("collapsed", 0) > 0:
            self._alarm(trainer, alarm or "the embeddings of another rank have collapsed.")

    def on_train_end(self, *hooked: Any, **named: Any) -> None:
        """Close a step that was interrupted, for example by a hook that returned -1 to end the epoch."""
        self._close()

    on_exception = on_validation_start = on_train_epoch_end = teardown = on_train_end

    def __getstate__(self) -> dict[str, Any]:
        """The state for copies, without the current step and Lightning's logging functions, which belong to one module."""
        return {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")} | {"_step": None}

    def _close(self) -> MeasuredStep | None:
        """Close and return the current step."""
        step, self._step = self._step, None
        if step is not None:
            step.close()
        return step

    def _measure(self, step: MeasuredStep) -> tuple[dict[str, float], str | None]:
        """All numbers of the step by name, and the first warning of collapse or None."""
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
            raise ValueError("nothing to measure. Name the module that returns the embeddings: EmbeddingMonitor('name').")
        self._warn(
            "EmbeddingMonitor found no embeddings with at least two rows in this step. Name the module that returns them. "
            "Code inside a compiled module cannot be observed: compile its submodules instead."
        )

    def _log(self, trainer: Any, pl_module: Any, measured: dict[str, float]) -> None:
        named = {f"{self.prefix}/{name}": value for name, value in measured.items()}
        # call the loggers directly, because Lightning logs only every log_every_n_steps-th step
        for logger in trainer.loggers:
            logger.log_metrics(named, step=step_of(trainer))
        pl_module.log_dict(named, on_step=True, on_epoch=False, logger=False, batch_size=1)

    def _alarm(self, trainer: Any, alarm: str) -> None:
        message = f"step {step_of(trainer)}: {alarm}"
        if self.on_collapse == "raise":
            raise RuntimeError(message)
        if self.on_collapse == "stop":
            trainer.should_stop = True
        self._warn(message, kind="collapse")

    def _warn(self, message: str, kind: str = "nothing seen") -> None:
        """Warn once for each `kind`."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, stacklevel=3)

    def _plot(self, trainer: Any, embeddings: dict[str, list[Tensor]]) -> None:
        for name, views in embeddings.items():
            sinks = figure_sinks(trainer, f"{self.prefix}/{name}/spectrum")
            if self.spectrum_to is not None and trainer.is_global_zero:
                self.spectrum_to.mkdir(parents=True, exist_ok=True)
                path = self.spectrum_to / f"spectrum-{name.replace('/', '_')}-{step_of(trainer)}.png"
                sinks.append(lambda figure, path=path: figure.savefig(path))
            if sinks:
                figure = spectrum_figure(mean_spectrum(views))
                for sink in sinks:
                    sink(figure)


def _mean_over_ranks(trainer: Any, device: Any, measured: dict[str, float]) -> dict[str, float]:
    """Average each number of rank 0, and `collapsed`, over the ranks that have this number."""
    names = trainer.strategy.broadcast(["collapsed", *(name for name in measured if name != "collapsed")])
    rows = [[measured.get(name, 0.0), float(name in measured)] for name in names]
    sums = trainer.strategy.reduce(torch.tensor(rows, dtype=torch.float32, device=device), reduce_op="sum").tolist()
    return {name: total / count for name, (total, count) in zip(names, sums, strict=True) if count}
