"""Self-supervised methods for any backbone. Heads and other losses are lightly's, VICReg and entropies are ours.

METHODS maps a name to a function of the backbone's width and the hyper-parameters. The function returns a `Method`. The
caller provides the backbone and the training loop.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss
from lightly.models.modules import heads
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from it_losses import EntropyRegularizer, VICReg, VICRegEntropy


class Step(NamedTuple):
    """Inputs of a loss besides the views: index of the training step, number of all steps, and labels for `Supervised`."""

    number: int
    steps: int
    labels: Tensor | None = None


class Method(nn.Module):
    """A projector and a loss of two views: a criterion of their embeddings, plus a regularizer if there is one.

    SimCLR, Barlow Twins, VICReg, and VICReg with another entropy need only this class.
    """

    def __init__(self, projector: nn.Module, criterion: nn.Module, regularizer: EntropyRegularizer | None = None) -> None:
        super().__init__()
        self.projector, self.criterion, self.regularizer = projector, criterion, regularizer

    def embeddings(self, backbone: nn.Module, view_a: Tensor, view_b: Tensor) -> tuple[Tensor, Tensor]:
        """Projector outputs of both views, computed in one batch: 2 x [batch, dim]."""
        z_a, z_b = self.projector(backbone(torch.cat([view_a, view_b]))).chunk(2)
        return z_a, z_b

    def loss(self, backbone: nn.Module, view_a: Tensor, view_b: Tensor, step: Step) -> Tensor:
        """criterion(z_a, z_b) + regularizer(z_a, z_b): 2 x [batch, channels, side, side] -> []."""
        z = self.embeddings(backbone, view_a, view_b)
        loss: Tensor = self.criterion(*z)
        return loss if self.regularizer is None else loss + self.regularizer(*z)


class Supervised(Method):
    """Cross-entropy with the labels, to show the accuracy of the same network with labels at the same budget."""

    def __init__(self, width: int, classes: int, label_smoothing: float) -> None:
        super().__init__(nn.Identity(), nn.CrossEntropyLoss(label_smoothing=label_smoothing))
        self.classifier = nn.Linear(width, classes)

    def loss(self, backbone: nn.Module, view_a: Tensor, view_b: Tensor, step: Step) -> Tensor:
        h_a, h_b = self.embeddings(backbone, view_a, view_b)
        return (self.criterion(self.classifier(h_a), step.labels) + self.criterion(self.classifier(h_b), step.labels)) / 2


class SwAV(Method):
    """Swapped prediction of cluster assignments. Multi-crop is left out, so that every method sees two views."""

    def __init__(self, projector: nn.Module, criterion: nn.Module, prototypes: heads.SwaVPrototypes) -> None:
        super().__init__(projector, criterion)
        self.prototypes = prototypes

    def loss(self, backbone: nn.Module, view_a: Tensor, view_b: Tensor, step: Step) -> Tensor:
        """Cross-entropy between the assignment of each view and the Sinkhorn code of the other view."""
        self.prototypes.normalize()
        assignments = [self.prototypes(F.normalize(z), step.number) for z in self.embeddings(backbone, view_a, view_b)]
        return self.criterion(assignments, []).squeeze()


class Momentum(Method):
    """MoCo and BYOL: the loss compares each view with the momentum encoder's embedding of the other view.

    The predictor maps embeddings to those of the momentum encoder; for MoCo it is the identity. The momentum starts at
    `momentum` and rises to 1 along a cosine, as in BYOL. `regularized` names the tensor that the regularizer gets: "features"
    of the backbone, "projection" or "prediction". If `normalized` is true, this tensor is l2-normalised, as in BYOL's loss.
    """

    def __init__(
        self, projector: nn.Module, predictor: nn.Module, criterion: nn.Module, momentum: float,
        regularizer: EntropyRegularizer | None = None, regularized: str = "projection", normalized: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(projector, criterion, regularizer)
        self.predictor, self.momentum, self.regularized, self.normalized = predictor, momentum, regularized, normalized
        self.target: nn.Module | None = None

    def begin(self, backbone: nn.Module) -> None:
        """Make the momentum encoder. Call this method before you build the optimiser."""
        self.target = copy.deepcopy(nn.Sequential(backbone, self.projector))
        deactivate_requires_grad(self.target)

    @torch.no_grad()
    def targets(self, backbone: nn.Module, view_a: Tensor, view_b: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Update the momentum encoder, and return its embeddings of both views."""
        momentum = cosine_schedule(step.number, step.steps, self.momentum, 1.0)
        update_momentum(nn.Sequential(backbone, self.projector), self.target, m=momentum)
        z_a, z_b = self.target(torch.cat([view_a, view_b])).chunk(2)
        return z_a, z_b

    def loss(self, backbone: nn.Module, view_a: Tensor, view_b: Tensor, step: Step) -> Tensor:
        """The mean criterion of both directions, plus the regularizer if there is one."""
        target_a, target_b = self.targets(backbone, view_a, view_b, step)
        features = backbone(torch.cat([view_a, view_b]))
        projection = self.projector(features)
        prediction = self.predictor(projection)
        predicted_a, predicted_b = prediction.chunk(2)
        loss = (self.criterion(predicted_a, target_b) + self.criterion(predicted_b, target_a)) / 2
        if self.regularizer is None:
            return loss
        z = {"features": features, "projection": projection, "prediction": prediction}[self.regularized]
        return loss + self.regularizer(*(F.normalize(z) if self.normalized else z).chunk(2))


