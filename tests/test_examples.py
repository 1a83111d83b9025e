"""The examples in docstrings run, and `python -m it_losses` reports small errors. `test_pages.py` runs the code of pages."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import it_losses

ROOT = Path(__file__).resolve().parent.parent
MODULES = [name for _, name, _ in pkgutil.walk_packages(it_losses.__path__, "it_losses.") if not name.endswith("__main__")]
#: adapters whose docstrings have examples; the other adapters have none, because they need a library
ADAPTERS = ["it_losses.adapters.conventions"]
EXAMPLES = [name for name in MODULES if not name.startswith("it_losses.adapters")] + ADAPTERS


def public_names():
    return {"torch": torch, "it_losses": it_losses, **{name: getattr(it_losses, name) for name in it_losses.__all__}}


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring_examples_run(name):
    try:
        module = importlib.import_module(name)
    except ImportError as missing:
        pytest.skip(f"an optional package is missing: {missing}")
    failed, _ = doctest.testmod(module, extraglobs=public_names(), optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_there_are_docstring_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    assert sum(bool(test.examples) for test in finder.find(importlib.import_module("it_losses.criteria"))) >= 3


def test_the_doctor_names_versions_and_how_far_each_estimator_is_from_its_reference():
    from it_losses.__main__ import report

    said = report()
    assert f"torch {torch.__version__.split('+')[0]}" in said
    differences = re.findall(r"from the reference (\S+);", said)
    assert len(differences) == len(it_losses.ESTIMATORS)
    assert all(float(difference) < 1e-4 for difference in differences)
