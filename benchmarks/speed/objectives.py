"""The objectives that are timed, each with our implementation and others. Add new objectives to OBJECTIVES.

`tests/test_speed_peers.py` requires that all implementations of an objective have the same gradient and accept half precision.
"""

from collections.abc import Callable
from itertools import product

import torch

from benchmarks import peers
from benchmarks.peers import Objective, from_lightly, over_views
from it_losses import EntropyRegularizer, QuadraticRenyi, VICReg, VICRegEntropy, functional

OURS = "it-losses"
#: our pairwise entropy with `memory_mib=0`, which stores no pairs and computes them twice
BOUNDED = "it-losses, least memory"
#: the Gram matrix in plain torch: a baseline of ten lines that we wrote, differentiated by autograd
SMALLER = "torch, N x N"

#: the (batch, dim) at which every objective is timed
SIZES = (64, 32), (256, 128), (256, 2048), (1024, 512), (4096, 128)
#: larger sizes for `--full`; on a GPU always for LARGE_ON_A_GPU, because launches dominate the time of small inputs
LARGE = (4096, 512), (8192, 128), (256, 8192), (1024, 8192)
LARGE_ON_A_GPU = ("vicreg", "log_det", "pairwise")
#: more sizes of VICReg for `--full`
SQUARE = tuple(product((8, 32, 128, 512, 2048), repeat=2))
#: sizes at which peak memory is measured too
PEAKS = (256, 2048), (8192, 128), (256, 8192)


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
    # the default temperature of both is 0.5
    return {OURS: functional.nt_xent, **from_lightly("NTXentLoss", lambda loss, *views: loss(*views))}


def _quadratic(batch: int, dim: int) -> dict[str, Objective]:
    # lightly's loss gets float32, because it uses torch.pdist, which does not support half precision
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


#: name -> function of (batch, dim) that returns the implementations, ours first
OBJECTIVES: dict[str, Callable[[int, int], dict[str, Objective]]] = {
    function.__name__.removeprefix("_"): function
    for function in (_vicreg, _log_det, _pairwise, _koleo, _nt_xent, _quadratic, _renyi, _sigreg)
}


def compiled(implementations: dict[str, Objective]) -> dict[str, Objective]:
    """The last implementation, compiled by torch.compile."""
    name, objective = list(implementations.items())[-1]
    # forget earlier sizes, because torch runs a function eagerly after too many compilations
    torch.compiler.reset()
    return {f"torch.compile({name})": torch.compile(objective, dynamic=False)}