def _vicreg(width: int, hidden: int, output: int, *criteria: nn.Module) -> Method:
    return Method(heads.VICRegProjectionHead(width, hidden, output), *criteria)


def _byol(
    width: int, hidden: int, output: int, momentum: float, entropy: str = "", entropy_weight: float = 0.0,
    regularized: str = "projection", normalized: bool = True, **options: float,
) -> Method:  # fmt: skip
    regularizer = EntropyRegularizer(entropy, entropy_weight, **options) if entropy else None
    projector, predictor = heads.BYOLProjectionHead(width, hidden, output), heads.BYOLPredictionHead(output, hidden, output)
    return Momentum(projector, predictor, NegativeCosineSimilarity(), momentum, regularizer, regularized, normalized)


METHODS: dict[str, Callable[..., Method]] = {
    # arXiv 2002.05709
    "simclr": lambda width, hidden, output, temperature: Method(
        heads.SimCLRProjectionHead(width, hidden, output), NTXentLoss(temperature, gather_distributed=True)
    ),
    # arXiv 2103.03230
    "barlow_twins": lambda width, hidden, output, redundancy_weight: Method(
        heads.BarlowTwinsProjectionHead(width, hidden, output), BarlowTwinsLoss(redundancy_weight, gather_distributed=True)
    ),
    # arXiv 2006.09882
    "swav": lambda width, hidden, output, prototypes, temperature, epsilon: SwAV(
        heads.SwaVProjectionHead(width, hidden, output),
        SwaVLoss(temperature, sinkhorn_epsilon=epsilon, sinkhorn_gather_distributed=True),
        heads.SwaVPrototypes(output, prototypes),
    ),
    # MoCo v2 (arXiv 2003.04297), with a symmetric loss and batch norm in the head as in v3 (arXiv 2104.02057)
    "moco": lambda width, hidden, output, temperature, queue, momentum: Momentum(
        heads.MoCoProjectionHead(width, hidden, output, batch_norm=True),
        nn.Identity(),
        NTXentLoss(temperature, memory_bank_size=(queue, output), gather_distributed=True),
        momentum,
    ),
    # arXiv 2105.04906
    "vicreg": lambda width, hidden, output, **weights: _vicreg(width, hidden, output, VICReg(**weights)),
    # VICReg with another entropy in place of its variance and covariance terms (arXiv 2303.00633)
    "vicreg_entropy": lambda width, hidden, output, entropy, **options: _vicreg(
        width, hidden, output, VICRegEntropy(entropy, **options)
    ),
    # all three terms of VICReg plus an entropy: another way to read arXiv 2303.00633
    "vicreg_and_entropy": lambda width, hidden, output, entropy, entropy_weight, **weights: _vicreg(
        width, hidden, output, VICReg(**weights), EntropyRegularizer(entropy, entropy_weight)
    ),
    # arXiv 2006.07733; the option `entropy` adds an entropy to the loss (arXiv 2303.00633)
    "byol": _byol,
    # the same network trained with labels, for comparison
    "supervised": lambda width, label_smoothing, classes=10: Supervised(width, classes, label_smoothing),
}
