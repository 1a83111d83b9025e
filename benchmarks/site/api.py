"""The API reference: a page a module, with every public name. A name without a docstring stops the build."""

from __future__ import annotations

import shutil
from functools import cache

import griffe

import it_losses
from benchmarks.site.sources import ROOT
from it_losses import ESTIMATORS

#: folder of a copy of the package with `adapters` inside, as users import it; mkdocs.yml reads it from there
PACKAGE = ROOT / "build" / "reference" / "it_losses"
#: page -> title, first sentence, modules whose public names it shows
PAGES = {
    "diagnostics": ("Diagnostics", "Measurements of embeddings, without a gradient.", ["diagnostics"]),
    "functional": ("Functions", "The objectives as functions of tensors.", ["functional"]),
    "theory": ("Theory", "The paper's theorems as functions.", ["theory"]),
    "adapters": (
        "Adapters",
        "What replaces or extends the classes of a framework. [Your framework](../adapters/README.md) has examples.",
        [
            "adapters.lightly",
            "adapters.lightly.modules",
            "adapters.solo_learn",
            "adapters.stable_pretraining",
            "adapters.lightning",
            "adapters.eb_jepa",
            "adapters.pytorch_metric_learning",
            "adapters.conventions",
        ],
    ),
}
#: the public classes that are not estimators begin with these
CRITERIA = ["VICRegEntropy", "VICReg", "EntropyRegularizer"]


def pages() -> dict[str, str]:
    """{path in the site: Markdown}."""
    listed = {
        page: _page(title, sentence, [path for module in modules for path in public_names(module)])
        for page, (title, sentence, modules) in PAGES.items()
    }
    core = {
        "criteria": _page("Criteria", "The modules that a training loop calls.", criteria()),
        "estimators": _page("Estimators", "Estimates of the entropy, by name in `it_losses.ESTIMATORS`.", estimators()),
    }
    return {f"api/{page}.md": text for page, text in (core | listed).items()}


def criteria() -> list[str]:
    """The criteria, then every other public class that is no estimator."""
    classes = [name for name in it_losses.__all__ if isinstance(getattr(it_losses, name), type)]
    return [*CRITERIA, *(name for name in classes if name not in {*CRITERIA, *estimators()})]


def estimators() -> list[str]:
    """Every estimator, then what you need to write another."""
    return [*(kind.__name__ for kind in ESTIMATORS.values()), "EntropyEstimator", "BoundWeights"]


def public_names(module: str) -> list[str]:
    """The public classes and functions of a module of the package, as `module.name`."""
    found = package()[module]
    names = found.exports or [name for name, member in found.members.items() if not member.is_alias and _is_listed(member)]
    return [f"{module}.{name}" for name in names]


@cache
def package() -> griffe.Module:
    """The package as its source text says, so that no framework has to be installed."""
    copy_package()
    loader = griffe.GriffeLoader(search_paths=[PACKAGE.parent])
    loaded = loader.load("it_losses", try_relative_path=False)
    loader.resolve_aliases()
    return loaded


def copy_package() -> None:
    """Lay a copy of the source where the package has the form that users import."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    shutil.copytree(ROOT / "it_losses", PACKAGE)
    shutil.copytree(ROOT / "adapters", PACKAGE / "adapters")


def _is_listed(member: griffe.Object) -> bool:
    return (member.is_class or member.is_function) and not member.name.startswith("_")


def _page(title: str, sentence: str, paths: list[str]) -> str:
    for path in paths:
        check_documented(package()[path])
    return "\n\n".join([f"# {title}", sentence, *(f"::: it_losses.{path}" for path in paths)]) + "\n"


def check_documented(found: griffe.Object | griffe.Alias) -> None:
    """LookupError unless the object and its own public methods have docstrings."""
    members = [member for member in found.members.values() if found.is_class and not member.is_alias and _is_listed(member)]
    missing = [member.path for member in (found, *members) if _is_listed(member) and not member.docstring]
    if missing:
        raise LookupError(f"no docstring of {', '.join(missing)}")
