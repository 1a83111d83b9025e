"""Warnings that our code causes are errors in the test suite, and every pattern for core tests finds a file."""

import warnings
from pathlib import Path

import conftest
import pytest

HERE = Path(__file__).parent


def caller(name):
    """Return a function of a module of this name. It calls a deprecated function of torch."""
    torch = {"__name__": "torch.deprecated"}
    exec("import warnings\ndef called(): warnings.warn('deprecated', FutureWarning, stacklevel=2)", torch)
    module = {"__name__": name, "called": torch["called"]}
    exec("def call(): called()", module)
    return module["call"]


@pytest.mark.parametrize(
    "name", ["it_losses", "it_losses.bound", "it_losses.adapters.lightly", "benchmarks.data", "hydra_plugins.x"]
)
def test_a_warning_that_our_code_causes_is_an_error(name):
    with pytest.raises(FutureWarning, match="deprecated"):
        caller(name)()


@pytest.mark.parametrize("name", ["torch._inductor.codecache", "lightning.pytorch", "it_losses_of_others", "tests.x"])
def test_a_warning_that_other_code_causes_is_no_error(name):
    with warnings.catch_warnings(record=True) as caught:
        caller(name)()
    assert [str(warning.message) for warning in caught] == ["deprecated"]


@pytest.mark.parametrize("pattern", conftest.CORE)
def test_every_pattern_of_the_core_finds_a_file(pattern):
    assert list(HERE.glob(pattern)), f"no file in tests/ matches {pattern}. Correct CORE in tests/conftest.py"
