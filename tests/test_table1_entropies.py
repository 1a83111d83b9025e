"""The table of entropies has every estimator with its default weights, and searches the same learning rates for each.

Differences are tested over pairs of runs with equal seeds, with Holm's correction.
"""

from pathlib import Path

import benchmarks_extra
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from benchmarks.methods import METHODS
from benchmarks.statistics import holm, paired_difference
from benchmarks.table1 import entropies
from benchmarks.table1.records import Records
from it_losses import ESTIMATORS, VICRegEntropy


def recorded(scores):
    """Return records with these (linear, kNN) accuracies, in reverse order of seed."""
    records = Records(Path("nowhere"))
    records.rows = [
        {"method": name, "seed": seed, "linear": linear, "knn": knn}
        for name, values in scores.items()
        for seed, (linear, knn) in reversed(list(enumerate(values)))
    ]
    return records


def test_every_estimator_has_a_row_with_its_default_weights():
    named = {recipe.arguments.get("entropy", "variance_covariance") for recipe in entropies.ROWS.values()}
    assert named == set(ESTIMATORS)
    for recipe in entropies.ROWS.values():
        if recipe.method == "vicreg_entropy":
            criterion = METHODS[recipe.method](8, **recipe.arguments).criterion
            weights = criterion.entropy.default_weights
            assert (criterion.invariance_weight, criterion.entropy_weight) == weights[:2]
    for name in set(entropies.ROWS) & set(ESTIMATORS):
        criterion = METHODS["vicreg_entropy"](8, **entropies.ROWS[name].arguments).criterion
        assert repr(criterion) == repr(VICRegEntropy(name))


def test_the_grid_gives_every_row_the_same_rates_and_nothing_else():
    grid = entropies.grid(None)
    assert len(grid) == len(entropies.ROWS) * len(entropies.RATES)
    for name, recipe in grid.items():
        row, rate = name.split("-rate")
        assert recipe.learning_rate.value == float(rate) in entropies.RATES
        assert recipe.arguments == entropies.ROWS[row].arguments


def test_a_paired_difference_has_students_p_value():
    a, b = [0.91, 0.94, 0.95], [0.88, 0.93, 0.87]
    ours, theirs = paired_difference(a, b), ttest_rel(a, b)
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.mean / ours.error == pytest.approx(theirs.statistic)
    assert paired_difference([0.5, 0.5], [0.5, 0.5]).p_value == 1 and paired_difference([0.6, 0.6], [0.5, 0.5]).p_value == 0


def test_holms_correction_multiplies_the_least_most_and_keeps_the_order():
    assert holm([0.03, 0.01, 0.04, 0.9]) == pytest.approx([0.09, 0.04, 0.09, 0.9])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


def test_rows_are_compared_at_their_common_seeds():
    base = [(0.90, 0.8), (0.94, 0.8), (0.92, 0.8)]
    above = [(0.91, 0.8), (0.95, 0.8), (0.9301, 0.8), (0.1, 0.1)]
    rows = recorded({"vicreg": base, "koleo": above, "sigreg": base[::-1]})
    gaps = rows.compared({"koleo": "vicreg", "sigreg": "vicreg", "spacings": "vicreg"}, "linear")
    assert set(gaps) == {"koleo", "sigreg"}
    alone = paired_difference([linear for linear, _ in above[:3]], [linear for linear, _ in base])
    assert gaps["koleo"] == alone._replace(p_value=2 * alone.p_value)
    said = rows.findings({"koleo": "vicreg", "sigreg": "vicreg"}, entropies.ROWS).splitlines()
    assert said[0] == "- Linear probe. 1 of 2 differences are significant (p < 0.05): KoLeo +1.0 ± 0.0."
    assert said[1] == "- kNN probe. 0 of 2 differences are significant (p < 0.05)."


@pytest.mark.slow
def test_a_tiny_table_is_made_from_its_grid_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(entropies, "ROWS", {name: entropies.ROWS[name] for name in ("vicreg", "koleo")})
    monkeypatch.setattr(entropies, "RATES", (1e-3, 1e30))
    cost = pd.DataFrame({"time_ms": [1.0, 3.0], "peak_mib": [2.0, 4.0]}, ["vicreg", "koleo"])
    monkeypatch.setattr(entropies, "costs", lambda path: cost)
    arguments = [*benchmarks_extra.TINY, "--output", str(tmp_path)]
    assert entropies.main(arguments) == 0
    assert len(Records(tmp_path / "grid").rows) == 4 and len(Records(tmp_path).rows) == 2
    assert Records(tmp_path).settings["rows"]["koleo"]["learning_rate"] == 1e-3
    assert "scored_on" not in Records(tmp_path).settings and "scored_on" in Records(tmp_path / "grid").settings
    capsys.readouterr()
    assert entropies.main(arguments) == 0
    assert "0 of 4 runs" in benchmarks_extra.told(capsys.readouterr().out)
    page = (tmp_path / "README.md").read_text()
    assert page.count("| KoLeo |") == 2 and "| learning rate 0.001 | learning rate 1e+30 |\n|---|---:|---:|" in page
    assert not (tmp_path / "grid" / "README.md").exists()


def test_time_and_memory_are_measured_once(tmp_path, monkeypatch):
    monkeypatch.setattr(entropies, "ROWS", {name: entropies.ROWS[name] for name in ("vicreg", "koleo")})
    monkeypatch.setattr(entropies, "TIMED", entropies.TIMED._replace(batch=16, dim=8, seconds=0.0))
    monkeypatch.setattr("benchmarks.speed.measure.in_fresh_process", lambda function, case, name, find: 1.5)
    measured = entropies.costs(tmp_path / "speed.csv")
    assert measured.time_ms["vicreg"] > 0 and measured.peak_mib["koleo"] == 1.5
    assert entropies.costs(tmp_path / "speed.csv").equals(measured)
