"""If Python, the disk or the package index is unsuitable, `make` says what to do and shows no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).resolve().parent.parent / ".ci" / "environment"


def told(tmp_path, python=sys.executable, **variables):
    """Run `.ci/environment`, check that it fails without a traceback, and return its error output."""
    done = subprocess.run(
        ["bash", str(PROGRAM), str(python), str(tmp_path / "environment"), "it-losses"],
        env={**os.environ, "ROOM_GB": "0", **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_no_python(tmp_path):
    assert "no program 'no-such-python'" in told(tmp_path, "no-such-python")


def test_a_python_that_does_not_start(tmp_path):
    assert "does not start" in told(tmp_path, "false")


def test_a_python_that_is_too_old(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\ncase "$2" in *exit*) exit 1;; *) echo 3.9;; esac\n')
    old.chmod(0o755)
    said = told(tmp_path, old)
    assert "is Python 3.9; 3.10 or newer is needed" in said
    assert "make PYTHON=" in said


def test_a_python_without_venv(tmp_path):
    for missing in ("ensurepip", "venv"):
        (tmp_path / f"{missing}.py").write_text("raise ImportError")
        assert "-venv" in told(tmp_path, PYTHONPATH=str(tmp_path))
        (tmp_path / f"{missing}.py").unlink()


def test_a_disk_that_is_too_small(tmp_path):
    said = told(tmp_path, ROOM_GB="1000000")
    assert "GB free; torch and the other packages need 1000000" in said
    assert not (tmp_path / "environment").exists()


def test_an_index_that_is_out_of_reach(tmp_path):
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_CACHE_DIR": "1"}
    said = told(tmp_path, **nowhere, PIP_FIND_LINKS="", PIP_EXTRA_INDEX_URL="")
    assert "pip does not reach a package index" in said
    assert "PIP_INDEX_URL" in said
