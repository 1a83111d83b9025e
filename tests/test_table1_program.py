"""The program for Table 1 refuses impossible options, writes its files, resumes killed runs, and trains on several ranks."""

import itertools
import math
import os
import re
import signal
import sys
import time
from pathlib import Path
from unittest.mock import DEFAULT, Mock

import pytest
import torch
from benchmarks_extra import TINY, told
from programs import assert_gone, finished

from benchmarks import backbones
from benchmarks.table1 import cli, launch, pretrain
from benchmarks.table1.__main__ import main
from benchmarks.table1.callbacks import Generator, Stopwatch
from benchmarks.table1.presets import DATASET_OPTIONS, PRESETS
from benchmarks.table1.records import Records

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = {(own.get("backbone", "resnet18"), DATASET_OPTIONS[own["dataset"]]["image_size"]) for own in PRESETS.values()}


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setenv(launch.PENDING, "")
    yield
    # after the first Ctrl-C Lightning ignores further ones, so Python's handler is restored
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--width", "0.06"], "--width must be at least 0.125"),
        (["--batch-size", "7", "--devices", "2"], "cannot be divided"),
        (["--jobs", "2", "--devices", "2"], "needs --devices 1, got 2"),
        (["--batch-size", "5000"], "more than the 1437"),
        (["--backbone", "resnet_18"], "timm has no model 'resnet_18'. Similar: resnet18"),
        (["--backbone", "convnext_atto", "--width", "0.5"], "are for ResNets only"),
        (["--backbone", "convnext_atto", "--stem", "half"], "are for ResNets only"),
        (["--dataset", "fashion_mnist"], "needs --data-root"),
        (["--data-root", "/nowhere"], "is not a folder"),
        (["--precision", "16-mixed", "--accelerator", "cpu"], "needs a GPU"),
        (["--precision", "bf16-mixed", "--accelerator", "cpu", "--image-size", "16"], "needs --image-size above 16"),
        (["--dataset", "image_folder", "--data-root", "."], "What is expected there: Any images in"),
        (["--output", __file__], "cannot be written"),
    ],
)
def test_impossible_options_are_refused_before_any_training(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(launch, "_make", lambda *_: pytest.fail("trained"))
    assert main(["--output", str(tmp_path / "out"), *arguments]) == 1
    assert message in told(capsys.readouterr().err) and not (tmp_path / "out").exists()


def test_torchrun_is_refused(tmp_path, monkeypatch, capsys):
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main([*TINY, "--devices", "2", "--output", str(tmp_path / "out")]) == 1
    assert "run this program without torchrun" in told(capsys.readouterr().err) and not (tmp_path / "out").exists()


def test_a_tiny_table_is_trained_printed_and_written(tmp_path, capsys):
    arguments = [*TINY, "--methods", "vicreg", "byol_logdet", "--output", str(tmp_path)]
    assert main([*arguments, "--save-backbone"]) == 0
    printed, page, rows = told(capsys.readouterr().out), (tmp_path / "README.md").read_text(), Records(tmp_path).rows
    assert [row["method"] for row in rows] == ["untrained", "vicreg", "byol_logdet"]
    assert all(0 <= row["linear"] <= 1 and row["entropy_upper_nats"] >= 0 and "commit" in row for row in rows)
    assert "| VICReg | " in page and "| BYOL+LogDet | " in page and f"{100 * rows[1]['linear']:.1f}" in page
    assert re.search(r"about 0:\d\d:\d\d, estimated from the first epoch", printed.partition("VICReg, seed 0: linear")[0])
    assert (tmp_path / "table1.png").read_bytes().startswith(b"\x89PNG")
    assert [len(row["curve"]) for row in rows] == [1, 1, 1] and "nothing to compare yet" in page
    assert sorted(path.name for path in (tmp_path / "backbones").iterdir()) == ["byol_logdet-seed0.pt", "vicreg-seed0.pt"]
    weights = torch.load(tmp_path / "backbones" / "vicreg-seed0.pt", weights_only=True)
    backbones.create("resnet18", channels=1, side=16, width=0.125, stem="original").load_state_dict(weights)
    # a repeated command trains nothing and keeps the remarks on the page. A command with another setting is refused
    remarks = "<!-- notes -->\n\nWhat this table shows.\n\n<!-- /notes -->"
    (tmp_path / "README.md").write_text(f"# Table\n\n{remarks}\n")
    assert main(arguments) == 0
    assert "3 of 3 runs are on disk already" in told(capsys.readouterr().out)
    assert f"\n\n{remarks}\n\ndigits" in (tmp_path / "README.md").read_text()
    assert main([*arguments, "--batch-size", "16"]) == 1
    assert "batch_size was 32, is 16" in told(capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["moco", "byol_logdet", "vicreg --image-size 32 --precision bf16-mixed"])
def test_a_killed_table_resumes_its_run_and_ends_as_an_undisturbed_one(tmp_path, capsys, monkeypatch, options):
    arguments, whole, killed = [*TINY, "--epochs", "3", "--methods", *options.split()], tmp_path / "whole", tmp_path / "killed"
    assert main([*arguments, "--output", str(whole)]) == 0
    with monkeypatch.context() as patch:
        # an epoch has two steps, so Ctrl-C after four steps comes in the third epoch
        patch.setattr(pretrain, "Step", Mock(wraps=pretrain.Step, side_effect=[DEFAULT] * 4 + [KeyboardInterrupt]))
        patch.setattr(Stopwatch, "state_dict", lambda watch: {"seconds": 1e6, "core_seconds": 2e6})
        assert main([*arguments, "--output", str(killed)]) == 130
    assert [row["method"] for row in Records(killed).rows] == ["untrained"]
    assert main([*arguments, "--output", str(killed)]) == 0
    printed = told(capsys.readouterr().out)
    assert "1 of 2 runs are on disk already" in printed and "seed 0: goes on from" in printed
    assert not list((killed / "unfinished").glob("*.ckpt"))
    row, resumed = (Records(folder).rows[1] for folder in (whole, killed))
    assert 1e6 <= resumed["seconds"] < 1.1e6 and 2e6 <= resumed["core_seconds"] < 2.1e6
    numbers = ("loss", "linear", "knn", "rank_me", "curve")
    assert math.isfinite(row["loss"]) and all(resumed[name] == row[name] for name in numbers)


def test_a_worker_ends_with_a_program_that_is_killed(monkeypatch):
    read, write = os.pipe()
    monkeypatch.setattr(launch, "made", lambda *_: os.write(write, str(os.getpid()).encode()) and time.sleep(60))
    program = os.fork()
    if program == 0:
        if os.fork() == 0:
            launch._in_worker(None, None, None, os.getppid())
        time.sleep(60)
        os._exit(0)
    worker = os.read(read, 20).decode()
    os.kill(program, signal.SIGKILL)
    os.waitpid(program, 0)
    assert_gone(worker)


@pytest.mark.slow
def test_a_run_whose_probe_failed_is_probed_again_and_not_trained_again(tmp_path, monkeypatch):
    arguments = [*TINY, "--methods", "vicreg", "--epochs", "2", "--batch-size", "64", "--output", str(tmp_path)]
    train, steps = pretrain.Pretraining.training_step, []
    # the first probe of each of the two epochs fails
    probe = Mock(wraps=pretrain.measure, side_effect=[torch.OutOfMemoryError, DEFAULT] * 2)
    monkeypatch.setattr("benchmarks.table1.callbacks.measure", probe)
    monkeypatch.setattr(pretrain.Pretraining, "training_step", lambda *given: steps.append(train(*given)) or steps[-1])
    for epochs in (1, 2):
        with pytest.raises(torch.OutOfMemoryError):
            main(arguments)
        assert len(steps) == epochs
    assert main(arguments) == 0
    curve = Records(tmp_path).of("vicreg")[0]["curve"]
    assert [(point["epoch"], point["loss"]) for point in curve] == [(1, steps[0].item()), (2, steps[1].item())]
    assert len(steps) == 2 and probe.call_count == 4 and all("linear" in point for point in curve)


def test_a_missing_package_is_named_with_the_line_that_installs_it():
    done = finished([sys.executable, "-c", "import sys; sys.modules['rich'] = None; import benchmarks.table1"], cwd=ROOT)
    assert "Table 1 needs rich" in done.stderr and "pip install '.[benchmarks]'" in done.stderr


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_complete_and_gives_way_to_named_options(name, tmp_path):
    arguments, named = ["--preset", name, "--data-root", str(tmp_path)], ["--epochs", "7", "--width", "0.5"]
    preset = cli.parse(arguments)
    assert vars(preset).items() >= PRESETS[name].items()
    assert preset.seeds == 3 and preset.dataset != "digits" and name in preset.output.name
    # long runs have other constants and lower learning rates than runs on the digits
    assert preset.long == ("cpu" not in name) == (preset.epochs > 20)
    assert not preset.long or all(row.learning_rate.value <= 1e-3 for row in preset.recipes.values())
    for options in (cli.parse(named + arguments), cli.parse(arguments + named)):
        assert (options.epochs, options.width, options.backbone) == (7, 0.5, preset.backbone)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), sorted(NETWORKS))
