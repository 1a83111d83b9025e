"""If one rank fails, the test ends within seconds with the traceback of that rank, even if other ranks are waiting."""

import os
import time
import warnings

import pytest
import ranks
import torch
import torch.distributed as dist


def waits_for_a_sum():
    dist.all_reduce(torch.ones(1))


def waits_for_nobody():
    time.sleep(60)


def raises_on_rank_one(otherwise):
    if dist.get_rank() == 1:
        raise KeyError("of rank one")
    otherwise()


def dies_on_rank_one():
    if dist.get_rank() == 1:
        os._exit(7)
    waits_for_a_sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "args", "told"),
    [
        (raises_on_rank_one, (waits_for_a_sum,), r"rank 1:\nTraceback (?s:.)*KeyError: 'of rank one'"),
        (raises_on_rank_one, (waits_for_nobody,), r"rank 1:\nTraceback (?s:.)*KeyError: 'of rank one'"),
        (dies_on_rank_one, (), r"rank 1:\nits process ended with exit code 7"),
    ],
    ids=["inside a collective", "outside one", "a dead process"],
)
def test_a_failure_of_one_rank_ends_the_test_with_its_traceback(check, args, told):
    assert ranks.run(2, dist.get_rank) == [0, 1]
    start = time.monotonic()
    with pytest.raises(AssertionError, match=told):
        ranks.run(2, check, *args)
    assert time.monotonic() - start < 10
    # after a failure the next call of `run` gets new processes
    assert ranks.run(2, dist.get_rank) == [0, 1]


def warns():
    warnings.warn("of a rank", FutureWarning, stacklevel=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("error::FutureWarning")
def test_ranks_have_the_warning_filters_of_the_test():
    with pytest.raises(AssertionError, match="FutureWarning: of a rank"):
        ranks.run(1, warns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ranks.run(1, warns)
