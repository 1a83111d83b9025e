"""The cost model of many ranks says of bytes what the kernel counts."""

import warnings

import pytest
import ranks
import torch
import torch.distributed as dist

pytest.importorskip("lightly", reason="the extra benchmarks is not installed")

from benchmarks.distributed import measure, model
from benchmarks.distributed.measure import official, sent_mb
from benchmarks.machine import can_count
from it_losses import VICReg

counts_bytes = pytest.mark.skipif(not can_count(), reason="counts bytes by /proc")


def both_sent(samples, dim):
    views = torch.randn(2, samples // dist.get_world_size(), dim)
    own = [z.clone().requires_grad_() for z in views]
    found = []
    for loss in (VICReg(), official):
        found.append(sent_mb(lambda loss=loss: torch.autograd.grad(loss(*own), own)))
    return found


@pytest.mark.slow
@counts_bytes
@pytest.mark.parametrize("world, samples, dim", [(2, 1024, 256), (4, 256, 512)], ids=["covariance", "rows"])
def test_a_rank_sends_the_bytes_of_the_model(world, samples, dim):
    for ours, theirs in ranks.run(world, both_sent, samples, dim):
        assert ours == pytest.approx(model.ours(world, samples, dim, payload=4).sent / 1e6, rel=0.02)
        assert theirs == pytest.approx(model.gather_and_repeat(world, samples, dim, payload=4).sent / 1e6, rel=0.02)


def constants_without_warnings():
    # torch attributes the warning to itself, so the filter looks for its words
    warnings.filterwarnings("error", message=".*torch.* is deprecated")
    return list(measure._constants())


@pytest.mark.slow
def test_the_constants_are_measured_without_deprecated_calls():
    for constants in ranks.run(2, constants_without_warnings):
        assert min(constants) > 0
