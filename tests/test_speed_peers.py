"""In the speed benchmark all implementations have the same gradient, and times, peak memory and report are right."""

import os
import sys
from functools import partial

import pytest
import torch
from programs import finished

from benchmarks import peers
from benchmarks.machine import in_fresh_process, is_installed, percentiles, timed
from benchmarks.pages import ROOT, write_csv
from benchmarks.speed import __main__ as program
from benchmarks.speed import report
from benchmarks.speed.measure import Case, peak_of
from benchmarks.speed.objectives import BOUNDED, OBJECTIVES, OURS
from it_losses import VICReg
from it_losses.slices import unit_directions

CPU = torch.device("cpu")


def measure(folder, objective, *options):
    """Run the shortest speed benchmark, and return the rows that it wrote."""
    words = ["--device", "cpu", "--tested", "--seconds", "0", "--objectives", objective, "--out", str(folder), *options]
    assert program.main(words) == 0
    return program.read(folder / "rows.csv")


def test_a_folder_keeps_rows_of_one_number_of_threads(tmp_path, capsys):
    options = "--objectives", "koleo", "--sizes", "16x8"
    measure(tmp_path, "koleo", "--sizes", "16x8")
    words = ["--device", "cpu", "--tested", "--seconds", "0", "--threads", "2", *options, "--out", str(tmp_path)]
    assert program.main(words) == 1 and "has rows of 1 threads, not 2" in capsys.readouterr().err
    torch.set_num_threads(1)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("batch", "dim"), [(20, 33), (33, 20), (150, 160)])
def test_every_implementation_has_the_same_gradient(objective, batch, dim, monkeypatch):
    if objective == "sigreg" and is_installed("lightly"):
        # lightly's SIGReg gets the random directions of our implementation
        directions = unit_directions(1024, dim, seed=0, draw=0, like=torch.empty(0, dtype=torch.float64)).mT
        monkeypatch.setattr("lightly.loss.lejepa_loss.SIGReg._generate_unit_vectors", lambda *_: directions)
    z = torch.randn(batch, dim, dtype=torch.float64)
    views = [z.requires_grad_(), (z.detach() + 0.3 * torch.randn_like(z)).requires_grad_()]
    results = {name: torch.autograd.grad(f(*views), views) for name, f in OBJECTIVES[objective](batch, dim).items()}
    if objective == "vicreg":
        # solo-learn adds the variance terms of the views. Other implementations average them, which halves the weight
        results.pop("solo-learn")
    for name, gradient in results.items():
        torch.testing.assert_close(gradient, results[OURS], msg=lambda m, name=name: f"{name}: {m}")


def test_solo_learns_formula_is_the_official_one_at_twice_the_variance_weight():
    z = torch.randn(2, 20, 33, dtype=torch.float64)
    torch.testing.assert_close(peers.solo_learn_vicreg(*z), VICReg(convention="solo-learn")(*z))
    torch.testing.assert_close(peers.solo_learn_vicreg(*z, variance_weight=12.5), peers.official_vicreg(*z))


def test_the_clock_counts_rounds_and_frees_memory_between_implementations_outside_their_times():
    z, order = torch.randn(4, 4, requires_grad=True), []

    def evaluate(name):
        order.append((name, z.grad is None))
        return z.square().sum()

    times = timed({name: partial(evaluate, name) for name in "ab"}, CPU, seconds=0.0, repetitions=(2, 9), inputs=[z])
    # each implementation runs once untimed first. Otherwise its time could include freeing the memory of the previous one
    assert order[-8:] == [("a", True), ("a", True), ("b", True), ("b", True)] * 2
    series = times["a"].values()
    assert list(map(len, series)) == [2, 2, 2] and min(map(min, series)) >= 0
    assert percentiles([5.0, 1.0, 2.0, 3.0, 4.0]) == pytest.approx((1.8, 3.0, 4.2))


def test_peaks_are_measured_in_processes_of_their_own():
    assert in_fresh_process(os.getpid) != os.getpid()


