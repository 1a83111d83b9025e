"""Every test starts from one seed and leaves torch as it found it; the core tests are marked by their file."""

import sys
from fnmatch import fnmatch

import pytest
import torch

#: files whose tests must pass on every version of torch and Python that we support; tests/test_suite.py finds each
CORE = (
    "test_adapters_lightning*",
    "test_closed_forms*",
    "test_contract*",
    "test_criteria*",
    "test_distributed*",
    "test_kernels*",
    "test_ranks*",
    "test_suite*",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if any(fnmatch(item.path.name, pattern) for pattern in CORE):
            item.add_marker(pytest.mark.core)


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_graphs_of_other_tests():
    yield
    # the compiler counts the graphs of a function over all tests, and gives up at eight
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
