"""Self-supervised methods on a backbone: losses, heads, momentum and prototypes from lightly; the entropies from it_losses.

METHODS maps a name to a function of the backbone's width and the hyper-parameters; what it returns is an `nn.Module` with
`loss(backbone, view_a, view_b, schedule)` and a `projector`, so that a program brings its own backbone and its own loop.
"""

from __future__ import annotations

from collections.abc import Callable

from lightly.loss import BarlowTwinsLoss, NTXentLoss, SwaVLoss
from lightly.models.modules.heads import (
    BarlowTwinsProjectionHead,
    BYOLPredictionHead,
    BYOLProjectionHead,
    MoCoProjectionHead,
    SimCLRProjectionHead,
    SwaVProjectionHead,
    SwaVPrototypes,
    VICRegProjectionHead,
)

from benchmarks.objectives import BYOL, Added, JointEmbedding, Method, MoCo, SwAV
from it_losses import EntropyRegularizer, VICReg, VICRegEntropy


def simclr(width: int, *, hidden: int, output: int, temperature: float) -> Method:
    """SimCLR (arXiv 2002.05709)."""
    head = SimCLRProjectionHead(width, hidden, output)
    return JointEmbedding(head, NTXentLoss(temperature, gather_distributed=True))


def barlow_twins(width: int, *, hidden: int, output: int, redundancy_weight: float) -> Method:
    """Barlow Twins (arXiv 2103.03230)."""
    return JointEmbedding(
        BarlowTwinsProjectionHead(width, hidden, output), BarlowTwinsLoss(redundancy_weight, gather_distributed=True)
    )


def swav(width: int, *, hidden: int, output: int, prototypes: int, temperature: float, epsilon: float) -> Method:
    """SwAV (arXiv 2006.09882)."""
    criterion = SwaVLoss(temperature, sinkhorn_epsilon=epsilon, sinkhorn_gather_distributed=True)
    return SwAV(SwaVProjectionHead(width, hidden, output), SwaVPrototypes(output, prototypes), criterion)


def moco(width: int, *, hidden: int, output: int, temperature: float, queue: int, momentum: float) -> Method:
    """MoCo v2 (arXiv 2003.04297), symmetric and with batch norm in the head as in v3 (arXiv 2104.02057)."""
    head = MoCoProjectionHead(width, hidden, output, batch_norm=True)
    return MoCo(head, momentum, NTXentLoss(temperature, memory_bank_size=(queue, output), gather_distributed=True))


def vicreg(width: int, *, hidden: int, output: int, **weights: float) -> Method:
    """VICReg (arXiv 2105.04906)."""
    return JointEmbedding(VICRegProjectionHead(width, hidden, output), VICReg(**weights))


def vicreg_entropy(width: int, *, hidden: int, output: int, entropy: str, **options: float) -> Method:
    """VICReg with its variance and covariance terms replaced by an entropy (arXiv 2303.00633)."""
    return JointEmbedding(VICRegProjectionHead(width, hidden, output), VICRegEntropy(entropy, **options))


def vicreg_and_entropy(
    width: int,
    *,
    hidden: int,
    output: int,
    invariance_weight: float,
    variance_weight: float,
    covariance_weight: float,
    entropy: str,
    entropy_weight: float,
    **options: float,
) -> Method:
    """VICReg with an entropy added to its own three terms: the other reading of arXiv 2303.00633."""
    terms = (
        VICReg(invariance_weight, variance_weight, covariance_weight),
        EntropyRegularizer(entropy, entropy_weight, **options),
    )
    return JointEmbedding(VICRegProjectionHead(width, hidden, output), Added(*terms))


def byol(
    width: int,
    *,
    hidden: int,
    output: int,
    momentum: float,
    entropy: str | None = None,
    entropy_weight: float = 0.0,
    regularized: str = "projection",
    normalized: bool = True,
    **options: float,
) -> Method:
    """BYOL (arXiv 2006.07733), and BYOL with the entropy of one of its tensors added (arXiv 2303.00633)."""
    regularizer = EntropyRegularizer(entropy, entropy_weight, **options) if entropy else None
    heads = BYOLProjectionHead(width, hidden, output), BYOLPredictionHead(output, hidden, output)
    return BYOL(*heads, momentum, regularizer, regularized=regularized, normalized=normalized)


METHODS: dict[str, Callable[..., Method]] = {
    "simclr": simclr,
    "barlow_twins": barlow_twins,
    "swav": swav,
    "moco": moco,
    "vicreg": vicreg,
    "vicreg_entropy": vicreg_entropy,
    "vicreg_and_entropy": vicreg_and_entropy,
    "byol": byol,
}
