"""The doctor `python -m it_losses`: what it is asked is checked, and what is installed is found under either name."""

import importlib.metadata

import pytest

from it_losses.__main__ import main, report
from it_losses.__main__ import VARIABLE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1"], "batch must be a whole number >= 2, got 1"),
        (["-5", "8"], "-5|batch"),
        (["8", "0"], "dim must be a whole number >= 1, got 0"),
        (["8.5"], "invalid int"),
        (["many"], "invalid int"),
    ],
    ids=str,
)
def test_a_size_that_no_objective_takes_is_refused_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and any(part in said for part in message.split("|"))


def test_an_unknown_backend_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "fastest")
    with pytest.raises(SystemExit):
        main(["8", "4"])
    assert f"{VARIABLE} must be one of" in capsys.readouterr().err


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
    assert line in report(8, 4).splitlines()
