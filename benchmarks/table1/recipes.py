"""Every hyper-parameter of every method of Table 1, with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from benchmarks.methods import METHODS
from benchmarks.probes import KNN_NEIGHBOURS, KNN_TEMPERATURE, PROBE_WEIGHT_DECAY


class Setting(NamedTuple):
    """A value and its source."""

    value: Any
    source: str


@dataclass(frozen=True)
class Recipe:
    """A row of Table 1: printed title, name in `benchmarks.methods.METHODS`, arguments of that method, and learning rate."""

    title: str
    method: str
    settings: dict[str, Setting]
    learning_rate: Setting

    @property
    def arguments(self) -> dict[str, Any]:
        return {name: setting.value for name, setting in self.settings.items()}

    def varied(self, title: str, source: str, learning_rate: float | None = None, **arguments: Any) -> Recipe:
        """The same recipe with another title and other values for some arguments; `source` says where the values come from."""
        changed = {name: Setting(value, source) for name, value in arguments.items()}
        rate = self.learning_rate if learning_rate is None else Setting(learning_rate, source)
        return Recipe(title, self.method, self.settings | changed, rate)


#: settings of all rows; the epochs and the batch size, which are options, are the same for all rows too
BUDGET = {
    "optimizer": "AdamW",
    # solo-learn's value for VICReg and SimCLR on CIFAR-10, where biases and normalisation layers have no decay either
    "weight_decay": 1e-4,
    # fraction of the steps with linear warm-up; then the learning rate follows a cosine to 0
    "warmup": 0.1,
    # the networks see both views of a batch as one batch
    "views": 2,
}
PROBE = {"weight_decay": PROBE_WEIGHT_DECAY, "knn_neighbours": KNN_NEIGHBOURS, "knn_temperature": KNN_TEMPERATURE}


def tuned(learning_rate: float, **constant: float) -> dict[str, Setting]:
    """The learning rate and main constant that `benchmarks.table1.tuning` chose; every method got a grid of equal size."""
    source = "best of the grid on validation digits, benchmarks/results/2026-11-21-cpu-tuning"
    return {name: Setting(value, source) for name, value in {"learning_rate": learning_rate, **constant}.items()}


def _row(title: str, method: str, *parts: dict[str, Setting]) -> Recipe:
    """A recipe from groups of settings, of which the later ones override the earlier ones."""
    settings = {name: setting for part in parts for name, setting in part.items()}
    return Recipe(title, method, learning_rate=settings.pop("learning_rate"), settings=settings)


HIDDEN = Setting(512, "solo-learn's 2048 for a ResNet of width 512, scaled to the backbone of the default table")
NARROW = {"hidden": HIDDEN, "output": Setting(128, "SimCLR (2002.05709), MoCo (1911.05722) and SwAV (2006.09882): 128")}
DECORRELATED = Setting(512, "a quarter of solo-learn's 2048, as the hidden layers; the same for all that decorrelate")
WIDE = {"hidden": HIDDEN, "output": DECORRELATED}
FAST_MOMENTUM = Setting(0.9, "fewer steps than in the papers (.99 and more): the copy must follow within an epoch")
BYOL = {"hidden": HIDDEN, "output": Setting(256, "BYOL (2006.07733), section 3.3"), "momentum": FAST_MOMENTUM}
REGULARIZED = BYOL | {
    "regularized": Setting("projection", "public codes that add a uniformity term to BYOL; the paper's tensor is not known"),
    "normalized": Setting(True, "as BYOL's own loss sees it"),
}
VICREG = dict.fromkeys(("invariance_weight", "variance_weight"), Setting(25.0, "VICReg (2105.04906), section 4.2"))
PAIRWISE = {"entropy": Setting("pairwise", "VICRegEntropy, with its default weights")}
LOG_DET = {"entropy": Setting("log_det", "VICRegEntropy, with its default beta and invariance weight")}
PAIRWISE_BESIDE = REGULARIZED | {"entropy": Setting("pairwise", "2303.00633, added to BYOL's loss")}
LOG_DET_BESIDE = REGULARIZED | {
    "entropy": Setting("log_det", "2303.00633, added to BYOL's loss"),
    "beta": Setting(256.0, "the dimension: on the unit sphere variances are near 1 / dim"),
}
SWAV = NARROW | {
    "prototypes": Setting(100, "solo-learn, CIFAR-10"),
    # .01 gives better features at first, but then exp(similarity / epsilon) overflows
    "epsilon": Setting(0.02, "the paper's .05 gives uniform codes at 64 images a batch, and nothing is learned"),
}
QUEUE = Setting(512, "a third of the digits, where the papers' 65,536 is a twentieth of ImageNet")
LABELS = {
    "learning_rate": Setting(4e-3, "the middle of the rates that the rows above are tuned over"),
    "label_smoothing": Setting(0.1, "Inception v3 (1512.00567), section 7"),
}
#: the rows of Table 1 without a projector: the backbone before training, and the backbone trained with labels
UNTRAINED, SUPERVISED = "untrained", "supervised"

RECIPES: dict[str, Recipe] = {
    "simclr": _row("SimCLR", "simclr", NARROW, tuned(8e-3, temperature=0.2)),
    "barlow_twins": _row("Barlow Twins", "barlow_twins", WIDE, tuned(4e-3, redundancy_weight=1.25e-3)),
    "swav": _row("SwAV", "swav", SWAV, tuned(8e-3, temperature=0.1)),
    "moco": _row("MoCo", "moco", NARROW, tuned(4e-3, temperature=0.2), {"queue": QUEUE, "momentum": FAST_MOMENTUM}),
    "vicreg": _row("VICReg", "vicreg", WIDE, VICREG, tuned(4e-3, covariance_weight=4.0)),
    "byol": _row("BYOL", "byol", BYOL, tuned(8e-3, momentum=0.97)),
    "vicreg_pairdist": _row("VICReg+PairDist", "vicreg_entropy", WIDE, PAIRWISE, tuned(8e-3, spread_fraction=0.2)),
    "vicreg_logdet": _row("VICReg+LogDet", "vicreg_entropy", WIDE, LOG_DET, tuned(8e-3, entropy_weight=400.0)),
    "byol_pairdist": _row("BYOL+PairDist", "byol", PAIRWISE_BESIDE, tuned(8e-3, entropy_weight=0.05)),
    "byol_logdet": _row("BYOL+LogDet", "byol", LOG_DET_BESIDE, tuned(1.6e-2, entropy_weight=0.8)),
    SUPERVISED: _row("supervised", "supervised", LABELS),
}
ORDER = [UNTRAINED, *RECIPES]

#: source of many constants of long runs, which are not tuned. To tune them, run
#: `python -m benchmarks.table1.tuning --preset NAME`, and pass its folder with `--grid`
SOLO = "solo-learn, CIFAR-10"
#: values that several rows share, by the name of the argument
COMMON = {"hidden": Setting(2048, SOLO), "momentum": Setting(0.99, SOLO)}
LONG_WIDE, BYOL_HIDDEN = {"output": Setting(2048, SOLO)}, {"hidden": Setting(4096, SOLO)}
BYOL_WEIGHT = {"entropy_weight": Setting(0.2, "the middle of the grid")}
#: values of single methods for long runs; other arguments are those of the short recipe
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
RESNET_RATE = Setting(1e-3, "AdamW's own default")
OTHER_RATE = Setting(5e-4, "DINO (2104.14294), section 3.2: .0005 for each 256 images of a step")


def long_runs(backbone: str) -> dict[str, Recipe]:
    """Every recipe with the constants of a long run, and with the learning rate for ResNets or for other backbones."""
    rate, rows = RESNET_RATE if backbone.startswith("resnet") else OTHER_RATE, {}
    for name, recipe in RECIPES.items():
        common = {key: setting for key, setting in COMMON.items() if key in recipe.settings}
        rows[name] = replace(recipe, settings=recipe.settings | common | OWN.get(name, {}), learning_rate=rate)
    return rows


#: method with an entropy of this library -> the method without that entropy, for comparison
BASES = {"vicreg_logdet": "vicreg", "vicreg_pairdist": "vicreg", "byol_logdet": "byol", "byol_pairdist": "byol"}


def title(name: str, recipes: Mapping[str, Recipe] = RECIPES) -> str:
    return "untrained backbone" if name == UNTRAINED else recipes[name].title


def fingerprint(names: list[str], recipes: Mapping[str, Recipe] = RECIPES) -> dict[str, Any]:
    """All settings that the results of the named methods depend on, with the defaults of their criteria, as JSON values."""
    rows = {name: _facts(recipes[name]) for name in names if name != UNTRAINED}
    return {"budget": BUDGET, "probe": PROBE, "rows": rows}


def _facts(recipe: Recipe) -> dict[str, Any]:
    method = METHODS[recipe.method](width=8, **recipe.arguments)
    criteria = [repr(part) for part in (method.criterion, method.regularizer) if part is not None]
    facts = {"method": recipe.method, "learning_rate": recipe.learning_rate.value, **recipe.arguments}
    return facts | {"criterion": " + ".join(criteria)}
