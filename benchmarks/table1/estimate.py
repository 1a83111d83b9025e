"""How long a table will take: a few steps and one probe of its largest method, timed on a copy, times the runs to make."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import torch

from benchmarks.data import Images
from benchmarks.methods import Step
from benchmarks.table1.cli import Options
from benchmarks.table1.pretrain import Pretraining, measure
from benchmarks.table1.recipes import title
from benchmarks.table1.runs import Run, length_of, module_for

#: steps before the clock starts (the first compiles and allocates) and under it
WARM_UP, TIMED = 2, 3
#: images of each half that the probe is timed on; its time is taken to grow as the images do
PROBED_IMAGES = 4096


def estimate(runs: list[Run], options: Options, images: Images) -> str:
    """The estimate as a sentence. It trains a copy that is thrown away, and each run seeds itself, so no number changes."""
    # rows and variants of one kind have networks of about one size
    kinds = {options.recipes[run.method].method: run.method for run in reversed(runs)}
    largest = max(kinds.values(), key=lambda method: _size(module_for(Run(method, 0), options, images)))
    module = module_for(Run(largest, 0), options, images).to("cuda" if options.accelerator == "gpu" else "cpu")
    step_s = _step_seconds(module, images.subset(options.batch_size // options.devices), options.precision)
    part, (steps, every) = images.subset(PROBED_IMAGES), length_of(options, images)
    probes = -(-options.epochs // every)
    probe_s = len(images.train) / len(part.train) * _seconds(lambda: measure(module, part, probes=True))
    look_s = _seconds(lambda: measure(module, part, probes=False))
    run_s = steps * step_s + probes * probe_s + (options.epochs - probes) * look_s
    whole = timedelta(seconds=round(len(runs) * run_s / options.jobs))
    return (
        f"about {whole} to go, an estimate: {title(largest, options.recipes)}, the largest method, now takes "
        f"{1e3 * step_s:.3g} ms a step and {probe_s:.2g} s a probe; {len(runs)} runs of {steps} steps to make"
    )


def _size(module: Pretraining) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _step_seconds(module: Pretraining, images: Images, precision: str) -> float:
    """Seconds of one training step on all training images, with views and optimiser."""
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-6, fused=True)
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    pixels, labels = images.train.to(module.device), images.train_labels.to(module.device)
    module.train()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(module.device.type, half, enabled=half is not None):
            loss = module.method.loss(module.backbone, *module.views(pixels), Step(0, 1, labels))
        loss.backward()
        optimizer.step()
        # waits for the device
        loss.item()

    return sum([_seconds(step) for _ in range(WARM_UP + TIMED)][WARM_UP:]) / TIMED


def _seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of a call that waits for the device itself."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
