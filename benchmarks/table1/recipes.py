"""Every hyper-parameter of every row of Table 1, with its source: this file is the table, nothing overrides it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from benchmarks.methods import METHODS


class Setting(NamedTuple):
    """A value and its source."""

    value: Any
    source: str


#: where a value is the best of the equal grid that `benchmarks.table1.tuning` gives every row
TUNED = "best of the grid on validation digits, benchmarks/results/2026-11-21-cpu-tuning"
#: the best of five for six rows of ten; what else was best stands in the row
RATE = Setting(8e-3, TUNED)


@dataclass(frozen=True)
class Recipe:
    """A row: what it is called, which of `benchmarks.methods.METHODS` it is, that method's arguments, its learning rate."""

    title: str
    method: str
    settings: dict[str, Setting]
    learning_rate: Setting = RATE

    @property
    def arguments(self) -> dict[str, Any]:
        """The values without their sources."""
        return {name: setting.value for name, setting in self.settings.items()}

    def varied(self, title: str, source: str, learning_rate: float | None = None, **arguments: Any) -> Recipe:
        """The same row, with other values for some of its arguments."""
        changed = {name: Setting(value, source) for name, value in arguments.items()}
        rate = self.learning_rate if learning_rate is None else Setting(learning_rate, source)
        return Recipe(title, self.method, self.settings | changed, rate)


@dataclass(frozen=True)
class Budget:
    """The settings that are the same for every row; only epochs and batch size are command line options."""

    optimizer: str = "AdamW"
    # VICReg and SimCLR on CIFAR-10 in solo-learn; biases and norms are left out, as there
    weight_decay: float = 1e-4
    # fraction of the steps that warm up linearly; the rest follow a cosine to 0
    warmup: float = 0.1
    # the networks see both views of a batch as one batch
    views: int = 2


BUDGET = Budget()

HIDDEN = Setting(512, "solo-learn's 2048 for a ResNet of width 512, scaled to the backbone of the default table")
WIDE = Setting(512, "a quarter of solo-learn's 2048, as the hidden layers; the same for all that decorrelate")
NARROW = Setting(128, "SimCLR (2002.05709), MoCo (1911.05722) and SwAV (2006.09882): 128")
FAST_MOMENTUM = "fewer steps than in the papers (.99 and more): the copy must follow within an epoch"

BYOL_HEADS = {
    "hidden": HIDDEN,
    "output": Setting(256, "BYOL (2006.07733), section 3.3"),
    "momentum": Setting(0.9, FAST_MOMENTUM),
}

REGULARIZED = {
    "regularized": Setting("projection", "public codes that add a uniformity term to BYOL; the paper's tensor is not known"),
    "normalized": Setting(True, "as BYOL's own loss sees it"),
}

RECIPES: dict[str, Recipe] = {
    "simclr": Recipe(
        "SimCLR",
        "simclr",
        {"hidden": HIDDEN, "output": NARROW, "temperature": Setting(0.2, TUNED)},
    ),
    "barlow_twins": Recipe(
        "Barlow Twins",
        "barlow_twins",
        {"hidden": HIDDEN, "output": WIDE, "redundancy_weight": Setting(1.25e-3, TUNED)},
        learning_rate=Setting(4e-3, TUNED),
    ),
    "swav": Recipe(
        "SwAV",
        "swav",
        {
            "hidden": HIDDEN,
            "output": NARROW,
            "prototypes": Setting(100, "solo-learn, CIFAR-10"),
            "temperature": Setting(0.1, TUNED),
            # at .01 they learn more, until assignments are so sharp that the codes' exp(similarity / epsilon) overflows
            "epsilon": Setting(0.02, "the paper's .05 gives uniform codes at 64 images a batch, and nothing is learned"),
        },
    ),
    "moco": Recipe(
        "MoCo",
        "moco",
        {
            "hidden": HIDDEN,
            "output": NARROW,
            "temperature": Setting(0.2, TUNED),
            "queue": Setting(512, "a third of the digits, where the papers' 65,536 is a twentieth of ImageNet"),
            "momentum": Setting(0.9, FAST_MOMENTUM),
        },
        learning_rate=Setting(4e-3, TUNED),
    ),
    "vicreg": Recipe(
        "VICReg",
        "vicreg",
        {
            "hidden": HIDDEN,
            "output": WIDE,
            "invariance_weight": Setting(25.0, "VICReg (2105.04906), section 4.2"),
            "variance_weight": Setting(25.0, "VICReg (2105.04906), section 4.2"),
            "covariance_weight": Setting(4.0, TUNED),
        },
        learning_rate=Setting(4e-3, TUNED),
    ),
    "byol": Recipe("BYOL", "byol", BYOL_HEADS | {"momentum": Setting(0.97, TUNED)}),
    "vicreg_pairdist": Recipe(
        "VICReg+PairDist",
        "vicreg_entropy",
        {
            "hidden": HIDDEN,
            "output": WIDE,
            "entropy": Setting("pairwise", "VICRegEntropy, with its default weights"),
            "spread_fraction": Setting(0.2, TUNED),
        },
    ),
    "vicreg_logdet": Recipe(
        "VICReg+LogDet",
        "vicreg_entropy",
        {
            "hidden": HIDDEN,
            "output": WIDE,
            "entropy": Setting("log_det", "VICRegEntropy, with its default beta and invariance weight"),
            "entropy_weight": Setting(400.0, TUNED),
        },
    ),
    "byol_pairdist": Recipe(
        "BYOL+PairDist",
        "byol",
        {
            **BYOL_HEADS,
            "entropy": Setting("pairwise", "2303.00633, as recalled: added to BYOL's loss"),
            "entropy_weight": Setting(0.05, TUNED),
            **REGULARIZED,
        },
    ),
    "byol_logdet": Recipe(
        "BYOL+LogDet",
        "byol",
        {
            **BYOL_HEADS,
            "entropy": Setting("log_det", "2303.00633, as recalled: added to BYOL's loss"),
            "entropy_weight": Setting(0.8, TUNED),
            **REGULARIZED,
            "beta": Setting(256.0, "the dimension: on the unit sphere variances are near 1 / dim"),
        },
        learning_rate=Setting(1.6e-2, TUNED),
    ),
}

UNTRAINED = "untrained"


def title(name: str, recipes: Mapping[str, Recipe] = RECIPES) -> str:
    """The printed name of the row."""
    return "untrained backbone" if name == UNTRAINED else recipes[name].title


def fingerprint(names: list[str], recipes: Mapping[str, Recipe] = RECIPES) -> dict[str, Any]:
    """Everything above that these rows depend on, for JSON, including the defaults of criteria."""
    rows = {}
    for name in names:
        if name != UNTRAINED:
            recipe = recipes[name]
            method = METHODS[recipe.method](width=8, **recipe.arguments)
            criteria = [getattr(method, part, None) for part in ("criterion", "regularizer")]
            rows[name] = {
                "method": recipe.method,
                "learning_rate": recipe.learning_rate.value,
                **recipe.arguments,
                "criterion": " + ".join(repr(c) for c in criteria if c),
            }
    return {"budget": asdict(BUDGET), "rows": rows}
