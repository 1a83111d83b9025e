"""`python -m benchmarks.table1.ablations`: one question a table, each variant against the row it starts from.

Every question starts from rows of Table 1 with their tuned values: `ablations` has every question with its variants.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from benchmarks.data import Images
from benchmarks.methods import METHODS
from benchmarks.pages import filled, table
from benchmarks.statistics import Difference, difference, finding
from benchmarks.table1.cli import Options
from benchmarks.table1.launch import head, sweep
from benchmarks.table1.recipes import RECIPES, Recipe, Setting
from benchmarks.table1.records import Records

SOURCE = "an ablation"
BESIDE_BYOL = ("byol_pairdist", "byol_logdet")
TENSORS = ({"regularized": "prediction"}, {"regularized": "features"}, {"normalized": False})
#: values beside 1, which is that of the row
BETAS = (0.1, 10.0, 100.0)


class Ablation(NamedTuple):
    """A question; `recipes` by name, the first is the baseline."""

    question: str
    recipes: dict[str, Recipe]

    @property
    def baseline(self) -> str:
        """The name of the row that the variants start from."""
        return next(iter(self.recipes))


def ablations(rows: Mapping[str, Recipe] = RECIPES) -> list[Ablation]:
    """All ablations, around these rows of Table 1."""
    about, added = partial(_varied, rows), partial(_replaced_or_added, rows)
    weight = rows["vicreg_logdet"].arguments["entropy_weight"]
    pairwise = METHODS["vicreg_entropy"](8, **rows["vicreg_pairdist"].arguments).criterion
    same_weights = {"invariance_weight": pairwise.invariance_weight, "entropy_weight": pairwise.entropy_weight}
    # at 4 times the fraction, both divergences assume the same variance of a component
    wider = {"divergence": "bhattacharyya", "spread_fraction": 4 * pairwise.entropy.spread_fraction}
    wider_beside_byol = wider | {"spread_fraction": 4 * rows["byol_pairdist"].arguments.get("spread_fraction", 0.2)}
    in_proportion = [{"beta": beta, "entropy_weight": weight / beta} for beta in BETAS]
    fixed = [{"beta": beta, "entropy_weight": weight} for beta in BETAS]
    divergences = "KL or Bhattacharyya at the same spread_fraction (same gradient), or at four times it"
    byol_betas = "beta of LogDet with BYOL, from a quarter of the dimension to four times the dimension"
    spreads = "spread_fraction of PairDist, with the default weights"
    return [
        about("beta of LogDet, with the entropy weight in proportion to 1 / beta", "vicreg_logdet", in_proportion),
        about("beta of LogDet, with fixed weights", "vicreg_logdet", fixed),
        about(spreads, "vicreg_pairdist", _each("spread_fraction", 0.05, 0.1, 0.2, 0.3, 0.5)),
        about(divergences, "vicreg_pairdist", [{"divergence": "bhattacharyya"}, wider | same_weights]),
        about("KL, or Bhattacharyya at four times the spread_fraction, with BYOL", "byol_pairdist", [wider_beside_byol]),
        added("vicreg_logdet", "log_det", (1.0, 10.0, 100.0)),
        added("vicreg_pairdist", "pairwise", (0.1, 1.0, 10.0)),
        *(_projected(rows, name) for name in ("vicreg", "vicreg_pairdist", "vicreg_logdet")),
        *(_beside_byol(rows, name) for name in BESIDE_BYOL),
        *(
            about(f"{rows[name].title}: which tensor is regularized, and whether it is normalised", name, TENSORS)
            for name in BESIDE_BYOL
        ),
        about(byol_betas, "byol_logdet", _each("beta", 64.0, 256.0, 1024.0)),
    ]


def variants(options: Options) -> Mapping[str, Recipe]:
    """Every recipe whose baseline is among the methods; one that answers two questions is trained once."""
    chosen = [ablation.recipes for ablation in ablations(options.recipes) if ablation.baseline in options.methods]
    return {name: recipe for recipes in chosen for name, recipe in recipes.items()}


def _replaced_or_added(rows: Mapping[str, Recipe], method: str, entropy: str, weights: tuple[float, ...]) -> Ablation:
    """VICReg as it is, its variance and covariance replaced by the entropy (a row of its own), or kept beside it."""
    vicreg = rows["vicreg"]
    recipes = {"vicreg": vicreg, method: rows[method]}
    for weight in weights:
        settings = {"entropy": Setting(entropy, SOURCE), "entropy_weight": Setting(weight, SOURCE)}
        title = f"{rows[method].title}, added to all of VICReg, entropy weight {weight:g}"
        recipe = Recipe(title, "vicreg_and_entropy", vicreg.settings | settings, vicreg.learning_rate)
        recipes[f"{method}-added-entropy_weight{weight:g}"] = recipe
    return Ablation(f"{rows[method].title}: entropy in place of VICReg's variance and covariance, or added to them", recipes)


def _projected(rows: Mapping[str, Recipe], method: str) -> Ablation:
    width = rows[method].arguments["output"]
    return _varied(rows, f"{rows[method].title}: dimension of the projection", method, _each("output", width // 4, 4 * width))


def _beside_byol(rows: Mapping[str, Recipe], method: str) -> Ablation:
    row, byol = rows[method], rows["byol"]
    ablation = _varied(rows, f"{row.title}: entropy weight", method, _each("entropy_weight", 0.02, 0.05, 0.1, 0.2, 0.5))
    # all else as in the row that adds an entropy: BYOL's own best momentum and rate are others
    common = {name: row.arguments[name] for name in byol.arguments}
    without = byol.varied(f"{row.title}, without the entropy", SOURCE, learning_rate=row.learning_rate.value, **common)
    return ablation._replace(recipes=ablation.recipes | {"byol": byol, f"{method}-without": without})


def _varied(rows: Mapping[str, Recipe], question: str, baseline: str, changes: Iterable[dict[str, Any]]) -> Ablation:
    """The row and each change of it, without changes that leave it as it is."""
    recipe = rows[baseline]
    recipes = {baseline: recipe}
    for changed in changes:
        if not changed.items() <= recipe.arguments.items():
            words = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in changed.items())
            name = baseline + "".join(f"-{name}{_short(value)}" for name, value in changed.items())
            recipes[name] = recipe.varied(f"{recipe.title}, {words}", SOURCE, **changed)
    return Ablation(question, recipes)


def _each(name: str, *values: float) -> list[dict[str, float]]:
    return [{name: value} for value in values]


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def page_of(records: Records, options: Options, images: Images) -> str:
    """A finding and a table for each question."""
    answered = [ablation for ablation in ablations(options.recipes) if records.of(ablation.baseline)]
    return filled(__file__, **head(records, options), questions="\n\n".join(answer(records, each) for each in answered))


def answer(records: Records, ablation: Ablation) -> str:
    """The question, a sentence on the variants that differ from the baseline, and the table of all that have runs."""
    base, *others = (name for name in ablation.recipes if records.of(name))
    gaps = {name: difference(records.scores(name, "linear"), records.scores(base, "linear")) for name in others}
    found = finding({ablation.recipes[name].title: gap for name, gap in gaps.items()})
    return "\n\n".join(
        [f"## {ablation.question}", found, table(_line(records, ablation, name, gaps) for name in (base, *others))]
    )


def _line(records: Records, ablation: Ablation, name: str, gaps: dict[str, Difference]) -> dict[str, str]:
    recipe = ablation.recipes[name]
    line = {"variant": recipe.title, "learning rate": f"{recipe.learning_rate.value:g}", "seeds": str(len(records.of(name)))}
    return line | records.cells(name, gaps)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 what was asked cannot be done, 130 stopped."""
    about = "Change one thing at a time in the rows of VICReg and BYOL; --methods names the rows to start from."
    return sweep("ablations", arguments, about=about, seeds=3, variants=variants, page=page_of)


if __name__ == "__main__":
    sys.exit(main())
