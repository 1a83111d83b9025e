"""Table 1 from the command line: what it refuses, what it writes, and that it goes on after a kill."""

import json
import math
import signal
import subprocess
import sys

import benchmarks_extra  # noqa: F401
import pytest
import torch
from rich.console import Console

from benchmarks import backbones
from benchmarks.table1 import pool, pretrain, runs
from benchmarks.table1.__main__ import main
from benchmarks.table1.cli import PRECISIONS, parse
from benchmarks.table1.plan import Run, loaded
from benchmarks.table1.progress import Bars
from benchmarks.table1.rows import Records

TINY = [
    "--methods",
    "vicreg",
    "byol_logdet",
    "--epochs",
    "1",
    "--seeds",
    "1",
    "--limit-images",
    "70",
    "--image-size",
    "16",
    "--jobs",
    "1",
]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setenv("IT_LOSSES_TABLE1_PENDING", "")
    yield
    # Lightning turns Ctrl-C off once it has seen one
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "vicregg"], "--methods knows"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--width", "0.06"], "--width must be at least 0.125"),
        (["--batch-size", "7", "--devices", "2"], "cannot be divided"),
        (["--jobs", "2", "--devices", "2"], "runs of one device each"),
        (["--batch-size", "5000"], "more than the 1437"),
        (["--backbone", "resnet_18"], "timm has no model"),
        (["--dataset", "fashion_mnist"], "needs --data-root"),
        (["--data-root", "/nowhere"], "is not a folder"),
        (["--strategy", "no_such"], "auto and ddp have"),
        (["--strategy", "fsdp", "--devices", "2"], "auto and ddp have"),
        (["--precision", "16-mixed", "--accelerator", "cpu"], "needs a GPU"),
        (["--dataset", "image_folder", "--data-root", "."], "folder train is missing"),
    ],
)
def test_what_cannot_work_is_refused_before_any_training(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(runs, "trained", lambda *_: pytest.fail("trained"))
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_on_offer_trains_on_a_cpu_or_is_refused_there(tmp_path, precision):
    arguments = [*TINY, "--methods", "vicreg", "--precision", precision, "--accelerator", "cpu", "--output", str(tmp_path)]
    refused = precision == "16-mixed"
    assert main(arguments) == refused
    assert [math.isfinite(row["loss"]) for row in Records(tmp_path).rows[1:]] == [True] * (not refused)


def test_torchrun_is_refused_on_every_rank_with_what_to_do_instead(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("IT_LOSSES_TABLE1_PENDING")
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main([*TINY, "--devices", "2", "--batch-size", "20", "--output", str(tmp_path / "out")]) == 1
    assert "run this without torchrun" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("")
    assert main(["--output", str(path)]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_tiny_table_is_trained_printed_and_written(tmp_path, capsys):
    assert main([*TINY, "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["untrained", "vicreg", "byol_logdet"]
    assert all(0 <= row["linear"] <= 1 and row["entropy_upper_nats"] >= 0 for row in rows)
    markdown = (tmp_path / "table1.md").read_text()
    assert "| VICReg | " in markdown and "| BYOL+LogDet | " in markdown
    assert f"{100 * rows[1]['linear']:.1f}" in markdown and "VICReg" in printed
    assert (tmp_path / "table1.csv").read_text().startswith("method,title,seeds,linear,")
    assert (tmp_path / "table1.png").read_bytes().startswith(b"\x89PNG")
    assert len(Records(tmp_path).curve("vicreg", 0)) == 1

    # the same command trains nothing; another setting is refused
    assert main([*TINY, "--output", str(tmp_path)]) == 0
    assert "3 of 3 runs are on disk already" in " ".join(capsys.readouterr().out.split())
    assert main([*TINY, "--batch-size", "32", "--output", str(tmp_path)]) == 1
    assert "batch_size was 64, is 32" in " ".join(capsys.readouterr().err.split())


def test_several_jobs_are_handed_to_the_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_from_workers", pool._one_by_one)
    monkeypatch.setattr("benchmarks.table1.__main__.trained", lambda *_: pytest.fail("trained here"))
    assert main([*TINY, "--jobs", "2", "--output", str(tmp_path)]) == 0
    assert [row["method"] for row in Records(tmp_path).rows] == ["untrained", "vicreg", "byol_logdet"]


def test_a_killed_table_goes_on_with_the_run_it_was_in(tmp_path, capsys, monkeypatch):
    arguments = [*TINY, "--epochs", "6", "--output", str(tmp_path)]
    finish = runs.Evaluation.on_train_epoch_end

    def killed(self, trainer, module):
        if module.method.__class__.__name__ == "BYOL" and trainer.current_epoch == 3:
            raise KeyboardInterrupt
        finish(self, trainer, module)

    monkeypatch.setattr(runs.Evaluation, "on_train_epoch_end", killed)
    assert main(arguments) == 130
    assert [row["method"] for row in Records(tmp_path).rows] == ["untrained", "vicreg"]
    monkeypatch.setattr(runs.Evaluation, "on_train_epoch_end", finish)
    capsys.readouterr()
    assert main(arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "going on: 2 of 3 runs are on disk already" in printed
    assert "BYOL+LogDet, seed 0: goes on from" in printed
    assert [point["epoch"] for point in Records(tmp_path).curve("byol_logdet", 0)] == [1, 2, 3, 4, 5, 6]
    assert not list((tmp_path / "unfinished").iterdir())


def test_a_run_whose_probe_failed_is_probed_again_and_not_trained_again(tmp_path, monkeypatch):
    arguments = [*TINY, "--methods", "vicreg", "--epochs", "2", "--accelerator", "cpu", "--output", str(tmp_path)]
    train, measure = pretrain.Pretraining.training_step, pretrain.measure
    steps, probes = [], []

    def stepped(*given):
        steps.append(train(*given))
        return steps[-1]

    def measured(*given, **options):
        probes.append(options)
        # the first look at each of the two epochs
        if len(probes) in (1, 3):
            raise torch.OutOfMemoryError
        return measure(*given, **options)

    monkeypatch.setattr(pretrain.Pretraining, "training_step", stepped)
    monkeypatch.setattr(pretrain, "measure", measured)
    for epochs in (1, 2):
        with pytest.raises(torch.OutOfMemoryError):
            main(arguments)
        assert len(steps) == epochs
    assert main(arguments) == 0
    assert len(steps) == 2 and len(probes) == 4
    curve = Records(tmp_path).curve("vicreg", 0)
    assert [point["epoch"] for point in curve] == [1, 2]
    assert [point["loss"] for point in curve] == [step.item() for step in steps]
    assert all("linear" in point for point in curve)
    assert not list((tmp_path / "unfinished").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["moco", "byol_logdet"])
def test_a_run_that_was_killed_ends_exactly_where_it_would_have(tmp_path, monkeypatch, method):
    options = parse([*TINY, "--epochs", "3", "--batch-size", "32", "--accelerator", "cpu", "--output", str(tmp_path)])
    images, bars = loaded(options), Bars(Console(quiet=True), runs=1, epochs=3, shown=False)
    (tmp_path / "unfinished").mkdir()
    networks, build, train = [], runs.module_for, pretrain.Pretraining.training_step

    def built(*given):
        networks.append(build(*given))
        return networks[-1]

    def killed(module, *given):
        if module.current_epoch == 2:
            raise RuntimeError("killed")
        return train(module, *given)

    monkeypatch.setattr(runs, "module_for", built)
    whole, curve = runs.trained(Run(method, 0), options, images, bars, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(pretrain.Pretraining, "training_step", killed)
        patch.setattr(runs.Stopwatch, "read", lambda watch: {"seconds": 1e6, "core_seconds": 2e6})
        runs.trained(Run(method, 0), options, images, bars, tmp_path)
    resumed, its_curve = runs.trained(Run(method, 0), options, images, bars, tmp_path)
    assert its_curve == curve
    assert [resumed[name] for name in ("loss", "linear", "knn")] == [whole[name] for name in ("loss", "linear", "knn")]
    assert 1e6 <= resumed["seconds"] < 1.1e6 and 2e6 <= resumed["core_seconds"] < 2.1e6
    first, _, last = (dict([*module.named_parameters(), *module.named_buffers()]) for module in networks)
    assert all(torch.equal(first[name], last[name]) for name in first)


def test_the_weights_of_each_run_are_kept_where_asked(tmp_path):
    assert main([*TINY, "--save-backbone", "--output", str(tmp_path)]) == 0
    kept = sorted(path.name for path in (tmp_path / "backbones").iterdir())
    assert kept == ["byol_logdet-seed0.pt", "vicreg-seed0.pt"]
    weights = torch.load(tmp_path / "backbones" / "vicreg-seed0.pt", weights_only=True)
    backbone = backbones.create("resnet18", channels=1, side=16, width=0.25, stem="original")
    backbone.load_state_dict(weights)


def test_what_is_not_installed_is_named_with_the_line_that_installs_it():
    code = "import sys; sys.modules['rich'] = None; import importlib.util as u; f = u.find_spec"
    code += "; u.find_spec = lambda name, *a: None if name == 'rich' else f(name, *a); import benchmarks.table1"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Table 1 needs rich" in done.stderr and "pip install 'it-losses[benchmarks]'" in done.stderr
