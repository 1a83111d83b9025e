"""Theorem 2: Hadamard's inequality holds, the expansion of log det is right, and gradient ascent finds the optimum."""

import math

import pytest
import torch

from it_losses import theory

F64 = torch.float64


def positive_definite(dim, *batch):
    root = torch.randn(*batch, dim, dim, dtype=F64)
    return root @ root.mT / dim + 0.2 * torch.eye(dim, dtype=F64)


def test_objective_is_the_sum_over_images():
    covariance, one, other = torch.diag(torch.tensor([2.0, 3.0])), 0.5 * torch.eye(2), 0.1 * torch.eye(2)
    value = theory.log_det_ratio(covariance, one.expand(4, 2, 2), other.expand(4, 2, 2))
    assert value.item() == pytest.approx(4 * math.log(6 / (0.25 * 0.01)), rel=1e-6)


@pytest.mark.parametrize("largest", [1.0, 4.0])
def test_without_conditional_covariance_the_optimum_is_diagonal(largest):
    nothing = torch.zeros(3, 6, 6, dtype=F64)
    optimum = theory.maximise_log_det_ratio(nothing, nothing, largest=largest)
    torch.testing.assert_close(optimum, largest * torch.eye(6, dtype=F64), rtol=1e-10, atol=1e-10)
    assert theory.distance_from_diagonal(optimum) < 1e-10


def test_the_optimum_beats_every_other_matrix_with_the_same_eigenvalues():
    conditional, other = 0.1 * positive_definite(5, 2, 7)
    optimum = theory.maximise_log_det_ratio(conditional, other)
    noise = (conditional.mean(dim=0) + other.mean(dim=0)) / 2
    torch.testing.assert_close(optimum, torch.eye(5, dtype=F64) + noise, rtol=1e-9, atol=1e-9)
    best = theory.log_det_ratio(optimum, conditional, other)
    for _ in range(20):
        rotation = torch.linalg.qr(torch.randn(5, 5, dtype=F64)).Q
        means = rotation * torch.rand(5, dtype=F64) @ rotation.T
        assert theory.log_det_ratio(means + noise, conditional, other) < best


def test_distance_from_diagonal_grows_with_the_perturbation():
    conditional = positive_definite(5, 7)
    optima = [theory.maximise_log_det_ratio(s * conditional, s * conditional) for s in (1e-3, 1e-2, 1e-1)]
    distances = [theory.distance_from_diagonal(s).item() for s in optima]
    assert distances == sorted(distances)
    assert distances[0] < 1e-3


def test_distance_from_diagonal_of_two_coordinates():
    covariance = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=F64)
    assert theory.distance_from_diagonal(covariance).item() == pytest.approx(math.sqrt(2 / 15))
    both = torch.stack([covariance, torch.eye(2, dtype=F64)])
    assert theory.distance_from_diagonal(both).tolist() == pytest.approx([math.sqrt(2 / 15), 0])


def test_a_matrix_that_is_not_positive_definite_has_no_log_determinant():
    # two negative eigenvalues, so the determinant is positive
    indefinite, identity = torch.diag(torch.tensor([-1.0, -2.0, 3.0], dtype=F64)), torch.eye(3, dtype=F64)
    assert theory.log_det_ratio(indefinite, identity[None], identity[None]).isnan()
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=F64)).Q
    gaps = theory.hadamard_gap(torch.stack((rotation @ indefinite @ rotation.T, identity)))
    assert gaps[0].isnan() and gaps[1] == 0


def test_hadamard_gap_is_the_mutual_information_of_two_coordinates():
    correlation = 0.6
    covariance = torch.tensor([[4.0, 2 * correlation], [2 * correlation, 1.0]], dtype=F64)
    assert theory.hadamard_gap(covariance).item() == pytest.approx(-0.5 * math.log(1 - correlation**2))
    gaps = theory.hadamard_gap(positive_definite(6, 50))
    assert gaps.shape == (50,)
    assert (gaps > 0).all()
    assert theory.hadamard_gap(torch.diag(torch.rand(5, dtype=F64))).abs() < 1e-12


def test_the_expansion_about_the_identity_is_of_third_order():
    error = torch.randn(5, 5, dtype=F64)
    error = (error + error.T) / 10

    def difference(size):
        covariance = torch.eye(5, dtype=F64) + size * error
        return (theory.second_order_log_det(covariance) - 0.5 * torch.logdet(covariance)).abs()

    orders = [torch.log2(difference(2 * size) / difference(size)) for size in (1e-2, 1e-3)]
    assert all(2.9 < order < 3.1 for order in orders)


def test_the_expansion_has_the_gradient_of_the_log_determinant_at_the_identity():
    covariance = torch.eye(4, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(theory.second_order_log_det(covariance), covariance)
    torch.testing.assert_close(gradient, 0.5 * torch.eye(4, dtype=F64))
