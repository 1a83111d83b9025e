"""`python -m benchmarks.table1.ablations` compares variants of a method with that method, in one table per question.

Every question starts from methods of Table 1 with their tuned values. `ablations` returns the questions with their variants.
"""

import sys
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from benchmarks.data import Images
from benchmarks.methods import METHODS
from benchmarks.pages import filled, table
from benchmarks.statistics import Difference, difference, finding
from benchmarks.table1.cli import Options
from benchmarks.table1.launch import head, sweep
from benchmarks.table1.recipes import RECIPES, Recipe, Setting
from benchmarks.table1.records import Records

SOURCE = "an ablation"
TENSORS = ({"regularized": "prediction"}, {"regularized": "features"}, {"normalized": False})
#: method of Table 1, its entropy, and the weights with which the entropy is added to VICReg's three terms
ADDED = (("vicreg_logdet", "log_det", (1.0, 10.0, 100.0)), ("vicreg_pairdist", "pairwise", (0.1, 1.0, 10.0)))
#: values of beta to compare with 1, the value in Table 1
BETAS = (0.1, 10.0, 100.0)


#: question -> recipes by name; the first recipe is the baseline that the others start from
Ablations = dict[str, dict[str, Recipe]]


def ablations(rows: Mapping[str, Recipe] = RECIPES) -> Ablations:
    """All ablations, with these recipes of Table 1 as baselines."""
    return _of_log_det(rows) | _of_pairwise(rows) | _of_both(rows) | _beside_byol(rows) | _of_vicreg(rows)


def _of_vicreg(rows: Mapping[str, Recipe]) -> Ablations:
    """Covariance weights up to 64, beyond those of the search, at the usual dimension and at four times it."""
    weights, wide = _each("covariance_weight", 1.0, 16.0, 64.0), {"output": 4 * rows["vicreg"].arguments["output"]}
    return {
        "VICReg: covariance weight": _varied(rows, "vicreg", weights),
        "VICReg: covariance weight at four times the dimension": _varied(rows, "vicreg", [wide, *(wide | w for w in weights)]),
    }


def _of_log_det(rows: Mapping[str, Recipe]) -> Ablations:
    weight, varied = rows["vicreg_logdet"].arguments["entropy_weight"], partial(_varied, rows, "vicreg_logdet")
    in_proportion = [{"beta": beta, "entropy_weight": weight / beta} for beta in BETAS]
    return {
        "beta of LogDet, with the entropy weight in proportion to 1 / beta": varied(in_proportion),
        "beta of LogDet, with fixed weights": varied([{"beta": beta, "entropy_weight": weight} for beta in BETAS]),
    }


def _of_pairwise(rows: Mapping[str, Recipe]) -> Ablations:
    criterion = METHODS["vicreg_entropy"](8, **rows["vicreg_pairdist"].arguments).criterion
    same_weights = {name: getattr(criterion, name) for name in ("invariance_weight", "entropy_weight")}
    # Bhattacharyya with 4 times the spread_fraction assumes the same variance of a component as KL
    wider = {"divergence": "bhattacharyya", "spread_fraction": 4 * criterion.entropy.spread_fraction}
    changes = [{"divergence": "bhattacharyya"}, wider | same_weights]
    beside_byol = wider | {"spread_fraction": 4 * rows["byol_pairdist"].arguments.get("spread_fraction", 0.2)}
    return {
        "spread_fraction of PairDist, with the default weights": _varied(
            rows, "vicreg_pairdist", _each("spread_fraction", 0.05, 0.1, 0.2, 0.3, 0.5)
        ),
        "KL or Bhattacharyya at the same spread_fraction (same gradient), or at four times it": _varied(
            rows, "vicreg_pairdist", changes
        ),
        "KL, or Bhattacharyya at four times the spread_fraction, with BYOL": _varied(rows, "byol_pairdist", [beside_byol]),
    }


