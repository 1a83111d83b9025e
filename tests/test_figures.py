"""The figures: captions follow from rows alone, each figure runs at its smallest, wrong requests are told."""

import csv
import math
import random

import benchmarks_extra  # noqa: F401
import pytest
from matplotlib.figure import Figure

from benchmarks.figures import collapse, diagonality, entropy, generalization, normality
from benchmarks.figures.__main__ import FIGURES, main
from benchmarks.figures.statistics import mean_and_error, pearson

SHOWS, DOES_NOT = "The claim shows", "The claim does NOT show"
SMALLEST = {
    "images": 64,
    "epochs": 1,
    "trials": 1,
    "models": 2,
    "width": 0.125,
    "batch-size": 32,
    "noisy-images": 2,
    "copies": 20,
}


def p_values(*values, distance=1.0):
    rows = [
        {"panel": "p-value", "network": "A", "trial": 0, "noise": noise, "p_value": p}
        for noise, p in zip((0.01, 0.8), values, strict=True)
    ]
    facts = {"smallest": distance, "median": 2.0, "width": 1.0}
    return [*rows, {"panel": "distance", "network": "digits", "distance": 0.0, "share": 1.0, **facts}]


def test_normality_shows_where_p_falls_from_above_the_line():
    assert normality.caption(p_values(0.4, 0.02)).count(SHOWS) == 2
    assert DOES_NOT in normality.caption(p_values(0.4, 0.5))
    assert DOES_NOT in normality.caption(p_values(0.009, 0.001))
    assert DOES_NOT in normality.caption(p_values(0.4, 0.02, distance=0.01))


def entropies(**by_method):
    return [
        {
            "method": method.replace("_", " "),
            "trial": trial,
            "epoch": epoch,
            "entropy_lower_nats": 0.0,
            "entropy_upper_nats": value,
        }
        for method, values in by_method.items()
        for trial, value in enumerate(values)
        for epoch in (0, 1)
    ]


def test_entropy_shows_where_vicregs_is_highest_and_says_how_surely():
    sure = entropy.caption(entropies(VICReg=[3.0, 3.1], SimCLR=[1.0, 1.1]))
    assert SHOWS in sure
    assert "more than two" in sure
    assert "within two" in entropy.caption(entropies(VICReg=[3.0, 3.2], SimCLR=[3.0, 3.1]))
    assert DOES_NOT in entropy.caption(entropies(VICReg=[1.0, 1.1], SimCLR=[2.0, 2.1]))
    assert "no standard error" in entropy.caption(entropies(VICReg=[3.0], SimCLR=[1.0]))


def test_diagonality_shows_where_the_smallest_perturbation_leaves_a_diagonal():
    def rows(small):
        return [{"trial": 0, "scale": s, "distance": d, "conditional_distance": 0.9} for s, d in ((0.01, small), (0.8, 0.9))]

    assert SHOWS in diagonality.caption(rows(0.01))
    assert DOES_NOT in diagonality.caption(rows(0.2))


def test_collapse_shows_where_trainable_inputs_alone_become_one():
    point = math.log(2 * math.pi * math.e * collapse.BANDWIDTH**2)

    def rows(**left):
        return [
            {"inputs": inputs, "component_std": std, "step": step, "entropy_nats": point + (3.0 if step == 0 else 3.0 * share)}
            for inputs, shares in left.items()
            for std, share in zip(collapse.COMPONENT_STDS, shares, strict=True)
            for step in (0, 10)
        ]

    everywhere = collapse.caption(rows(trainable=[0, 0, 0], fixed=[0.9, 0.9, 0.6]))
    assert SHOWS in everywhere and "Only" not in everywhere
    assert "90% of it left with fixed inputs, 0% with trainable" in everywhere
    assert "Only with component std 0.3:" in collapse.caption(rows(trainable=[0.9, 0, 0], fixed=[1, 0.6, 0.4]))
    assert DOES_NOT in collapse.caption(rows(trainable=[0.5, 0.5, 0.02], fixed=[0.9, 0.9, 0.9]))
    assert DOES_NOT in collapse.caption(rows(trainable=[0, 0, 0], fixed=[0.4, 0.1, 0]))


def test_generalization_shows_where_our_bound_follows_the_gap_best():
    noise = random.Random(0)

    def rows(sign):
        terms = {"invariance": 0.1, "unlabelled_residual": 0.1, "labelled_residual": 0.1, "labelled": 9}
        return [
            {**terms, "gap": gap, "test_loss": 1.0, "core": sign * gap, "norm_bound": noise.random(), "count_bound": 1.0}
            for gap in range(20)
        ]

    assert SHOWS in generalization.caption(rows(+1))
    assert DOES_NOT in generalization.caption(rows(-1))


def test_the_sweep_has_different_models_and_a_longer_one_continues_a_shorter():
    models = generalization.sweep(36)
    assert len({tuple(model.values()) for model in models}) == 36
    assert generalization.sweep(5) == models[:5]


def test_statistics_are_those_of_numpys():
    assert mean_and_error([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / math.sqrt(3)))
    assert pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert math.isnan(pearson([1, 1], [1, 2]))


@pytest.mark.slow
def test_every_figure_runs_at_its_smallest(tmp_path, capsys):
    smallest = [f"--{name}={value}" for name, value in SMALLEST.items()]
    assert main([*smallest, "--device", "cpu", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for name in FIGURES:
        assert (tmp_path / f"figure{name}.png").stat().st_size > 5000
        header, *rows = csv.reader((tmp_path / f"figure{name}.csv").read_text().splitlines())
        assert rows
        assert all(len(row) == len(header) for row in rows)
        text = (tmp_path / f"figure{name}.md").read_text()
        assert "The claim " in text
        assert '"epochs": 1' in text
        # what trained a network is told with it; figure 4 trains none
        assert ('"learning_rate"' in text) == (name != "4")
        assert f"Figure {name}" in printed


def test_a_figure_is_drawn_from_its_rows_alone():
    figure = Figure()
    entropy.plot(entropies(VICReg=[3.0, 3.1], SimCLR=[1.0, 1.1]), figure)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["VICReg", "SimCLR"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["6"], "no figure 6"),
        (["4", "--trials", "0"], "--trials must be at least 1"),
        (["1", "--copies", "5"], "at least 20"),
        (["5", "--models", "100"], "at most 36"),
        (["5", "--width", "0.06"], "--width must be at least 0.125"),
        (["1", "--dataset", "fashion_mnist"], "needs --data-root"),
        (["1", "--backbone", "resnet0"], "timm has no model"),
    ],
)
def test_wrong_requests_end_with_a_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
