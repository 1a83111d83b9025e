"""Ablations: what is asked around which row, differences with their errors, and sentences that follow from the numbers."""

import math
from types import SimpleNamespace

import pytest
from benchmarks_extra import TINY
from scipy.stats import ttest_ind

from benchmarks.methods import METHODS
from benchmarks.statistics import difference, statistic
from benchmarks.table1 import ablations as program
from benchmarks.table1.ablations import Ablation, ablations, variants
from benchmarks.table1.recipes import RECIPES, long_runs
from benchmarks.table1.records import Records

#: what says how BYOL's entropy is taken
ENTROPYS = {"entropy_weight", "regularized", "normalized", "beta"}


def recorded(**scores):
    """Records of these linear accuracies, a seed each."""
    return SimpleNamespace(scores=lambda name, column: scores.get(name, []))


def criteria(recipes):
    return {name: METHODS[recipe.method](16, **recipe.arguments).criterion for name, recipe in recipes.items()}


def test_a_difference_has_welchs_error_and_p_value():
    a, b = [0.91, 0.94, 0.95, 0.90], [0.88, 0.93, 0.87]
    ours, theirs = difference(a, b), ttest_ind(a, b, equal_var=False)
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.mean / ours.error == pytest.approx(theirs.statistic)


def test_a_difference_counts_beyond_two_standard_errors():
    # each side has a standard error of .01, the difference one of .01 sqrt(2)
    sides = [0.49, 0.51], [0.52, 0.54]
    assert difference(*sides).error == pytest.approx(0.01 * math.sqrt(2))
    assert difference(*sides).counts and difference(sides[1], sides[0]).counts and difference([0.5, 0.5], [0.4, 0.4]).counts
    for a, b in (([0.49, 0.51], [0.515, 0.535]), ([0.5, 0.5], [0.5, 0.5]), ([0.5], [0.6, 0.7])):
        assert not difference(a, b).counts


def test_a_row_is_significantly_better_where_welchs_test_says_so():
    low, high = [0.49, 0.50, 0.51], [0.53, 0.54, 0.55]
    assert difference(high, low).verdict == difference([0.5, 0.5], [0.4, 0.4]).verdict == "is significantly better"
    assert "worse" in difference(low, high).verdict and "one seed" in difference([0.5], [0.6, 0.7]).verdict
    # more than two standard errors, but with two seeds a side that is no proof
    few = difference([0.52, 0.54], [0.49, 0.51])
    assert few.counts and few.verdict == difference([0.5, 0.5], [0.5, 0.5]).verdict == "is not significantly different"


def test_a_diverged_run_shows_in_the_mean_and_in_its_error():
    whole, broken = statistic([0.5, 0.7, 0.9]), statistic([0.5, float("nan"), 0.9])
    assert (whole.mean, whole.error) == pytest.approx((0.7, 0.2 / 3**0.5))
    assert math.isnan(broken.mean) and math.isnan(broken.error)


def test_every_variant_can_be_built_and_changes_only_the_part_that_its_title_names():
    for ablation in ablations():
        baseline, *others = ablation.recipes
        whole = RECIPES[baseline]
        assert ablation.recipes[baseline] == whole
        for name in others:
            recipe = ablation.recipes[name]
            METHODS[recipe.method](16, **recipe.arguments)
            assert (recipe.method, recipe.arguments) != (whole.method, whole.arguments), name
            if name in RECIPES:
                assert recipe == RECIPES[name]
                continue
            changed = {key for key, value in recipe.arguments.items() if whole.arguments.get(key, ...) != value}
            assert all(key.replace("_", " ") in recipe.title for key in changed - {"entropy"}), name
            assert recipe.learning_rate.value == whole.learning_rate.value, name
            left_out = {key for key in whole.arguments if key not in recipe.arguments}
            assert left_out == ({"entropy", *ENTROPYS} & set(whole.arguments) if name.endswith("-without") else set()), name


def test_a_long_run_asks_the_same_of_its_own_rows():
    rows = long_runs("resnet18")
    assert [ablation.question for ablation in ablations()] == [ablation.question for ablation in ablations(rows)]
    for ablation in ablations(rows):
        assert ablation.recipes[ablation.baseline] == rows[ablation.baseline] != RECIPES[ablation.baseline]
        assert all(recipe.learning_rate.value == 1e-3 for recipe in ablation.recipes.values())


def test_one_spread_fraction_gives_both_divergences_the_same_criterion_but_for_the_name():
    ablation = next(a for a in ablations() if a.question.startswith("KL or Bhattacharyya at the same spread_fraction"))
    kl, same_window, same_component = criteria(ablation.recipes).values()
    assert kl.invariance_weight == same_window.invariance_weight == same_component.invariance_weight
    assert same_component.entropy.spread_fraction == 4 * kl.entropy.spread_fraction


def test_a_law_of_weights_moves_the_scale_alone():
    law, fixed = (criteria(ablation.recipes).values() for ablation in ablations()[:2])
    products = {criterion.entropy.beta * criterion.entropy_weight for criterion in law}
    assert max(products) == pytest.approx(min(products))
    assert len({criterion.entropy_weight for criterion in fixed}) == 1


def test_the_variants_of_one_row_start_from_it():
    assert set(variants(["byol_pairdist"])) < set(variants(["byol_pairdist", "byol_logdet"])) < set(variants(list(RECIPES)))
    assert "vicreg_logdet" not in variants(["byol_pairdist"])


def test_findings_follow_from_the_rows():
    asked = Ablation("a question", {name: RECIPES[name] for name in ("vicreg", "byol", "simclr")})
    found = program.finding(recorded(vicreg=[0.80, 0.82], byol=[0.90, 0.92], simclr=[0.70, 0.72]), asked)
    assert found.startswith("This variant is better than VICReg by more than 2 standard errors: BYOL (+10.0 ± 1.4 points).")
    assert "This variant is worse than VICReg by more than 2 standard errors: SimCLR (-10.0 ± 1.4 points)." in found
    assert program.finding(recorded(vicreg=[0.80, 0.82], byol=[0.81, 0.82]), asked) == (
        "No variant differs from VICReg by more than 2 standard errors. The largest difference is +0.5 ± 1.1 points (BYOL)."
    )
    assert "One seed cannot tell" in program.finding(recorded(vicreg=[0.8], byol=[0.9]), asked)
    assert "Nothing to compare" in program.finding(recorded(vicreg=[0.8]), asked)


@pytest.mark.slow
def test_a_tiny_ablation_is_made_and_written(tmp_path, monkeypatch):
    kept = [next(a for a in ablations() if a.question.startswith("KL or Bhattacharyya"))]
    monkeypatch.setattr(program, "ablations", lambda rows: kept)
    assert program.main([*TINY, "--output", str(tmp_path)]) == 0
    kl, same_window, same_component = (Records(tmp_path).of(name)[0] for name in kept[0].recipes)
    # the window alone has a gradient: with one window the two divergences train one network
    assert kl["linear"] == same_window["linear"] and kl["rank_me"] == same_window["rank_me"] != same_component["rank_me"]
    page = (tmp_path / "README.md").read_text()
    assert "## KL or Bhattacharyya" in page and "One seed cannot tell VICReg+PairDist" in page
    assert f"| VICReg+PairDist, divergence bhattacharyya | 0.008 | 1 | {100 * kl['linear']:.1f} |" in page
