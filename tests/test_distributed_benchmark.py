"""The benchmark of many ranks counts as many bytes as the algebra of each scheme sends."""

import pytest
import ranks
import torch
import torch.distributed as dist

pytest.importorskip("lightly", reason="the extra benchmarks is not installed")

from benchmarks.distributed import SCHEMES, sent_mb
from benchmarks.machine import can_count


def both_sent(samples, dim):
    own = [torch.randn(samples // dist.get_world_size(), dim, requires_grad=True) for _ in range(2)]
    return [sent_mb(lambda loss=SCHEMES[name]: torch.autograd.grad(loss(*own), own)) for name in ("it-losses", "official")]


@pytest.mark.slow
@pytest.mark.skipif(not can_count(), reason="counts bytes by /proc")
@pytest.mark.parametrize("world, samples, dim", [(2, 1024, 256), (4, 256, 512)], ids=["covariance", "rows"])
def test_a_rank_sends_the_bytes_that_the_algebra_says(world, samples, dim):
    # of m numbers, each rank sends (W - 1) m in a ring all-gather and 2 (W - 1) / W m in a ring all-reduce
    gathered, reduced = (world - 1) * samples // world * dim, 2 * (world - 1) / world
    ours = reduced * dim * dim if samples > dim else gathered
    theirs = gathered + reduced * samples * dim
    # there are two views, and a number has four bytes
    for sent in ranks.run(world, both_sent, samples, dim):
        assert sent == pytest.approx([8 * ours / 1e6, 8 * theirs / 1e6], rel=0.02)
