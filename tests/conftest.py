"""Fixtures that set the random seed to 0 before each test, and reset the number of threads and the compiler after it.

Tests in files that match a pattern in CORE get the mark `core`.
"""

import sys
from fnmatch import fnmatch

import pytest
import torch

#: patterns of the test files that must pass on every supported version of torch and Python
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
    # torch.compile compiles at most eight graphs of a function in all tests together, so reset this count
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
