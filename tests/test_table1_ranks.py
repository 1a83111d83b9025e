"""Table 1 on two processes: the same network on both, other images and other views on each."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import benchmarks_extra  # noqa: F401
import pytest
import torch
from programs import finished

from benchmarks.table1.callbacks import Generator
from benchmarks.table1.rows import Records

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--methods", "vicreg", "--epochs", "2", "--seeds", "1", "--limit-images", "40"]
TINY += ["--batch-size", "20", "--width", "0.125", "--image-size", "16"]

#: what each process imports as it starts; it writes, of each step, the weights, the images and what the views will draw
WATCH = """
import os
import torch
from benchmarks.table1.pretrain import Pretraining

train = Pretraining.training_step

def watched(self, images, index):
    state = torch.get_rng_state()
    seen = {"weights": next(self.backbone.parameters()).detach(), "images": images, "drawn": torch.rand(8)}
    torch.set_rng_state(state)
    torch.save(seen, os.path.join(os.environ["WATCHED"], f"{self.global_rank}-{self.global_step}.pt"))
    return train(self, images, index)

Pretraining.training_step = watched
"""


def draws(seed, rank):
    torch.manual_seed(seed)
    Generator(seed).setup(SimpleNamespace(global_rank=rank), None, "fit")
    return tuple(torch.rand(4).tolist())


def test_every_seed_draws_its_own_views_on_every_rank_and_on_the_first_those_of_one_device():
    assert len({draws(seed, rank) for seed in range(4) for rank in range(4)}) == 16
    alone = torch.rand(4, generator=torch.Generator().manual_seed(3))
    assert draws(3, 0) == tuple(alone.tolist())


@pytest.mark.slow
def test_two_processes_train_one_network_on_other_images_and_other_views(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "WATCHED": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", "benchmarks.table1", *TINY, "--devices", "2", "--strategy", "ddp", "--accelerator", "cpu"]
    done = finished([*command, "--output", str(tmp_path / "out")], cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert [row["method"] for row in Records(tmp_path / "out").rows] == ["untrained", "vicreg"]
    assert [point["epoch"] for point in Records(tmp_path / "out").curve("vicreg", 0)] == [1, 2]
    for step in range(4):
        first, second = (torch.load(tmp_path / f"{rank}-{step}.pt") for rank in range(2))
        assert torch.equal(first["weights"], second["weights"])
        assert not torch.equal(first["images"], second["images"])
        assert not torch.equal(first["drawn"], second["drawn"])
