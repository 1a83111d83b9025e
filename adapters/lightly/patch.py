"""For code that cannot be edited: install() puts our criteria into lightly's modules, register() adds benchmark methods."""

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

#: our module -> its names that replace the same names in lightly
REPLACEMENTS: dict[ModuleType, tuple[str, ...]] = {
    criteria: ("VICRegLoss", "invariance_loss", "variance_loss", "covariance_loss"),
    unit_norm: ("HypersphereLoss", "KoLeoLoss", "FroSSLLoss"),
    lejepa: ("LeJEPALoss", "SIGReg", "lejepa_invariance_loss"),
}

#: modules of lightly that hold the replaced names; older versions lack some of them
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

#: method -> (class in modules.py, transform in lightly.transforms)
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

    Call this first: a module that has already imported a criterion keeps lightly's. Later imports get ours, `VICRegLLoss` and
    `LeWMLoss` use ours, and pickled criteria of lightly are loaded as ours.
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
        # pickle finds a class by its name, which is now ours, so lightly's criteria are pickled as ours
        copyreg.pickle(original, functools.partial(_reduced, ours[original.__name__]))


def uninstall() -> None:
    """Restore lightly's own criteria."""
    for original in _replaced_classes():
        original.__init__ = original.__init__.__wrapped__
        copyreg.dispatch_table.pop(original)
    for (module, name), value in _originals.items():
        setattr(framework(module, install=PIP), name, value)
    _originals.clear()


def register(methods: MutableMapping[str, dict[str, Any]], **options: Any) -> None:
    """Add our methods to the dict METHODS of a `benchmarks/imagenet/*/main.py`; ValueError if a name is taken.

    Args:
        methods: METHODS, changed in place. An entry is `{"model": LightningModule class, "transform": transform}`.
        options: arguments of all modules, such as `backbone="vit_base_patch16_224"` instead of a ResNet-50.
    """
    transforms = framework("lightly.transforms", install=PIP)
    framework("timm", install="pip install timm")
    from it_losses.adapters.lightly import modules

    for name, (model, transform) in CLASSES.items():
        ours = getattr(modules, model)
        taken = methods[name]["model"] if name in methods else ours
        if getattr(taken, "func", taken) is not ours:
            raise ValueError(f"method name {name!r} is already used by {taken!r}. Rename that method first.")
        methods[name] = {
            "model": functools.partial(ours, **options) if options else ours,
            "transform": getattr(transforms, transform)(),
        }


def _replaced_classes() -> Iterator[Any]:
    """The replaced classes of lightly, each once."""
    return iter({value for value in _originals.values() if isinstance(value, type)})


def _reduced(ours: type, criterion: Any) -> tuple[Any, ...]:
    return object.__new__, (ours,), criterion.__dict__


def _with_own_name(original: Any) -> Any:
    """A copy of a constructor of lightly, in which `super(VICRegLoss, ...)` still finds lightly's class."""
    constructor = original.__init__
    names = constructor.__globals__ | {original.__name__: original}
    arguments = (constructor.__code__, names, constructor.__name__, constructor.__defaults__, constructor.__closure__)
    renamed = functools.wraps(constructor)(types.FunctionType(*arguments))
    renamed.__kwdefaults__ = constructor.__kwdefaults__
    return renamed
