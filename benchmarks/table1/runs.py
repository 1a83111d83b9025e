"""The list of runs, and one run from its seed to its row."""

from __future__ import annotations

import logging
import math
import platform
import subprocess
import time
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import lightning as L
import torch
from torch import nn

import it_losses
from benchmarks import backbones
from benchmarks.augment import Views, channel_moments, recipe_for
from benchmarks.data import Images, load
from benchmarks.methods import METHODS
from benchmarks.objectives import JointEmbedding
from benchmarks.probes import Features, linear_accuracy
from benchmarks.table1.callbacks import Checkpoint, Steps
from benchmarks.table1.cli import OptionError, Options
from benchmarks.table1.pretrain import Evaluation, Pretraining, loader, measure
from benchmarks.table1.progress import Bars
from benchmarks.table1.recipes import UNTRAINED, title
from benchmarks.table1.rows import Row

#: the probes are fitted at most so often along a run, the last epoch included
PROBES_PER_RUN = 5
#: numbers in the training images beyond which they are not probed themselves
LARGEST_PIXEL_PROBE = 100_000_000


class Run(NamedTuple):
    """One method with one seed."""

    method: str
    seed: int


class Interrupted(Exception):
    """The user stopped the run."""


def label(run: Run, options: Options) -> str:
    """The run, for people."""
    return f"{title(run.method, options.recipes)}, seed {run.seed}"


def planned(options: Options) -> list[Run]:
    """Seed by seed, so that a whole table of one seed is there early."""
    return [Run(method, seed) for seed in range(options.seeds) for method in options.methods]


def trainer(options: Options, callbacks: list[L.Callback]) -> L.Trainer:
    """Lightning's loop, without what this program does itself: bars, logs, checkpoints."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return L.Trainer(
        max_epochs=options.epochs,
        accelerator=options.accelerator,
        devices=options.devices,
        strategy=options.strategy,
        precision=options.precision,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def loaded(options: Options) -> Images:
    """The images that the options name."""
    images = load(options.dataset, options.data_root, options.image_size)
    return images if options.limit_images is None else images.subset(options.limit_images)


def check(options: Options, images: Images) -> None:
    """See that there are images for a batch, and that backbone and trainer take such options.

    Raises:
        OptionError, BackboneError: they do not.
    """
    if len(images.train) < options.batch_size:
        raise OptionError(f"--batch-size {options.batch_size} is more than the {len(images.train)} training images.")
    backbones.create(
        options.backbone, channels=images.channels, side=options.image_size, stem=options.stem, width=options.width
    )
    try:
        trainer(options, [])
    except Exception as problem:
        raise OptionError(f"Lightning refuses these --devices, --strategy or --precision: {problem}") from problem


def module_for(run: Run, options: Options, images: Images) -> Pretraining:
    """Network and method; one seed gives every method the same backbone to start from."""
    L.seed_everything(run.seed, verbose=False)
    backbone = backbones.create(
        options.backbone, channels=images.channels, side=options.image_size, stem=options.stem, width=options.width
    )
    views = Views(recipe_for(options.dataset, images.channels), options.image_size, *channel_moments(images.train))
    if run.method == UNTRAINED:
        return Pretraining(backbone, JointEmbedding(nn.Identity(), nn.Identity()), views, learning_rate=0.0)
    recipe = options.recipes[run.method]
    method = METHODS[recipe.method](backbones.width_of(backbone), **recipe.arguments)
    return Pretraining(backbone, method, views, recipe.learning_rate.value)


class Stopwatch:
    """Seconds on the wall and of this process's cores since it was made: on a busy machine the two drift apart."""

    def __init__(self) -> None:
        self.wall, self.cores = time.monotonic(), time.process_time()

    def read(self) -> dict[str, float]:
        """Columns for a row."""
        wall, cores = time.monotonic() - self.wall, time.process_time() - self.cores
        return {"seconds": round(wall, 1), "core_seconds": round(cores, 1)}


def untrained(run: Run, options: Options, images: Images) -> tuple[Row, list[Row]]:
    """The backbone that all methods start from with this seed, its batch norms settled on the training images."""
    watch = Stopwatch()
    module = module_for(run, options, images)
    device = torch.device("cuda" if options.accelerator == "gpu" else "cpu")
    module.to(device)
    batches = (module.views.standardised(part.to(device)) for part in images.train[:4096].split(256))
    backbones.settle_batch_norm(module.backbone, batches)
    curve = [{"epoch": 0.0} | measure(module, images, probes=True)]
    return _row(run, curve, watch, device), curve


def trained(run: Run, options: Options, images: Images, bars: Bars, folder: Path) -> tuple[Row, list[Row]]:
    """Pre-train and measure; a run that was killed goes on from its last checkpoint."""
    watch = Stopwatch()
    module = module_for(run, options, images)
    batches = loader(images.train, options.batch_size // options.devices, options.workers)
    steps = options.epochs * (len(images.train) // options.devices // (options.batch_size // options.devices))
    evaluation = Evaluation(images, math.ceil(options.epochs / PROBES_PER_RUN))
    checkpoint = Checkpoint(folder / "unfinished" / f"{run.method}-seed{run.seed}.ckpt", evaluation.every)
    loop = trainer(options, [Steps(bars), evaluation, checkpoint])
    resumed = checkpoint.path if checkpoint.path.exists() else None
    if resumed:
        bars.say(f"{label(run, options)}: goes on from {resumed}")
    bars.run(label(run, options), steps)
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
    row = _row(run, evaluation.curve, watch, loop.strategy.root_device)
    if loop.is_global_zero:
        checkpoint.path.unlink(missing_ok=True)
    return row, evaluation.curve


def pixel_accuracy(images: Images) -> float | None:
    """The linear probe on the pixels themselves, to read the table against; None where it would take long."""
    if images.train.numel() > LARGEST_PIXEL_PROBE:
        return None
    halves = [half.float().flatten(1) / 255 for half in (images.train, images.test)]
    return linear_accuracy(Features(halves[0], images.train_labels, halves[1], images.test_labels, images.classes))


def _row(run: Run, curve: list[Row], watch: Stopwatch, device: torch.device) -> Row:
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
        **watch.read(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "machine": platform.machine(),
        "torch": torch.__version__,
        "it_losses": it_losses.__version__,
        "commit": _commit(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
