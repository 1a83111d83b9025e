"""Training on several ranks by DDP, FSDP, Lightning or torchrun gives the weights or losses of training in one process."""

import os
import re
import runpy
import sys
from pathlib import Path

import pytest
import ranks
import torch
import torch.distributed as dist
from programs import finished
from torch import nn

from it_losses import EntropyRegularizer, VICReg, VICRegEntropy

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
STEPS = 20
# small enough for every objective to converge at dim 7, because a run that diverges magnifies rounding errors
LEARNING_RATE = 0.005
#: number of ranks -> how many samples of a global batch of 13 each rank holds
ROWS = {1: (13,), 2: (4, 9), 4: (5, 1, 4, 3)}


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 7)).double()


def batch(step, rows):
    generator = torch.Generator().manual_seed(step)
    start = sum(rows[: dist.get_rank()])
    views = torch.randn(2, sum(rows), 6, generator=generator, dtype=torch.float64)
    return views[:, start : start + rows[dist.get_rank()]]


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def all_trained(wrap, accumulate):
    return [trained(objective, wrap, accumulate) for objective in (VICReg, VICRegEntropy, regularized_distance)]


def trained(objective, wrap, accumulate=1):
    """Return the weights after STEPS optimizer steps. Each step accumulates the gradients of `accumulate` global batches."""
    rows = ROWS[dist.get_world_size()]
    net = model()
    if wrap:
        net = nn.parallel.DistributedDataParallel(net)
    criterion = objective()
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, momentum=0.9)
    for step in range(STEPS):
        for part in range(accumulate):
            # as with DDP's no_sync, the ranks average gradients only in the last backward pass before an optimizer step
            net.require_backward_grad_sync = part == accumulate - 1
            views = batch(step * accumulate + part, rows)
            z_a, z_b = net(views.flatten(0, 1)).chunk(2)
            (criterion(z_a, z_b) / accumulate).backward()
        optimizer.step()
        optimizer.zero_grad()
    return weights(net)


def regularized_distance():
    regularizer = EntropyRegularizer("pairwise")
    distance = VICReg(1.0, 0.0, 0.0)
    return lambda z_a, z_b: distance(z_a, z_b) + regularizer(z_a, z_b)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_ddp_ends_with_the_weights_of_one_process(world, accumulate):
    (alone,) = ranks.run(1, all_trained, False, accumulate)
    assert all((ends - weights(model())).abs().max() > 1e-2 for ends in alone)
    for ours in ranks.run(world, all_trained, True, accumulate):
        torch.testing.assert_close(ours, alone, rtol=0, atol=1e-10)


def trained_in_shards():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    net = model()
    for layer in (net[0], net[2], net):
        fully_shard(layer, mesh=mesh)
    criterion = VICRegEntropy("log_det")
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, momentum=0.9)
    for step in range(STEPS):
        criterion(*net(batch(step, ROWS[dist.get_world_size()]).flatten(0, 1)).chunk(2)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([p.detach().full_tensor().flatten() for p in net.parameters()])


def test_fsdp_ends_with_the_weights_of_one_process():
    (alone,) = ranks.run(1, trained, VICRegEntropy, False)
    for ours in ranks.run(2, trained_in_shards):
        torch.testing.assert_close(ours, alone, rtol=0, atol=1e-10)


def gradient_of_a_weight_in_shards():
    """Return the gradient of a weight that FSDP2 shards, and its expected value. The last rank holds an empty shard."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net = torch.nn.Module()
    net.criterion = VICRegEntropy("log_det", entropy_weight=torch.nn.Parameter(torch.tensor([3.0], dtype=torch.float64)))
    net.forward = lambda *views: net.criterion.terms(*views)
    fully_shard(net, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    terms = net(*batch(0, ROWS[dist.get_world_size()]).requires_grad_())
    terms.loss.backward()
    return net.criterion.entropy_weight.grad.full_tensor().item(), -terms.entropy.item()


def test_fsdp_shards_a_trainable_weight():
    for gradient, expected in ranks.run(2, gradient_of_a_weight_in_shards):
        assert gradient == pytest.approx(expected, rel=1e-5)


def started(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = finished([sys.executable, *command], cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lightning_ends_with_the_weights_of_one_process(tmp_path):
    pytest.importorskip("lightning")
    started(str(ROOT / "tests" / "lightning_ddp.py"), "2", str(tmp_path / "weights.pt"))
    ours = torch.load(tmp_path / "weights.pt")
    torch.manual_seed(0)
    net = nn.Linear(6, 5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    criterion = VICRegEntropy("log_det")
    for z_a, z_b in zip(*(x.split(8) for x in torch.randn(2, 24, 6, generator=generator, dtype=torch.float64)), strict=True):
        criterion(net(z_a), net(z_b)).backward()
        for parameter in net.parameters():
            parameter.data -= 0.01 * parameter.grad
            parameter.grad = None
    torch.testing.assert_close(ours, net.state_dict(), rtol=0, atol=1e-10)


def test_the_example_prints_the_losses_of_one_process_under_torchrun(monkeypatch, capsys):
    pytest.importorskip("timm")
    options = ("--steps", "31", "--batch", "64")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    together = started(*launcher, "-m", "benchmarks.examples.train_ddp", *options)
    monkeypatch.setattr(sys, "argv", ["train_ddp", *options])
    runpy.run_module("benchmarks.examples.train_ddp", run_name="__main__")
    losses = [[float(loss) for loss in re.findall(r"loss\s+(\S+)", printed)] for printed in (capsys.readouterr().out, together)]
    assert len(losses[0]) == 4 and losses[0][-1] < losses[0][0]
    # losses are printed with four decimals, so a difference of 2e-4 is allowed
    assert losses[1] == pytest.approx(losses[0], abs=2e-4)
