"""The Triton kernels without a GPU: right under Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def test_the_kernels_are_right_under_the_interpreter():
    # Triton looks at the variable when it is imported: a process of its own
    file = Path(__file__).with_name("interpreted_kernels.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=file.parents[1], check=False)
    assert done.returncode == 0, done.stdout[-4000:]


def test_tf32_follows_either_of_torchs_settings():
    # a process of its own: torch refuses to read the older setting once the newer has been used
    program = """
import torch
from it_losses.kernels.triton_launches import takes_tf32
assert not takes_tf32()
for precision, expected in (("high", True), ("highest", False)):
    torch.set_float32_matmul_precision(precision)
    assert takes_tf32() == expected
if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert takes_tf32()
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    assert not takes_tf32()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
