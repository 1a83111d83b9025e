"""The runs of a table: load the images, build the network of a run, train and measure it, and return its row."""

import io
import logging
import math
import os
import platform
import sys
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import lightning as L
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import it_losses
from benchmarks import RequestError, backbones
from benchmarks.augment import Views, channel_moments, recipe_for
from benchmarks.data import Images, load
from benchmarks.methods import METHODS, Method
from benchmarks.pages import COMMIT, write
from benchmarks.table1.callbacks import Checkpoint, Evaluation, Generator, Stopwatch
from benchmarks.table1.cli import Options
from benchmarks.table1.pretrain import MEASURES, Pretraining, loader, measure
from benchmarks.table1.recipes import SUPERVISED, UNTRAINED, title
from benchmarks.table1.records import Row, writing

#: the largest number of epochs with probes in a run, the last epoch included
PROBES_PER_RUN = 5


class Run(NamedTuple):
    """One method with one seed."""

    method: str
    seed: int

    def label(self, options: Options) -> str:
        return f"{title(self.method, options.recipes)}, seed {self.seed}"

    def checkpoint(self, options: Options) -> Path:
        """The file with the state of the run while it is not finished."""
        return options.output / "unfinished" / f"{self.method}-seed{self.seed}.ckpt"


def loaded(options: Options) -> Images:
    """The images for these options; a sweep gets a split of the training images. A RequestError names the refused option."""
    images = load(options.dataset, options.data_root, options.image_size)
    images = images if options.limit_images is None else images.subset(options.limit_images)
    images = images.validation() if options.is_sweep else images
    if len(images.train) < options.batch_size:
        raise RequestError(f"--batch-size {options.batch_size} is more than the {len(images.train)} training images.")
    _backbone(options, images)
    try:
        trainer(options, [])
    except Exception as problem:
        raise RequestError(f"Lightning refuses --accelerator, --devices or --precision: {problem}") from problem
    return images


def trainer(options: Options, callbacks: list[L.Callback]) -> L.Trainer:
    """Lightning's trainer, with a progress bar on a terminal; this program handles logs and checkpoints itself."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_utilities.core.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
    # no bar for several jobs, because each would draw its own
    has_bar = sys.stderr.isatty() and options.jobs == 1
    named = {name: getattr(options, name) for name in ("accelerator", "devices", "precision")}
    return L.Trainer(max_epochs=options.epochs, callbacks=callbacks, enable_progress_bar=has_bar, **named, **silent)


def module_for(run: Run, options: Options, images: Images) -> Pretraining:
    """The network and method of a run. With the same seed, all methods start from the same backbone."""
    L.seed_everything(run.seed, verbose=False)
    backbone = _backbone(options, images)
    views = Views(recipe_for(options.dataset, images.channels), options.image_size, *channel_moments(images.train))
    if run.method == UNTRAINED:
        return Pretraining(backbone, Method(nn.Identity(), nn.Identity()), views, learning_rate=0.0)
    recipe = options.recipes[run.method]
    classes = {"classes": images.classes} if run.method == SUPERVISED else {}
    method = METHODS[recipe.method](backbones.width_of(backbone), **recipe.arguments, **classes)
    return Pretraining(backbone, method, views, recipe.learning_rate.value)


def _backbone(options: Options, images: Images) -> nn.Module:
    size = {"channels": images.channels, "side": options.image_size}
    return backbones.create(options.backbone, **size, stem=options.stem, width=options.width)


def is_first_process() -> bool:
    """Whether this is rank 0, which prints and writes files."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("RANK", "0")) == 0


def made(run: Run, options: Options, images: Images) -> Row:
    """Make a run and return its row, which is empty on all processes but the first."""
    if run.method != UNTRAINED:
        return trained(run, options, images)
    return untrained(run, options, images) if is_first_process() else {}


def untrained(run: Run, options: Options, images: Images) -> Row:
    """The row of the untrained backbone, whose batch normalisation gets the statistics of the training images."""
    stopwatch = Stopwatch()
    device = torch.device("cuda" if options.accelerator == "gpu" else "cpu")
    module = module_for(run, options, images).to(device)
    update_bn((module.views.standardised(part.to(device)) for part in images.train[:4096].split(256)), module.backbone)
    return _row(run, options, [{"epoch": 0.0} | measure(module, images, probes=True)], stopwatch, device)


def trained(run: Run, options: Options, images: Images) -> Row:
    """Pre-train and probe, and return the row of the run. A killed run goes on from its last checkpoint."""
    stopwatch = Stopwatch(len(options.to_train) / options.jobs if run in options.to_train[:1] else 0.0)
    module, path = module_for(run, options, images), run.checkpoint(options)
    every = math.ceil(options.epochs / PROBES_PER_RUN)
    loop = trainer(options, [Generator(run.seed), Checkpoint(path, every), Evaluation(images, every), stopwatch])
    resumed = path if _is_whole(path) else None
    if is_first_process() and path.exists():
        start = "goes on from" if resumed else "starts again, because it cannot read"
        print(f"{run.label(options)}: {start} {path}", flush=True)
    with warnings.catch_warnings():
        # hide the advice to use workers, which would only copy images that are in memory already
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        # Lightning 2.6 gives this warning about its own code under torch 2.15
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated.*")
        try:
            loop.fit(module, loader(images, options.batch_size // options.devices), ckpt_path=resumed)
        except SystemExit as stopped:
            # Lightning raises SystemExit on Ctrl-C
            raise KeyboardInterrupt from stopped
    if not loop.is_global_zero:
        return {}
    if options.save_backbone:
        weights = io.BytesIO()
        # on the CPU, so that a backbone from `benchmarks.backbones.create` can load the weights on any machine
        torch.save({name: weight.cpu() for name, weight in module.backbone.state_dict().items()}, weights)
        with writing(options.output):
            write(options.output / "backbones" / f"{run.method}-seed{run.seed}.pt", weights.getvalue())
    return _row(run, options, module.curve, stopwatch, loop.strategy.root_device)


def _is_whole(checkpoint: Path) -> bool:
    """Whether the checkpoint can be loaded. Loading it runs no code from the file."""
    try:
        torch.load(checkpoint, weights_only=True, mmap=True)
    except Exception:
        return False
    return True


def _row(run: Run, options: Options, curve: list[Row], stopwatch: Stopwatch, device: torch.device) -> Row:
    """The row of a run: scores of the last and the best epoch, time, machine and versions; in Table 1 also the curve."""
    probed = [point for point in curve if "linear" in point]
    last, best = probed[-1], max(probed, key=lambda point: point["linear"])
    row = run._asdict() | {"linear": last["linear"], "linear_best": best["linear"], "best_epoch": best["epoch"]}
    row |= {"knn": last["knn"], "knn_best": max(point["knn"] for point in probed)}
    row |= {name: last[name] for name in MEASURES} | {"loss": last.get("loss")} | stopwatch.state_dict()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    row |= {"device": name, "machine": platform.machine(), "torch": torch.__version__, "it_losses": it_losses.__version__}
    row |= {"commit": COMMIT, "finished": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    return row if options.is_sweep else row | {"curve": curve}
