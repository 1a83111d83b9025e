"""An estimator warns once if its value cannot be trusted, and never in compiled code."""

import copy
import pickle
import warnings

import pytest
import torch

from it_losses import LogDet, Pairwise
from it_losses.entropy.base import SaturationWarning
from it_losses.entropy.log_det import MOST_IN_FLOAT32


def told(call):
    """Return the messages of the warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught]


def test_log_det_says_once_that_float32_has_no_digits_left():
    estimator = LogDet(3.0)
    assert told(lambda: estimator.warn_if_saturated(torch.tensor([0.99 * MOST_IN_FLOAT32]))) == []
    above = torch.tensor([1.01 * MOST_IN_FLOAT32])
    (message,) = told(lambda: estimator.warn_if_saturated(above))
    assert "beta times the largest variance is above 100000" in message and "float64" in message
    assert told(lambda: estimator.warn_if_saturated(above)) == []


def test_log_det_does_not_warn_in_float64_or_of_values_that_are_not_finite():
    estimator = LogDet()
    for parts in (
        torch.tensor([1e9], dtype=torch.float64),
        torch.tensor([float("nan")]),
        torch.tensor([float("inf")]),
        torch.empty(0),
    ):
        assert told(lambda parts=parts: estimator.warn_if_saturated(parts)) == []


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda estimator: pickle.loads(pickle.dumps(estimator))], ids=["copy", "pickle"]
)
def test_a_copy_warns_by_itself(copied):
    z, estimator = torch.randn(16, 8), Pairwise(1e-3)
    other = copied(estimator)
    assert len(told(lambda: estimator(z))) == len(told(lambda: other(z))) == 1
    assert told(lambda: estimator(z)) == told(lambda: other(z)) == []


def test_it_warns_only_if_every_value_is_above_the_limit():
    warning = SaturationWarning("too large")
    above, within = torch.tensor([2.0, 1.5]), torch.tensor([2.0, 0.5])
    assert told(lambda: warning.warn_if_saturated([within, above], above=1.0)) == []
    assert told(lambda: warning.warn_if_saturated([above, above], above=1.0)) == ["too large"]


def test_no_value_is_read_in_compiled_code_or_on_the_meta_device():
    warning = SaturationWarning("too large")
    assert told(lambda: warning.warn_if_saturated([torch.empty((), device="meta")], above=1.0)) == []

    def looked(z):
        warning.warn_if_saturated([z], above=1.0)
        return z + 1

    assert told(lambda: torch.compile(looked, backend="eager", fullgraph=True)(torch.tensor(5.0))) == []
