"""Every test starts from one seed and leaves torch as it found it."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
