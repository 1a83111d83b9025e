"""The terms of Theorem 3 equal explicit projections, numpy's least squares, and the known answers of small problems."""

import math

import numpy as np
import pytest
import torch

from it_losses import theory

F64 = torch.float64


def assert_close(value, expected, rtol=1e-9, atol=1e-9):
    torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(expected, dtype=F64), rtol=rtol, atol=atol)


def projection(z):
    """Return P_Z = I - Z^T (Z Z^T)^+ Z, where Z = z^T has a sample in each column."""
    columns = z.T
    return torch.eye(len(z), dtype=F64) - columns.T @ torch.linalg.pinv(columns @ columns.T) @ columns


@pytest.mark.parametrize(("samples", "rank"), [(30, 8), (30, 3), (6, 6)])
def test_residual_is_the_projection_written_out(samples, rank):
    z = torch.randn(samples, rank, dtype=F64) @ torch.randn(rank, 8, dtype=F64)
    targets = torch.randn(samples, 4, dtype=F64)
    head = theory.least_squares_head(z, targets)
    assert head.rank == rank
    assert_close(head.residual, torch.linalg.matrix_norm(projection(z) @ targets), atol=1e-7)
    assert_close(torch.linalg.matrix_norm(projection(z)) ** 2, samples - rank)
    assert_close(theory.least_squares_residual(z, torch.eye(samples, dtype=F64)) ** 2, samples - rank)


@pytest.mark.parametrize("rank", [3, 8])
def test_head_is_numpys_of_minimum_norm(rank):
    z, targets = torch.randn(20, rank, dtype=F64) @ torch.randn(rank, 8, dtype=F64), torch.randn(20, 4, dtype=F64)
    expected = np.linalg.lstsq(z.numpy(), targets.numpy(), rcond=1e-12)[0]
    assert_close(theory.least_squares_head(z, targets).weight, torch.as_tensor(expected))


def test_rounding_errors_of_features_are_not_fitted():
    # the float32 features have rank 4. Their other directions hold rounding errors, which the float64 fit must not use
    z = (torch.randn(60, 4) @ torch.randn(4, 20)).float()
    head = theory.least_squares_head(z, torch.randn(60, 3))
    assert head.rank == 4
    assert head.weight.abs().max() < 1e3


def test_more_directions_never_loosen_the_residual():
    z, targets = torch.randn(40, 16, dtype=F64), torch.randn(40, 3, dtype=F64)
    residuals = [theory.least_squares_residual(z[:, :k], targets).item() for k in (1, 4, 8, 16)]
    assert residuals == sorted(residuals, reverse=True)


def test_bound_is_zero_where_features_are_invariant_and_fit_the_targets():
    weight = torch.randn(6, 3, dtype=F64)
    z, unlabelled = torch.randn(30, 6, dtype=F64), torch.randn(50, 6, dtype=F64)
    bound = theory.generalization_bound(z, z @ weight, unlabelled, unlabelled, unlabelled @ weight)
    assert_close(torch.stack([*bound]), torch.zeros(5))
    assert_close(bound.total, 0)


def test_terms_of_features_that_vanish():
    # the norm of the targets is 3, and features of zero fit nothing of it. The views differ by (3, 4), of length 5
    zero, targets = torch.zeros(9, 2), torch.eye(3).repeat(3, 1)
    bound = theory.generalization_bound(zero, targets, zero, zero + torch.tensor([3.0, 4.0]), targets)
    assert_close(bound.invariance, 5)
    assert_close(bound.unlabelled_residual, 2)
    assert_close(bound.labelled_residual, 1)
    assert_close(bound.core, 8)


def test_the_user_gives_the_remaining_terms():
    z = torch.randn(16, 3)
    bound = theory.generalization_bound(z, z, z, z, z, rademacher_complexity=2.0, confidence=0.25)
    assert_close(bound.rademacher, 1)
    assert_close(bound.confidence, 0.25)
    assert_close(bound.total, bound.core + 1.25)
    assert bound.total.dtype == F64


def test_invariance_scales_with_the_features_and_the_residuals_do_not():
    z, targets, view, other, labels = (torch.randn(20, d, dtype=F64) for d in (4, 2, 4, 4, 2))
    bound = theory.generalization_bound(z, targets, view, other, labels)
    scaled = theory.generalization_bound(10 * z, targets, 10 * view, 10 * other, labels)
    assert_close(scaled.invariance, 10 * bound.invariance)
    assert_close(scaled.unlabelled_residual, bound.unlabelled_residual)
    assert_close(scaled.labelled_residual, bound.labelled_residual)


def test_gap_of_memorised_noise_is_the_test_loss():
    z, targets = torch.randn(8, 20, dtype=F64), torch.randn(8, 3, dtype=F64)
    test_z, test_targets = torch.randn(50, 20, dtype=F64), torch.randn(50, 3, dtype=F64)
    weight = theory.least_squares_head(z, targets).weight
    gap = theory.generalization_gap(weight, z, targets, test_z, test_targets)
    assert_close(gap, (test_z @ weight - test_targets).norm(dim=1).mean())


def test_rademacher_of_one_model_vanishes_and_of_two_is_the_half_normal_mean():
    one = torch.full((1, 400), 2.0)
    assert abs(theory.empirical_rademacher(one, draws=20_000)) < 5 * 2 / math.sqrt(20_000)
    two = torch.cat([one, -one])
    assert_close(theory.empirical_rademacher(two, draws=20_000), 2 * math.sqrt(2 / math.pi), rtol=0.03)


def test_a_missing_target_is_an_error():
    with pytest.raises(ValueError, match="one target for each sample"):
        theory.least_squares_head(torch.randn(4, 2), torch.randn(5, 2))
