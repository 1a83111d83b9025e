"""The Triton kernels give right numbers under Triton's interpreter, which needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
pytest.importorskip("numpy", reason="Triton's interpreter needs numpy")


@pytest.mark.slow
def test_the_kernels_are_right_under_the_interpreter():
    # Triton reads TRITON_INTERPRET when it is imported, so a new process is needed. The interpreter warns
    # on newer versions of numpy, so warnings are ignored
    file = Path(__file__).with_name("interpreted_kernels.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", str(file)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=file.parents[1], check=False)
    if done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
        pytest.skip(done.stdout[-400:])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
