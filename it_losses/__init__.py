"""it-losses: self-supervised objectives read off one inequality, I(Z; X') >= H(Z) + E[log q(z | z')].

criteria            VICRegEntropy, VICReg, EntropyRegularizer: what a training loop calls
functional          the same objectives as functions of tensors
bound               the sum entropy + invariance, and its Terms
entropy             estimators of H(Z), by name in ESTIMATORS: each file holds a definition, which is the reference
likelihood          E[log q(z | z')] as a squared distance of the views
vicreg_conventions  whose VICReg weights mean what
checks, constants   what may enter, and modules whose constants are checked whenever they are set
precision           float32 sums of half precision, autocast off
distributed         the ranks that share a batch, and their collectives
kernels             fused forms of the objectives: value and gradient in closed form
observe             objects that are told of every call of a criterion
diagnostics         what a run measures of its embeddings
theory              the paper's theorems, to be evaluated
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
