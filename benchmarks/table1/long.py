"""The rows for long runs of whole networks: the papers' constants and solo-learn's in place of what a short run of digits took.

None has been tuned. `python -m benchmarks.table1.tuning --preset NAME` gives each the same search, and `--grid` takes its best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.table1.recipes import RECIPES, Recipe, Setting

SOLO = "solo-learn, CIFAR-10"
#: what several rows take, by the argument's name
COMMON = {"hidden": Setting(2048, SOLO), "momentum": Setting(0.99, SOLO)}
#: what one row takes; for the rest of its arguments the short recipe stands
OWN: dict[str, dict[str, Setting]] = {
    "barlow_twins": {
        "output": Setting(2048, SOLO),
        "redundancy_weight": Setting(5e-3, "Barlow Twins (2103.03230), section 2.2, rounded"),
    },
    "swav": {"epsilon": Setting(0.05, "SwAV (2006.09882), appendix")},
    "moco": {"queue": Setting(4096, "lightly's benchmark on CIFAR-10")},
    "vicreg": {"output": Setting(2048, SOLO), "covariance_weight": Setting(1.0, "VICReg (2105.04906), section 4.2")},
    "byol": {"hidden": Setting(4096, SOLO)},
    "vicreg_pairdist": {"output": Setting(2048, SOLO)},
    "vicreg_logdet": {"output": Setting(2048, SOLO)},
    "byol_pairdist": {"hidden": Setting(4096, SOLO), "entropy_weight": Setting(0.2, "the middle of the grid")},
    "byol_logdet": {"hidden": Setting(4096, SOLO), "entropy_weight": Setting(0.2, "the middle of the grid")},
}
#: by the backbone's family
RATES = {
    "resnet": Setting(1e-3, "AdamW's own default"),
    "": Setting(5e-4, "DINO (2104.14294), section 3.2: .0005 for each 256 images of a step"),
}


def long_runs(backbone: str) -> dict[str, Recipe]:
    """Every row with the constants of a long run, at a learning rate for this family of timm's networks."""
    rate = next(rate for family, rate in RATES.items() if backbone.startswith(family))
    return {name: _long(name, recipe, rate) for name, recipe in RECIPES.items()}


def chosen(recipes: Mapping[str, Recipe], best: Mapping[str, Mapping[str, Any]], source: str) -> dict[str, Recipe]:
    """The rows at the settings that a grid chose for them: method -> learning rate, constant and its value."""
    missing = [name for name in recipes if name not in best]
    if missing:
        raise ValueError(f"has no best setting of {', '.join(missing)}")
    return {name: _chosen(recipe, best[name], source) for name, recipe in recipes.items()}


def _long(name: str, recipe: Recipe, rate: Setting) -> Recipe:
    common = {key: setting for key, setting in COMMON.items() if key in recipe.settings}
    return replace(recipe, settings=recipe.settings | common | OWN.get(name, {}), learning_rate=rate)


def _chosen(recipe: Recipe, row: Mapping[str, Any], source: str) -> Recipe:
    constant = {row["constant"]: float(row["value"])}
    return recipe.varied(recipe.title, source, float(row["learning_rate"]), **constant)
