"""The example of many devices prints the losses of one, after as many steps as a reader lets it take."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("timm")
pytest.importorskip("sklearn")
ROOT = Path(__file__).resolve().parent.parent


def losses(*launcher):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, "-m", "benchmarks.examples.train_ddp", "--steps", "31"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [float(loss) for loss in re.findall(r"loss\s+(\S+)", done.stdout)]


@pytest.mark.slow
def test_two_processes_print_the_losses_of_one_for_thirty_steps():
    one = losses()
    two = losses("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert len(one) == 4 and one[-1] < one[0]
    assert two == pytest.approx(one, rel=1e-4)
