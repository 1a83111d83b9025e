"""Every hyper-parameter of every row of Table 1, with its source: this file is the table, nothing overrides it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from benchmarks.methods import METHODS


class Setting(NamedTuple):
    """A value and its source."""

    value: Any
    source: str


@dataclass(frozen=True)
class Recipe:
    """A row: its name, its entry of `benchmarks.methods.METHODS`, the arguments of that method, and its learning rate."""

    title: str
    method: str
    settings: dict[str, Setting]
    learning_rate: Setting

    @property
    def arguments(self) -> dict[str, Any]:
        """The values without their sources."""
        return {name: setting.value for name, setting in self.settings.items()}

    def varied(self, title: str, source: str, learning_rate: float | None = None, **arguments: Any) -> Recipe:
        """The same row, with other values for some of its arguments."""
        changed = {name: Setting(value, source) for name, value in arguments.items()}
        rate = self.learning_rate if learning_rate is None else Setting(learning_rate, source)
        return Recipe(title, self.method, self.settings | changed, rate)


#: the settings that are the same for every row; only epochs and batch size are command line options
BUDGET = {
    "optimizer": "AdamW",
    # VICReg and SimCLR on CIFAR-10 in solo-learn; biases and norms are left out, as there
    "weight_decay": 1e-4,
    # fraction of the steps that warm up linearly; the rest follow a cosine to 0
    "warmup": 0.1,
    # the networks see both views of a batch as one batch
    "views": 2,
}


def tuned(value: float) -> Setting:
    """The best of the equal grid that `benchmarks.table1.tuning` gives every row."""
    return Setting(value, "best of the grid on validation digits, benchmarks/results/2026-11-21-cpu-tuning")


HIDDEN = Setting(512, "solo-learn's 2048 for a ResNet of width 512, scaled to the backbone of the default table")
NARROW = {
    "hidden": HIDDEN,
    "output": Setting(128, "SimCLR (2002.05709), MoCo (1911.05722) and SwAV (2006.09882): 128"),
}
WIDE = {
    "hidden": HIDDEN,
    "output": Setting(512, "a quarter of solo-learn's 2048, as the hidden layers; the same for all that decorrelate"),
}
FAST_MOMENTUM = Setting(0.9, "fewer steps than in the papers (.99 and more): the copy must follow within an epoch")
BYOL = {"hidden": HIDDEN, "output": Setting(256, "BYOL (2006.07733), section 3.3"), "momentum": FAST_MOMENTUM}
REGULARIZED = {
    "regularized": Setting("projection", "public codes that add a uniformity term to BYOL; the paper's tensor is not known"),
    "normalized": Setting(True, "as BYOL's own loss sees it"),
}
VICREG_25 = Setting(25.0, "VICReg (2105.04906), section 4.2")
#: the rows that have no embeddings to compare: the backbone before training, and trained with labels
UNTRAINED, SUPERVISED = "untrained", "supervised"
RECALLED = "2303.00633, added to BYOL's loss"

RECIPES: dict[str, Recipe] = {
    "simclr": Recipe("SimCLR", "simclr", NARROW | {"temperature": tuned(0.2)}, tuned(8e-3)),
    "barlow_twins": Recipe("Barlow Twins", "barlow_twins", WIDE | {"redundancy_weight": tuned(1.25e-3)}, tuned(4e-3)),
    "swav": Recipe(
        "SwAV",
        "swav",
        NARROW
        | {
            "prototypes": Setting(100, "solo-learn, CIFAR-10"),
            "temperature": tuned(0.1),
            # at .01 they learn more, until assignments are so sharp that the codes' exp(similarity / epsilon) overflows
            "epsilon": Setting(0.02, "the paper's .05 gives uniform codes at 64 images a batch, and nothing is learned"),
        },
        tuned(8e-3),
    ),
    "moco": Recipe(
        "MoCo",
        "moco",
        NARROW
        | {
            "temperature": tuned(0.2),
            "queue": Setting(512, "a third of the digits, where the papers' 65,536 is a twentieth of ImageNet"),
            "momentum": FAST_MOMENTUM,
        },
        tuned(4e-3),
    ),
    "vicreg": Recipe(
        "VICReg",
        "vicreg",
        WIDE | {"invariance_weight": VICREG_25, "variance_weight": VICREG_25, "covariance_weight": tuned(4.0)},
        tuned(4e-3),
    ),
    "byol": Recipe("BYOL", "byol", BYOL | {"momentum": tuned(0.97)}, tuned(8e-3)),
    "vicreg_pairdist": Recipe(
        "VICReg+PairDist",
        "vicreg_entropy",
        WIDE | {"entropy": Setting("pairwise", "VICRegEntropy, with its default weights"), "spread_fraction": tuned(0.2)},
        tuned(8e-3),
    ),
    "vicreg_logdet": Recipe(
        "VICReg+LogDet",
        "vicreg_entropy",
        WIDE
        | {
            "entropy": Setting("log_det", "VICRegEntropy, with its default beta and invariance weight"),
            "entropy_weight": tuned(400.0),
        },
        tuned(8e-3),
    ),
    "byol_pairdist": Recipe(
        "BYOL+PairDist",
        "byol",
        BYOL | {"entropy": Setting("pairwise", RECALLED), "entropy_weight": tuned(0.05)} | REGULARIZED,
        tuned(8e-3),
    ),
    "byol_logdet": Recipe(
        "BYOL+LogDet",
        "byol",
        BYOL
        | {"entropy": Setting("log_det", RECALLED), "entropy_weight": tuned(0.8)}
        | REGULARIZED
        | {"beta": Setting(256.0, "the dimension: on the unit sphere variances are near 1 / dim")},
        tuned(1.6e-2),
    ),
    SUPERVISED: Recipe(
        "supervised",
        "supervised",
        {"label_smoothing": Setting(0.1, "Inception v3 (1512.00567), section 7")},
        Setting(4e-3, "the middle of the rates that the rows above are tuned over"),
    ),
}

#: a long run of a whole network takes the papers' constants and solo-learn's in place of what a short run of digits took; none
#: has been tuned: `python -m benchmarks.table1.tuning --preset NAME` gives each the same search, and `--grid` takes its best
SOLO = "solo-learn, CIFAR-10"
#: values that several rows share, by the name of the argument
COMMON = {"hidden": Setting(2048, SOLO), "momentum": Setting(0.99, SOLO)}
LONG_WIDE, BYOL_HIDDEN = {"output": Setting(2048, SOLO)}, {"hidden": Setting(4096, SOLO)}
BYOL_WEIGHT = {"entropy_weight": Setting(0.2, "the middle of the grid")}
#: values of single rows; their other arguments are those of the short recipe
OWN: dict[str, dict[str, Setting]] = {
    "barlow_twins": LONG_WIDE | {"redundancy_weight": Setting(5e-3, "Barlow Twins (2103.03230), section 2.2, rounded")},
    "swav": {"epsilon": Setting(0.05, "SwAV (2006.09882), appendix")},
    "moco": {"queue": Setting(4096, "lightly's benchmark on CIFAR-10")},
    "vicreg": LONG_WIDE | {"covariance_weight": Setting(1.0, "VICReg (2105.04906), section 4.2")},
    "byol": BYOL_HIDDEN,
    "vicreg_pairdist": LONG_WIDE,
    "vicreg_logdet": LONG_WIDE,
    "byol_pairdist": BYOL_HIDDEN | BYOL_WEIGHT,
    "byol_logdet": BYOL_HIDDEN | BYOL_WEIGHT,
}
#: by the backbone's family
RATES = {
    "resnet": Setting(1e-3, "AdamW's own default"),
    "": Setting(5e-4, "DINO (2104.14294), section 3.2: .0005 for each 256 images of a step"),
}


def long_runs(backbone: str) -> dict[str, Recipe]:
    """Every row with the constants of a long run, at a learning rate for this family of timm's networks."""
    rate = next(rate for family, rate in RATES.items() if backbone.startswith(family))
    rows = {}
    for name, recipe in RECIPES.items():
        common = {key: setting for key, setting in COMMON.items() if key in recipe.settings}
        rows[name] = replace(recipe, settings=recipe.settings | common | OWN.get(name, {}), learning_rate=rate)
    return rows


#: each row with an entropy, and the row without it that it is compared with
BASES = {"vicreg_logdet": "vicreg", "vicreg_pairdist": "vicreg", "byol_logdet": "byol", "byol_pairdist": "byol"}


def title(name: str, recipes: Mapping[str, Recipe] = RECIPES) -> str:
    """The printed name of the row."""
    return "untrained backbone" if name == UNTRAINED else recipes[name].title


def fingerprint(names: list[str], recipes: Mapping[str, Recipe] = RECIPES) -> dict[str, Any]:
    """Everything above that these rows depend on, for JSON, including the defaults of criteria."""
    return {"budget": BUDGET, "rows": {name: _printed(recipes[name]) for name in names if name != UNTRAINED}}


def _printed(recipe: Recipe) -> dict[str, Any]:
    method = METHODS[recipe.method](width=8, **recipe.arguments)
    criteria = [getattr(method, part, None) for part in ("criterion", "regularizer")]
    facts = {"method": recipe.method, "learning_rate": recipe.learning_rate.value, **recipe.arguments}
    return facts | {"criterion": " + ".join(repr(criterion) for criterion in criteria if criterion)}
