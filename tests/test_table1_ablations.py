"""Ablations: what is asked around which row, differences with their errors, and sentences that follow from the numbers."""

import csv
import math

import benchmarks_extra  # noqa: F401
import pytest
from scipy.stats import ttest_ind

from benchmarks.methods import METHODS
from benchmarks.table1 import ablations as program
from benchmarks.table1.comparison import difference
from benchmarks.table1.long import long_runs
from benchmarks.table1.questions import Ablation, ablations, variants
from benchmarks.table1.recipes import RECIPES
from benchmarks.table1.rows import Records

#: what says how BYOL's entropy is taken
ENTROPYS = {"entropy_weight", "regularized", "normalized", "beta"}


def rows(**scores):
    return [
        {"method": name, "seed": seed, "linear": score, "knn": 0.5, "commit": "abc"}
        for name, values in scores.items()
        for seed, score in enumerate(values)
    ]


def question(*names):
    return Ablation("a question", {name: RECIPES[name] for name in names})


def test_a_difference_has_welchs_error_and_p_value():
    a, b = [0.91, 0.94, 0.95, 0.90], [0.88, 0.93, 0.87]
    ours, theirs = difference(a, b), ttest_ind(a, b, equal_var=False)
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.mean / ours.error == pytest.approx(theirs.statistic)


def test_a_difference_counts_beyond_two_standard_errors():
    # each side has a standard error of .01, the difference one of .01 sqrt(2)
    sides = [0.49, 0.51], [0.52, 0.54]
    assert difference(*sides).error == pytest.approx(0.01 * math.sqrt(2))
    assert difference(*sides).counts and difference(sides[1], sides[0]).counts
    assert not difference([0.49, 0.51], [0.515, 0.535]).counts
    assert difference([0.5, 0.5], [0.4, 0.4]).counts
    assert not difference([0.5, 0.5], [0.5, 0.5]).counts
    assert not difference([0.5], [0.6, 0.7]).counts


def test_a_row_beats_another_where_welchs_test_says_so():
    low, high = [0.49, 0.50, 0.51], [0.53, 0.54, 0.55]
    assert difference(high, low).verdict == "beats it"
    assert "worse" in difference(low, high).verdict
    # more than two standard errors, but with two seeds a side that is no proof
    few = difference([0.52, 0.54], [0.49, 0.51])
    assert few.counts and few.verdict == "is within the error"
    assert "cannot tell" in difference([0.5], [0.6, 0.7]).verdict
    assert difference([0.5, 0.5], [0.4, 0.4]).verdict == "beats it"
    assert difference([0.5, 0.5], [0.5, 0.5]).verdict == "is within the error"


@pytest.mark.parametrize("name", ["byol_pairdist", "byol_logdet"])
def test_without_its_entropy_a_row_beside_byol_keeps_all_its_other_settings(name):
    row, without = RECIPES[name], variants([name])[f"{name}-without"]
    assert without.arguments.items() <= row.arguments.items() and "entropy" not in without.arguments
    assert without.learning_rate.value == row.learning_rate.value


def test_every_variant_can_be_built_and_differs_from_its_baseline():
    for ablation in ablations():
        baseline, *others = ablation.recipes.items()
        assert baseline[1] == RECIPES[baseline[0]]
        for name, recipe in others:
            assert (recipe.method, recipe.arguments) != (baseline[1].method, baseline[1].arguments), name
            METHODS[recipe.method](16, **recipe.arguments)


def test_a_variant_changes_nothing_but_what_its_title_names():
    for ablation in ablations():
        baseline, *others = ablation.recipes
        for name in others:
            recipe = ablation.recipes[name]
            if name in RECIPES:
                assert recipe == RECIPES[name]
                continue
            whole = RECIPES[baseline]
            changed = {key for key, value in recipe.arguments.items() if whole.arguments.get(key, ...) != value}
            assert all(key.replace("_", " ") in recipe.title for key in changed - {"entropy"}), name
            assert recipe.learning_rate.value == whole.learning_rate.value, name
            left_out = {key for key in whole.arguments if key not in recipe.arguments}
            assert left_out == ({"entropy", *ENTROPYS} & set(whole.arguments) if name.endswith("-without") else set()), name


