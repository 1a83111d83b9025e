"""The search tries equally many settings of each method, scores them on validation images, and picks the best."""

import json
import math
import re
from functools import cache
from unittest.mock import DEFAULT, patch

import pytest
from benchmarks_extra import TINY, told

from benchmarks import RequestError
from benchmarks.pages import ROOT
from benchmarks.table1 import cli, launch, tuning
from benchmarks.table1.recipes import RECIPES, long_runs
from benchmarks.table1.records import Records


def recorded(folder, *cells, **settings):
    """Write and return the rows of a search. A cell is (method, learning rate, constant, linear and kNN accuracy)."""
    lines = [settings]
    for method, rate, value, linear, knn in cells:
        name = f"{method}-rate{rate:g}-{tuning.CONSTANTS[method][0]}{value:g}"
        lines.append({"method": name, "seed": 0, "linear": linear, "knn": knn, "commit": "abc"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return Records(folder)


@pytest.mark.parametrize("length", [[], ["--long"]])
@pytest.mark.parametrize(("backbone", "family"), [("resnet10t", "resnet"), ("vit_tiny_patch16_224", "other")])
def test_every_method_has_as_many_settings_and_a_search_of_rates_alone_keeps_its_constants(length, backbone, family):
    given = [*length, "--backbone", backbone]
    assert set(tuning.CONSTANTS) == set(RECIPES)
    for method in RECIPES:
        settings = tuning.grid(cli.parse(["--methods", method, *given], sweep="tuning"))
        assert len({(recipe.learning_rate.value, *recipe.arguments.items()) for recipe in settings.values()}) == 15
        assert all(recipe.method == RECIPES[method].method for recipe in settings.values())
    options = cli.parse(["--rates-only", *given], sweep="tuning")
    grid = tuning.grid(options)
    assert len(grid) == 3 * len(RECIPES) and options.settings()["rates_only"]
    for name, recipe in grid.items():
        row = options.recipes[name.partition("-")[0]]
        assert recipe.arguments == row.arguments and recipe.learning_rate.value in tuning.FEW_RATES[family]


@pytest.mark.parametrize("backbone", ["resnet18", "vit_small_patch16_224"])
def test_the_middle_of_the_grid_of_a_long_run_is_its_untuned_setting(backbone):
    tried = tuning.grid(cli.parse(["--long", "--backbone", backbone], sweep="tuning"))
    for method, row in long_runs(backbone).items():
        constant = tuning.CONSTANTS[method][0]
        own = [recipe for name, recipe in tried.items() if name.startswith(f"{method}-")]
        values = sorted({recipe.arguments[constant] for recipe in own})
        rates = sorted({recipe.learning_rate.value for recipe in own})
        assert row.arguments[constant] == values[1] and row.learning_rate.value in rates[1:-1], method


def test_the_best_has_the_highest_mean_then_the_higher_knn_then_the_first_place(tmp_path):
    for cells, best in (
        ([(1e-3, 0.7, 0.5), (2e-3, 0.8, 0.5), (4e-3, 0.6, 0.5)], 2e-3),
        ([(1e-3, 0.8, 0.5), (2e-3, 0.8, 0.6)], 2e-3),
        ([(1e-3, 0.8, 0.5), (2e-3, 0.8, 0.5)], 1e-3),
    ):
        cells = [("vicreg", rate, 1.0, linear, knn) for rate, linear, knn in cells]
        found = tuning.cells(recorded(tmp_path, *cells, ("byol", 1e-3, 0.9, 0.9, 0.5)))
        assert list(found.query("best and method == 'vicreg'").rate) == [best]


def test_values_that_name_the_grid_as_their_source_are_its_choice():
    """If the source of a value is "best of the grid ..., benchmarks/results/<folder>", that grid must give the value.

    People edit the recipes by hand and may err.
    """
    best_of = cache(lambda folder: tuning.cells(Records(ROOT / folder)).query("best").set_index("method"))
    for method, recipe in RECIPES.items():
        for name, setting in [*recipe.settings.items(), ("learning_rate", recipe.learning_rate)]:
            if named := re.match(r"best of the grid.*(benchmarks/results/[\w-]+)", setting.source):
                best = best_of(named[1]).loc[method]
                assert setting.value == {"learning_rate": best.rate, best.constant: best.value}[name], (method, name)


def test_the_page_says_where_the_choice_is_at_the_edge_of_the_grid(tmp_path):
    def page(*cells):
        cells = [("vicreg", rate, constant, linear, 0.5) for rate, constant, linear in cells]
        return tuning.page_of(recorded(tmp_path, *cells), cli.parse([], sweep="tuning"), None)

    said = page((1e-3, 1, 0.7), (2e-3, 1, 0.8), (4e-3, 1, 0.6))
    assert "| VICReg | covariance_weight 1 | 70.0 | **80.0** | 60.0 |" in said and "edge" not in said and "one seed" in said
    said = page((1e-3, 1, 0.9), (2e-3, 1, 0.8))
    assert "learning rate 0.001, covariance_weight 1, 90.0 %; the chosen learning rate is at the edge of the grid" in said
    assert "the chosen learning rate and covariance_weight are at the edge" in page((1e-3, 1, 0.9), (2e-3, 4, 0.8))


@pytest.mark.slow
def test_a_tiny_grid_resumes_after_a_kill_in_workers_and_has_the_rows_of_one_process(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(tuning.CONSTANTS, "vicreg", ("covariance_weight", (1.0,)))
    monkeypatch.setattr(tuning, "LEARNING_RATES", (1e-3, 2e-3))
    arguments, whole, killed = [*TINY, "--methods", "vicreg"], tmp_path / "whole", tmp_path / "killed"
    assert tuning.main([*arguments, "--output", str(whole)]) == 0
    with patch.object(launch, "made", wraps=launch.made, side_effect=[DEFAULT, KeyboardInterrupt]):
        assert tuning.main([*arguments, "--output", str(killed)]) == 130
    assert len(Records(killed).rows) == 1
    assert tuning.main([*arguments, "--jobs", "2", "--output", str(killed)]) == 0
    assert "lacks 1 of 2 runs" in told(capsys.readouterr().out)
    rows = [[(row["method"], row["linear"], row["loss"], row["device"]) for row in Records(at).rows] for at in (whole, killed)]
    assert rows[0] == rows[1] and tuning.cells(Records(killed)).best.sum() == 1
    settings = Records(killed).settings
    assert settings["rows"]["vicreg-rate0.002-covariance_weight1"]["learning_rate"] == 2e-3
    assert "validation" in settings["scored_on"] and str(killed) in (killed / "README.md").read_text()


def test_a_setting_that_diverges_scores_0_and_the_others_are_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(tuning.CONSTANTS, "vicreg", ("invariance_weight", (25.0,)))
    monkeypatch.setattr(tuning, "LEARNING_RATES", (1e30, 1e-3))
    assert tuning.main([*TINY, "--methods", "vicreg", "--output", str(tmp_path)]) == 0
    diverged, trained = Records(tmp_path).rows
    assert diverged["linear"] == 0.0 < trained["linear"] and math.isnan(diverged["entropy_upper_nats"])


def test_a_table_takes_the_best_of_a_grid(tmp_path):
    recorded(tmp_path, ("vicreg", 2e-3, 4.0, 0.9, 0.5), ("vicreg", 4e-3, 1.0, 0.8, 0.5), long=True)
    row = cli.parse(["--methods", "vicreg", "--grid", str(tmp_path), "--long"]).recipes["vicreg"]
    assert row.learning_rate.value == 0.002 and str(tmp_path) in row.learning_rate.source
    assert row.arguments == cli.parse(["--long"]).recipes["vicreg"].arguments | {"covariance_weight": 4.0}
    with pytest.raises(RequestError, match="has no results for byol"):
        cli.parse(["--methods", "vicreg", "byol", "--grid", str(tmp_path)])
    with pytest.raises(RequestError, match="contains no results of a search"):
        cli.parse(["--grid", str(tmp_path / "elsewhere")])
