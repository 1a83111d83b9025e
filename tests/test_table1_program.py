"""Table 1 from the command line: what it refuses, what it writes, that it goes on after a kill, and presets and ranks."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from benchmarks_extra import TINY, told
from programs import assert_gone, finished

from benchmarks import backbones
from benchmarks.table1 import cli, launch, pretrain
from benchmarks.table1.callbacks import Generator, Stopwatch
from benchmarks.table1.presets import DATASET_OPTIONS, PRESETS
from benchmarks.table1.records import Records
from benchmarks.table1.tables import main

ROOT = Path(__file__).resolve().parent.parent
TWO = [*TINY, "--methods", "vicreg", "byol_logdet"]
NETWORKS = {
    (preset.get("backbone", "resnet18"), DATASET_OPTIONS[preset["dataset"]]["image_size"]) for preset in PRESETS.values()
}


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setenv(launch.PENDING, "")
    yield
    # Lightning turns Ctrl-C off once it has seen one
    signal.signal(signal.SIGINT, signal.default_int_handler)


def methods_of(folder):
    return [row["method"] for row in Records(folder).rows]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--width", "0.06"], "--width must be at least 0.125"),
        (["--batch-size", "7", "--devices", "2"], "cannot be divided"),
        (["--jobs", "2", "--devices", "2"], "runs of one device each"),
        (["--batch-size", "5000"], "more than the 1437"),
        (["--backbone", "resnet_18"], "timm has no model"),
        (["--dataset", "fashion_mnist"], "needs --data-root"),
        (["--data-root", "/nowhere"], "is not a folder"),
        (["--precision", "16-mixed", "--accelerator", "cpu"], "needs a GPU"),
        (["--precision", "bf16-mixed", "--accelerator", "cpu", "--image-size", "16"], "must be above 16"),
        (["--dataset", "image_folder", "--data-root", "."], "Expected: Any images in"),
    ],
)
def test_impossible_options_are_refused_before_any_training(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(launch, "made", lambda *_: pytest.fail("trained"))
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 1
    assert message in told(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_torchrun_and_an_output_that_is_a_file_are_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    assert main([*TWO, "--output", str(tmp_path / "file")]) == 1
    assert "cannot be written" in told(capsys.readouterr().err)
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main([*TWO, "--devices", "2", "--batch-size", "20", "--output", str(tmp_path / "out")]) == 1
    assert "run this without torchrun" in told(capsys.readouterr().err) and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_bf16_trains_on_a_cpu(tmp_path):
    options = [*TINY, "--image-size", "32", "--precision", "bf16-mixed"]
    assert main([*options, "--methods", "vicreg", "--output", str(tmp_path)]) == 0
    assert math.isfinite(Records(tmp_path).of("vicreg")[0]["loss"])


def test_a_tiny_table_is_trained_printed_and_written(tmp_path, capsys):
    assert main([*TWO, "--save-backbone", "--output", str(tmp_path)]) == 0
    printed, page, rows = told(capsys.readouterr().out), (tmp_path / "README.md").read_text(), Records(tmp_path).rows
    assert methods_of(tmp_path) == ["untrained", "vicreg", "byol_logdet"]
    assert all(0 <= row["linear"] <= 1 and row["entropy_upper_nats"] >= 0 and "commit" in row for row in rows)
    assert "| VICReg | " in page and "| BYOL+LogDet | " in page and f"{100 * rows[1]['linear']:.1f}" in page
    assert re.search(r"about 0:\d\d:\d\d to go, an estimate", printed.partition("VICReg, seed 0: linear")[0])
    assert (tmp_path / "table1.png").read_bytes().startswith(b"\x89PNG")
    assert [len(row["curve"]) for row in rows] == [1, 1, 1] and "nothing to compare yet" in page
    assert sorted(path.name for path in (tmp_path / "backbones").iterdir()) == ["byol_logdet-seed0.pt", "vicreg-seed0.pt"]
    weights = torch.load(tmp_path / "backbones" / "vicreg-seed0.pt", weights_only=True)
    backbones.create("resnet18", channels=1, side=16, width=0.125, stem="original").load_state_dict(weights)

    # the same command trains nothing, but takes up what was written about the rows; another setting is refused
    remarks = "<!-- notes -->\n\nWhat this table shows.\n\n<!-- /notes -->"
    (tmp_path / "README.md").write_text(f"# Table\n\n{remarks}\n")
    assert main([*TWO, "--output", str(tmp_path)]) == 0
    assert "3 of 3 runs are on disk already" in told(capsys.readouterr().out)
    assert f"\n\n{remarks}\n\ndigits" in (tmp_path / "README.md").read_text()
    assert main([*TWO, "--batch-size", "16", "--output", str(tmp_path)]) == 1
    assert "batch_size was 32, is 16" in told(capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["moco", "byol_logdet"])
def test_a_killed_table_goes_on_with_the_run_it_was_in_and_ends_where_it_would_have(tmp_path, capsys, monkeypatch, method):
    arguments, train = [*TINY, "--methods", method, "--epochs", "3"], pretrain.Pretraining.training_step
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def interrupted(module, *given):
        if module.current_epoch == 2:
            raise KeyboardInterrupt
        return train(module, *given)

    assert main([*arguments, "--output", str(whole)]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(pretrain.Pretraining, "training_step", interrupted)
        patch.setattr(Stopwatch, "state_dict", lambda watch: {"seconds": 1e6, "core_seconds": 2e6})
        assert main([*arguments, "--output", str(killed)]) == 130
    assert methods_of(killed) == ["untrained"]
    capsys.readouterr()
    assert main([*arguments, "--output", str(killed)]) == 0
    printed = told(capsys.readouterr().out)
    assert "going on: 1 of 2 runs are on disk already" in printed and "seed 0: goes on from" in printed
    assert not list((killed / "unfinished").glob("*.ckpt"))
    row, resumed = (Records(folder).of(method)[0] for folder in (whole, killed))
    assert 1e6 <= resumed["seconds"] < 1.1e6 and 2e6 <= resumed["core_seconds"] < 2.1e6
    assert all(resumed[name] == row[name] for name in ("loss", "linear", "knn", "rank_me", "curve"))


def test_a_worker_ends_with_a_program_that_is_killed(monkeypatch):
    monkeypatch.setattr(launch, "made", lambda *_: time.sleep(60))
    read, write = os.pipe()
    program = os.fork()
    if program == 0:
        worker = os.fork()
        if worker == 0:
            launch._in_worker(None, None, None, os.getppid())
        os.write(write, str(worker).encode())
        time.sleep(60)
        os._exit(0)
    worker = os.read(read, 20).decode()
    os.kill(program, signal.SIGKILL)
    os.waitpid(program, 0)
    assert_gone(worker)


@pytest.mark.slow
def test_a_run_whose_probe_failed_is_probed_again_and_not_trained_again(tmp_path, monkeypatch):
    arguments = [*TINY, "--methods", "vicreg", "--epochs", "2", "--batch-size", "64", "--output", str(tmp_path)]
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
    monkeypatch.setattr("benchmarks.table1.callbacks.measure", measured)
    for epochs in (1, 2):
        with pytest.raises(torch.OutOfMemoryError):
            main(arguments)
        assert len(steps) == epochs
    assert main(arguments) == 0
    curve = Records(tmp_path).of("vicreg")[0]["curve"]
    assert [(point["epoch"], point["loss"]) for point in curve] == [(1, steps[0].item()), (2, steps[1].item())]
    assert len(steps) == 2 and len(probes) == 4 and all("linear" in point for point in curve)


def test_a_missing_package_is_named_with_the_line_that_installs_it():
    code = "import sys; sys.modules['rich'] = None; import importlib.util as u; f = u.find_spec"
    code += "; u.find_spec = lambda name, *a: None if name == 'rich' else f(name, *a); import benchmarks.table1"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Table 1 needs rich" in done.stderr and "pip install '.[benchmarks]'" in done.stderr


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_complete_and_gives_way_to_named_options(name, tmp_path):
    arguments = ["--preset", name, "--data-root", str(tmp_path)]
    preset = cli.parse(arguments)
    assert {option: getattr(preset, option) for option in PRESETS[name]} == PRESETS[name]
    assert preset.seeds == 3 and preset.dataset != "digits" and name in preset.output.name
    # a long run takes other constants than one of the digits, at lower rates
    assert preset.long == ("cpu" not in name) == (preset.epochs > 20)
    assert not preset.long or all(row.learning_rate.value <= 1e-3 for row in preset.recipes.values())
    for order in (["--epochs", "7", "--width", "0.5", *arguments], [*arguments, "--epochs", "7", "--width", "0.5"]):
        named = cli.parse(order)
        assert (named.epochs, named.width, named.backbone) == (7, 0.5, preset.backbone)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), sorted(NETWORKS))
def test_the_networks_of_the_presets_take_their_images(name, side):
    backbone = backbones.create(name, channels=3, side=side)
    assert backbones.width_of(backbone) >= 384
    weights = [weight for weight in backbone.parameters() if weight.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


#: what each process imports as it starts; it writes, of each step, the weights, the images and what the views will draw
WATCH = """
import os, torch
from benchmarks.table1.pretrain import Pretraining
train = Pretraining.training_step
def watched(self, batch, index):
    state = torch.get_rng_state()
    seen = {"weights": next(self.backbone.parameters()).detach(), "images": batch[0], "drawn": torch.rand(8)}
    torch.set_rng_state(state)
    torch.save(seen, os.path.join(os.environ["WATCHED"], f"{self.global_rank}-{self.global_step}.pt"))
    return train(self, batch, index)
