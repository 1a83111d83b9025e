"""Which sizes are measured: the quick grid of `make bench`, and the full one."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """An objective at a size; `peak` if memory is measured too, not `timed` if memory alone is measured."""

    objective: str
    batch: int
    dim: int
    compiled: bool = False
    peak: bool = False
    timed: bool = True


def quick() -> list[Case]:
    """A few sizes on both sides of N = D, small and large."""
    vicreg = [(32, 32), (128, 128), (256, 2048), (1024, 512), (4096, 128)]
    return [
        *(Case("vicreg", n, d, peak=d == 2048) for n, d in vicreg),
        *(Case("log_det", n, d, peak=d == 2048) for n, d in [(256, 2048), (1024, 512)]),
        *(Case("pairwise", n, d, peak=n == 2048) for n, d in [(1024, 512), (2048, 128)]),
    ]


def full() -> list[Case]:
    """The sizes at which targets are set, then every N, D in {8, 32, 128, 512, 2048} for VICReg."""
    side = (8, 32, 128, 512, 2048)
    ahead = [(256, 2048), (512, 2048), (1024, 2048), (1024, 512), (4096, 512), (8192, 128), (256, 8192), (1024, 8192)]
    others = [(n, d) for n in side for d in side if (n, d) not in ahead]
    # a compiler gains most where elementwise passes cost most
    compiled = {(n, d) for n, d in [*others, (256, 2048), (512, 2048), (8192, 128)] if min(n, d) >= 128}
    vicreg = [Case("vicreg", n, d, compiled=(n, d) in compiled, peak=d == 8192) for n, d in [*ahead, *others]]
    entropies = [
        *(Case("log_det", n, d) for n, d in [(256, 2048), (1024, 2048), (1024, 512), (256, 128), (64, 32)]),
        Case("log_det", 256, 8192, peak=True, timed=False),
        *(Case("pairwise", n, d) for n, d in [(1024, 512), (4096, 128), (4096, 512), (256, 512), (256, 128), (64, 32)]),
        Case("pairwise", 8192, 128, peak=True),
    ]
    return [*vicreg[: len(ahead)], *entropies, *vicreg[len(ahead) :]]


#: batch and dim of the training step
STEP = (128, 2048)
