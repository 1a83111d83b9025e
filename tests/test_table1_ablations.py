"""Each ablation changes one part of a row of Table 1. Differences, errors and sentences follow from the recorded numbers."""

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

LONG = long_runs("resnet18")
DIVERGENCES = "KL or Bhattacharyya at the same spread_fraction (same gradient), or at four times it"
#: the arguments that add an entropy to BYOL
ENTROPY = {"entropy", "entropy_weight", "regularized", "normalized", "beta"}


def criteria(recipes):
    return [METHODS[recipe.method](16, **recipe.arguments).criterion for recipe in recipes.values()]


def test_a_difference_has_welchs_error_and_p_value_and_is_certain_without_spread_and_unknown_for_a_single_seed():
    a, b = [0.91, 0.94, 0.95, 0.90], [0.88, 0.93, 0.87]
    ours, theirs = difference(a, b), ttest_ind(a, b, equal_var=False)
    assert (ours.p_value, ours.mean / ours.error) == pytest.approx((theirs.pvalue, theirs.statistic))
    assert difference([0.5, 0.5], [0.4, 0.4]).p_value == 0 and difference([0.5, 0.5], [0.5, 0.5]).p_value == 1
    assert math.isnan(difference([0.5], [0.6, 0.7]).p_value) and difference([0.5], [0.6, 0.7]).cells()["p"] == ""


def test_the_mean_and_the_error_are_nan_where_a_run_diverged():
    assert statistic([0.5, 0.7, 0.9]) == pytest.approx((0.7, 0.2 / 3**0.5))
    assert all(map(math.isnan, statistic([0.5, math.nan, 0.9])))


@pytest.mark.parametrize("rows", [RECIPES, LONG], ids=["short", "long"])
def test_every_variant_can_be_built_and_changes_only_the_part_that_its_title_names(rows):
    for recipes in ablations(rows).values():
        (baseline, whole), *others = recipes.items()
        assert whole == rows[baseline]
        for name, recipe in others:
            METHODS[recipe.method](16, **recipe.arguments)
            assert (recipe.method, recipe.arguments) != (whole.method, whole.arguments), name
            if name in rows:
                assert recipe == rows[name]
                continue
            changed = {key for key, value in recipe.arguments.items() if whole.arguments.get(key, ...) != value}
            assert all(key.replace("_", " ") in recipe.title for key in changed - {"entropy"}), name
            assert recipe.learning_rate.value == whole.learning_rate.value, name
            left_out = whole.arguments.keys() - recipe.arguments.keys()
            assert left_out == (ENTROPY & whole.arguments.keys() if name.endswith("-without") else set()), name


def test_long_runs_answer_the_same_questions_with_their_own_rows():
    assert list(ablations(LONG)) == list(ablations())
    assert all(row != RECIPES[name] and row.learning_rate.value == 1e-3 for name, row in LONG.items())


def test_one_spread_fraction_gives_both_divergences_the_same_criterion_but_for_the_name():
    kl, same_window, same_component = criteria(ablations()[DIVERGENCES])
    assert kl.invariance_weight == same_window.invariance_weight == same_component.invariance_weight
    assert same_component.entropy.spread_fraction == 4 * kl.entropy.spread_fraction


def test_weights_in_proportion_to_1_over_beta_keep_the_product_and_fixed_weights_stay():
    in_proportion, fixed = map(criteria, list(ablations().values())[:2])
    products = [criterion.entropy.beta * criterion.entropy_weight for criterion in in_proportion]
    assert products == pytest.approx(products[:1] * len(products))
    assert len({criterion.entropy_weight for criterion in fixed}) == 1


def test_the_variants_of_one_row_start_from_it():
    chosen = [["byol_pairdist"], ["byol_pairdist", "byol_logdet"], list(RECIPES)]
    one, two, every = (set(variants(SimpleNamespace(methods=methods, recipes=RECIPES))) for methods in chosen)
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
    # at the same spread_fraction, the losses of the two divergences differ by a constant, so both train the same network
    assert kl["linear"] == same_window["linear"] and kl["rank_me"] == same_window["rank_me"] != same_component["rank_me"]
    page = (tmp_path / "README.md").read_text()
    assert f"## {DIVERGENCES}" in page and "One seed is too few" in page
    assert f"| VICReg+PairDist, divergence bhattacharyya | 0.008 | 1 | {100 * kl['linear']:.1f} |" in page
