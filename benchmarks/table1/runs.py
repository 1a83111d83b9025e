"""One run, from its seed to its row."""

from __future__ import annotations

import platform
import time
import warnings
from datetime import datetime, timezone
from pathlib import Path

import lightning as L
import torch

import it_losses
from benchmarks import backbones
from benchmarks.commit import COMMIT
from benchmarks.data import Images
from benchmarks.probes import Features, linear_accuracy
from benchmarks.table1.callbacks import Checkpoint, Generator, Steps
from benchmarks.table1.cli import Options
from benchmarks.table1.plan import Run, label, module_for, probes_every, steps_of, trainer
from benchmarks.table1.pretrain import Evaluation, Pretraining, loader, measure
from benchmarks.table1.progress import Bars
from benchmarks.table1.rows import Row

#: numbers in the training images beyond which they are not probed themselves
LARGEST_PIXEL_PROBE = 100_000_000


class Interrupted(Exception):
    """The user stopped the run."""


class Stopwatch(L.Callback):
    """Wall-clock and CPU seconds since it was created; on a busy machine the two differ.

    A checkpoint keeps them, so that a run that was interrupted reports the time of all its parts.
    """

    def __init__(self) -> None:
        self.wall, self.cores = time.monotonic(), time.process_time()

    def read(self) -> dict[str, float]:
        """Columns for a row."""
        wall, cores = time.monotonic() - self.wall, time.process_time() - self.cores
        return {"seconds": round(wall, 1), "core_seconds": round(cores, 1)}

    def state_dict(self) -> dict[str, float]:
        """The state for a checkpoint."""
        return self.read()

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Add the seconds before the run was interrupted."""
        self.wall, self.cores = self.wall - state["seconds"], self.cores - state["core_seconds"]


def untrained(run: Run, options: Options, images: Images) -> tuple[Row, list[Row]]:
    """The backbone that all methods start from with this seed, its batch norms settled on the training images."""
    stopwatch = Stopwatch()
    module = module_for(run, options, images)
    device = torch.device("cuda" if options.accelerator == "gpu" else "cpu")
    module.to(device)
    batches = (module.views.standardised(part.to(device)) for part in images.train[:4096].split(256))
    backbones.settle_batch_norm(module.backbone, batches)
    curve = [{"epoch": 0.0} | measure(module, images, probes=True)]
    return _row(run, curve, stopwatch, device), curve


def trained(run: Run, options: Options, images: Images, bars: Bars, folder: Path) -> tuple[Row, list[Row]]:
    """Pre-train and measure; a run that was killed goes on from its last checkpoint."""
    stopwatch = Stopwatch()
    module = module_for(run, options, images)
    batches = loader(images.train, options.batch_size // options.devices, options.workers)
    evaluation = Evaluation(images, probes_every(options))
    checkpoint = Checkpoint(folder / "unfinished" / f"{run.method}-seed{run.seed}.ckpt", evaluation.every)
    loop = trainer(options, [stopwatch, Steps(bars), Generator(run.seed), checkpoint, evaluation])
    resumed = checkpoint.path if checkpoint.path.exists() else None
    if resumed:
        bars.say(f"{label(run, options)}: goes on from {resumed}")
    bars.run(label(run, options), steps_of(options, images))
    with warnings.catch_warnings():
        # images are in memory: workers would only copy them; steps are counted by this program's own bars
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        # Lightning 2.6 under torch 2.15, in code of its own
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated.*")
        try:
            loop.fit(module, batches, ckpt_path=resumed)
        except SystemExit as stopped:
            # what Lightning makes of Ctrl-C
            raise Interrupted from stopped
    row = _row(run, evaluation.curve, stopwatch, loop.strategy.root_device)
    if loop.is_global_zero and options.save_backbone:
        _save_backbone(module, folder / "backbones" / f"{run.method}-seed{run.seed}.pt")
    if loop.is_global_zero:
        checkpoint.path.unlink(missing_ok=True)
    return row, evaluation.curve


def _save_backbone(module: Pretraining, path: Path) -> None:
    """The weights of `benchmarks.backbones.create`, for `load_state_dict`; whole or not at all, whenever a run is killed."""
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".part")
    torch.save({name: weight.cpu() for name, weight in module.backbone.state_dict().items()}, unfinished)
    unfinished.replace(path)


def pixel_accuracy(images: Images) -> float | None:
    """The accuracy of a linear probe on the pixels themselves, for comparison; None if it would take long."""
    if images.train.numel() > LARGEST_PIXEL_PROBE:
        return None
    halves = [half.float().flatten(1) / 255 for half in (images.train, images.test)]
    return linear_accuracy(Features(halves[0], images.train_labels, halves[1], images.test_labels, images.classes))


def _row(run: Run, curve: list[Row], stopwatch: Stopwatch, device: torch.device) -> Row:
    probed = [point for point in curve if "linear" in point]
    if not probed:
        return {}
    last, best = probed[-1], max(probed, key=lambda point: point["linear"])
    return {
        "method": run.method,
        "seed": run.seed,
        "linear": last["linear"],
        "linear_best": best["linear"],
        "best_epoch": best["epoch"],
        "knn": last["knn"],
        "knn_best": max(point["knn"] for point in probed),
        "entropy_lower_nats": last["entropy_lower_nats"],
        "entropy_upper_nats": last["entropy_upper_nats"],
        "rank_me": last["rank_me"],
        "rank_me_features": last["rank_me_features"],
        "loss": last.get("loss"),
        **stopwatch.read(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "machine": platform.machine(),
        "torch": torch.__version__,
        "it_losses": it_losses.__version__,
        "commit": COMMIT,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
