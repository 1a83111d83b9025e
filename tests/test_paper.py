"""Figures and theorems: what is said follows from rows alone and can be negative, each runs at its smallest."""

import math
import random

import benchmarks_extra  # noqa: F401
import pandas as pd
import pytest
import torch
from torch import nn

from benchmarks.pages import table
from benchmarks.paper import bound, collapse, correlation, mixture, optimum, record
from benchmarks.paper.__main__ import main
from benchmarks.statistics import over_trials

SHOWS, DOES_NOT = "The claim shows", "The claim does NOT show"
SMALLEST = "--images 64 --epochs 1 --trials 1 --models 2 --width 0.25 --batch-size 32 --noisy-images 2 --copies 20 --device cpu"


def says(name, rows):
    return " ".join(record.said(name, pd.DataFrame(rows)).split())


def p_values(small, large, distance=1.0):
    noisy = [{"panel": "p-value", "network": "A", "noise": noise, "p_value": p} for noise, p in ((0.01, small), (0.8, large))]
    return [*noisy, {"panel": "distance", "network": "digits", "smallest": distance, "median": 2.0}]


def entropies(**by_method):
    return [
        {"method": method, "trial": trial, "epoch": epoch, "entropy_upper_nats": value}
        for method, values in by_method.items()
        for trial, value in enumerate(values)
        for epoch in (0, 1)
    ]


def distances(small):
    return [{"scale": scale, "distance": d, "conditional_distance": 0.9} for scale, d in ((0.01, small), (0.8, 0.9))]


def left(**shares):
    """Fits that keep these shares of their entropy, by the standard deviation of a component."""
    point = math.log(2 * math.pi * math.e * collapse.BANDWIDTH**2)
    return [
        {"inputs": inputs, "component_std": std, "step": step, "entropy_nats": point + 3.0 * (share if step else 1)}
        for inputs, of_inputs in shares.items()
        for std, share in zip(collapse.COMPONENT_STDS, of_inputs, strict=True)
        for step in (0, 10)
    ]


def models(sign):
    noise, facts = random.Random(0), dict.fromkeys((*correlation.TERMS, "test_loss", "train_loss", "labelled"), 1)
    return [facts | {"gap": g, "core": sign * g, "norm_bound": noise.random(), "count_bound": 1.0} for g in range(20)]


def density(outside=0.0, within=1, gap=0.0, noise=0.1):
    numbers = {"noise": noise, "within": within, "outside": outside, "gap": gap, "gap_error": 0.0}
    return dict.fromkeys(("lower", "entropy", "entropy_error", "upper"), 0.0) | numbers


def ascent(distance=0.0, ascent=1.0, off_diagonal=0.0, kind="isotropic"):
    numbers = {"distance": distance, "ascent": ascent, "closed_form": 1.0, "off_diagonal": off_diagonal}
    return {"conditional": kind, "start": 0.0, "conditional_off_diagonal": 0.0} | numbers


def sums(*values):
    facts = {"network": "A"} | dict.fromkeys(bound.TERMS, 0.0)
    return [facts | {"labelled": 64 >> i, "sum": value, "test_loss": 0.8} for i, value in enumerate(values)]


BEYOND = [density(), density(outside=0.5, gap=0.2, noise=1.0), density(outside=1.0, within=0, gap=0.5, noise=3.0)]


@pytest.mark.parametrize(
    ("name", "rows", "phrases"),
    [
        ("figure1", p_values(0.4, 0.02), [SHOWS]),
        ("figure2", entropies(VICReg=[3.0, 3.1], SimCLR=[1.0, 1.1]), [SHOWS, "more than two standard errors"]),
        ("figure2", entropies(VICReg=[3.0, 3.2], SimCLR=[3.0, 3.1]), [SHOWS, "within two standard errors"]),
        ("figure2", entropies(VICReg=[3.0], SimCLR=[1.0]), [SHOWS, "no standard error"]),
        ("figure3", distances(0.01), [SHOWS, "exceeds 0.05 is 0.8"]),
        ("figure4", left(trainable=[0, 0, 0], fixed=[0.9, 0.9, 0.6]), [SHOWS, "0.1: 90% and 0%"]),
        ("figure4", left(trainable=[0.9, 0, 0], fixed=[1, 0.6, 0.4]), [SHOWS, "these standard deviations: 0.3."]),
        ("figure5", models(1), [SHOWS]),
        ("theorem1", [density()], [SHOWS]),
        ("theorem1", BEYOND, [SHOWS, "in 1 of 2", "0.5 ± 0 nats, at noise 3"]),
        ("theorem2", [ascent(), ascent(kind="full", off_diagonal=0.3)], [SHOWS, "for 1 of 2 kinds", "not diagonal for: full."]),
        ("theorem3", sums(0.9, 1.5), [SHOWS, "below 1 in 1 of the cases"]),
        ("theorem3", sums(0.9, 0.5), [DOES_NOT, "for n = 32. There the sum is too small by up to 0.3"]),
        # rows that lack the claim
        *(("figure1", rows, [DOES_NOT]) for rows in (p_values(0.4, 0.5), p_values(0.009, 0.001), p_values(0.4, 0.02, 0.01))),
        ("figure2", entropies(VICReg=[1.0, 1.1], SimCLR=[2.0, 2.1]), [DOES_NOT]),
        ("figure3", distances(0.2), [DOES_NOT]),
        ("figure4", left(trainable=[0.5, 0.5, 0.02], fixed=[0.9, 0.9, 0.9]), [DOES_NOT]),
        ("figure4", left(trainable=[0, 0, 0], fixed=[0.4, 0.1, 0]), [DOES_NOT]),
        ("figure5", models(-1), [DOES_NOT]),
        *(("theorem1", [density(**fault)], [DOES_NOT]) for fault in ({"within": 0}, {"gap": 1e-6}, {"gap": math.nan})),
        ("theorem1", [density(outside=0.5)], [DOES_NOT]),
        *(("theorem2", [ascent(), ascent(distance=distance)], [DOES_NOT]) for distance in (0.1, math.nan)),
        ("theorem2", [ascent(), ascent(ascent=1.1)], [DOES_NOT]),
        *(("theorem3", sums(value), [DOES_NOT]) for value in (0.1, math.nan)),
    ],
)
def test_what_is_said_of_a_claim_follows_from_the_rows(name, rows, phrases):
    said = says(name, rows)
    assert all(phrase in said for phrase in phrases)
    # figure 1 has two claims
    assert (DOES_NOT in said) == (DOES_NOT in phrases)


