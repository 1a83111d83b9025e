"""`python -m benchmarks.table1.ablations` compares variants of a method with that method, in one table per question.

Every question starts from methods of Table 1 with their tuned values. `ablations` returns the questions with their variants.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.data import Images
from benchmarks.methods import METHODS
from benchmarks.pages import filled, table
from benchmarks.statistics import Difference, difference, finding
from benchmarks.table1.cli import Options, parse
from benchmarks.table1.launch import head, launch
from benchmarks.table1.recipes import RECIPES, Recipe
from benchmarks.table1.records import Records

SOURCE = "an ablation"
TENSORS = ({"regularized": "prediction"}, {"regularized": "features"}, {"normalized": False})
#: method of Table 1, its entropy, and the weights with which the entropy is added to VICReg's three terms
ADDED = (("vicreg_logdet", "log_det", (1.0, 10.0, 100.0)), ("vicreg_pairdist", "pairwise", (0.1, 1.0, 10.0)))
#: values of LogDet's beta, which is 1 in Table 1, and values of PairDist's spread_fraction
BETAS, SPREADS = (0.1, 10.0, 100.0), (0.05, 0.1, 0.2, 0.3, 0.5)
#: question -> recipes by name; the first recipe is the baseline that the others start from
Ablations = dict[str, dict[str, Recipe]]


def ablations(rows: Mapping[str, Recipe] = RECIPES) -> Ablations:
    """All questions. The baselines come from `rows`, the recipes of Table 1."""
    vary, weight = partial(_varied, rows), rows["vicreg_logdet"].arguments["entropy_weight"]
    in_proportion = _each(beta=BETAS, entropy_weight=[weight / beta for beta in BETAS])
    pairwise = METHODS["vicreg_entropy"](8, **rows["vicreg_pairdist"].arguments).criterion
    same_weights = {name: getattr(pairwise, name) for name in ("invariance_weight", "entropy_weight")}
    # at 4 times the spread_fraction, Bhattacharyya assumes the same variance of a component as KL
    wider = {"divergence": "bhattacharyya", "spread_fraction": 4 * pairwise.entropy.spread_fraction}
    beside_byol = wider | {"spread_fraction": 4 * rows["byol_pairdist"].arguments.get("spread_fraction", 0.2)}
    asked = {
        "beta of LogDet, with the entropy weight in proportion to 1 / beta": vary("vicreg_logdet", in_proportion),
        "beta of LogDet, with fixed weights": vary("vicreg_logdet", _each(beta=BETAS, entropy_weight=[weight] * len(BETAS))),
        "spread_fraction of PairDist, with the default weights": vary("vicreg_pairdist", _each(spread_fraction=SPREADS)),
        "KL or Bhattacharyya at the same spread_fraction (same gradient), or at four times it": vary(
            "vicreg_pairdist", [{"divergence": "bhattacharyya"}, wider | same_weights]
        ),
        "KL, or Bhattacharyya at four times the spread_fraction, with BYOL": vary("byol_pairdist", [beside_byol]),
    }
    for name, entropy, weights in ADDED:
        question = f"{rows[name].title}: entropy in place of VICReg's variance and covariance, or added to them"
        asked[question] = _replaced_or_added(rows, name, entropy, weights)
    for name in ("vicreg", "vicreg_pairdist", "vicreg_logdet"):
        width = rows[name].arguments["output"]
        asked[f"{rows[name].title}: dimension of the projection"] = vary(name, _each(output=(width // 4, 4 * width)))
    for name in ("byol_pairdist", "byol_logdet"):
        weighted = vary(name, _each(entropy_weight=(0.02, 0.05, 0.1, 0.2, 0.5)))
        asked[f"{rows[name].title}: entropy weight"] = weighted | _without(rows, name)
        asked[f"{rows[name].title}: which tensor is regularized, and whether it is normalised"] = vary(name, TENSORS)
    # the search tries no covariance weight above 4
    covariance, wide = _each(covariance_weight=(1.0, 16.0, 64.0)), {"output": 4 * rows["vicreg"].arguments["output"]}
    return asked | {
        "beta of LogDet with BYOL, from a quarter of the dimension to four times the dimension": vary(
            "byol_logdet", _each(beta=(64.0, 256.0, 1024.0))
        ),
        "VICReg: covariance weight": vary("vicreg", covariance),
        "VICReg: covariance weight at four times the dimension": vary("vicreg", [wide, *(wide | own for own in covariance)]),
    }


def variants(options: Options) -> dict[str, Recipe]:
    """All recipes of the questions whose baseline is in --methods. A recipe of two questions is trained once."""
    asked = [recipes for recipes in ablations(options.recipes).values() if next(iter(recipes)) in options.methods]
    return {name: recipe for recipes in asked for name, recipe in recipes.items()}


def _each(**columns: Sequence[float]) -> list[dict[str, float]]:
    """A change for each value; if several settings are given, their values change together."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _varied(rows: Mapping[str, Recipe], baseline: str, changes: Iterable[dict[str, Any]]) -> dict[str, Recipe]:
    """The baseline and a recipe for each change. Changes that the baseline has already are left out."""
    recipe = rows[baseline]
    recipes = {baseline: recipe}
    for changed in changes:
        if not changed.items() <= recipe.arguments.items():
            short = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in changed.items()}
            words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in short.items())
            name = baseline + "".join(f"-{name}{value}" for name, value in short.items())
            recipes[name] = recipe.varied(f"{recipe.title}, {words}", SOURCE, **changed)
    return recipes


