"""The paper's theorems as functions (Shwartz-Ziv et al., arXiv 2303.00633).

output_mixture     Theorem 1: the output distribution of a network for noisy prototypes, its density and entropy
likelihood         E log q(z | z') of Gaussians and of unit vectors, and estimates of covariances
optimum            Theorem 2: the covariance of largest entropy under bounded eigenvalues is diagonal
network            Jacobians; the test of Figure 1: is the output Gaussian for Gaussian noise at the input?
generalization     Theorem 3: the bound on the test loss of a linear head, term by term

`docs/sources.md` separates what the paper says from what was derived or interpreted.
"""

from it_losses.theory.generalization import (
    GeneralizationBound,
    LeastSquaresHead,
    empirical_rademacher,
    generalization_bound,
    generalization_gap,
    least_squares_head,
    least_squares_residual,
)
from it_losses.theory.likelihood import (
    expected_log_likelihood,
    half_log_det_covariance,
    hutchinson_trace,
    view_covariance,
    von_mises_fisher_log_constant,
    von_mises_fisher_log_likelihood,
)
from it_losses.theory.network import normality_p_values, output_normality
from it_losses.theory.optimum import (
    distance_from_diagonal,
    hadamard_gap,
    log_det_ratio,
    maximise_log_det_ratio,
    second_order_log_det,
)
from it_losses.theory.output_mixture import OutputMixture, linearization_error, output_mixture

__all__ = [
    "GeneralizationBound",
    "LeastSquaresHead",
    "OutputMixture",
    "distance_from_diagonal",
    "empirical_rademacher",
    "expected_log_likelihood",
    "generalization_bound",
    "generalization_gap",
    "hadamard_gap",
    "half_log_det_covariance",
    "hutchinson_trace",
    "least_squares_head",
    "least_squares_residual",
    "linearization_error",
    "log_det_ratio",
    "maximise_log_det_ratio",
    "normality_p_values",
    "output_mixture",
    "output_normality",
    "second_order_log_det",
    "view_covariance",
    "von_mises_fisher_log_constant",
    "von_mises_fisher_log_likelihood",
]
