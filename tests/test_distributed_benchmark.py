"""The communication benchmark counts the bytes that a rank sends. The counts agree with the formulas for ring collectives."""

import pytest
import ranks
import torch
import torch.distributed as dist

pytest.importorskip("lightly", reason="needs pip install '.[benchmarks]'")

from benchmarks.distributed import SCHEMES, sent_mb
from benchmarks.machine import can_count


def both_sent(samples, dim):
    own = [torch.randn(samples // dist.get_world_size(), dim, requires_grad=True) for _ in range(2)]
    steps = (lambda loss=SCHEMES[name]: torch.autograd.grad(loss(*own), own) for name in ("it-losses", "official"))
    return [sent_mb(step) for step in steps]


@pytest.mark.slow
@pytest.mark.skipif(not can_count(), reason="needs /proc, which only Linux has")
@pytest.mark.parametrize("world, samples, dim", [(2, 1024, 256), (4, 256, 512)], ids=["covariance", "rows"])
def test_a_rank_sends_the_bytes_of_ring_collectives(world, samples, dim):
    # in a ring of W ranks, each rank sends (W - 1) m bytes in an all-gather of m bytes per rank. In an all-reduce of m bytes
    # each rank sends 2 m (W - 1) / W bytes. The factor 8 below counts two views with 4 bytes per number
    gathered, share = (world - 1) * samples // world * dim, 2 * (world - 1) / world
    ours = share * dim * dim if samples > dim else gathered
    theirs = gathered + share * samples * dim
    for sent in ranks.run(world, both_sent, samples, dim):
        assert sent == pytest.approx([8 * ours / 1e6, 8 * theirs / 1e6], rel=0.02)