def _replaced_or_added(rows: Mapping[str, Recipe], name: str, entropy: str, weights: Iterable[float]) -> dict[str, Recipe]:
    """VICReg, VICReg with the entropy in place of variance and covariance (`name`), and VICReg plus the weighted entropy."""
    vicreg = rows["vicreg"]
    recipes = {"vicreg": vicreg, name: rows[name]}
    for weight in weights:
        title = f"{rows[name].title}, added to all of VICReg, entropy weight {weight:g}"
        recipe = vicreg.varied(title, SOURCE, entropy=entropy, entropy_weight=weight)
        recipes[f"{name}-added-entropy_weight{weight:g}"] = replace(recipe, method="vicreg_and_entropy")
    return recipes


def _without(rows: Mapping[str, Recipe], name: str) -> dict[str, Recipe]:
    """BYOL as tuned, and BYOL with the arguments and the learning rate of BYOL plus an entropy (`name`)."""
    row, byol = rows[name], rows["byol"]
    common = {own: row.arguments[own] for own in byol.arguments}
    without = byol.varied(f"{row.title}, without the entropy", SOURCE, learning_rate=row.learning_rate.value, **common)
    return {"byol": byol, f"{name}-without": without}


def page_of(records: Records, options: Options, images: Images) -> str:
    """The page: a finding and a table for each question with runs of at least two recipes."""
    answers = []
    for question, recipes in ablations(options.recipes).items():
        names = [name for name in recipes if records.of(name)]
        gaps = {name: difference(records.scores(name, "linear"), records.scores(names[0], "linear")) for name in names[1:]}
        if gaps:
            found = finding({recipes[name].title: gap for name, gap in gaps.items()})
            lines = (_line(records, name, recipes[name], gaps) for name in names)
            answers.append(f"## {question}\n\n{found}\n\n{table(lines)}")
    return filled(__file__, **head(records, options), questions="\n\n".join(answers))


def _line(records: Records, name: str, recipe: Recipe, gaps: dict[str, Difference]) -> dict[str, str]:
    line = {"variant": recipe.title, "learning rate": f"{recipe.learning_rate.value:g}", "seeds": str(len(records.of(name)))}
    return line | records.cells(name, gaps)


def main(arguments: list[str] | None = None) -> int:
    about = "Change one thing at a time in the rows of VICReg and BYOL; --methods names the rows to start from."
    return launch(lambda: parse(arguments, sweep="ablations", about=about).varied(variants), page_of)


if __name__ == "__main__":
    sys.exit(main())
