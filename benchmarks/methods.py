"""Self-supervised methods on a backbone: losses, heads, momentum and prototypes from lightly; the entropies from it_losses.

METHODS maps a name to a function of the backbone's width and the hyper-parameters; what it returns is an `nn.Module` with
`loss(backbone, view_a, view_b, schedule)` and a `projector`, so that a program brings its own backbone and its own loop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss
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
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from it_losses import EntropyRegularizer, VICReg, VICRegEntropy


class Schedule(NamedTuple):
    """Where training stands: `step` of `steps`."""

    step: int
    steps: int


class Method(nn.Module):
    """A projector, and a loss of two views."""

    projector: nn.Module

    def loss(self, backbone: nn.Module, view_a: Tensor, view_b: Tensor, schedule: Schedule) -> Tensor:
        """2 x [batch, channels, side, side] -> []."""
        raise NotImplementedError

    def embeddings(self, backbone: nn.Module, view_a: Tensor, view_b: Tensor) -> tuple[Tensor, Tensor]:
        """Projector outputs of both views, which go through the networks in one batch: 2 x [batch, dim]."""
        z_a, z_b = self.projector(backbone(torch.cat([view_a, view_b]))).chunk(2)
        return z_a, z_b


class JointEmbedding(Method):
    """A criterion of the two views' embeddings, and nothing else: SimCLR, Barlow Twins, VICReg and its entropies."""

    def __init__(self, projector: nn.Module, criterion: nn.Module) -> None:
        super().__init__()
        self.projector, self.criterion = projector, criterion

    def loss(self, backbone: nn.Module, view_a: Tensor, view_b: Tensor, schedule: Schedule) -> Tensor:
        """criterion(z_a, z_b)."""
        return self.criterion(*self.embeddings(backbone, view_a, view_b))


class SwAV(Method):
    """Swapped prediction of cluster assignments; without multi-crop, so that every method sees two views."""

    def __init__(self, projector: nn.Module, prototypes: SwaVPrototypes, criterion: nn.Module) -> None:
        super().__init__()
        self.projector, self.prototypes, self.criterion = projector, prototypes, criterion

    def loss(self, backbone: nn.Module, view_a: Tensor, view_b: Tensor, schedule: Schedule) -> Tensor:
        """Cross entropy of one view's assignment and the other's Sinkhorn code."""
        self.prototypes.normalize()
        assignments = [self.prototypes(F.normalize(z), schedule.step) for z in self.embeddings(backbone, view_a, view_b)]
        return self.criterion(assignments, []).squeeze()


class Momentum(Method):
    """A method with a slow copy of backbone and projector, made at the first step."""

    def __init__(self, projector: nn.Module, momentum: float) -> None:
        super().__init__()
        self.projector, self.momentum = projector, momentum
        self.target: nn.Module | None = None

    def begin(self, backbone: nn.Module) -> None:
        """Make the slow copy; to be called before the optimiser is built."""
        self.target = copy.deepcopy(nn.Sequential(backbone, self.projector))
        deactivate_requires_grad(self.target)

    @torch.no_grad()
    def targets(self, backbone: nn.Module, view_a: Tensor, view_b: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
        """Embeddings by the slow copy, after it moved: momentum rises to 1 along a cosine, as in BYOL."""
        momentum = cosine_schedule(schedule.step, schedule.steps, self.momentum, 1.0)
        update_momentum(nn.Sequential(backbone, self.projector), self.target, m=momentum)
        z_a, z_b = self.target(torch.cat([view_a, view_b])).chunk(2)
        return z_a, z_b


class MoCo(Momentum):
    """InfoNCE against a queue of keys that the slow copy made, symmetric in the views."""

    def __init__(self, projector: nn.Module, momentum: float, criterion: NTXentLoss) -> None:
        super().__init__(projector, momentum)
        self.criterion = criterion

    def loss(self, backbone: nn.Module, view_a: Tensor, view_b: Tensor, schedule: Schedule) -> Tensor:
        """Mean of both directions."""
        key_a, key_b = self.targets(backbone, view_a, view_b, schedule)
        query_a, query_b = self.embeddings(backbone, view_a, view_b)
        return (self.criterion(query_a, key_b) + self.criterion(query_b, key_a)) / 2


class BYOL(Momentum):
    """Prediction of the slow copy's embeddings; an entropy of the online embeddings may be added."""

    def __init__(
        self, projector: nn.Module, predictor: nn.Module, momentum: float, regularizer: EntropyRegularizer | None = None
    ) -> None:
        super().__init__(projector, momentum)
        self.predictor, self.regularizer = predictor, regularizer
        self.criterion = NegativeCosineSimilarity()

    def loss(self, backbone: nn.Module, view_a: Tensor, view_b: Tensor, schedule: Schedule) -> Tensor:
        """Mean negative cosine of both directions, less the weighted entropy of the projections on the sphere."""
        target_a, target_b = self.targets(backbone, view_a, view_b, schedule)
        z_a, z_b = self.embeddings(backbone, view_a, view_b)
        predicted_a, predicted_b = self.predictor(torch.cat([z_a, z_b])).chunk(2)
        loss = (self.criterion(predicted_a, target_b) + self.criterion(predicted_b, target_a)) / 2
        if self.regularizer is None:
            return loss
        return loss + self.regularizer(F.normalize(z_a), F.normalize(z_b))


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


def byol(
    width: int,
    *,
    hidden: int,
    output: int,
    momentum: float,
    entropy: str | None = None,
    entropy_weight: float = 0.0,
    **options: float,
) -> Method:
    """BYOL (arXiv 2006.07733), and BYOL with an entropy added (arXiv 2303.00633)."""
    regularizer = EntropyRegularizer(entropy, entropy_weight, **options) if entropy else None
    heads = BYOLProjectionHead(width, hidden, output), BYOLPredictionHead(output, hidden, output)
    return BYOL(*heads, momentum, regularizer)


METHODS: dict[str, Callable[..., Method]] = {
    "simclr": simclr,
    "barlow_twins": barlow_twins,
    "swav": swav,
    "moco": moco,
    "vicreg": vicreg,
    "vicreg_entropy": vicreg_entropy,
    "byol": byol,
}
