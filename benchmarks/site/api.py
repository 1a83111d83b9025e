"""The pages of the API reference, with every public name. A public name without a docstring stops the build."""

import shutil
from functools import cache

import griffe

import it_losses
from benchmarks.pages import page
from benchmarks.site.sources import ROOT
from it_losses import ESTIMATORS

#: a copy of the package with `adapters` inside, as users import it; mkdocs.yml names this folder
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
#: the classes that come first on the page of criteria
CRITERIA = ["VICRegEntropy", "VICReg", "EntropyRegularizer"]


def pages() -> dict[str, str]:
    """The pages of the reference: {path in the site: Markdown}."""
    estimators = [*(kind.__name__ for kind in ESTIMATORS.values()), "EntropyEstimator", "BoundWeights"]
    classes = [name for name in it_losses.__all__ if isinstance(getattr(it_losses, name), type)]
    criteria = [*CRITERIA, *(name for name in classes if name not in {*CRITERIA, *estimators})]
    listed = {
        "criteria": ("Criteria", "The modules that a training loop calls.", criteria),
        "estimators": ("Estimators", "Estimates of the entropy, by name in `it_losses.ESTIMATORS`.", estimators),
    }
    for name, (title, sentence, modules) in PAGES.items():
        listed[name] = title, sentence, [path for module in modules for path in public_names(module)]
    check_documented([package()[path] for *_, paths in listed.values() for path in paths])
    return {
        f"api/{name}.md": page(title, sentence, *(f"::: it_losses.{path}" for path in paths))
        for name, (title, sentence, paths) in listed.items()
    }


def check_documented(found: list[griffe.Object | griffe.Alias]) -> None:
    """Raise LookupError if a class or function has no docstring; the linter checks the docstrings of methods."""
    missing = [name.path for name in found if not (name.docstring or name.is_attribute)]
    if missing:
        raise LookupError(f"no docstring of {', '.join(missing)}")


def public_names(module: str) -> list[str]:
    """The public classes and functions of a module of the package, as `module.name`."""
    found = package()[module]
    members = [member for member in found.members.values() if not member.is_alias and not member.name.startswith("_")]
    names = found.exports or [member.name for member in members if member.is_class or member.is_function]
    return [f"{module}.{name}" for name in names]


@cache
def package() -> griffe.Module:
    """The package, parsed from a copy of its sources, so that no framework needs to be installed."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    shutil.copytree(ROOT / "it_losses", PACKAGE)
    shutil.copytree(ROOT / "adapters", PACKAGE / "adapters")
    loader = griffe.GriffeLoader(search_paths=[PACKAGE.parent])
    loaded = loader.load("it_losses", try_relative_path=False)
    loader.resolve_aliases()
    return loaded
