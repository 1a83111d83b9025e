"""The plan of a table: methods and seeds, images, the network of each run, its steps and probes."""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import lightning as L
import torch
from torch import nn

from benchmarks import backbones
from benchmarks.augment import Views, channel_moments, recipe_for
from benchmarks.data import Images, load
from benchmarks.methods import METHODS
from benchmarks.objectives import JointEmbedding
from benchmarks.table1.cli import OptionError, Options
from benchmarks.table1.pretrain import Pretraining
from benchmarks.table1.recipes import UNTRAINED, title

#: the largest number of epochs with probes in a run, the last epoch included
PROBES_PER_RUN = 5
#: the options of torch.compile for --compile
COMPILER = "inductor"


class Run(NamedTuple):
    """One method with one seed."""

    method: str
    seed: int


def label(run: Run, options: Options) -> str:
    """The name of the run in messages."""
    return f"{title(run.method, options.recipes)}, seed {run.seed}"


def planned(options: Options) -> list[Run]:
    """All runs, seed by seed, so that the table of one seed is complete early."""
    return [Run(method, seed) for seed in range(options.seeds) for method in options.methods]


def steps_of(options: Options, images: Images) -> int:
    """Number of steps of one run."""
    return options.epochs * (len(images.train) // options.devices // (options.batch_size // options.devices))


def probes_every(options: Options) -> int:
    """The number of epochs from one probe to the next; the last epoch always has one."""
    return math.ceil(options.epochs / PROBES_PER_RUN)


def trainer(options: Options, callbacks: list[L.Callback]) -> L.Trainer:
    """Lightning's trainer without bars, logs and checkpoints, which this program handles itself."""
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
    """Check that there are enough images for a batch, and that backbone and trainer accept the options.

    Raises:
        OptionError, BackboneError: they do not.
    """
    if len(images.train) < options.batch_size:
        raise OptionError(f"--batch-size {options.batch_size} is more than the {len(images.train)} training images.")
    _backbone(options, images)
    try:
        trainer(options, [])
    except Exception as problem:
        raise OptionError(f"Lightning refuses these --devices, --strategy or --precision: {problem}") from problem


def module_for(run: Run, options: Options, images: Images) -> Pretraining:
    """Network and method; one seed gives every method the same backbone to start from."""
    L.seed_everything(run.seed, verbose=False)
    backbone = _backbone(options, images)
    views = Views(recipe_for(options.dataset, images.channels), options.image_size, *channel_moments(images.train))
    if run.method == UNTRAINED:
        return Pretraining(backbone, JointEmbedding(nn.Identity(), nn.Identity()), views, learning_rate=0.0)
    recipe = options.recipes[run.method]
    method = METHODS[recipe.method](backbones.width_of(backbone), **recipe.arguments)
    module = Pretraining(backbone, method, views, recipe.learning_rate.value)
    if options.compile:
        # with dozens of networks in one process, dynamo would compile only the first few
        torch.compiler.reset()
        for network in module.networks():
            network.compile(backend=COMPILER)
    return module


def _backbone(options: Options, images: Images) -> nn.Module:
    return backbones.create(
        options.backbone,
        channels=images.channels,
        side=options.image_size,
        stem=options.stem,
        width=options.width,
        channels_last=options.channels_last,
    )
