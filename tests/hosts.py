"""Imports libraries whose losses our adapters replace: installed packages, or checkouts that environment variables name."""

import importlib
import os
import sys
from pathlib import Path

import pytest

REPOSITORIES = {
    "LIGHTLY_HOME": "lightly-ai/lightly",
    "SOLO_LEARN_HOME": "vturrisi/solo-learn",
    # stable-pretraining must also be installed, because it looks up the version of the installed package
    "STABLE_PRETRAINING_HOME": "galilai-group/stable-pretraining",
    "PYTORCH_METRIC_LEARNING_HOME": "KevinMusgrave/pytorch-metric-learning",
    "EB_JEPA_HOME": "facebookresearch/eb_jepa",
}


def checkout(variable, file):
    """Return the checkout that the environment variable names. Skip the test unless this checkout contains the file."""
    home = Path(os.environ.get(variable, ""))
    if not os.environ.get(variable) or not (home / file).is_file():
        clone = f"git clone https://github.com/{REPOSITORIES[variable]}"
        pytest.skip(f"{variable} is not set, or its folder has no {file}. Run: {clone}, and set {variable} to that folder")
    return home


def module(name, variable=None):
    """Import a module of another library. Skip the test if it is neither installed nor in a checkout."""
    home = os.environ.get(variable, "") if variable else ""
    if home and home not in sys.path:
        sys.path.append(home)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        remedy = f". Install it, or set {variable} to a checkout of it" if variable else ""
        pytest.skip(f"{name} cannot be imported ({error}){remedy}")
