"""register(): add our methods to solo-learn's METHODS and timm models to its backbones."""

import importlib
import importlib.util
import re
from importlib import metadata
from pathlib import Path
from types import ModuleType

#: folder of the YAML files, for `--config-path`
CONFIGS = Path(__file__).parent / "configs"

#: method -> class in methods.py; each loss has its own method name, because auto_resume compares names only
METHODS = {
    "vicreg_fused": "VICRegFused",
    "vicreg_entropy": "VICRegAnyEntropy",
    "vicreg_logdet": "VICRegLogDet",
    "vicreg_pairdist": "VICRegPairDist",
    "byol_logdet": "BYOLLogDet",
    "byol_pairdist": "BYOLPairDist",
    "simclr_entropy": "SimCLREntropy",
}

GITHUB = "git clone https://github.com/vturrisi/solo-learn"
HYDRA = 'pip install "hydra-core<1.4"'


def register() -> None:
    """Add our methods to `solo.methods.METHODS`, in place. A second call changes nothing.

    Raises:
        ImportError: solo-learn or a dependency cannot be imported, solo-learn is the release of 2021, or Hydra is 1.4 or newer.
        ValueError: another class has one of the names.
    """
    check_hydra()
    solo = checked_solo()
    from it_losses.adapters.backbones import add_timm
    from it_losses.adapters.solo_learn import methods

    add_timm(solo.BaseMethod)
    for name, cls in METHODS.items():
        ours = getattr(methods, cls)
        if solo.METHODS.setdefault(name, ours) is not ours:
            raise ValueError(f"method name {name!r} is already used by {solo.METHODS[name]!r}. Rename that method first.")


def check_hydra() -> None:
    """Raise ImportError unless Hydra is installed in a version that solo-learn's scripts support."""
    try:
        version = metadata.version("hydra-core")
    except metadata.PackageNotFoundError as error:
        raise ImportError(f"solo-learn needs Hydra, which is not installed. Run: {HYDRA}") from error
    major, minor = (int(number) for number in re.findall(r"\d+", version)[:2])
    if (major, minor) >= (1, 4):
        raise ImportError(f"solo-learn's scripts need Hydra below 1.4, found hydra-core {version}. Run: {HYDRA}")


def checked_solo() -> ModuleType:
    """`solo.methods`; ImportError unless it is from GitHub's main branch."""
    found = importlib.util.find_spec("solo")
    if found is None:
        raise ImportError(
            f"solo-learn cannot be imported. Its release on PyPI is too old, so use a checkout: {GITHUB}. Run its scripts "
            "from there, or put the checkout on PYTHONPATH."
        )
    # recognise the old release by its source, because importing it raises an error about another package
    home = Path((found.submodule_search_locations or [found.origin])[0] or "")
    base = home / "methods" / "base.py"
    if not base.is_file() or "add_and_assert_specific_cfg" not in base.read_text(encoding="utf-8"):
        raise ImportError(
            f"the solo-learn in {home} is an old release, like the one on PyPI. The methods need GitHub's main branch. "
            f"Run: pip uninstall solo-learn; {GITHUB}"
        )
    try:
        return importlib.import_module("solo.methods")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "solo", "it_losses"):
            raise
        raise ImportError(
            f"solo-learn needs {missing}, which is not installed. Run: {HYDRA} einops lightning timm",
            name=error.name,
        ) from error