def test_a_long_run_asks_the_same_of_its_own_rows():
    rows = long_runs("resnet18")
    short, long = ablations(), ablations(rows)
    assert [ablation.question for ablation in short] == [ablation.question for ablation in long]
    for ablation in long:
        baseline = next(iter(ablation.recipes))
        assert ablation.recipes[baseline] == rows[baseline] != RECIPES[baseline]
        assert all(recipe.learning_rate.value == 1e-3 for recipe in ablation.recipes.values())


def test_one_window_gives_both_divergences_the_same_criterion_but_for_the_name():
    ablation = next(a for a in ablations() if a.question.startswith("KL or Bhattacharyya, with one window"))
    kl, same_window, same_component = (METHODS[r.method](16, **r.arguments).criterion for r in ablation.recipes.values())
    assert kl.invariance_weight == same_window.invariance_weight == same_component.invariance_weight
    assert same_component.entropy.spread_fraction == 4 * kl.entropy.spread_fraction


def test_a_law_of_weights_moves_the_scale_alone():
    law, fixed = ablations()[:2]
    ours = {n: METHODS[r.method](16, **r.arguments).criterion for n, r in (law.recipes | fixed.recipes).items()}
    products = {c.entropy.beta * c.entropy_weight for n, c in ours.items() if n in law.recipes}
    assert max(products) == pytest.approx(min(products))
    weights = {c.entropy_weight for n, c in ours.items() if n in fixed.recipes}
    assert len(weights) == 1


def test_the_variants_of_one_row_are_those_that_start_from_it():
    assert set(variants(["byol_pairdist"])) < set(variants(["byol_pairdist", "byol_logdet"])) < set(variants(list(RECIPES)))
    assert "vicreg_logdet" not in variants(["byol_pairdist"])


def test_findings_follow_from_the_rows():
    asked = question("vicreg", "byol", "simclr")
    lines = program.answered(asked, rows(vicreg=[0.80, 0.82], byol=[0.90, 0.92], simclr=[0.70, 0.72]))
    found = program.finding(lines)
    assert found.startswith("Better than VICReg by more than 2 standard errors: BYOL (+10.0 ± 1.4 points)")
    assert "worse than VICReg by more than 2 standard errors: SimCLR (-10.0 ± 1.4 points)" in found
    lines = program.answered(asked, rows(vicreg=[0.80, 0.82], byol=[0.81, 0.82]))
    assert program.finding(lines) == (
        "No variant differs from VICReg by more than 2 standard errors; the largest difference is +0.5 ± 1.1 points, BYOL."
    )
    assert "One seed cannot tell" in program.finding(program.answered(asked, rows(vicreg=[0.8], byol=[0.9])))
    assert "Nothing to compare" in program.finding(program.answered(asked, rows(vicreg=[0.8])))
    assert program.answered(asked, rows(byol=[0.8])) == []


@pytest.mark.slow
def test_a_tiny_ablation_is_made_and_written(tmp_path, capsys, monkeypatch):
    kept = [next(a for a in ablations() if "with one window" in a.question)]
    monkeypatch.setattr("benchmarks.table1.questions.ablations", lambda rows: kept)
    monkeypatch.setattr(program, "ablations", lambda rows: kept)
    tiny = ["--limit-images", "60", "--batch-size", "32", "--epochs", "1", "--width", "0.125", "--image-size", "16"]
    assert program.main([*tiny, "--seeds", "1", "--output", str(tmp_path)]) == 0
    made = {row["method"]: row for row in Records(tmp_path).rows}  # two at a time: in the order in which they ended
    kl, same_window, same_component = (made[name] for name in kept[0].recipes)
    # the window alone has a gradient: with one window the two divergences train one network
    assert kl["linear"] == same_window["linear"] and kl["rank_me"] == same_window["rank_me"] != same_component["rank_me"]
    page = (tmp_path / "README.md").read_text()
    assert "## KL or Bhattacharyya" in page and "One seed cannot tell VICReg+PairDist" in page
    table = list(csv.DictReader((tmp_path / "ablations.csv").read_text().splitlines()))
    assert [float(row["linear"]) for row in table] == [row["linear"] for row in (kl, same_window, same_component)]
    assert table[1]["variant"] == "VICReg+PairDist, divergence bhattacharyya"
