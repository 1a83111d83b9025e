"""The doctor `python -m it_losses`: a wrong setting is refused, and what is installed is found under either name."""

import importlib.metadata

import pytest

from it_losses.__main__ import VARIABLE, main, report


def test_an_unknown_backend_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "fastest")
    with pytest.raises(SystemExit):
        main([])
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
    assert line in report().splitlines()
