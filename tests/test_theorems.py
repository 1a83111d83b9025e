"""The theorems: findings follow from rows alone and can be negative, each runs at its smallest, wrong requests are told."""

import csv
import json
import math
import re

import pytest
import torch
from torch import nn

from benchmarks.theorems import generalization, mixture, optimum, page
from benchmarks.theorems.__main__ import THEOREMS, main

SHOWS, DOES_NOT = "The claim shows", "The claim does NOT show"


def entropy(outside=0.0, within=1, gap=0.0, noise=0.1):
    return {"noise": noise, "within": within, "outside": outside, "gap": gap, "gap_error": 0.0}


def test_the_mixture_shows_where_its_density_is_exact_and_its_bounds_hold_inside_a_linear_region():
    assert SHOWS in mixture.finding([entropy()])
    assert SHOWS in mixture.finding([entropy(), entropy(outside=0.5, within=0, gap=1.0)])
    for fault in ({"within": 0}, {"gap": 1e-6}, {"gap": math.nan}, {"outside": 0.5}):
        assert DOES_NOT in mixture.finding([entropy(**fault)])


def test_the_mixture_says_what_becomes_of_it_beyond():
    said = mixture.finding(
        [entropy(), entropy(outside=0.5, gap=0.2, noise=1.0), entropy(outside=1.0, within=0, gap=0.5, noise=3.0)]
    )
    assert "in 1 of 2" in said
    assert "0.5 ± 0 nats, at noise 3" in said


def ascent(distance=0.0, ascent=1.0, off_diagonal=0.0, kind="isotropic"):
    return {"conditional": kind, "distance": distance, "ascent": ascent, "closed_form": 1.0, "off_diagonal": off_diagonal}


def test_the_optimum_shows_where_every_ascent_ends_at_the_closed_form():
    assert SHOWS in optimum.finding([ascent()])
    for fault in ({"distance": 0.1}, {"distance": math.nan}, {"ascent": 1.1}):
        assert DOES_NOT in optimum.finding([ascent(), ascent(**fault)])


def test_the_optimum_names_where_it_is_not_diagonal():
    assert "2 of 2 kinds of conditional covariances." in optimum.finding([ascent(), ascent(kind="full")])
    assert "1 of 2 kinds of conditional covariances, not for: full." in optimum.finding(
        [ascent(), ascent(kind="full", off_diagonal=0.3)]
    )


def loss(total, labelled=64):
    return {"labelled": labelled, "sum": total, "test_loss": 0.8}


def test_the_bound_shows_where_it_is_never_below_the_test_loss():
    assert SHOWS in generalization.finding([loss(0.9), loss(1.5)])
    assert "in 1 of these cases below 1" in generalization.finding([loss(0.9), loss(1.5)])
    said = generalization.finding([loss(0.9), loss(0.5, labelled=32)])
    assert DOES_NOT in said
    assert "for n = 32, by up to 0.3" in said
    for lost in (0.1, math.nan):
        assert DOES_NOT in generalization.finding([loss(lost)])


def test_blocks_neither_fold_nor_tear_so_that_they_are_one_to_one():
    network = nn.Sequential(mixture.Residual(), mixture.Residual()).double()
    x, y = torch.randn(2, 500, mixture.DIM, dtype=torch.float64)
    stretch = (network(x) - network(y)).norm(dim=1) / (x - y).norm(dim=1)
    least = (1 - mixture.CONTRACTION) ** 2
    assert least <= stretch.min()
    assert stretch.max() <= (1 + mixture.CONTRACTION) ** 2


def test_the_entropy_of_a_linear_network_is_a_gaussians():
    network = nn.Linear(3, 3).double().requires_grad_(False)
    row = mixture.measured(network, torch.zeros(1, 3, dtype=torch.float64), 0.5, 4096)
    gaussian = 1.5 * math.log(2 * math.pi * math.e * 0.25) + network.weight.det().abs().log().item()
    assert abs(row["entropy"] - gaussian) < 5 * row["entropy_error"]
    assert row["lower"] == pytest.approx(gaussian)
    assert (row["within"], row["outside"], row["upper"]) == (1, 0, pytest.approx(gaussian))
    assert abs(row["gap"]) < 1e-12


def test_a_bound_that_the_entropy_misses_is_told(monkeypatch):
    monkeypatch.setattr(mixture, "ERRORS", -math.inf)
    row = mixture.measured(nn.Identity(), torch.zeros(1, 3, dtype=torch.float64), 0.5, 64)
    assert row["within"] == 0


def test_every_theorem_is_recomputed_at_its_smallest(tmp_path, capsys, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(generalization, "STEPS", 5)
    assert main(["--trials", "1", "--samples", "64", "--seed", "3", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for number in THEOREMS:
        rows = list(csv.DictReader((tmp_path / f"theorem{number}.csv").read_text().splitlines()))
        text = (tmp_path / f"theorem{number}.md").read_text()
        settings = json.loads(re.search(r"Settings: `(.*)`", text)[1])
        assert rows
        assert (settings["seed"], settings["trials"], settings["samples"]) == (3, 1, 64)
        assert "commit" in settings
        assert f"python -m benchmarks.theorems {number} --seed 3 --trials 1 --samples 64" in text
        assert "Proved" in text
        assert f"Theorem {number}" in printed
        assert SHOWS in text or DOES_NOT in text


def test_numbers_follow_from_the_seed():
    pytest.importorskip("sklearn")
    once, again, other = (optimum.rows(page.Setup(seed=seed, trials=1)) for seed in (0, 0, 1))
    assert once == again
    assert once != other


def test_a_table_has_a_column_a_key():
    lines = [{"noise": "1", "gap": "0.1"}, {"noise": "2", "gap": "0.2"}]
    assert page.markdown(lines) == "| noise | gap |\n|---|---:|\n| 1 | 0.1 |\n| 2 | 0.2 |"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["4"], "no theorem 4"),
        (["1", "--trials", "0"], "--trials must be at least 1"),
        (["1", "--samples", "1"], "--samples must be at least 2"),
    ],
)
def test_wrong_requests_end_with_a_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