def test_the_sweep_has_different_models_and_a_longer_one_continues_a_shorter():
    models = correlation.sweep(36)
    assert len({tuple(model.values()) for model in models}) == 36 and correlation.sweep(5) == models[:5]


def test_blocks_neither_fold_nor_tear_so_that_they_are_one_to_one():
    network = nn.Sequential(mixture.Residual(), mixture.Residual()).double()
    x, y = torch.randn(2, 500, mixture.DIM, dtype=torch.float64)
    stretch = (network(x) - network(y)).norm(dim=1) / (x - y).norm(dim=1)
    assert stretch.min() >= (1 - mixture.CONTRACTION) ** 2 and stretch.max() <= (1 + mixture.CONTRACTION) ** 2


def test_the_entropy_of_a_linear_network_is_a_gaussians_and_a_bound_that_it_misses_is_told(monkeypatch):
    network, origin = nn.Linear(3, 3).double().requires_grad_(False), torch.zeros(1, 3, dtype=torch.float64)
    row = mixture.measured(network, origin, 0.5, 4096)
    gaussian = 1.5 * math.log(2 * math.pi * math.e * 0.25) + network.weight.det().abs().log().item()
    assert abs(row["entropy"] - gaussian) < 5 * row["entropy_error"]
    assert (row["within"], row["outside"]) == (1, 0) and abs(row["gap"]) < 1e-12
    assert (row["lower"], row["upper"]) == pytest.approx((gaussian, gaussian))
    monkeypatch.setattr(mixture, "ERRORS", -math.inf)
    assert mixture.measured(network, origin, 0.5, 64)["within"] == 0


def test_statistics_equal_numpys_and_a_table_has_a_column_a_key():
    means = over_trials(pd.DataFrame({"a": [1, 1, 1, 2], "x": [1.0, 2.0, 3.0, 5.0]}), "x", "a")
    assert means["mean"].tolist() == [2.0, 5.0] and means.error.tolist() == pytest.approx([1 / math.sqrt(3), 0.0])
    lines = [{"noise": "1", "gap": "0.1"}, {"noise": "2", "gap": "0.2"}]
    assert table(lines) == "| noise | gap |\n|---|---:|\n| 1 | 0.1 |\n| 2 | 0.2 |"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["figure", "theorem"])
def test_everything_runs_at_its_smallest_and_one_more_keeps_the_others(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setattr(bound, "STEPS", 5)
    monkeypatch.setattr(collapse, "STEPS", 20)
    words = SMALLEST.split() if kind == "figure" else ["--trials", "1", "--samples", "64", "--seed", "3"]
    assert main([f"{kind}s", *words, "--out", str(tmp_path)]) == 0
    names = [name for name in record.MODULES if name.startswith(kind)]
    printed, page = capsys.readouterr().out, (tmp_path / "README.md").read_text()
    for name, facts in record.settings_of(tmp_path).items():
        section = page.partition(f"## {kind.capitalize()} {name[-1]}")[2].partition("\n## ")[0]
        assert SHOWS in section or DOES_NOT in section
        assert f"{kind}s {' '.join(words)}" in section and "commit" in facts and facts["trials"] == 1
        assert len(record.rows_of(tmp_path, name)) and f"{kind.capitalize()} {name[-1]}" in printed
        # what trained a network is told with it; figure 4 trains none
        assert ("learning_rate" in section) == (kind == "figure" and name != "figure4")
        assert (tmp_path / f"{name}.png").exists() == (kind == "figure")
    frame = record.rows_of(tmp_path, names[0])
    assert main([f"{kind}s", names[-1][-1], *words, "--out", str(tmp_path)]) == 0
    assert list(record.settings_of(tmp_path)) == names and frame.equals(record.rows_of(tmp_path, names[0]))
    assert (tmp_path / "README.md").read_text().count(f"\n## {kind.capitalize()}") == len(names)


def test_numbers_follow_from_the_seed():
    once, again, other = (optimum.rows(1, 0, seed) for seed in (0, 0, 1))
    assert once == again != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("figures 6", "no figure 6"),
        ("figures 4 --trials 0", "--trials must be at least 1"),
        ("figures 1 --copies 5", "at least 20"),
        ("figures 5 --models 100", "invalid choice: 100"),
        ("figures 5 --width 0.06", "--width must be at least 0.125"),
        ("figures 5 --width 0.2", "--width, which must be at least 0.25"),
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