def _of_both(rows: Mapping[str, Recipe]) -> Ablations:
    """Both entropies in place of VICReg's variance and covariance or added to them; and the dimension of the projection."""
    asked = {}
    for name, entropy, weights in ADDED:
        question = f"{rows[name].title}: entropy in place of VICReg's variance and covariance, or added to them"
        asked[question] = _replaced_or_added(rows, name, entropy, weights)
    for name in ("vicreg", "vicreg_pairdist", "vicreg_logdet"):
        width = rows[name].arguments["output"]
        question = f"{rows[name].title}: dimension of the projection"
        asked[question] = _varied(rows, name, _each("output", width // 4, 4 * width))
    return asked


def _beside_byol(rows: Mapping[str, Recipe]) -> Ablations:
    asked = {}
    for name in ("byol_pairdist", "byol_logdet"):
        weights = _varied(rows, name, _each("entropy_weight", 0.02, 0.05, 0.1, 0.2, 0.5))
        asked[f"{rows[name].title}: entropy weight"] = weights | _without(rows, name)
        question = f"{rows[name].title}: which tensor is regularized, and whether it is normalised"
        asked[question] = _varied(rows, name, TENSORS)
    question = "beta of LogDet with BYOL, from a quarter of the dimension to four times the dimension"
    return asked | {question: _varied(rows, "byol_logdet", _each("beta", 64.0, 256.0, 1024.0))}


def variants(options: Options) -> dict[str, Recipe]:
    """All recipes of the questions whose baseline is in --methods. A recipe of two questions is trained once."""
    asked = [recipes for recipes in ablations(options.recipes).values() if next(iter(recipes)) in options.methods]
    return {name: recipe for recipes in asked for name, recipe in recipes.items()}


def _varied(rows: Mapping[str, Recipe], baseline: str, changes: Iterable[dict[str, Any]]) -> dict[str, Recipe]:
    """The baseline and a recipe for each change, without changes to values that the baseline has already."""
    recipe = rows[baseline]
    recipes = {baseline: recipe}
    for changed in changes:
        if not changed.items() <= recipe.arguments.items():
            words = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in changed.items())
            name = baseline + "".join(f"-{name}{_short(value)}" for name, value in changed.items())
            recipes[name] = recipe.varied(f"{recipe.title}, {words}", SOURCE, **changed)
    return recipes


def _replaced_or_added(rows: Mapping[str, Recipe], name: str, entropy: str, weights: Iterable[float]) -> dict[str, Recipe]:
    """VICReg, VICReg with the entropy in place of variance and covariance (`name`), and VICReg plus the weighted entropy."""
    vicreg = rows["vicreg"]
    recipes = {"vicreg": vicreg, name: rows[name]}
    for weight in weights:
        settings = {"entropy": Setting(entropy, SOURCE), "entropy_weight": Setting(weight, SOURCE)}
        title = f"{rows[name].title}, added to all of VICReg, entropy weight {weight:g}"
        recipe = Recipe(title, "vicreg_and_entropy", vicreg.settings | settings, vicreg.learning_rate)
        recipes[f"{name}-added-entropy_weight{weight:g}"] = recipe
    return recipes


def _without(rows: Mapping[str, Recipe], name: str) -> dict[str, Recipe]:
    """BYOL as tuned, and BYOL with the momentum and learning rate that were tuned for BYOL plus an entropy (`name`)."""
    row, byol = rows[name], rows["byol"]
    common = {own: row.arguments[own] for own in byol.arguments}
    without = byol.varied(f"{row.title}, without the entropy", SOURCE, learning_rate=row.learning_rate.value, **common)
    return {"byol": byol, f"{name}-without": without}


def _each(name: str, *values: float) -> list[dict[str, float]]:
    return [{name: value} for value in values]


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def page_of(records: Records, options: Options, images: Images) -> str:
    """A finding and a table for each question of which at least two recipes have runs."""
    trained = {row["method"] for row in records.rows}
    asked = {question: recipes for question, recipes in ablations(options.recipes).items() if len(recipes.keys() & trained) > 1}
    answers = (answer(records, question, recipes) for question, recipes in asked.items())
    return filled(__file__, **head(records, options), questions="\n\n".join(answers))


def answer(records: Records, question: str, recipes: dict[str, Recipe]) -> str:
    """The question, a sentence on the variants that differ from the baseline, and the table of all recipes that have runs."""
    base, *others = (name for name in recipes if records.of(name))
    gaps = {name: difference(records.scores(name, "linear"), records.scores(base, "linear")) for name in others}
    found = finding({recipes[name].title: gap for name, gap in gaps.items()})
    return "\n\n".join([f"## {question}", found, table(_line(records, name, recipes[name], gaps) for name in (base, *others))])


def _line(records: Records, name: str, recipe: Recipe, gaps: dict[str, Difference]) -> dict[str, str]:
    line = {"variant": recipe.title, "learning rate": f"{recipe.learning_rate.value:g}", "seeds": str(len(records.of(name)))}
    return line | records.cells(name, gaps)


def main(arguments: list[str] | None = None) -> int:
    """Run the program. Exit status: 0 if done, 1 if the request cannot be met, 130 if stopped by Ctrl-C."""
    about = "Change one thing at a time in the rows of VICReg and BYOL; --methods names the rows to start from."
    return sweep(arguments, "ablations", about, seeds=3, variants=variants, page=page_of)


if __name__ == "__main__":
    sys.exit(main())
