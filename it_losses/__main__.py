"""`python -m it_losses` prints versions, devices, and the implementation and rounding errors of each estimator.

Paste the output into a bug report. `--self-test` also tests the GPU kernels, and measures every estimator in every dtype.
`--estimators` prints the table of estimators instead.
"""

import argparse
import importlib.metadata
import itertools
import os
import platform
import statistics
import timeit
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

import it_losses
from it_losses import ESTIMATORS
from it_losses.checks import check_name
from it_losses.entropy import EntropyEstimator
from it_losses.entropy.base import kernels

VARIABLE = "IT_LOSSES_BACKEND"
VARIABLES = {VARIABLE: ("auto", "reference", "fused"), "IT_LOSSES_SELF_TEST": ("auto", "off", "error")}
#: packages whose versions are reported; all but torch are optional
COMPANIONS = ("torch", "triton", "lightly", "lightning", "solo-learn", "stable-pretraining", "timm", "hydra-core", "scipy")
OLDER_NAMES = {"lightning": "pytorch-lightning"}
#: `--self-test` runs every estimator in these dtypes and on views of these shapes
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((256, 64), (64, 256))


def estimator_table() -> str:
    """A Markdown table of all estimators and their properties."""
    rows = ["| entropy | class | unit | direction | rotation invariant | cost |", "|---|---|---|---|---|---|"]
    for name, kind in ESTIMATORS.items():
        invariant = "yes" if kind().rotation_invariant else "no"
        rows.append(f"| `{name}` | `{kind.__name__}` | {kind.unit} | {kind.direction} | {invariant} | {kind.cost} |")
    return "\n".join(rows)


def _version(package: str) -> str:
    """The name of an installed package, and its version."""
    for name in filter(None, (package, OLDER_NAMES.get(package))):
        with suppress(importlib.metadata.PackageNotFoundError):
            return f"{name} {importlib.metadata.version(name)}"
    return f"{package} not installed"


def _devices() -> str:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names) if names else f"CPU only, {torch.get_num_threads()} threads"


def report() -> str:
    """The report as text: versions, devices, and the implementation and errors of each estimator."""
    lines = [f"it-losses {it_losses.__version__}", f"python {platform.python_version()} on {platform.machine()}"]
    lines += [_version(package) for package in COMPANIONS]
    lines += [f"devices: {_devices()}", "", "implementation of each estimator:", *_implementations()]
    lines += ["", "relative differences of value and gradient in float32, 256 x 64:", *_errors()]
    return "\n".join(lines)


def _implementations() -> list[str]:
    z = torch.randn(256, 64, device=_device())
    reasons = {name: _why_reference(kind.fused, z) for name, kind in ESTIMATORS.items()}
    return [f"  {name:<20} {f'reference: {reason}' if reason else 'fused'}" for name, reason in reasons.items()]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _why_reference(fused: str, z: Tensor) -> str:
    """Why the reference implementation runs for views like z; an empty string if the fused implementation runs."""
    if kernels is None:
        return "the folder it_losses/kernels is missing"
    if kernels.is_fused(fused, (), z):
        return ""
    reason: str = kernels.why_not_fused(fused, z)
    return reason or f"{VARIABLE} is set"


def _errors() -> list[str]:
    z = torch.randn(256, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return [f"  {name:<20} {_differences(kind().eval(), z)}" for name, kind in ESTIMATORS.items()]


def self_test() -> str:
    """The self-test of the GPU kernels, and the errors and times of every estimator, as text."""
    lines = ["self-test of the GPU kernels:", *_kernel_faults(), "", "relative errors of value and gradient, and times in ms:"]
    for name, kind in ESTIMATORS.items():
        for dtype, shape in itertools.product(DTYPES, SHAPES):
            z = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype).double()
            # in evaluation mode, a random estimator draws the same numbers in every call
            found = _differences(kind().eval(), z, dtype, timed=True)
            lines.append(f"  {name} {str(dtype)[6:]} {shape[0]} x {shape[1]}: {found}")
    return "\n".join(lines)


def _kernel_faults() -> list[str]:
    if not torch.cuda.is_available() or kernels is None:
        return ["  not run: there is no CUDA device" if kernels else "  not run: the folder it_losses/kernels is missing"]
    lines = []
    for (products, most), dtype, less in itertools.product(kernels.self_test.ROWS.items(), DTYPES, (0, 7)):
        rows, dim = most - less, kernels.self_test.DIM - less
        seen = kernels.self_test.fault(products, _device(), dtype, rows=rows, dim=dim)
        lines.append(f"  products{products} {str(dtype)[6:]} {rows} x {dim}: {seen or 'passed'}")
    return lines


def _differences(estimator: EntropyEstimator, z: Tensor, dtype: torch.dtype = torch.float32, *, timed: bool = False) -> str:
    """Relative errors as text: against the reference, and of both implementations against float64."""
    rounded = z.to(_device(), dtype)
    with _backend("reference"):
        exact, reference = _value_and_gradient(estimator, z), _value_and_gradient(estimator, rounded)
        theirs = f", reference {_milliseconds(estimator, rounded):.2f} ms" if timed else ""
    here = _value_and_gradient(estimator, rounded)
    ours = f"; {_milliseconds(estimator, rounded):.2f} ms" if timed else ""
    return (
        f"from the reference {_worst(here, reference):.1e}; "
        f"from float64 {_worst(here, exact):.1e}, reference {_worst(reference, exact):.1e}{ours}{theirs}"
    )


def _milliseconds(estimator: EntropyEstimator, z: Tensor) -> float:
    """The median time in ms to compute value and gradient and copy them to the CPU."""
    return statistics.median(timeit.repeat(lambda: _value_and_gradient(estimator, z), number=1, repeat=9)) * 1e3


def _value_and_gradient(estimator: EntropyEstimator, z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.clone().requires_grad_()
    value = estimator(z)
    value.backward()
    assert z.grad is not None
    return value.detach().cpu().double(), z.grad.cpu().double()


def _worst(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> float:
    """The larger error of value and gradient, relative to the largest element of `theirs`."""
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in zip(ours, theirs, strict=True))


@contextmanager
def _backend(name: str) -> Iterator[None]:
    """Set IT_LOSSES_BACKEND to `name` inside the context."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m it_losses", description=__doc__)
    parser.add_argument("--estimators", action="store_true", help="print the table of estimators instead")
    parser.add_argument("--self-test", action="store_true", help="also test the GPU kernels, and each estimator in each dtype")
    options = parser.parse_args(arguments)
    try:
        for variable, names in VARIABLES.items():
            check_name(*names)(variable, os.environ.get(variable, "auto"))
        print(estimator_table() if options.estimators else report())
        if options.self_test:
            print("", self_test(), sep="\n")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
