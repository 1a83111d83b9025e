"""The architecture of the package: imports go in one direction, the core needs only torch, the wheel ships every folder."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from it_losses import ESTIMATORS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted((ROOT / "it_losses").rglob("*.py"))
PACKAGES = {".".join(path.parent.relative_to(ROOT).parts) for path in CORE}
KERNELS = ROOT / "it_losses" / "kernels"
ADAPTERS = sorted((ROOT / "adapters").rglob("*.py"))

#: layer of it_losses -> the layers that it imports; every layer is listed after the layers that it imports
BELOW = {
    "checks": set(),
    "constants": {"checks"},
    "precision": set(),
    "observe": set(),
    "vicreg_conventions": set(),
    "distributed": {"checks"},
    "sigreg_conventions": set(),
    "slices": set(),
    "kernels": {"distributed", "precision", "sigreg_conventions", "slices"},
    "normalize": set(),
    "likelihood": set(),
    "entropy": {"checks", "constants", "normalize", "precision", "sigreg_conventions", "slices"},
    "bound": {"checks", "constants", "distributed", "entropy", "likelihood", "normalize", "precision", "vicreg_conventions"},
    "criteria": {"bound", "checks", "constants", "distributed", "entropy", "likelihood", "observe", "vicreg_conventions"},
    "functional": {"bound", "checks", "distributed", "entropy", "likelihood", "normalize", "precision"},
    "diagnostics": {"checks", "entropy"},
    "theory": {"checks", "diagnostics", "precision"},
}

#: file in it_losses/kernels -> the files of this folder that it imports; other files import only `batch`
BELOW_IN_KERNELS = {
    "__init__": {"dispatch", "self_test", "torch_ops"},
    "torch_ops": {"batch", "dispatch", "normalize", "vicreg"},
    "dispatch": {"batch", "products", "self_test", "vicreg"},
    "self_test": {"batch", "products"},
    "quadratic": {"batch", "pairwise"},
    "spacings": {"batch", "vicreg"},
    "products": {"batch"},
    "batch": set(),
}

#: file -> arguments of its calls of `import_module`, for a module that may be missing or whose name is computed
DYNAMIC = {
    "entropy/base.py": ["'it_losses.kernels'"],
    "kernels/dispatch.py": ["f'it_losses.kernels.{name}'"],
    "kernels/products/__init__.py": ["f'it_losses.kernels.products.{name}'"],
}

#: optional package -> the folder of it_losses whose files may import it
OPTIONAL = {"triton": "kernels/", "scipy": "theory/"}


def layer(path):
    return path.relative_to(ROOT / "it_losses").parts[0].removesuffix(".py")


def imports(path):
    """Each module that a file imports, anywhere in it. `from package import name` gives `package` and `package.name`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import; use an absolute one"
            yield node.module
            if node.module in PACKAGES:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ids(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


LAYERED = [path for path in CORE if layer(path) not in ("__init__", "__main__")]


def edges(paths, package, part):
    """For each part of the package, the other parts that its files import. `part(path)` is the part to which a file belongs."""
    found = {}
    for path in paths:
        names = {name.removeprefix(package + ".").split(".")[0] for name in imports(path) if name.startswith(package + ".")}
        found.setdefault(part(path), set()).update(names - {part(path)})
    return found


def test_layers_import_exactly_the_listed_layers():
    assert edges(LAYERED, "it_losses", layer) == BELOW


def kernel(path):
    return path.relative_to(KERNELS).parts[0].removesuffix(".py")


def test_files_of_kernels_import_exactly_the_listed_files():
    found = edges(sorted(KERNELS.rglob("*.py")), "it_losses.kernels", kernel)
    assert found == {name: BELOW_IN_KERNELS.get(name, {"batch"}) for name in found}


def test_imports_point_one_way():
    # `imports` does not see two imports that use importlib (see DYNAMIC), so they are added here
    layers = {**BELOW, "entropy": BELOW["entropy"] | {"kernels"}}
    files = {**BELOW_IN_KERNELS, "dispatch": BELOW_IN_KERNELS["dispatch"] | {kind.fused for kind in ESTIMATORS.values()}}
    for graph in (layers, files):
        assert tuple(TopologicalSorter(graph).static_order()), "the order is empty; a circle of imports raises CycleError"


@pytest.mark.parametrize("path", CORE, ids=ids(CORE))
def test_imports_by_a_computed_name_are_listed(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    computed = [ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func).endswith(("import_module", "__import__"))]
    assert computed == DYNAMIC.get(path.relative_to(ROOT / "it_losses").as_posix(), [])


@pytest.mark.parametrize("path", CORE, ids=ids(CORE))
def test_only_files_of_a_gpu_import_files_of_a_gpu_or_triton(path):
    of_gpu = {name for name in imports(path) if "cuda" in name.split(".")[-1] or name.split(".")[0] == "triton"}
    assert path.name.startswith("cuda") or not of_gpu


@pytest.mark.parametrize("path", CORE, ids=ids(CORE))
def test_the_core_needs_torch_alone(path):
    inside = path.relative_to(ROOT / "it_losses").as_posix()
    allowed = {"torch", "it_losses", *sys.stdlib_module_names}
    allowed |= {package for package, place in OPTIONAL.items() if inside.startswith(place)}
    assert {name.split(".")[0] for name in imports(path)} <= allowed


@pytest.mark.parametrize("path", CORE, ids=ids(CORE))
def test_one_file_touches_torch_distributed(path):
    touches = any(name.startswith("torch.distributed") for name in imports(path)) or "torch.distributed" in path.read_text()
    assert not touches or path.name in ("distributed.py", "criteria.py")


@pytest.mark.parametrize("path", CORE + ADAPTERS, ids=ids(CORE + ADAPTERS))
def test_a_file_tells_its_idea_in_its_first_line_and_stays_short(path):
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source)), "no module docstring"
    limit = 320 if "kernels" in path.parts else 300
    assert len(source.splitlines()) <= limit


def run_fresh(code):
    """The output of this code in a fresh interpreter, started outside the checkout."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_the_package_takes_no_other_package_along():
    code = """
import sys, torch
before = set(sys.modules)
import it_losses
print(sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    new = set(ast.literal_eval(run_fresh(code)))
    assert new - set(sys.stdlib_module_names) <= {"it_losses", "torch"}


@pytest.mark.slow
def test_importing_the_package_adds_little_over_importing_torch():
    code = "import time, torch; t = time.process_time(); import it_losses; print(time.process_time() - t)"
    assert min(float(run_fresh(code)) for _ in range(3)) < 0.25


def test_the_shipped_packages_are_the_folders_of_the_tree():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    shipped = {name for name in settings["packages"] if name.split(".")[0] == "it_losses"}
    core = {".".join(path.parent.relative_to(ROOT).parts) for path in CORE}
    adapters = {
        ".".join(("it_losses", *path.parent.relative_to(ROOT).parts)) for path in ADAPTERS if path.name == "__init__.py"
    }
    assert core <= shipped
    assert shipped - core <= adapters | {name for name in shipped if name.startswith("it_losses.adapters")}
