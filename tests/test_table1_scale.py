"""Table 1 at scale: presets, compilation and memory format act, and the time left is told before anything starts."""

import json

import benchmarks_extra  # noqa: F401
import pytest
import torch

from benchmarks import backbones
from benchmarks.data import load
from benchmarks.table1 import __main__ as program
from benchmarks.table1 import cli, plan
from benchmarks.table1.estimate import estimate
from benchmarks.table1.plan import Run, module_for
from benchmarks.table1.presets import PRESETS, SIDES
from benchmarks.table1.rows import Records

TINY = [
    "--epochs",
    "1",
    "--seeds",
    "1",
    "--limit-images",
    "40",
    "--batch-size",
    "20",
    "--width",
    "0.125",
    "--image-size",
    "16",
    "--jobs",
    "1",
]


def options(*arguments, output="runs/none"):
    return cli.parse([*TINY, "--accelerator", "cpu", "--output", str(output), *arguments])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_complete_and_gives_way_to_what_is_named(name, tmp_path):
    arguments = ["--preset", name, "--data-root", str(tmp_path), "--output", str(tmp_path)]
    preset = cli.parse(arguments)
    for option, value in PRESETS[name].items():
        assert getattr(preset, option) == value
    assert preset.seeds == 3 and preset.dataset != "digits"
    for order in (["--epochs", "7", "--no-compile", *arguments], [*arguments, "--epochs", "7", "--no-compile"]):
        named = cli.parse(order)
        assert (named.epochs, named.compile) == (7, False)
        assert named.backbone == preset.backbone


def test_a_preset_writes_into_a_folder_of_its_own():
    assert len({cli.parse(["--preset", name, "--data-root", "."]).output for name in PRESETS}) == len(PRESETS)


@pytest.mark.parametrize(
    ("name", "side"), sorted({(p.get("backbone", "resnet18"), SIDES[p["dataset"]]) for p in PRESETS.values()})
)
def test_the_networks_of_the_presets_take_their_images(name, side):
    network = backbones.create(name, channels=3, side=side)
    assert backbones.width_of(network) >= 384


@pytest.mark.slow
def test_compiled_backbones_train_the_same_network_through_the_compiler(tmp_path, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(plan, "COMPILER", backend)
    losses = []
    for words in ([], ["--compile"]):
        folder = tmp_path / str(len(losses))
        assert program.main([*TINY, "--methods", "byol", *words, "--accelerator", "cpu", "--output", str(folder)]) == 0
        losses.append(Records(folder).rows[-1]["loss"])
        assert bool(graphs) == bool(words)
        assert json.loads((folder / "settings.json").read_text())["compile"] is bool(words)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.compiler.reset()


def test_the_slow_copy_is_compiled_as_well():
    images = load("digits", None, 16).subset(40)
    module = module_for(Run("byol", 0), options("--compile"), images)
    assert [network._compiled_call_impl is not None for network in module.networks()] == [True, True]
    assert module.networks()[1] is module.method.target[0]


@pytest.mark.parametrize("last", [True, False])
def test_the_memory_format_is_that_of_the_option(last):
    images = load("digits", None, 16).subset(40)
    module = module_for(Run("vicreg", 0), options("--channels-last" if last else "--no-channels-last"), images)
    weight = module.backbone.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) is last


def test_the_estimate_is_steps_and_probes_of_all_runs(monkeypatch):
    monkeypatch.setattr("benchmarks.table1.estimate._step_seconds", lambda *_: 3.0)
    monkeypatch.setattr("benchmarks.table1.estimate._seconds", lambda *_: 10.0)
    images = load("digits", None, 16).subset(40)
    # 10 epochs of 2 steps; 5 probes and 5 looks without one; two runs
    said = estimate([Run("vicreg", 0), Run("byol", 0)], options("--epochs", "10"), images)
    assert said.startswith(f"about 0:0{2 * (20 * 3 + 10 * 10) // 60}:20 to go, an estimate: BYOL, the largest method")


def test_the_time_left_is_told_first_and_changes_no_number(tmp_path, capsys, monkeypatch):
    arguments = [*TINY, "--methods", "moco", "--accelerator", "cpu", "--output"]
    assert program.main([*arguments, str(tmp_path / "with")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "to go, an estimate: MoCo" in printed.partition("untrained backbone")[0]
    monkeypatch.setattr(program, "estimate", lambda *_: "")
    assert program.main([*arguments, str(tmp_path / "without")]) == 0
    assert Records(tmp_path / "with").rows[-1]["loss"] == Records(tmp_path / "without").rows[-1]["loss"]
