"""Mutation testing of the mathematics: change one operator, number or method at a time, and see whether a test fails.

    .venv/bin/python tests/mutants.py --sample 60 --seed 1 kernels/log_det.py entropy/log_det.py

This prints each mutant that survives (no test fails) and the number of mutants that are killed (a test fails).
Without file names it tests mutants of all files in CHECKED_BY. Each mutant is a changed copy of the package in its own folder.
A forked process imports this copy, so that torch is loaded only once.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib.util
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "it_losses"
#: the objectives for which tests/test_fuzz.py draws random cases
FUZZED = ("vicreg", "variance_covariance", "log_det", "pairwise", "quadratic", "renyi", "sigreg", "koleo", "spacings")
#: the file that tests the Triton kernels in Triton's interpreter, without a GPU
INTERPRETED = "interpreted_kernels.py"
#: seconds after which a mutant that hangs counts as killed
PATIENCE = 1800

EVERY_ENTROPY = [
    "test_kernels_dispatch.py",
    "test_kernels_definitions.py",
    "test_contract.py",
    "test_kernels_precision.py",
    "test_saturation.py",
]
#: file -> the tests that should notice its mutants, the quick ones first; test_fuzz.py runs after them
CHECKED_BY = {
    "entropy/base.py": ["test_contract.py", "test_kernels_dispatch.py", "test_criteria.py"],
    "entropy/log_det.py": ["test_closed_forms.py", *EVERY_ENTROPY, "test_criteria.py"],
    "entropy/pairwise.py": ["test_closed_forms.py", *EVERY_ENTROPY, "test_criteria.py", "test_pairs.py"],
    "entropy/pairs.py": ["test_pairs.py", "test_closed_forms.py", *EVERY_ENTROPY],
    "entropy/variance_covariance.py": ["test_closed_forms.py", *EVERY_ENTROPY, "test_criteria.py"],
    "entropy/quadratic.py": ["test_pairs.py", "test_identities.py", *EVERY_ENTROPY],
    "entropy/renyi.py": ["test_renyi.py", *EVERY_ENTROPY],
    "entropy/sigreg.py": ["test_sigreg.py", *EVERY_ENTROPY, "test_constants.py", "test_public.py"],
    "entropy/koleo.py": ["test_koleo.py", *EVERY_ENTROPY],
    "entropy/spacings.py": ["test_spacings.py", *EVERY_ENTROPY],
    "bound.py": ["test_criteria.py", "test_likelihood.py", "test_constants.py", "test_contract.py", "test_distributed.py"],
    "likelihood.py": ["test_likelihood.py", "test_criteria.py"],
    "normalize.py": ["test_likelihood.py", "test_contract.py"],
    "vicreg_conventions.py": ["test_criteria.py"],
    "sigreg_conventions.py": ["test_sigreg.py"],
    "slices.py": ["test_sigreg.py"],
    "kernels/vicreg.py": ["test_criteria.py", *EVERY_ENTROPY, "test_distributed.py"],
    "kernels/log_det.py": [*EVERY_ENTROPY, "test_distributed.py"],
    "kernels/pairwise.py": [*EVERY_ENTROPY, "test_pairs.py", "test_distributed.py"],
    "kernels/quadratic.py": ["test_pairs.py", *EVERY_ENTROPY, "test_distributed.py"],
    "kernels/renyi.py": ["test_renyi.py", *EVERY_ENTROPY, "test_distributed.py"],
    "kernels/sigreg.py": ["test_sigreg.py", *EVERY_ENTROPY, "test_distributed.py"],
    "kernels/koleo.py": ["test_koleo.py", *EVERY_ENTROPY, "test_distributed.py"],
    "kernels/spacings.py": ["test_spacings.py", *EVERY_ENTROPY, "test_distributed.py"],
    "kernels/normalize.py": ["test_likelihood.py", "test_contract.py", "test_distributed.py"],
    "kernels/batch.py": [*EVERY_ENTROPY, "test_distributed.py"],
    "kernels/dispatch.py": ["test_entrance.py", "test_constants.py", *EVERY_ENTROPY, "test_distributed.py"],
    "kernels/torch_ops.py": ["test_likelihood.py", *EVERY_ENTROPY, "test_kernels_torch_ops.py", "test_distributed.py"],
    "kernels/products/cpu.py": [*EVERY_ENTROPY, "test_distributed.py"],
    "kernels/products/cpu_pairs.py": [*EVERY_ENTROPY, "test_pairs.py", "test_koleo.py", "test_distributed.py"],
    "kernels/products/cpu_slices.py": ["test_sigreg.py", *EVERY_ENTROPY, "test_distributed.py"],
    "kernels/products/cholesky.py": EVERY_ENTROPY,
    "kernels/products/cuda.py": [INTERPRETED],
    "kernels/products/cuda_pairs.py": [INTERPRETED],
    "kernels/products/cuda_passes.py": [INTERPRETED],
    "kernels/products/cuda_slices.py": [INTERPRETED],
    "kernels/self_test.py": ["test_self_test.py"],
    "distributed.py": ["test_distributed.py", "test_collective_errors.py"],
}

#: keyword arguments that get no mutants, because they change no result. `strict` only checks lengths, and `stacklevel` only
#: selects the line of code that a warning shows
CHECKS = ("strict", "stacklevel")
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
METHODS = {
    "add_": "sub_",
    "sub_": "add_",
    "mul_": "div_",
    "div_": "mul_",
    "sum": "mean",
    "mean": "sum",
    "amax": "amin",
    "amin": "amax",
    "sqrt_": "abs_",
    "square": "abs",
    "square_": "abs_",
    "log": "exp",
    "exp_": "abs_",
    "relu_": "abs_",
    "minimum": "maximum",
    "clamp_min": "clamp_max",
    "clamp_min_": "clamp_max_",
    "addcmul_": "addcdiv_",
    "detach": "clone",
}


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """Yield the line, the description and the syntax tree of each mutant of a file."""
    places = [node for node in executed(tree) if any(True for _ in changes(node))]
    for node in places:
        for i, (name, _) in enumerate(changes(node)):
            mutant = copy.deepcopy(tree)
            # find the copy of the node: both have the same position in a walk through their tree
            copied = list(ast.walk(mutant))[list(ast.walk(tree)).index(node)]
            before = ast.unparse(copied)
            list(changes(copied))[i][1]()
            yield node.lineno, f"{name}: {before[:70]}  ->  {ast.unparse(copied)[:70]}", mutant


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that can change a result. Skip annotations, error messages, class attributes and arguments in CHECKS."""
    if isinstance(node, ast.keyword) and node.arg in CHECKS:
        return
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "exc") or isinstance(value, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            declares = isinstance(node, ast.ClassDef) and isinstance(child, ast.Assign | ast.AnnAssign)
            if isinstance(child, ast.AST) and not declares:
                yield from executed(child)


def changes(node: ast.AST):
    """Yield each possible change of a node: the name of the change, and a function that makes it in place."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OPERATORS:
        yield "operator", lambda: setattr(node, "op", OPERATORS[type(node.op)]())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        yield "comparison", lambda: node.ops.__setitem__(0, OPERATORS[type(node.ops[0])]())
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not) and not isinstance(node.operand, ast.Constant):
        yield (
            "sign",
            lambda: (
                setattr(node, "op", ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not())
                or (setattr(node, "operand", ast.UnaryOp(ast.Not(), node.operand)) if isinstance(node.op, ast.Not) else None)
            ),
        )
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "flag", lambda: setattr(node, "value", not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield "number", lambda: setattr(node, "value", node.value + 1)
    if isinstance(node, ast.Attribute) and node.attr in METHODS:
        yield "method", lambda: setattr(node, "attr", METHODS[node.attr])
    if isinstance(node, ast.If | ast.IfExp):
        yield "condition", lambda: setattr(node, "test", ast.Constant(False))


def survives(file: str, mutant: ast.Module, tests: list[str]) -> bool:
    """Whether all the tests pass when the mutant replaces the file."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, Path(folder) / "it_losses", ignore=shutil.ignore_patterns("__pycache__"))
        (Path(folder) / "it_losses" / file).write_text(ast.unparse(mutant))
        return all(pass_with(folder, run) for run in runs(tests))


def runs(tests: list[str]) -> list[list[str]]:
    """The tests grouped by process. INTERPRETED needs its own process, because Triton chooses its interpreter at import."""
    others = [test for test in tests if test != INTERPRETED]
    return [run for run in (others, [INTERPRETED] * (INTERPRETED in tests)) if run]


def pass_with(folder: str, tests: list[str]) -> bool:
    """Whether all the tests pass in a forked process that imports the package from the folder."""
    child = os.fork()
    if child == 0:
        os._exit(run_tests(folder, tests))
    _, status = os.waitpid(child, 0)
    return status == 0


def run_tests(folder: str, tests: list[str]) -> int:
    import pytest

    signal.alarm(PATIENCE)
    sys.path.insert(0, folder)
    interpreted = tests == [INTERPRETED]
    os.environ |= {"TRITON_INTERPRET": "1"} if interpreted else {}
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", str(TESTS.parent / "pyproject.toml")]
    # ignore the warnings that Triton's interpreter gives with newer versions of numpy
    options += ["-W", "ignore"] if interpreted else []
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        failed = pytest.main([*options, "-m", "not slow", *(str(TESTS / test) for test in tests)])
        # test_fuzz.py runs on the CPU, where it cannot notice mutants of the Triton kernels
        return int(failed or (not interpreted and pytest.main([*options, str(TESTS / "test_fuzz.py")])))


def testable() -> list[str]:
    """The files whose tests can run on this machine. The tests of the Triton kernels need Triton."""
    return [file for file, tests in CHECKED_BY.items() if INTERPRETED not in tests or importlib.util.find_spec("triton")]


def main() -> None:
    """Test a sample of the mutants, and print the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", default=testable(), help="files of it_losses (default: those of the mathematics)")
    parser.add_argument("--sample", type=int, help="number of mutants to draw at random (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "FUZZ_CASES": "900", "FUZZ_SEED": "0", "FUZZ_NAMES": " ".join(FUZZED)}
    import hypothesis  # noqa: F401
    import torch

    torch.set_num_threads(1)
    found = [(file, *mutant) for file in options.files for mutant in mutants(ast.parse((PACKAGE / file).read_text()))]
    drawn = found if options.sample is None else random.Random(options.seed).sample(found, min(options.sample, len(found)))
    print(f"{len(drawn)} of {len(found)} mutants", flush=True)
    # test the unchanged package first, because a test that always fails would seem to kill every mutant
    used = dict.fromkeys(test for file, *_ in drawn for test in CHECKED_BY[file])
    assert survives("__init__.py", ast.parse((PACKAGE / "__init__.py").read_text()), list(used)), (
        "a test fails on the unchanged package. Fix it first"
    )
    alive = 0
    for tested, (file, line, description, mutant) in enumerate(drawn, 1):
        if survives(file, mutant, CHECKED_BY[file]):
            alive += 1
            print(f"survived {file}:{line} {description}", flush=True)
        print(f"{tested - alive} of {tested} killed", file=sys.stderr, flush=True)
    print(f"{len(drawn) - alive} of {len(drawn)} killed")


if __name__ == "__main__":
    main()