Pretraining.training_step = watched
"""


def draws(seed, rank):
    torch.manual_seed(seed)
    Generator(seed).setup(SimpleNamespace(global_rank=rank), None, "fit")
    return tuple(torch.rand(4).tolist())


def test_every_seed_draws_its_own_views_on_every_rank():
    assert len({draws(seed, rank) for seed in range(4) for rank in range(4)}) == 16


@pytest.mark.slow
def test_methods_with_one_seed_start_from_one_backbone_and_get_the_same_images_labels_and_views(tmp_path, monkeypatch):
    drawn, weights, train = {}, {}, pretrain.Pretraining.training_step

    def watched(module, batch, index):
        name, state = type(module.method).__name__, torch.get_rng_state()
        weights.setdefault(name, next(module.backbone.parameters()).detach().clone())
        drawn.setdefault(name, []).extend([*batch, torch.rand(8)])
        torch.set_rng_state(state)
        return train(module, batch, index)

    monkeypatch.setattr(pretrain.Pretraining, "training_step", watched)
    methods = ["--methods", "simclr", "byol", "supervised"]
    assert main([*TINY, *methods, "--epochs", "2", "--output", str(tmp_path)]) == 0
    simclr = drawn["Method"]
    # images, labels and views of four steps, in another order in the second epoch
    assert len(drawn) == 3 and len(simclr) == 12 and not torch.equal(simclr[0], simclr[6])
    for name in ("Momentum", "Supervised"):
        assert torch.equal(weights[name], weights["Method"])
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(simclr, drawn[name], strict=True))


@pytest.mark.slow
def test_two_processes_train_one_network_on_other_images_and_other_views(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    path = os.pathsep.join([str(tmp_path), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    named = {"PYTHONPATH": path, "WATCHED": str(tmp_path), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = os.environ | named
    environment.pop(launch.PENDING)
    command = [sys.executable, "-m", "benchmarks.table1", *TINY, "--methods", "vicreg", "--epochs", "2", "--devices", "2"]
    command += ["--output", str(tmp_path / "out")]
    done = finished(command, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert methods_of(tmp_path / "out") == ["untrained", "vicreg"]
    assert [point["epoch"] for point in Records(tmp_path / "out").of("vicreg")[0]["curve"]] == [1, 2]
    for step in range(4):
        first, second = (torch.load(tmp_path / f"{rank}-{step}.pt") for rank in range(2))
        assert torch.equal(first["weights"], second["weights"])
        assert not torch.equal(first["images"], second["images"]) and not torch.equal(first["drawn"], second["drawn"])
