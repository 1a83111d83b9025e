"""The tree shows the architecture: imports point one way, the core needs torch alone, the wheel ships what it should."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted((ROOT / "it_losses").rglob("*.py"))
ADAPTERS = sorted((ROOT / "adapters").rglob("*.py"))

#: what a layer of it_losses may import of it_losses; who stands above a layer may import it, never the reverse
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
    "likelihood": {"normalize"},
    "entropy": {"checks", "constants", "kernels", "normalize", "precision", "sigreg_conventions", "slices"},
    "bound": {"checks", "constants", "distributed", "entropy", "likelihood", "normalize", "precision", "vicreg_conventions"},
    "criteria": {"bound", "checks", "constants", "distributed", "entropy", "likelihood", "observe", "vicreg_conventions"},
    "functional": {"bound", "checks", "distributed", "entropy", "likelihood", "normalize", "precision", "vicreg_conventions"},
    "diagnostics": {"checks", "entropy", "functional"},
    "theory": {"checks", "diagnostics", "functional"},
}

#: the one file that may touch each optional package, as a prefix of its path
OPTIONAL = {"triton": "kernels/", "scipy": "theory/"}


def layer(path):
    return path.relative_to(ROOT / "it_losses").parts[0].removesuffix(".py")


def imports(path):
    """Every module name that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            yield node.module
            if node.module == "it_losses":
                yield from (f"it_losses.{alias.name}" for alias in node.names)


def ids(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


LAYERED = [path for path in CORE if layer(path) not in ("__init__", "__main__")]


@pytest.mark.parametrize("path", LAYERED, ids=ids(LAYERED))
def test_imports_point_one_way(path):
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("it_losses.")}
    assert ours <= BELOW[layer(path)] | {layer(path)}


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
    """What a fresh interpreter, started elsewhere, prints."""
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


def test_the_packages_that_are_shipped_are_those_of_the_tree():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    shipped = {name for name in settings["packages"] if name.split(".")[0] == "it_losses"}
    core = {".".join(path.parent.relative_to(ROOT).parts) for path in CORE}
    adapters = {
        ".".join(("it_losses", *path.parent.relative_to(ROOT).parts)) for path in ADAPTERS if path.name == "__init__.py"
    }
    assert core <= shipped
    assert shipped - core <= adapters | {name for name in shipped if name.startswith("it_losses.adapters")}
