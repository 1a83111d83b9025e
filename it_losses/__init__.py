"""it-losses: self-supervised objectives read off one inequality, I(Z; X') >= H(Z) + E[log q(z | z')].

criteria      VICRegEntropy, VICReg, EntropyRegularizer: what a training loop calls
bound         the sum entropy + invariance, and its Terms
entropy       estimators of H(Z): VarianceCovariance, LogDet, Pairwise, by name in ESTIMATORS
invariance    E[log q(z | z')] as a squared distance of the views
conventions   whose VICReg weights mean what
checks        what may enter: views, weights, flags
constants     modules whose constants are checked whenever they are set
functional    the same objectives as functions of tensors
distributed   the ranks that share a batch, and their collectives
global_batch  the loss of their batch
kernels       fused twins of the estimators
diagnostics   what a run measures of its embeddings
theory        the paper's theorems, to be evaluated
"""

from it_losses import diagnostics, functional, theory
from it_losses.bound import Terms
from it_losses.criteria import EntropyRegularizer, VICReg, VICRegEntropy
from it_losses.entropy import ESTIMATORS, BoundWeights, EntropyEstimator, LogDet, Pairwise, VarianceCovariance

__version__ = "0.1.0"

__all__ = [
    "ESTIMATORS",
    "BoundWeights",
    "EntropyEstimator",
    "EntropyRegularizer",
    "LogDet",
    "Pairwise",
    "Terms",
    "VICReg",
    "VICRegEntropy",
    "VarianceCovariance",
    "diagnostics",
    "functional",
    "theory",
]
