"""What the speed benchmark compares is one number computed in several ways, and its clock and report count right."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from benchmarks.speed import __main__ as program
from benchmarks.speed import clock, memory, peers, report
from benchmarks.speed.cases import Case, full, quick
from benchmarks.speed.peers import BOUNDED, OURS, providers
from benchmarks.speed.rows import Row, circumstances, read, write


@pytest.mark.parametrize("objective", ["vicreg", "log_det", "pairwise"])
@pytest.mark.parametrize(("batch", "dim"), [(20, 33), (33, 20), (150, 160)])
def test_every_implementation_has_the_same_gradient(objective, batch, dim):
    z = torch.randn(batch, dim, dtype=torch.float64)
    views = [z.requires_grad_(), (z.detach() + 0.3 * torch.randn_like(z)).requires_grad_()]
    results = {}
    for name, f in providers(objective, batch, dim, compiled=False).items():
        value = f(*views)
        if objective == "pairwise" and name in (OURS, BOUNDED):
            # ours is an entropy in nats: with the entropy of its components, which has no gradient
            value = value - value.detach()
        results[name] = torch.autograd.grad(value, views)
    if objective == "vicreg":
        # adds the hinges of the views where the others average them: another weight, the same operators
        results.pop("solo-learn")
    for name, gradient in results.items():
        torch.testing.assert_close(gradient, results[OURS], msg=lambda m, name=name: f"{name}: {m}")


def test_solo_learns_formula_is_the_official_one_at_twice_the_variance_weight():
    from it_losses import VICReg

    z = torch.randn(2, 20, 33, dtype=torch.float64)
    solo = providers("vicreg", 20, 33, compiled=False)["solo-learn"]
    torch.testing.assert_close(solo(*z), VICReg(convention="solo-learn")(*z))


def test_the_clock_counts_rounds_and_orders_percentiles():
    z = torch.randn(64, 64, requires_grad=True)
    cpu = torch.device("cpu")
    times = clock.measured({"a": lambda: z.square().sum()}, cpu, seconds=0.0, repetitions=(5, 9))
    assert [len(series) for series in times["a"]] == [5, 5, 5]
    assert all(value >= 0 for series in times["a"] for value in series)
    assert clock.percentiles([5.0, 1.0, 2.0, 3.0, 4.0]) == pytest.approx((1.8, 3.0, 4.2))


def test_what_one_implementation_left_behind_is_freed_outside_the_time_of_the_next():
    z, order = torch.randn(4, 4, requires_grad=True), []

    def evaluate(name):
        order.append(name)
        return z.square().sum()

    implementations = {name: lambda name=name: evaluate(name) for name in "ab"}
    times = clock.measured(
        implementations, torch.device("cpu"), seconds=0.0, repetitions=(2, 2), clear=lambda: order.append("clear")
    )
    # each once more before it, untimed: what the allocator does with what was freed is the time of neither
    assert order[-16:] == ["clear", "a", "clear", "a", "clear", "b", "clear", "b"] * 2 and len(times["a"].both) == 2


@pytest.mark.slow
def test_peak_memory_sees_a_matrix_that_ours_does_not_form():
    ours, official = (memory.peak_mib("vicreg", 64, 2048, name, "cpu") for name in (OURS, "official"))
    # the official code holds several D x D matrices of 16 MiB
    assert ours < 8 < 48 < official


@pytest.mark.slow
def test_bounded_pairs_take_less_memory_than_kept_ones():
    kept, bounded, cdist = (memory.peak_mib("pairwise", 3000, 16, name, "cpu") for name in (OURS, BOUNDED, "torch.cdist"))
    # the lower triangle of the pairs of one view has 17 MiB, their square 34; those of one view at a time are kept
    assert bounded < 17 < kept < 34 < cdist


def test_the_report_shows_what_is_slower(tmp_path):
    facts = circumstances(torch.device("cpu"))
    common = {"level": "op", "objective": "vicreg", "batch": 8, "dim": 8, "mode": "both", "metric": "time_ms"}
    rows = [
        Row(**common, provider=name, value=value, p20=value, p80=value, repetitions=3, clock="CPU time", **facts)
        for name, value in ((OURS, 2.0), ("slow", 3.0), ("fast", 1.0))
    ]
    assert [line.split(": ")[1] for line in report.slower(rows)] == ["fast 1, ours 2"]
    text = report.readme(rows, "make bench")
    assert "1.50x" in text and "0.50x" in text and "fast 1, ours 2" in text
    write(rows, tmp_path / "rows.csv")
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 4
    assert read(tmp_path / "rows.csv") == rows and read(tmp_path / "none.csv") == []
    pytest.importorskip("matplotlib")
    report.figure(rows, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 0


def test_the_full_grid_holds_the_quick_ones_objectives():
    assert {case.objective for case in quick()} == {case.objective for case in full()}


@pytest.mark.parametrize("objective", ["vicreg", "log_det", "pairwise"])
def test_every_implementation_takes_half_precision(objective):
    views = [torch.randn(40, 24, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
    for name, f in providers(objective, 40, 24, compiled=False).items():
        f(*views).backward()
        assert all(z.grad.dtype == torch.bfloat16 and z.grad.isfinite().all() for z in views), name


@pytest.mark.parametrize("pattern", [pattern for patterns in program.TESTS.values() for pattern in patterns])
def test_what_is_tested_before_it_is_timed_is_there(pattern):
    assert list(program.ROOT.glob(pattern))


def test_it_measures_what_is_there_where_every_other_package_is_missing(monkeypatch, tmp_path, capsys):
    for module in (program, peers):
        monkeypatch.setattr(module, "is_installed", lambda package: False)
    monkeypatch.setattr(program.cases, "quick", lambda: [Case("vicreg", 16, 8)])
    monkeypatch.setattr(sys, "argv", ["speed", "--device", "cpu", "--tested", "--seconds", "0", "--out", str(tmp_path)])
    assert program.main() == 0
    assert {row.provider for row in read(tmp_path / "rows.csv")} == {OURS, "solo-learn", "official"}
    assert not (tmp_path / "speed.png").exists()
    told = capsys.readouterr().out
    assert all(f"{package} is not installed" in told for package in program.OPTIONAL)


def test_without_pytest_nothing_is_timed_untested(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(program, "is_installed", lambda package: package != "pytest")
    monkeypatch.setattr(sys, "argv", ["speed", "--device", "cpu", "--out", str(tmp_path / "out")])
    assert program.main() == 1
    assert "--tested" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["speed", "--device", "cuda", "--out", str(tmp_path / "out")])
    assert program.main() == 1
    assert "no GPU" in capsys.readouterr().err


def test_the_speed_and_the_tests_of_a_gpu_need_torch_and_pytest_alone():
    """As on a machine that has a checkout and those two: adapters are found in an installation only."""
    code = """if True:
        import sys
        sys.path[:0] = [".", "tests"]
        for name in ("it_losses.adapters", "lightly", "timm", "matplotlib", "numpy", "scipy", "hypothesis"):
            sys.modules[name] = None
        import benchmarks.speed.__main__, benchmarks.speed.memory, test_gpu
    """
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=program.ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