def test_the_networks_of_the_presets_take_their_images(name, side):
    backbone = backbones.create(name, channels=3, side=side)
    assert backbones.width_of(backbone) >= 384
    weights = [weight for weight in backbone.parameters() if weight.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_every_seed_draws_its_own_views_on_every_rank():
    drawn = set()
    for seed, rank in itertools.product(range(4), repeat=2):
        torch.manual_seed(seed)
        Generator(seed).setup(Mock(global_rank=rank), None, "fit")
        drawn.add(tuple(torch.rand(4).tolist()))
    assert len(drawn) == 16


def recording(folder, train):
    """Return a training step that first saves the weights, the batch and the next random numbers, which draw the views."""

    def step(module, batch, index):
        state, path = torch.get_rng_state(), f"{type(module.method).__name__}-{module.global_rank}-{module.global_step}.pt"
        weights = next(module.backbone.parameters()).detach()
        torch.save({"weights": weights, "images": batch[0], "labels": batch[1], "drawn": torch.rand(8)}, Path(folder, path))
        torch.set_rng_state(state)
        return train(module, batch, index)

    return step


@pytest.mark.slow
def test_methods_with_one_seed_start_from_one_backbone_and_get_the_same_images_labels_and_views(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain.Pretraining, "training_step", recording(tmp_path, pretrain.Pretraining.training_step))
    methods = ["--methods", "simclr", "byol", "supervised"]
    assert main([*TINY, *methods, "--epochs", "2", "--output", str(tmp_path / "out")]) == 0
    # each method trains two steps in each epoch, and the second epoch has the images in another order
    names = ("Method", "Momentum", "Supervised")
    simclr, *others = ([torch.load(path) for path in sorted(tmp_path.glob(f"{name}-*"))] for name in names)
    assert len(simclr) == 4 and not torch.equal(simclr[0]["images"], simclr[2]["images"])
    for steps in others:
        assert torch.equal(steps[0]["weights"], simclr[0]["weights"])
        for ours, theirs in zip(simclr, steps, strict=True):
            assert all(torch.equal(ours[name], theirs[name]) for name in ("images", "labels", "drawn"))


@pytest.mark.slow
def test_two_processes_train_one_network_on_other_images_and_other_views(tmp_path):
    # Python imports sitecustomize when a process starts, so both processes record their steps
    code = "from test_table1_program import pretrain, recording\n"
    code += f"pretrain.Pretraining.training_step = recording({str(tmp_path)!r}, pretrain.Pretraining.training_step)\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.table1", *TINY, "--methods", "vicreg", "--epochs", "2", "--devices", "2"]
    done = finished([*command, "--output", str(tmp_path / "out")], cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    curves = [(row["method"], [point["epoch"] for point in row["curve"]]) for row in Records(tmp_path / "out").rows]
    assert curves == [("untrained", [0]), ("vicreg", [1, 2])]
    for step in range(4):
        first, second = (torch.load(tmp_path / f"Method-{rank}-{step}.pt") for rank in range(2))
        assert torch.equal(first["weights"], second["weights"])
        assert not torch.equal(first["images"], second["images"]) and not torch.equal(first["drawn"], second["drawn"])
