"""A criterion notifies its observers once of each eager call, and not of compiled calls or torch.func transforms."""

import gc
import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from it_losses import EntropyRegularizer, VICReg, VICRegEntropy
from it_losses.observe import OBSERVERS, add_observer


class Notes:
    def __init__(self):
        self.calls = []

    def called(self, module, views, terms):
        self.calls.append((module, views, terms))


@pytest.fixture
def notes():
    observer = Notes()
    stop = add_observer(observer)
    yield observer
    stop()


@pytest.mark.parametrize("criterion", [VICReg(), VICRegEntropy("log_det"), VICRegEntropy("pairwise")], ids=repr)
def test_every_way_to_call_a_criterion_is_told_once_with_its_terms(criterion, notes):
    z_a, z_b = torch.randn(2, 16, 4)
    for call in (
        lambda: criterion(z_a, z_b),
        lambda: criterion.terms(z_a, z_b),
        lambda: criterion(z_a=z_a, z_b=z_b),
        lambda: criterion.terms(z_a, z_b=z_b),
    ):
        notes.calls.clear()
        call()
        ((module, views, terms),) = notes.calls
        assert module is criterion and len(views) == 2 and views[0] is z_a and views[1] is z_b
        assert dict(terms) == criterion.terms(z_a, z_b)._asdict()
    notes.calls.clear()
    criterion(z_a, z_b, z_a)
    assert len(notes.calls[0][1]) == 3


def test_a_regularizer_tells_its_entropy(notes):
    z = torch.randn(16, 4)
    regularizer = EntropyRegularizer("log_det", weight=0.2)
    value = regularizer(z)
    ((module, (seen,), terms),) = notes.calls
    assert module is regularizer and seen is z
    torch.testing.assert_close(-0.2 * terms["entropy"], value)


def test_removed_or_deleted_observers_are_not_notified():
    left, gone = Notes(), Notes()
    stop = add_observer(left)
    stop()
    stop()
    add_observer(gone)
    calls = gone.calls
    del gone
    gc.collect()
    VICReg()(*torch.randn(2, 8, 4))
    assert left.calls == calls == []
    assert not OBSERVERS


def test_torch_func_transforms_notify_no_observer(notes):
    z = torch.randn(2, 16, 4)
    torch.func.grad(lambda z: VICReg()(*z))(z)
    assert notes.calls == []


def test_compiled_code_keeps_one_graph_and_tells_nothing(notes):
    z = torch.randn(2, 16, 4)
    for criterion in (VICReg(), VICRegEntropy("log_det")):
        torch.compile(criterion, fullgraph=True, backend="eager")(*z)
    torch.compile(EntropyRegularizer("log_det"), fullgraph=True, backend="eager")(z[0])
    assert notes.calls == []


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_tells_once(notes, reentrant):
    z = torch.randn(2, 16, 4, requires_grad=True)
    checkpoint(lambda z: VICReg()(*z), z, use_reentrant=reentrant).backward()
    assert len(notes.calls) == 1


def test_criteria_hold_nothing_of_an_observer(notes):
    criterion = VICReg()
    criterion(*torch.randn(2, 8, 4))
    assert not criterion._forward_hooks and not criterion._forward_pre_hooks
    pickle.loads(pickle.dumps(criterion))
