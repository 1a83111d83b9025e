"""Each verdict on a figure or theorem of the paper follows from the recorded rows alone, and other rows can reverse it."""

import math

import benchmarks_extra  # noqa: F401
import pandas as pd
import pytest
import torch
from torch import nn

from benchmarks.pages import RESULTS
from benchmarks.paper import bound, collapse, correlation, mixture, optimum, record
from benchmarks.paper.__main__ import main
from benchmarks.statistics import over_trials

SHOWS, DOES_NOT = "The claim shows", "The claim does NOT show"
#: entropy of a mixture of Gaussians whose centres are all equal
POINT = math.log(2 * math.pi * math.e * collapse.BANDWIDTH**2)
FIGURES = "--images 64 --epochs 1 --trials 1 --models 2 --width 0.25 --batch-size 32 --noisy-images 2 --copies 20 --device cpu"
same = pd.DataFrame.copy
#: (figure or theorem, function that changes its recorded rows, phrases in the verdict on the changed rows)
CLAIMS = [
    ("figure1", same, [SHOWS, "VICReg 0.460 and 0.019", "smallest 0.332, median 3.071"]),
    ("figure1", lambda f: f.assign(p_value=1 - f.p_value), [DOES_NOT]),
    ("figure1", lambda f: f.assign(p_value=f.p_value / 50), [DOES_NOT]),
    ("figure1", lambda f: f.assign(smallest=0.05 * f["median"]), [DOES_NOT]),
    ("figure2", same, [SHOWS, "that of SimCLR, is 0.059 ± 0.022 nats (more than two standard errors)"]),
    ("figure2", lambda f: f.assign(entropy_upper_nats=f.entropy_upper_nats + f.trial), [SHOWS, "(within two standard errors)"]),
    ("figure2", lambda f: f[f.trial == 0], [SHOWS, "no standard error is known"]),
    ("figure2", lambda f: f.replace({"VICReg": "SimCLR", "SimCLR": "VICReg"}), [DOES_NOT, "-0.059 ± 0.022"]),
    ("figure3", same, [SHOWS, "exceeds 0.05 is 0.2"]),
    ("figure3", lambda f: f.assign(distance=0.2), [DOES_NOT]),
    ("figure4", same, [SHOWS, "these standard deviations: 0.3.", "0.1: 90% and 63%"]),
    # in the next case the centres never collapse. In the case after it they collapse with fixed and with trained inputs
    ("figure4", lambda f: f.assign(entropy_nats=f.entropy_nats.max()), [DOES_NOT, "0.3: 100% and 100%"]),
    ("figure4", lambda f: f.assign(entropy_nats=f.entropy_nats.where(f.step == 0, POINT + 1e-9)), [DOES_NOT, "0.3: 0% and 0%"]),
    ("figure5", same, [DOES_NOT, "Theorem 3 0.328"]),
    # a constant bound has no correlation with the gap
    ("figure5", lambda f: f.assign(core=f.gap, count_bound=1.0), [SHOWS, "Theorem 3 1.000", "head nan"]),
    ("figure5", lambda f: f.assign(core=f.gap, norm_bound=f.gap), [DOES_NOT]),
    ("theorem1", same, [SHOWS, "within the bounds in 17 of 17", "in 27 of 28", "0.088 ± 0.005 nats, at noise 3"]),
    ("theorem1", lambda f: f[f.outside == 0], [SHOWS, "in 0 of 0"]),
    ("theorem1", lambda f: f.assign(within=0), [DOES_NOT]),
    ("theorem1", lambda f: f.assign(gap=1e-6), [DOES_NOT]),
    ("theorem1", lambda f: f.assign(gap=math.nan), [DOES_NOT]),
    ("theorem1", lambda f: f.assign(outside=0.5), [DOES_NOT]),
    ("theorem2", same, [SHOWS, "for 4 of 8 kinds", "not diagonal for: full, random; one direction, shared;"]),
    ("theorem2", lambda f: f.assign(distance=0.1), [DOES_NOT]),
    ("theorem2", lambda f: f.assign(distance=math.nan), [DOES_NOT]),
    ("theorem2", lambda f: f.assign(ascent=f.closed_form + 0.1), [DOES_NOT, "by at most 0.1 nats"]),
    ("theorem3", same, [DOES_NOT, "in 47 of 60 cases", "for n = 16, 32. There the sum is too small by up to 35."]),
    ("theorem3", lambda f: f.assign(sum=f.test_loss), [SHOWS, "the sum is 1.0 times the loss", "below 1 in 41 of the cases"]),
    ("theorem3", lambda f: f.assign(sum=math.nan), [DOES_NOT]),
]


