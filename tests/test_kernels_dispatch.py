"""Dispatch picks the implementation, and the N x N or the D x D matrix for N samples of D dimensions.

A call passes through few files. Without the folder of fused implementations every objective still works.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import torch
import torch.distributed as dist
from definitions import assert_near, correlated_views, evaluated
from torch.utils.flop_counter import FlopCounterMode

import it_losses
from it_losses import ESTIMATORS, EntropyRegularizer, LogDet, VICReg, VICRegEntropy, kernels
from it_losses.kernels import dispatch, log_det, pairwise, renyi, vicreg
from it_losses.kernels.products import cpu

PACKAGE = Path(it_losses.__file__).parent
VARIABLE = dispatch.VARIABLE
F32, CPU = torch.float32, torch.device("cpu")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_environment_picks_the_implementation_and_both_agree(name, monkeypatch):
    views, results = correlated_views(2, (48, 100)), {}
    for backend in ("reference", "fused", "auto"):
        monkeypatch.setenv(VARIABLE, backend)
        assert kernels.is_fused(ESTIMATORS[name].fused, (), views[0]) == (backend != "reference")
        results[backend] = evaluated(VICRegEntropy(name), views)
    assert_near(results["fused"], results["reference"], 1e-10)
    torch.testing.assert_close(results["fused"], results["auto"], rtol=0, atol=0)


def test_an_unavailable_implementation_is_an_error_with_advice(monkeypatch):
    monkeypatch.setenv(VARIABLE, "fused")
    with pytest.raises(ValueError, match=r"not on meta.*auto"):
        LogDet()(torch.randn(4, 4, device="meta"))
    monkeypatch.setenv(VARIABLE, "fastest")
    for call in (VICReg(), VICRegEntropy("pairwise"), EntropyRegularizer("log_det")):
        with pytest.raises(ValueError, match="must be one of"):
            call(*torch.randn(2, 4, 4))


def test_the_reason_for_the_reference_is_told(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert kernels.why_not_fused("log_det", torch.randn(2, 2)) == ""
    assert "no fused implementation" in dispatch.unsupported("", F32, CPU)
    assert "not on meta" in dispatch.unsupported("vicreg", F32, torch.device("meta"))
    assert "float64" not in dispatch.unsupported("log_det", torch.float64, CPU)
    assert "float64" in dispatch.unsupported("log_det", torch.float64, torch.device("cuda"))
    assert "float8" in dispatch.unsupported("log_det", torch.float8_e5m2, CPU)


@pytest.mark.parametrize("dim", [1, 7, 100, 1000, 8192])
def test_the_smaller_or_cheaper_matrix_is_used(dim):
    for samples in (2, dim // 2, dim - 1, dim, dim + 1, 2 * dim, 10 * dim):
        assert log_det.prefers_gram(samples, dim, 1) == log_det.prefers_gram(samples, dim, 4) == (samples < dim)
        assert pairwise.prefers_gram(samples, dim, 1)
        assert renyi.prefers_gram(samples, dim, 1) == renyi.prefers_gram(samples, dim, 4) == (samples < dim)
        # on several ranks communication decides: ranks exchange either N x dim samples or a dim x dim matrix
        assert vicreg.prefers_gram(samples, dim, 4) == (samples < 2 * dim)
        assert samples >= dim or vicreg.prefers_gram(samples, dim, 1) or samples > 0.8 * dim
        assert samples < dim or not vicreg.prefers_gram(samples, dim, 1)
    plan = dispatch.plan(log_det, "cpu", samples=dim, dim=dim, world=1)
    assert plan.products is cpu and not plan.by_gram


class Redefined(LogDet):
    def entropy(self, z):
        return super().entropy(z) + z.square().mean(dim=(-2, -1))


class Renamed(LogDet):
    """A subclass that changes a constant and does not redefine the entropy."""

    def __init__(self):
        super().__init__(3.0)


class Grandchild(Redefined):
    pass


class Mixin:
    def entropy(self, z):
        return super().entropy(z / 10)


class Mixed(Mixin, LogDet):
    pass


def test_a_subclass_that_redefines_the_entropy_does_not_inherit_the_fused_implementation():
    assert (Redefined.fused, Grandchild.fused, Renamed.fused, Mixed.fused) == ("", "", "log_det", "")
    z = torch.randn(12, 5, dtype=torch.float64)
    torch.testing.assert_close(Redefined()(z), LogDet()(z) + z.square().mean())
    torch.testing.assert_close(VICRegEntropy(Grandchild(), entropy_weight=1.0)(z, z), -Redefined()(z))
    torch.testing.assert_close(Renamed()(z), LogDet(3.0)(z))
    torch.testing.assert_close(Mixed()(z), LogDet()(z / 10))


def test_a_regularizer_takes_the_fused_implementation(monkeypatch):
    called, real = [], kernels.loss
    monkeypatch.setattr(kernels, "loss", lambda *given, **options: called.append(given[1]) or real(*given, **options))
    for name, kind in ESTIMATORS.items():
        EntropyRegularizer(name)(torch.randn(8, 4))
        assert called.pop() == kind.fused


def test_every_estimator_finds_its_fused_implementation_through_its_class():
    public = {name: kind.fused for name, kind in ESTIMATORS.items() if kind.__name__ in it_losses.__all__}
    assert list(public.values()) == ["vicreg", *list(public)[1:]]
    for fused in filter(None, (kind.fused for kind in ESTIMATORS.values())):
        module = dispatch.module_named(fused)
        assert callable(module.evaluate) and callable(module.prefers_gram) and module.PARTS >= 0


EVERYTHING = """
import json, sys
# an editable installation finds the modules of the checkout that the copy lacks
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
import torch, it_losses
from it_losses import *
from it_losses import functional
from it_losses.entropy.base import kernels
from pathlib import Path