@pytest.mark.slow
def test_peak_memory_sees_matrices_that_ours_does_not_form_or_keep():
    def peak(name, objective, batch, dim):
        return peak_of(Case("op", objective, batch, dim, CPU, "float32", 0.0), name, OBJECTIVES[objective])

    # the official code holds several D x D matrices of 16 MiB
    assert peak(OURS, "vicreg", 64, 2048) < 8 < 48 < peak("official", "vicreg", 64, 2048)
    # the gradient has 16 MiB, and the backward pass scales it in place
    assert 16 < peak(OURS, "log_det", 256, 8192) < 24
    # the lower triangle of the matrix of pairs of one view has 17 MiB, and the whole matrix 34. Ours keeps one triangle
    kept, bounded, cdist = (peak(name, "pairwise", 3000, 16) for name in (OURS, BOUNDED, "torch.cdist"))
    assert bounded < 17 < kept < 34 < cdist


def test_the_report_names_faster_implementations(tmp_path):
    case = Case("op", "vicreg", 8, 8, CPU, "float32", 0.0)
    rows = [case.row(name, "both", "time_ms", [value]) for name, value in ((OURS, 2.0), ("slow", 3.0), ("fast", 1.0))]
    said = "Forward and backward, vicreg 8 x 8: `fast` takes 1 ms, ours 2 ms"
    text = report.readme(rows, "make bench")
    assert report.slower(rows) == [said] and "1.50x" in text and "0.50x" in text and f"- {said}" in text
    write_csv(tmp_path / "rows.csv", rows)
    assert program.read(tmp_path / "rows.csv") == rows and program.read(tmp_path / "none.csv") == []
    pytest.importorskip("matplotlib")
    report.draw(rows, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_implementation_takes_half_precision(objective):
    views = [torch.randn(40, 24, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
    for name, f in OBJECTIVES[objective](40, 24).items():
        f(*views).backward()
        assert all(z.grad.dtype == torch.bfloat16 and z.grad.isfinite().all() for z in views), name


def test_ours_is_measured_where_every_other_package_is_missing(monkeypatch, tmp_path, capsys):
    for module in (program, peers):
        monkeypatch.setattr(module, "is_installed", lambda package: False)
    monkeypatch.setattr(program, "SIZES", ((16, 8),))
    assert {row["provider"] for row in measure(tmp_path, "vicreg")} == {OURS, "solo-learn", "official"}
    assert not (tmp_path / "speed.png").exists()
    printed = capsys.readouterr().out
    assert all(f"{package} is not installed" in printed for package in program.OPTIONAL)


def test_sizes_and_dtypes_that_are_not_measured_again_keep_their_rows_and_places(tmp_path):
    def measured(dtype, *sizes):
        rows = measure(tmp_path, "log_det", "--dtype", dtype, "--sizes", *sizes)
        return [((row["batch"], row["dim"], row["dtype"]), row["value"]) for row in rows]

    first, again = measured("float32", "16x8", "24x8"), measured("float32", "16x8")
    assert [case for case, _ in first] == [case for case, _ in again]
    assert [a == b for a, b in zip(first, again, strict=True)] == [case[0] == "24" for case, _ in first]
    both = measured("bfloat16", "16x8")
    assert both[: len(again)] == again and {case for case, _ in both[len(again) :]} == {("16", "8", "bfloat16")}
    assert "| log_det, bfloat16 | 16 x 8 |" in (tmp_path / "README.md").read_text()


def test_nothing_is_timed_without_its_tests_or_without_the_gpu_that_was_asked_for(monkeypatch, tmp_path, capsys):
    assert all(list(ROOT.glob(pattern)) for patterns in program.TESTS.values() for pattern in patterns)
    monkeypatch.setattr(program, "is_installed", lambda package: package != "pytest")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, said in (("cpu", "--tested"), ("cuda", "no GPU")):
        assert program.main(["--device", device, "--out", str(tmp_path / "out")]) == 1
        assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_speed_and_the_tests_of_a_gpu_need_torch_and_pytest_alone():
    # a checkout that is not installed has no module `it_losses.adapters`, so this must not be needed either
    code = """if True:
        import sys
        sys.path[:0] = [".", "tests"]
        for name in ("it_losses.adapters", "lightly", "timm", "matplotlib", "numpy", "pandas", "scipy", "hypothesis"):
            sys.modules[name] = None
        import benchmarks.speed.__main__, test_gpu
    """
    done = finished([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT)
    assert done.returncode == 0, done.stderr
