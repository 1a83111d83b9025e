"""Our objectives in lightly's place, for code that cannot be edited: install() or uninstall() criteria, register() methods."""

import copyreg
import functools
import importlib.util
import types
from collections.abc import Iterator, MutableMapping
from types import ModuleType
from typing import Any

from it_losses.adapters import framework
from it_losses.adapters.lightly import criteria, lejepa, unit_norm

PIP = "pip install lightly"

#: our module -> its names, which replace the same names in lightly
REPLACEMENTS: dict[ModuleType, tuple[str, ...]] = {
    criteria: ("VICRegLoss", "invariance_loss", "variance_loss", "covariance_loss"),
    unit_norm: ("HypersphereLoss", "KoLeoLoss", "FroSSLLoss"),
    lejepa: ("LeJEPALoss", "SIGReg", "lejepa_invariance_loss"),
}

#: modules of lightly that define or import these names; older versions of lightly lack some of them
MODULES = (
    "lightly.loss",
    "lightly.loss.vicreg_loss",
    "lightly.loss.vicregl_loss",
    "lightly.loss.koleo_loss",
    "lightly.loss.frossl_loss",
    "lightly.loss.hypersphere_loss",
    "lightly.loss.lejepa_loss",
    "lightly.loss.lewm_loss",
)

#: method -> (class in modules, transform in lightly.transforms)
CLASSES = {
    "vicreg_fused": ("VICReg", "VICRegTransform"),
    "vicreg_logdet": ("VICRegLogDet", "VICRegTransform"),
    "vicreg_pairdist": ("VICRegPairDist", "VICRegTransform"),
    "byol_logdet": ("BYOLLogDet", "BYOLTransform"),
    "byol_pairdist": ("BYOLPairDist", "BYOLTransform"),
    "simsiam_entropy": ("SimSiamEntropy", "SimSiamTransform"),
    "simclr_entropy": ("SimCLREntropy", "SimCLRTransform"),
}

_originals: dict[tuple[str, str], Any] = {}


def install() -> None:
    """Replace lightly's criteria by ours in lightly's own modules. A second call changes nothing.

    Code that imports a criterion afterwards gets ours, and `VICRegLLoss` and `LeWMLoss` use ours. Call this first: a
    module that imported a criterion earlier keeps lightly's. A pickled criterion of lightly is loaded as ours.
    """
    if _originals:
        return
    ours = {name: getattr(module, name) for module, names in REPLACEMENTS.items() for name in names}
    framework("lightly.loss", install=PIP)
    for module in filter(importlib.util.find_spec, MODULES):
        home = framework(module, install=PIP)
        for name in ours.keys() & vars(home).keys():
            _originals[module, name] = getattr(home, name)
            setattr(home, name, ours[name])
    for original in _replaced_classes():
        original.__init__ = _with_own_name(original)
        # pickle looks a class up by name and would find ours, so lightly's criteria are pickled as ours
        copyreg.pickle(original, functools.partial(_reduced, ours[original.__name__]))


def uninstall() -> None:
    """Restore lightly's own names."""
    for original in _replaced_classes():
        original.__init__ = original.__init__.__wrapped__
        copyreg.dispatch_table.pop(original)
    for (module, name), value in _originals.items():
        setattr(framework(module, install=PIP), name, value)
    _originals.clear()


def register(methods: MutableMapping[str, dict[str, Any]], **options: Any) -> None:
    """Add our methods to a METHODS dict of `benchmarks/imagenet/*/main.py`; ValueError if a name is taken.

    Each entry is `{"model": LightningModule class, "transform": transform}`.

    Args:
        methods: the dict, changed in place.
        options: arguments of every module, such as `backbone="vit_base_patch16_224"` instead of a ResNet-50.
    """
    transforms = framework("lightly.transforms", install=PIP)
    framework("timm", install="pip install timm")
    from it_losses.adapters.lightly import modules

    for name, (model, transform) in CLASSES.items():
        ours = getattr(modules, model)
        taken = methods[name]["model"] if name in methods else ours
        if getattr(taken, "func", taken) is not ours:
            raise ValueError(f"method {name!r} is already {taken!r}. Rename it before registering ours.")
        methods[name] = {
            "model": functools.partial(ours, **options) if options else ours,
            "transform": getattr(transforms, transform)(),
        }


def _replaced_classes() -> Iterator[Any]:
    """Lightly's own classes whose names are replaced, each once."""
    return iter({value for value in _originals.values() if isinstance(value, type)})


def _reduced(ours: type, criterion: Any) -> tuple[Any, ...]:
    return object.__new__, (ours,), criterion.__dict__


def _with_own_name(original: Any) -> Any:
    """A copy of a lightly constructor, in whose globals `super(VICRegLoss, ...)` still finds lightly's class."""
    constructor = original.__init__
    names = constructor.__globals__ | {original.__name__: original}
    arguments = (constructor.__code__, names, constructor.__name__, constructor.__defaults__, constructor.__closure__)
    renamed = functools.wraps(constructor)(types.FunctionType(*arguments))
    renamed.__kwdefaults__ = constructor.__kwdefaults__
    return renamed
