"""What is ablated: for each question, the row it starts from and the variants of it, whatever that row's tuned values are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from benchmarks.methods import METHODS
from benchmarks.table1.recipes import RECIPES, Recipe, Setting
from it_losses import VICRegEntropy

SOURCE = "an ablation"


class Ablation(NamedTuple):
    """A question; `recipes` by name, the first is the baseline."""

    question: str
    recipes: dict[str, Recipe]


def ablations(rows: Mapping[str, Recipe] = RECIPES) -> list[Ablation]:
    """All of them, around these rows of Table 1."""
    log_det, pairwise = (_criterion(rows[name]) for name in ("vicreg_logdet", "vicreg_pairdist"))
    about = partial(_varied, rows)
    beta, log_det_weight = log_det.entropy.beta, log_det.entropy_weight
    spread = pairwise.entropy.spread_fraction
    betas = _others((0.1, 1.0, 10.0, 100.0), beta)
    # the two divergences differ by a factor of 4 in what they take for the component's variance
    wider = {"divergence": "bhattacharyya", "spread_fraction": 4 * spread}
    byol_spread = rows["byol_pairdist"].arguments.get("spread_fraction", 0.2)
    byol_beta = rows["byol_logdet"].arguments["beta"]
    return [
        about(
            "beta of LogDet, entropy weight in proportion to 1 / beta",
            "vicreg_logdet",
            *({"beta": value, "entropy_weight": log_det_weight * beta / value} for value in betas),
        ),
        about(
            "beta of LogDet, weights fixed",
            "vicreg_logdet",
            *({"beta": value, "entropy_weight": log_det_weight} for value in betas),
        ),
        about(
            "bandwidth of PairDist as a share of the total variance, weights by the default law",
            "vicreg_pairdist",
            *({"spread_fraction": value} for value in _others((0.05, 0.1, 0.2, 0.3, 0.5), spread)),
        ),
        about(
            "KL or Bhattacharyya, with one window (the same gradient) or one component",
            "vicreg_pairdist",
            {"divergence": "bhattacharyya"},
            wider | {"invariance_weight": pairwise.invariance_weight, "entropy_weight": pairwise.entropy_weight},
        ),
        about(
            "KL or Bhattacharyya with one component, beside BYOL",
            "byol_pairdist",
            wider | {"spread_fraction": 4 * byol_spread},
        ),
        _replaced_or_added(rows, "vicreg_logdet", "log_det", (1.0, 10.0, 100.0)),
        _replaced_or_added(rows, "vicreg_pairdist", "pairwise", (0.1, 1.0, 10.0)),
        *(_of_width(rows, method) for method in ("vicreg", "vicreg_pairdist", "vicreg_logdet")),
        *(_beside_byol(rows, method) for method in ("byol_pairdist", "byol_logdet")),
        *(_of_which_tensor(rows, method) for method in ("byol_pairdist", "byol_logdet")),
        about(
            "beta of LogDet beside BYOL, from a quarter of the dimension to four times",
            "byol_logdet",
            *({"beta": value} for value in _others((64.0, 256.0, 1024.0), byol_beta)),
        ),
    ]


def variants(methods: list[str], rows: Mapping[str, Recipe] = RECIPES) -> Mapping[str, Recipe]:
    """Every recipe whose baseline is among the methods; one that answers two questions is trained once."""
    chosen = [ablation.recipes for ablation in ablations(rows) if next(iter(ablation.recipes)) in methods]
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


def _of_width(rows: Mapping[str, Recipe], method: str) -> Ablation:
    """Variants with a quarter and with four times the dimension of the projection."""
    own = rows[method].arguments["output"]
    return _varied(
        rows, f"{rows[method].title}: dimension of the projection", method, {"output": own // 4}, {"output": 4 * own}
    )


def _beside_byol(rows: Mapping[str, Recipe], method: str) -> Ablation:
    weights = _others((0.02, 0.05, 0.1, 0.2, 0.5), rows[method].arguments["entropy_weight"])
    ablation = _varied(rows, f"{rows[method].title}: entropy weight", method, *({"entropy_weight": value} for value in weights))
    return ablation._replace(recipes=ablation.recipes | {"byol": rows["byol"], f"{method}-without": _without(rows, method)})


def _without(rows: Mapping[str, Recipe], method: str) -> Recipe:
    """BYOL with all else as in the row that adds an entropy to it: its own best momentum and rate are others."""
    row, byol = rows[method], rows["byol"]
    common = {name: row.arguments[name] for name in byol.arguments}
    return byol.varied(f"{row.title}, without the entropy", SOURCE, learning_rate=row.learning_rate.value, **common)


def _of_which_tensor(rows: Mapping[str, Recipe], method: str) -> Ablation:
    changes: list[dict[str, Any]] = [{"regularized": "prediction"}, {"regularized": "features"}, {"normalized": False}]
    return _varied(rows, f"{rows[method].title}: which tensor's entropy, on the unit sphere or not", method, *changes)


def _varied(rows: Mapping[str, Recipe], question: str, baseline: str, *changes: dict[str, Any]) -> Ablation:
    recipe = rows[baseline]
    recipes = {baseline: recipe}
    for changed in changes:
        words = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in changed.items())
        name = baseline + "".join(f"-{name}{_short(value)}" for name, value in changed.items())
        recipes[name] = recipe.varied(f"{recipe.title}, {words}", SOURCE, **changed)
    return Ablation(question, recipes)


def _criterion(row: Recipe) -> VICRegEntropy:
    """What the row's settings and the criterion's own defaults make of its constants."""
    criterion = METHODS[row.method](8, **row.arguments).criterion
    assert isinstance(criterion, VICRegEntropy)
    return criterion


def _others(values: tuple[float, ...], own: float) -> list[float]:
    return [value for value in values if value != own]


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
