"""The objectives that are timed, each with our implementation, those of others, and the sizes: add one to OBJECTIVES.

`tests/test_speed_peers.py` requires that all implementations of an entry have the same gradient and take half precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch

from benchmarks import peers
from benchmarks.peers import Objective, from_lightly, over_views
from it_losses import EntropyRegularizer, QuadraticRenyi, VICReg, VICRegEntropy, functional

OURS = "it-losses"
#: our pairwise entropy with no memory for pairs
BOUNDED = "it-losses, least memory"
#: the Gram matrix in plain torch: a baseline of ten lines that we wrote, differentiated by autograd
SMALLER = "torch, N x N"
Sizes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Entry:
    """An objective: its implementations at (batch, dim), ours first, and the (batch, dim) at which they are measured."""

    implementations: Callable[[int, int], dict[str, Objective]]
    #: sizes of `make bench`, and of `--full`
    quick: Sizes
    full: Sizes
    #: sizes of `make bench` on a GPU beside the quick ones: there a small input takes the time of the host
    large: Sizes = ()
    #: sizes at which peak memory is measured too, and those of `--full` at which it is measured alone
    peaks: Sizes = ()
    untimed: Sizes = ()
    #: sizes of `--full` at which torch.compile of the last implementation is timed too
    compiled: Sizes = ()


def _vicreg(batch: int, dim: int) -> dict[str, Objective]:
    gram = {SMALLER: peers.gram_vicreg} if batch < dim else {}
    others = {"solo-learn": peers.solo_learn_vicreg, "official": peers.official_vicreg}
    return {OURS: VICReg(), **from_lightly("VICRegLoss", lambda loss, *views: loss(*views)), **gram, **others}


def _log_det(batch: int, dim: int) -> dict[str, Objective]:
    gram = {SMALLER: over_views(peers.gram_log_det)} if batch < dim else {}
    ours = EntropyRegularizer("log_det", weight=2.0, per_dimension=False)
    return {OURS: ours, **gram, "torch.logdet": over_views(peers.covariance_log_det)}


def _pairwise(batch: int, dim: int) -> dict[str, Objective]:
    ours = EntropyRegularizer("pairwise", weight=2.0, bandwidth=dim**0.5)
    bounded = EntropyRegularizer("pairwise", weight=2.0, bandwidth=dim**0.5, memory_mib=0)
    return {OURS: ours, BOUNDED: bounded, "torch.cdist": over_views(peers.cdist_pairwise)}


def _koleo(batch: int, dim: int) -> dict[str, Objective]:
    lightly = from_lightly("KoLeoLoss", lambda loss, z_a, z_b: loss(z_a) + loss(z_b))
    return {OURS: EntropyRegularizer("koleo", weight=2.0), **lightly}


def _nt_xent(batch: int, dim: int) -> dict[str, Objective]:
    # both have the temperature 0.5
    return {OURS: functional.nt_xent, **from_lightly("NTXentLoss", lambda loss, *views: loss(*views))}


def _quadratic(batch: int, dim: int) -> dict[str, Objective]:
    # torch.pdist takes no half precision
    module = "lightly.loss.hypersphere_loss"
    lightly = from_lightly("HypersphereLoss", lambda loss, *views: loss(*map(peers.wide, views)), module)
    ours = VICRegEntropy(QuadraticRenyi.of_uniformity(1.0), invariance_weight=2.0, entropy_weight=1.0)
    return {OURS: ours, **lightly}


def _renyi(batch: int, dim: int) -> dict[str, Objective]:
    weights = {"invariance_weight": dim / batch, "entropy_weight": 2.0}
    ours = VICRegEntropy("renyi", normalize="uncentred_columns", **weights)
    return {OURS: ours, **from_lightly("FroSSLLoss", lambda loss, *views: loss(views))}


def _sigreg(batch: int, dim: int) -> dict[str, Objective]:
    ours = EntropyRegularizer("sigreg", convention="lightly")
    return {OURS: ours, **from_lightly("SIGReg", lambda loss, *views: loss(torch.stack(views)))}


#: the sizes at which targets are set, then every N, D in these
TARGETS = (256, 2048), (512, 2048), (1024, 2048), (1024, 512), (4096, 512), (8192, 128), (256, 8192), (1024, 8192)
#: sizes of the other entropies
FAMILY = (64, 32), (256, 128), (256, 2048), (1024, 512), (4096, 128)
SQUARE = tuple(product((8, 32, 128, 512, 2048), repeat=2))

OBJECTIVES = {
    "vicreg": Entry(
        _vicreg,
        quick=((32, 32), (128, 128), (256, 2048), (1024, 512), (4096, 128)),
        large=((1024, 2048), (256, 8192), (1024, 8192), (8192, 512)),
        full=(*TARGETS, *(size for size in SQUARE if size not in TARGETS)),
        peaks=((256, 2048), (256, 8192), (1024, 8192)),
        # a compiler gains most where elementwise passes cost most
        compiled=(*(size for size in SQUARE if min(size) >= 128), (256, 2048), (8192, 128)),
    ),
    "log_det": Entry(
        _log_det,
        quick=((64, 32), (256, 2048), (1024, 512)),
        large=((1024, 8192), (4096, 512)),
        full=((256, 2048), (1024, 2048), (1024, 512), (256, 128), (64, 32)),
        peaks=((256, 2048),),
        untimed=((256, 8192),),
    ),
    "pairwise": Entry(
        _pairwise,
        quick=((64, 32), (1024, 512), (2048, 128)),
        large=((4096, 512), (8192, 128)),
        full=((1024, 512), (4096, 128), (4096, 512), (256, 512), (256, 128), (64, 32), (8192, 128)),
        peaks=((2048, 128), (8192, 128)),
    ),
    "koleo": Entry(_koleo, quick=FAMILY, full=FAMILY, peaks=((1024, 512),)),
    "nt_xent": Entry(_nt_xent, quick=FAMILY[:3], full=FAMILY, peaks=((1024, 512),)),
    "quadratic": Entry(_quadratic, quick=FAMILY, full=FAMILY, peaks=((1024, 512),)),
    "renyi": Entry(_renyi, quick=FAMILY, full=FAMILY, peaks=((1024, 512),)),
    # lightly's loss holds 17 tables of [batch, slices]
    "sigreg": Entry(_sigreg, quick=FAMILY[:3], full=FAMILY[:4], peaks=((256, 128),)),
}


def compiled(implementations: dict[str, Objective]) -> dict[str, Objective]:
    """The last implementation through torch.compile."""
    name, objective = list(implementations.items())[-1]
    # one compiled function for each size, because a function that was compiled too often runs eagerly
    torch.compiler.reset()
    return {f"torch.compile({name})": torch.compile(objective, dynamic=False)}