def results():
    generator = torch.Generator().manual_seed(0)
    shapes = (12, 5), (5, 12), (6, 2, 3)
    calls = [VICReg(convention=name) for name in ("official", "solo-learn", "vicregl", "eb_jepa", "paper")]
    calls += [VICRegEntropy(name) for name in ESTIMATORS] + [EntropyRegularizer(name) for name in ESTIMATORS]
    calls += [lambda a, b, kind=kind: kind()(a) + kind()(b) for kind in ESTIMATORS.values()]
    calls += [VICRegEntropy(Pairwise((2.0, 3.0), "bhattacharyya", memory_mib=0.0)), functional.vicreg]
    for shape in shapes:
        views = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        for call in calls:
            value = call(*views)
            yield [value.item(), *torch.cat([g.flatten() for g in torch.autograd.grad(value, views)]).tolist()]

print(json.dumps([str(Path(it_losses.__file__).parent), kernels is None, list(results())]))
"""


def run_everything(folder, backend):
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", VARIABLE: backend}
    done = subprocess.run([sys.executable, "-c", EVERYTHING], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_without_the_folder_of_fused_implementations_every_objective_works_with_the_same_numbers(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "it_losses", ignore=shutil.ignore_patterns("kernels", "__pycache__"))
    place, missing, without = run_everything(tmp_path, "auto")
    assert place == str(tmp_path / "it_losses") and missing
    _, missing, with_it = run_everything(PACKAGE.parent, "fused")
    assert not missing
    assert_near([torch.tensor(x) for x in with_it], [torch.tensor(x) for x in without], 1e-9)


#: the test limits the files and lines of these entropies. Each further entropy adds one file, and SIGReg adds three
FIRST_ENTROPIES = {"vicreg", "log_det", "pairwise"}
FURTHER_ENTROPIES = {"koleo", "quadratic", "renyi", "sigreg", "spacings"}


def test_the_folder_has_at_most_16_files_and_2200_lines_for_its_first_three_entropies():
    assert {kind.fused for kind in ESTIMATORS.values()} == FIRST_ENTROPIES | FURTHER_ENTROPIES
    lines = {path: len(path.read_text().splitlines()) for path in (PACKAGE / "kernels").rglob("*.py")}
    names = [*FURTHER_ENTROPIES, "products/cpu_slices", "products/cuda_slices"]
    further = [lines.pop(PACKAGE / "kernels" / f"{name}.py") for name in names]
    assert len(lines) <= 16
    assert sum(lines.values()) <= 2200
    assert max(further) <= 150


def files_of_a_step(criterion, shape=(40, 60)):
    """Return the files whose functions run in a forward and backward pass, after a first pass that does the imports."""
    views = torch.randn(2, *shape, requires_grad=True)
    criterion(*views).backward()
    files = set()

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            files.add(str(Path(frame.f_code.co_filename).relative_to(PACKAGE)))

    sys.setprofile(note)
    try:
        # on a CPU autograd runs the backward pass in the calling thread, so the profile contains it
        criterion(*views).backward()
    finally:
        sys.setprofile(None)
    return sorted(files)


#: name -> (function that makes the criterion, largest number of files through which a call may pass)
CRITERIA = {
    "VICReg": (VICReg, 10),
    "log_det": (VICRegEntropy, 11),
    "pairwise": (lambda: VICRegEntropy("pairwise"), 11),
    "koleo": (lambda: VICRegEntropy("koleo"), 12),
    "spacings": (lambda: VICRegEntropy("spacings"), 12),
    "renyi": (lambda: VICRegEntropy("renyi"), 12),
    # SIGReg has one file each for the quadrature, the random directions and the sums
    "sigreg": (lambda: VICRegEntropy("sigreg"), 14),
}
ON_TWO_RANKS = {"sigreg": 15}


@pytest.mark.parametrize("shape", [(40, 100), (100, 40), (700, 900)], ids=str)
@pytest.mark.parametrize("name", CRITERIA)
def test_a_call_passes_through_few_files(name, shape):
    if dist.is_initialized():
        # in a process group that another test left behind, the call would pass through more files
        dist.destroy_process_group()
    build, most = CRITERIA[name]
    files = files_of_a_step(build(), shape)
    assert "kernels/torch_ops.py" in files
    assert len(files) <= most, files


def files_on_a_rank(name):
    files = files_of_a_step(CRITERIA[name][0](), (40 + dist.get_rank(), 60))
    return files, files_of_a_step(CRITERIA[name][0](), (160, 30))


@pytest.mark.parametrize("name", CRITERIA)
def test_a_call_on_two_ranks_passes_through_few_files(name):
    for rank in ranks.run(2, files_on_a_rank, name):
        for files in rank:
            assert "distributed.py" in files
            assert len(files) <= ON_TWO_RANKS.get(name, 13), files


@pytest.mark.parametrize("shape", [(96, 40), (40, 96), (600, 300)], ids=str)
@pytest.mark.parametrize("name", ["vicreg", "log_det", "pairwise"])
def test_a_flop_counter_counts_the_products(name, shape):
    rows, dim = shape
    criterion = VICReg() if name == "vicreg" else VICRegEntropy(name)
    views = torch.randn(2, *shape, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        criterion(*views).backward()
    side = rows if name == "pairwise" else min(rows, dim)
    # each of the two views needs a product for the matrix and one for the gradient. Symmetry may halve the first product
    full = 2 * 2 * (2 * rows * dim * side)
    assert 0.7 * full < counter.get_total_flops() <= full
