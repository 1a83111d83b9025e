"""Ablations: what is asked around which row, differences with their errors, and sentences that follow from the numbers."""

import math
from types import SimpleNamespace

import pytest
from benchmarks_extra import TINY
from scipy.stats import ttest_ind

from benchmarks.methods import METHODS
from benchmarks.statistics import difference, finding, statistic
from benchmarks.table1 import ablations as program
from benchmarks.table1.ablations import ablations, variants
from benchmarks.table1.recipes import RECIPES, long_runs
from benchmarks.table1.records import Records

DIVERGENCES = "KL or Bhattacharyya at the same spread_fraction (same gradient), or at four times it"
#: what says how BYOL's entropy is taken
ENTROPYS = {"entropy_weight", "regularized", "normalized", "beta"}


def criteria(recipes):
    return {name: METHODS[recipe.method](16, **recipe.arguments).criterion for name, recipe in recipes.items()}


def test_a_difference_has_welchs_error_and_p_value():
    a, b = [0.91, 0.94, 0.95, 0.90], [0.88, 0.93, 0.87]
    ours, theirs = difference(a, b), ttest_ind(a, b, equal_var=False)
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.mean / ours.error == pytest.approx(theirs.statistic)


def test_a_difference_without_any_spread_is_certain_and_one_of_a_single_seed_unknown():
    assert difference([0.5, 0.5], [0.4, 0.4]).p_value == 0 and difference([0.5, 0.5], [0.5, 0.5]).p_value == 1
    assert math.isnan(difference([0.5], [0.6, 0.7]).p_value) and difference([0.5], [0.6, 0.7]).cells()["p"] == ""


def test_a_diverged_run_shows_in_the_mean_and_in_its_error():
    whole, broken = statistic([0.5, 0.7, 0.9]), statistic([0.5, float("nan"), 0.9])
    assert (whole.mean, whole.error) == pytest.approx((0.7, 0.2 / 3**0.5))
    assert math.isnan(broken.mean) and math.isnan(broken.error)


def test_every_variant_can_be_built_and_changes_only_the_part_that_its_title_names():
    for recipes in ablations().values():
        baseline, *others = recipes
        whole = RECIPES[baseline]
        assert recipes[baseline] == whole
        for name in others:
            recipe = recipes[name]
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
    assert list(ablations()) == list(ablations(rows))
    for recipes in ablations(rows).values():
        baseline = next(iter(recipes))
        assert recipes[baseline] == rows[baseline] != RECIPES[baseline]
        assert all(recipe.learning_rate.value == 1e-3 for recipe in recipes.values())


def test_one_spread_fraction_gives_both_divergences_the_same_criterion_but_for_the_name():
    kl, same_window, same_component = criteria(ablations()[DIVERGENCES]).values()
    assert kl.invariance_weight == same_window.invariance_weight == same_component.invariance_weight
    assert same_component.entropy.spread_fraction == 4 * kl.entropy.spread_fraction


def test_a_law_of_weights_moves_the_scale_alone():
    law, fixed = (criteria(recipes).values() for recipes in list(ablations().values())[:2])
    products = {criterion.entropy.beta * criterion.entropy_weight for criterion in law}
    assert max(products) == pytest.approx(min(products))
    assert len({criterion.entropy_weight for criterion in fixed}) == 1


def test_the_variants_of_one_row_start_from_it():
    one, two, every = (
        set(variants(SimpleNamespace(methods=methods, recipes=RECIPES)))
        for methods in (["byol_pairdist"], ["byol_pairdist", "byol_logdet"], list(RECIPES))
    )
    assert one < two < every and "vicreg_logdet" not in one


def test_a_finding_names_what_is_significant_and_says_where_nothing_can_be():
    base, above, near = [0.80, 0.82, 0.81], [0.90, 0.92, 0.91], [0.81, 0.82, 0.82]
    gaps = {"BYOL": difference(above, base), "SimCLR": difference(near, base)}
    assert finding(gaps) == "1 of 2 differences are significant (p < 0.05): BYOL +10.0 ± 0.8."
    assert finding({"SimCLR": gaps["SimCLR"]}) == "0 of 1 differences are significant (p < 0.05)."
    assert "One seed" in finding(gaps | {"BYOL": difference([0.9], [0.8])}) and "nothing to compare" in finding({})


@pytest.mark.slow
def test_a_tiny_ablation_is_made_and_written(tmp_path, monkeypatch):
    kept = {DIVERGENCES: ablations()[DIVERGENCES]}
    monkeypatch.setattr(program, "ablations", lambda rows: kept)
    assert program.main([*TINY, "--output", str(tmp_path)]) == 0
    kl, same_window, same_component = (Records(tmp_path).of(name)[0] for name in kept[DIVERGENCES])
    # the window alone has a gradient: with one window the two divergences train one network
    assert kl["linear"] == same_window["linear"] and kl["rank_me"] == same_window["rank_me"] != same_component["rank_me"]
    page = (tmp_path / "README.md").read_text()
    assert f"## {DIVERGENCES}" in page and "One seed is too few" in page
    assert f"| VICReg+PairDist, divergence bhattacharyya | 0.008 | 1 | {100 * kl['linear']:.1f} |" in page
