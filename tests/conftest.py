"""Before each test the random seed is set to 0. After each test the number of threads and the compiler are reset.

Tests in a file that matches a pattern of CORE get the mark `core`.
"""

import sys
from fnmatch import fnmatch

import pytest
import torch

#: patterns of the test files that must pass on every supported version of torch and Python; each pattern must match a file
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
    # torch.compile counts the graphs of a function over all tests and stops compiling at eight, so reset this count
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