@pytest.mark.parametrize(("name", "change", "phrases"), CLAIMS)
def test_the_verdict_on_a_claim_follows_from_the_rows(name, change, phrases):
    (folder,) = RESULTS.glob(f"*-cpu-{name[:-1]}s")
    said = " ".join(record.said(name, change(record.rows_of(folder, name))).split())
    assert [phrase for phrase in phrases if phrase not in said] == []
    # figure 1 has two claims, so both verdicts may occur in its text
    assert (DOES_NOT in said) == (DOES_NOT in phrases)


def test_residual_blocks_are_one_to_one_because_they_keep_distances_within_a_factor():
    network = nn.Sequential(mixture.Residual(), mixture.Residual()).double()
    x, y = torch.randn(2, 500, mixture.DIM, dtype=torch.float64)
    stretch = (network(x) - network(y)).norm(dim=1) / (x - y).norm(dim=1)
    assert stretch.min() >= (1 - mixture.CONTRACTION) ** 2 and stretch.max() <= (1 + mixture.CONTRACTION) ** 2


def test_the_entropy_of_a_linear_network_is_that_of_a_gaussian_and_a_violated_bound_is_recorded(monkeypatch):
    network, origin = nn.Linear(3, 3).double().requires_grad_(False), torch.zeros(1, 3, dtype=torch.float64)
    row = mixture.measured(network, origin, 0.5, 4096)
    gaussian = 1.5 * math.log(2 * math.pi * math.e * 0.25) + network.weight.det().abs().log().item()
    assert abs(row["entropy"] - gaussian) < 5 * row["entropy_error"]
    assert (row["within"], row["outside"]) == (1, 0) and abs(row["gap"]) < 1e-12
    assert (row["lower"], row["upper"]) == pytest.approx((gaussian, gaussian))
    monkeypatch.setattr(mixture, "ERRORS", -math.inf)
    assert mixture.measured(network, origin, 0.5, 64)["within"] == 0


def test_the_mean_over_trials_has_a_standard_error_which_is_0_for_a_single_trial():
    means = over_trials(pd.DataFrame({"a": [1, 1, 1, 2], "x": [1.0, 2.0, 3.0, 5.0]}), "x", "a")
    assert means["mean"].tolist() == [2.0, 5.0] and means.error.tolist() == pytest.approx([1 / math.sqrt(3), 0.0])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "options"), [("figure", FIGURES), ("theorem", "--trials 1 --samples 64 --seed 3")])
def test_small_runs_write_their_verdicts_and_a_repeated_one_keeps_the_others(tmp_path, capsys, monkeypatch, kind, options):
    monkeypatch.setattr(bound, "STEPS", 5)
    monkeypatch.setattr(collapse, "STEPS", 20)
    names = [name for name in record.MODULES if name.startswith(kind)]
    assert main([f"{kind}s", *options.split(), "--out", str(tmp_path)]) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "README.md").read_text()
    for name, facts in record.settings_of(tmp_path).items():
        section = page.partition(f"## {kind.capitalize()} {name[-1]}")[2].partition("\n## ")[0]
        assert SHOWS in section or DOES_NOT in section
        assert f"{kind}s {options}" in section and "commit" in facts and facts["trials"] == 1
        assert len(record.rows_of(tmp_path, name)) and f"{kind.capitalize()} {name[-1]}" in printed
        # the page names the learning rate of the trained networks. Figure 4 trains no network
        assert ("learning_rate" in section) == (kind == "figure" and name != "figure4")
        assert (tmp_path / f"{name}.png").exists() == (kind == "figure")
    first = record.rows_of(tmp_path, names[0])
    assert main([f"{kind}s", names[-1][-1], *options.split(), "--out", str(tmp_path)]) == 0
    assert list(record.settings_of(tmp_path)) == names and first.equals(record.rows_of(tmp_path, names[0]))
    assert (tmp_path / "README.md").read_text().count(f"\n## {kind.capitalize()}") == len(names)


def test_the_numbers_follow_from_the_seed_and_a_short_sweep_is_the_beginning_of_a_long_one():
    once, again, other = (optimum.rows(1, 0, seed) for seed in (0, 0, 1))
    assert once == again != other
    models = correlation.sweep(36)
    assert len({tuple(model.values()) for model in models}) == 36 and correlation.sweep(5) == models[:5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("figures 6", "no figure 6"),
        ("figures 4 --trials 0", "--trials must be at least 1"),
        ("figures 1 --copies 5", "at least 20"),
        ("figures 5 --models 100", "invalid choice: 100"),
        ("figures 5 --width 0.06", "--width must be at least 0.125"),
        ("figures 5 --width 0.2", "--width. It must be at least 0.25"),
        ("figures 1 --dataset fashion_mnist", "needs --data-root"),
        ("figures 1 --backbone resnet0", "timm has no model"),
        ("theorems 4", "no theorem 4"),
        ("theorems 1 --samples 1", "--samples must be at least 2"),
    ],
)
def test_wrong_requests_end_with_a_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    assert end.value.code == 2 and message in capsys.readouterr().err
