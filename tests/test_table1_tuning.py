"""The equal grid: as many settings for each method, scored without the test half, chosen from the rows alone."""

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import benchmarks_extra  # noqa: F401
import pytest
import torch

from benchmarks import data
from benchmarks.methods import METHODS
from benchmarks.table1 import cli, pool, tuning
from benchmarks.table1.presets import PRESETS
from benchmarks.table1.recipes import RECIPES
from benchmarks.table1.report import Statistic, statistic
from benchmarks.table1.rows import Records

ROOT = Path(__file__).parent.parent
TINY = ["--limit-images", "60", "--batch-size", "32", "--epochs", "1", "--width", "0.125", "--image-size", "16", "--jobs", "1"]


SEARCH = tuning.Search(tuning.LEARNING_RATES, tuning.CONSTANTS)


def asked_for(method, *arguments):
    return replace(cli.parse(["--methods", method, *arguments]), methods=[method])


def cell(rate, linear, knn=0.5, method="vicreg"):
    return tuning.Cell(method, "covariance_weight", 1.0, rate, 2, Statistic(linear, 0.01), Statistic(knn, 0.01))


@pytest.mark.parametrize("length", ["--no-long", "--long"])
def test_every_method_has_as_many_settings(length):
    assert set(tuning.CONSTANTS) == set(RECIPES)
    for method in RECIPES:
        asked = asked_for(method, length)
        settings = tuning.grid(asked)
        assert len(settings) == 15
        assert len({(recipe.learning_rate.value, *recipe.arguments.items()) for recipe in settings.values()}) == 15
        assert all(recipe.method == RECIPES[method].method for recipe in settings.values())


@pytest.mark.parametrize("backbone", ["resnet18", "vit_small_patch16_224"])
def test_the_middle_of_the_grid_of_a_long_run_is_its_untuned_setting(backbone):
    for method in RECIPES:
        asked = asked_for(method, "--long", "--backbone", backbone)
        row = asked.recipes[method]
        tried = tuning.search(asked)
        constant, values = tried.constants[method]
        criterion = METHODS[row.method](8, **row.arguments).criterion
        own = row.arguments.get(constant, getattr(criterion, constant, None))
        if method == "vicreg_pairdist":
            own = criterion.entropy.spread_fraction
        assert own == values[1], method
        assert row.learning_rate.value in tried.rates[1:-1]


def test_the_validation_split_is_by_class_drawn_once_and_holds_no_test_image():
    whole = data.load("digits", None, 8)
    split = whole.validation()
    assert torch.equal(split.test, whole.validation().test)
    assert len(split.train) + len(split.test) == len(whole.train)
    share = split.test_labels.bincount() / whole.train_labels.bincount()
    assert ((share - 0.2).abs() < 0.01).all()
    # no two digits are equal, so that an image that is on two sides would be counted once
    every = torch.cat([split.train, split.test, whole.test]).flatten(1)
    assert len(every.unique(dim=0)) == 1797


def test_too_few_images_for_a_split_are_an_error():
    with pytest.raises(data.DataError, match="cannot be split by class"):
        data.load("digits", None, 8).subset(8).validation()


def test_the_best_has_the_highest_mean_then_the_higher_knn_then_the_first_place():
    assert tuning.best([cell(1e-3, 0.7), cell(2e-3, 0.8), cell(4e-3, 0.6)], "vicreg").learning_rate == 2e-3
    assert tuning.best([cell(1e-3, 0.8, 0.5), cell(2e-3, 0.8, 0.6)], "vicreg").learning_rate == 2e-3
    assert tuning.best([cell(1e-3, 0.8), cell(2e-3, 0.8)], "vicreg").learning_rate == 1e-3
    assert tuning.best([cell(1e-3, 0.7), cell(1e-3, 0.9, method="byol")], "vicreg").method == "vicreg"


def test_values_that_name_the_grid_as_their_source_are_those_it_chose():
    """Recipes are edited by hand: whatever says "best of the grid ..., benchmarks/results/<folder>" is looked up there."""
    for method, recipe in RECIPES.items():
        for name, setting in [*recipe.settings.items(), ("learning_rate", recipe.learning_rate)]:
            named = re.match(r"best of the grid.*(benchmarks/results/[\w-]+)", setting.source)
            if named:
                rows = csv.DictReader((ROOT / named[1] / "tuning.csv").read_text().splitlines())
                chosen = next(row for row in rows if row["method"] == method and row["best"] == "True")
                value = chosen["learning_rate"] if name == "learning_rate" else chosen["value"]
                assert name in {"learning_rate", chosen["constant"]}
                assert setting.value == float(value), (method, name)


def test_the_page_says_where_the_choice_is_at_the_edge_of_the_grid():
    page = tuning.markdown([cell(1e-3, 0.7), cell(2e-3, 0.8)], SEARCH, "digits", "abc", "command")
    assert "| VICReg | covariance_weight 1 | 70.0 ± 1.0 | **80.0 ± 1.0** |  |" in page
    assert "edge" not in page
    page = tuning.markdown([cell(1e-3, 0.9), cell(2e-3, 0.8)], SEARCH, "digits", "abc", "command")
    assert "learning rate 0.001, covariance_weight 1, 90.0 ± 1.0 %; the rate at the edge of the grid" in page


