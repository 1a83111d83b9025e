"""If a collective fails because a rank is late or has ended, the other ranks' errors name the objective and the remedy."""

import contextlib
import os
import re
import time
from datetime import timedelta
from unittest.mock import patch

import pytest
import ranks
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.join import Join

from it_losses import EntropyRegularizer, VICReg, VICRegEntropy, distributed

pytestmark = pytest.mark.slow

#: timeout of a process group in seconds
SHORT = 4
#: name of the objective in error messages -> function that builds its criterion
CRITERIA = {
    "VICReg": VICReg,
    "LogDet": lambda **ranks: VICRegEntropy("log_det", **ranks),
    "Pairwise": lambda **ranks: EntropyRegularizer("pairwise", **ranks),
    # here the invariance alone normalises views, in a separate collective; errors there, too, must name the entropy
    "KoLeo": lambda **ranks: VICRegEntropy("koleo", normalize=None, invariance="von_mises_fisher", **ranks),
    "VarianceCovariance": lambda **ranks: VICRegEntropy("variance_covariance", **ranks),
    "Spacings": lambda **ranks: EntropyRegularizer("spacings", **ranks),
}


def uneven(name, joined):
    """Train rank 0 for one batch more than rank 1. Returns the messages of the error and its cause, or None."""
    group = dist.new_group(timeout=timedelta(seconds=SHORT))
    criterion = CRITERIA[name](process_group=group)
    net = nn.parallel.DistributedDataParallel(nn.Linear(4, 4), process_group=group)
    try:
        with Join([net]) if joined else contextlib.nullcontext():
            for _ in range(3 - dist.get_rank()):
                z = net(torch.randn(8, 4))
                criterion(z, z + 1).backward()
    except RuntimeError as error:
        return str(error), str(error.__cause__)
    return None


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("joined", [False, True], ids=["an uneven loader", "Join"])
def test_a_rank_with_more_batches_is_told_the_remedy(name, joined):
    message, cause = ranks.run(2, uneven, name, joined)[0]
    assert message.startswith(f"rank 0 of 2 failed in a collective while it evaluated {name} for")
    for remedy in ("drop_last=True", "gather_distributed=False"):
        assert remedy in message
    assert cause and cause.splitlines()[0] in message


def late(name):
    """Let rank 1 call the criterion after the timeout. Returns this rank's error message, and the seconds until the error."""
    criterion = CRITERIA[name](process_group=dist.new_group(timeout=timedelta(seconds=SHORT)))
    if dist.get_rank():
        # rank 0 gives up before rank 1 goes on
        time.sleep(SHORT + 2)
    started = time.monotonic()
    try:
        criterion(*torch.randn(2, 8, 4))
    except RuntimeError as error:
        return str(error), time.monotonic() - started


@pytest.mark.parametrize("name", ["LogDet", "Spacings", "VarianceCovariance"])
def test_a_late_rank_is_an_error_on_every_rank_within_the_timeout(name):
    for rank, (told, seconds) in enumerate(ranks.run(2, late, name)):
        assert re.match(rf"rank {rank} of 2 failed in a collective while it evaluated {name} for", told)
        assert "If another rank failed first, see its error message." in told
        assert seconds < 3 * SHORT


def killed(name, collective):
    """Let rank 1 die when it starts a collective on the samples, after the ranks have exchanged their shapes."""
    criterion = CRITERIA[name](process_group=dist.new_group(timeout=timedelta(seconds=SHORT)))
    z = torch.randn(2, 8, 4, requires_grad=True)
    # both ranks start together, so that the measured seconds count from the death of rank 1
    dist.barrier()
    if dist.get_rank():
        with patch.object(distributed.Ranks, collective, lambda *_: os._exit(9)):
            criterion(*z)
    started = time.monotonic()
    try:
        criterion(*z).backward()
    except RuntimeError as error:
        raise RuntimeError(f"{error} It came after {time.monotonic() - started:.1f} seconds.") from error


@pytest.mark.parametrize(("name", "collective"), [("VICReg", "summed"), ("Pairwise", "gathered")])
def test_a_killed_rank_is_an_error_on_the_others_that_names_the_objective(name, collective, monkeypatch):
    monkeypatch.setattr(ranks, "GRACE", 3 * SHORT)
    with pytest.raises(AssertionError) as told:
        ranks.run(2, killed, name, collective)
    assert "rank 1:\nits process ended with exit code 9" in str(told.value)
    assert re.search(rf"RuntimeError: rank 0 of 2 failed in a collective while it evaluated {name} for", str(told.value))
    assert float(re.search(r"It came after ([\d.]+) seconds", str(told.value))[1]) < SHORT


def refused(name, odd):
    """Return this rank's error message if rank 0 passes views that no objective accepts."""
    z = torch.randn(8, 4)
    views = (z, z) if dist.get_rank() else ODD[odd][0](z)
    try:
        CRITERIA[name]()(*views)
    except ValueError as error:
        return str(error)


#: name -> (function that makes invalid views from a tensor, text in the error message of the rank that has these views)
ODD = {
    "vectors": (lambda z: (z[0], z[0]), r"shape (batch, ..., dim)"),
    "a list": (lambda z: ([z, z],), "criterion(*views)"),
    "sparse": (lambda z: (z.to_sparse(), z), ".to_dense()"),
    "integers": (lambda z: (z, z.int()), ".float()"),
}


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("odd", ODD)
def test_a_rank_that_refuses_its_views_tells_the_others(name, odd):
    first, second = ranks.run(2, refused, name, odd)
    assert ODD[odd][1] in first
    assert "ranks [0] of the group raised an error before the loss was computed" in second


def refused_by_le_jepa(changes_a_buffer):
    """Return this rank's error message if rank 0 passes views of different batch sizes or has changed a buffer."""
    lejepa = pytest.importorskip("it_losses.adapters.lightly.lejepa")
    criterion, is_odd = lejepa.LeJEPALoss(gather_distributed=True), dist.get_rank() == 0
    if is_odd and changes_a_buffer:
        criterion.sigreg.weights.mul_(2)
    local_batch = 7 if is_odd and not changes_a_buffer else 8
    try:
        criterion(local_proj=torch.randn(3, local_batch, 4), global_proj=torch.randn(2, 8, 4))
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(
    ("changes_a_buffer", "told"),
    [(False, "local_proj and global_proj must have shape"), (True, "the buffer weights was changed")],
)
def test_a_rank_whose_le_jepa_loss_refuses_its_input_tells_the_others(changes_a_buffer, told):
    pytest.importorskip("lightly")
    first, second = ranks.run(2, refused_by_le_jepa, changes_a_buffer)
    assert told in first
    assert "ranks [0] of the group raised an error before the loss was computed" in second


def promoted():
    """The loss if two views differ in dtype on rank 1 only."""
    z = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(dist.get_rank())).bfloat16()
    views = (z[0], z[1].float()) if dist.get_rank() else (z[0].float(), z[1].float())
    return VICReg()(*views)


def test_views_are_promoted_on_each_rank_before_the_ranks_compare_them():
    z = [torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(rank)).bfloat16().float() for rank in range(2)]
    for loss in ranks.run(2, promoted):
        torch.testing.assert_close(loss, VICReg()(*torch.cat(z, dim=1)))
