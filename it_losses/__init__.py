"""it-losses: self-supervised losses from one inequality, I(Z; X') >= H(Z) + E[log q(z | z')].

criteria            VICRegEntropy, VICReg, EntropyRegularizer: the modules that a training loop calls
functional          the same objectives as functions of tensors
bound               the loss, which is -(entropy + likelihood), and its Terms
entropy             estimators of H(Z), by name in ESTIMATORS; each file is a reference implementation
likelihood          E[log q(z | z')] as a distance of the views: Gaussian or von Mises-Fisher
normalize           unit norm of each sample, or unit variance of each dimension
vicreg_conventions  what VICReg's weights mean in each published code
sigreg_conventions  how each published source defines SIGReg
slices              random directions that all ranks share
checks, constants   checks of views, and modules that check their constants whenever they are set
precision           half precision is accumulated in float32, without autocast
distributed         the ranks that share one batch, and their collectives
kernels             fused implementations: value and closed-form gradient of each objective
observe             observers, which are notified of every call of a criterion
diagnostics         measurements of embeddings: entropies, matrix ranks, collapse
theory              the paper's theorems as functions
"""

from it_losses import diagnostics, functional, theory
from it_losses.bound import Terms
from it_losses.criteria import EntropyRegularizer, VICReg, VICRegEntropy
from it_losses.entropy import (
    ESTIMATORS,
    BoundWeights,
    EntropyEstimator,
    KoLeo,
    LogDet,
    MatrixRenyi,
    Pairwise,
    QuadraticRenyi,
    SIGReg,
    Spacings,
    VarianceCovariance,
)

__version__ = "0.2.0"

__all__ = [
    "ESTIMATORS",
    "BoundWeights",
    "EntropyEstimator",
    "EntropyRegularizer",
    "KoLeo",
    "LogDet",
    "MatrixRenyi",
    "Pairwise",
    "QuadraticRenyi",
    "SIGReg",
    "Spacings",
    "Terms",
    "VICReg",
    "VICRegEntropy",
    "VarianceCovariance",
    "diagnostics",
    "functional",
    "theory",
]
