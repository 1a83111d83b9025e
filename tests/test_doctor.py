"""`python -m it_losses` refuses wrong environment variables, finds Lightning by both package names, and shows the self-test."""

import importlib.metadata

import pytest
import torch

from it_losses import ESTIMATORS
from it_losses.__main__ import VARIABLES, _kernel_faults, main, report
from it_losses.kernels import dispatch, self_test


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("arguments", [[], ["--estimators"], ["--self-test"]])
def test_an_unknown_value_of_a_variable_is_refused_in_one_line(variable, arguments, monkeypatch, capsys):
    monkeypatch.setenv(variable, "fastest")
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    said = capsys.readouterr()
    assert f"{variable} must be one of" in said.err and not said.out and stopped.value.code == 2


def test_the_values_of_the_variables_are_those_that_the_implementations_know():
    assert list(VARIABLES.values()) == [dispatch.BACKENDS, self_test.MODES]


@pytest.mark.parametrize(
    ("installed", "line"),
    [
        ({"lightning": "2.6", "pytorch-lightning": "2.5"}, "lightning 2.6"),
        ({"pytorch-lightning": "2.5"}, "pytorch-lightning 2.5"),
        ({}, "lightning not installed"),
    ],
    ids=["both", "the older name", "neither"],
)
def test_lightning_is_found_under_either_name(installed, line, monkeypatch):
    def version(package):
        if package not in installed:
            raise importlib.metadata.PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert line in report().splitlines()


@pytest.mark.slow
def test_the_self_test_shows_every_estimator_and_that_there_are_no_kernels_to_test(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    main(["--self-test"])
    lines = capsys.readouterr().out.splitlines()
    assert "  not run: there is no CUDA device" in lines
    for name in ESTIMATORS:
        (line,) = [line for line in lines if line.startswith(f"  {name} float16 64 x 256: from the reference ")]
        assert line.count(" ms") == 2


def test_the_self_test_shows_the_outcome_of_every_kernel(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(self_test, "fault", lambda products, *_, **__: "a sum is off" if products else "")
    lines = _kernel_faults()
    assert [line.split(": ")[1] for line in lines] == ["passed"] * 6 + ["a sum is off"] * 12