@pytest.mark.slow
def test_a_tiny_grid_is_made_and_goes_on_after_a_kill(tmp_path, capsys, monkeypatch):
    arguments = [*TINY, "--methods", "vicreg", "--seeds", "1", "--output", str(tmp_path)]
    made, once = [], pool._made

    def killed(run):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(run)
        return once(run)

    monkeypatch.setattr(pool, "_made", killed)
    assert tuning.main(arguments) == 130
    assert len(Records(tmp_path).rows) == 2
    monkeypatch.setattr(pool, "_made", once)
    assert tuning.main(arguments) == 0
    runs = len(tuning.grid(asked_for("vicreg")))
    assert f"{runs - 2} of {runs} runs to make" in " ".join(capsys.readouterr().out.split())
    assert {row["method"] for row in Records(tmp_path).rows} == set(tuning.grid(asked_for("vicreg")))

    table = list(csv.DictReader((tmp_path / "tuning.csv").read_text().splitlines()))
    assert sum(row["best"] == "True" for row in table) == 1
    top = max(table, key=lambda row: (float(row["linear"]), float(row["knn"])))
    assert (float(top["linear"]), float(top["knn"])) == next(
        (float(row["linear"]), float(row["knn"])) for row in table if row["best"] == "True"
    )
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["rows"]["vicreg-rate0.004-covariance_weight0.25"]["learning_rate"] == 4e-3
    assert "validation" in settings["scored_on"]
    assert str(tmp_path) in (tmp_path / "README.md").read_text()


def test_a_setting_that_diverges_scores_nothing_and_stops_nobody(tmp_path, monkeypatch):
    monkeypatch.setitem(tuning.CONSTANTS, "vicreg", ("invariance_weight", (25.0,)))
    monkeypatch.setattr(tuning, "LEARNING_RATES", (1e30, 1e-3))
    assert tuning.main([*TINY, "--methods", "vicreg", "--seeds", "1", "--output", str(tmp_path)]) == 0
    diverged, trained = Records(tmp_path).rows
    assert diverged["linear"] == 0.0 < trained["linear"]
    assert math.isnan(diverged["entropy_upper_nats"])


def test_an_impossible_number_of_jobs_is_refused(tmp_path, capsys):
    assert tuning.main([*TINY, "--jobs", "0", "--output", str(tmp_path)]) == 1
    assert "--jobs must be at least 1" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_worker_makes_the_same_row_as_this_process(tmp_path, monkeypatch):
    monkeypatch.setitem(tuning.CONSTANTS, "vicreg", ("covariance_weight", (1.0,)))
    monkeypatch.setattr(tuning, "LEARNING_RATES", (1e-3,))
    rows = []
    for jobs in ("1", "2"):
        folder = tmp_path / jobs
        assert tuning.main([*TINY, "--methods", "vicreg", "--seeds", "1", "--jobs", jobs, "--output", str(folder)]) == 0
        rows.append({row["method"]: (row["linear"], row["loss"]) for row in Records(folder).rows})
    assert rows[0] == rows[1]


def test_a_diverged_run_shows_in_the_mean_and_in_its_error():
    whole, broken = statistic([0.5, 0.7, 0.9]), statistic([0.5, float("nan"), 0.9])
    assert (whole.mean, whole.error) == pytest.approx((0.7, 0.2 / 3**0.5))
    assert math.isnan(broken.mean) and math.isnan(broken.error)


def test_a_table_takes_the_best_of_a_grid(tmp_path):
    (tmp_path / "tuning.csv").write_text(
        "method,constant,value,learning_rate,best\n"
        "vicreg,covariance_weight,4.0,0.002,True\nvicreg,covariance_weight,1.0,0.004,False\n"
    )
    asked = cli.parse(["--methods", "vicreg", "--grid", str(tmp_path), "--long"])
    assert asked.recipes["vicreg"].learning_rate.value == 0.002
    assert asked.recipes["vicreg"].arguments == cli.parse(["--long"]).recipes["vicreg"].arguments | {"covariance_weight": 4.0}
    assert str(tmp_path) in asked.recipes["vicreg"].learning_rate.source
    with pytest.raises(cli.OptionError, match="has no best setting of byol"):
        cli.parse(["--methods", "vicreg,byol", "--grid", str(tmp_path)])
    with pytest.raises(cli.OptionError, match="has no tuning"):
        cli.parse(["--grid", str(tmp_path / "elsewhere")])


def test_presets_of_whole_networks_take_the_constants_of_a_long_run():
    for name, preset in PRESETS.items():
        assert preset.get("long", False) == ("cpu" not in name) == (preset["epochs"] > 20)
        assert all(row.learning_rate.value <= 1e-3 for row in cli.long_runs(preset.get("backbone", "resnet18")).values())
