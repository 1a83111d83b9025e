"""Functions of `it_losses.theory` refuse arguments that would silently give a wrong number. The error names the argument."""

import numpy as np
import pytest
import torch
from torch import nn

from it_losses import theory

F64 = torch.float64
NETWORK = nn.Linear(3, 2).double()
X = torch.randn(4, 3, dtype=F64)
Z, ONE_HOT = torch.randn(12, 5, dtype=F64), nn.functional.one_hot(torch.arange(12) % 3)
COVARIANCES = torch.eye(2, dtype=F64).expand(4, 2, 2)
MIXTURE = theory.OutputMixture(X[:, :2], COVARIANCES)
WEIGHT = torch.randn(5, 3)


def bound(z=Z, targets=ONE_HOT, other=Z, **constants):
    return theory.generalization_bound(z, targets, Z, other, ONE_HOT, **constants)


REFUSED = {
    "rademacher_complexity": lambda: bound(rademacher_complexity=-1.0),
    "confidence": lambda: bound(confidence=float("nan")),
    "unlabelled_z and unlabelled_z_other must have the same shape": lambda: bound(other=Z[:1]),
    "one target for each sample": lambda: theory.least_squares_head(Z, ONE_HOT[:5]),
    r"targets must have shape \(rows, columns\) and not be empty, got \(12,\)": lambda: theory.least_squares_head(
        Z, ONE_HOT[:, 0]
    ),
    r"targets must have shape \(rows, columns\) and not be empty, got \(12,\).?": lambda: theory.generalization_gap(
        WEIGHT, Z, ONE_HOT[:, 0], Z, ONE_HOT
    ),
    "one target for each": lambda: theory.generalization_gap(WEIGHT, Z, ONE_HOT, Z, ONE_HOT[:1]),
    "features must be a floating-point tensor, got torch.int64": lambda: theory.least_squares_head(ONE_HOT, ONE_HOT),
    "features must be a floating-point tensor, got ndarray": lambda: theory.least_squares_head(np.ones((3, 2)), ONE_HOT),
    "draws must be a whole number": lambda: theory.empirical_rademacher(Z, draws=0),
    "distances": lambda: theory.empirical_rademacher(Z[0]),
    "probes": lambda: theory.hutchinson_trace(NETWORK, X, 0.1, probes=0),
    "noise_std must be a finite number >= 0": lambda: theory.hutchinson_trace(NETWORK, X, -0.1),
    "noise_std must be a finite number >= 0.": lambda: theory.half_log_det_covariance(NETWORK, X, float("inf"), ridge=1.0),
    "ridge must be a finite number > 0": lambda: theory.half_log_det_covariance(NETWORK, X, 0.1, ridge=0.0),
    "decoder_covariance must be positive definite": lambda: theory.expected_log_likelihood(
        X[0, :2], COVARIANCES[0], X[1, :2], COVARIANCES[0], decoder_covariance=torch.zeros(2, 2, dtype=F64)
    ),
    "smallest must be a finite number > 0": lambda: theory.maximise_log_det_ratio(COVARIANCES, COVARIANCES, smallest=0.0),
    "smallest must not be above largest": lambda: theory.maximise_log_det_ratio(COVARIANCES, COVARIANCES, smallest=2.0),
    "steps": lambda: theory.maximise_log_det_ratio(COVARIANCES, COVARIANCES, steps=-1),
    "step_size": lambda: theory.maximise_log_det_ratio(COVARIANCES, COVARIANCES, step_size=-0.5),
    "means must have shape": lambda: theory.OutputMixture(X[0], COVARIANCES),
    "count must be a whole number >= 0": lambda: MIXTURE.sample(2.5),
    "count must be a whole number >= 2": lambda: MIXTURE.entropy(1),
    "ridge must be a finite number >= 0": lambda: theory.output_mixture(NETWORK, X, 0.1, ridge=-1e-3),
    "covariance": lambda: theory.output_mixture(NETWORK, X, -0.1),
    "z_a and z_b must have the same shape": lambda: theory.von_mises_fisher_log_likelihood(Z, Z[:1], concentration=1.0),
    "z must have shape": lambda: MIXTURE.log_density(MIXTURE.means[:, :1]),
    "got a vector": lambda: theory.output_mixture(NETWORK, X, torch.ones(X[0].numel(), dtype=F64)),
    "both targets need": lambda: theory.generalization_gap(WEIGHT, Z, ONE_HOT[:, :1], Z, ONE_HOT),
    "both conditional covariances": lambda: theory.log_det_ratio(COVARIANCES[0], COVARIANCES, COVARIANCES[:1]),
    "draws": lambda: theory.linearization_error(NETWORK, X, 0.1, draws=0),
    "noise_std must be a finite number > 0": lambda: theory.linearization_error(NETWORK, X, 0.0),
    "copies must be a whole number >= 20": lambda: theory.output_normality(NETWORK, X, noise_std=0.1, copies=8),
    "noise_std must be a finite number": lambda: theory.output_normality(NETWORK, X, noise_std=-0.1),
}


@pytest.mark.parametrize("message", REFUSED)
def test_an_argument_that_gives_no_answer_is_refused_by_name(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_one_hot_targets_may_be_integers_and_a_weight_may_be_float32():
    assert bound().core.isfinite()
    torch.testing.assert_close(
        theory.least_squares_head(Z, ONE_HOT).weight, theory.least_squares_head(Z, ONE_HOT.double()).weight
    )
    assert theory.generalization_gap(WEIGHT, Z, ONE_HOT, Z, ONE_HOT) == 0
