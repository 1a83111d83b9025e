"""LightningModules with a timm backbone, which train on lightly's batches of (views, targets, file names)."""

import copy
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from it_losses import EntropyRegularizer
from it_losses.adapters import framework
from it_losses.adapters.lightly.criteria import LogDetLoss, PairwiseLoss, VICRegLoss
from it_losses.adapters.lightly.patch import PIP

framework("lightly", install=PIP)
from lightly.loss import NegativeCosineSimilarity, NTXentLoss  # noqa: E402
from lightly.models.modules import heads  # noqa: E402
from lightly.models.utils import update_momentum  # noqa: E402
from lightly.utils.scheduler import cosine_schedule  # noqa: E402

from it_losses.adapters.lightly.pretraining import Pretraining, total_steps  # noqa: E402

#: weights of the entropies added to BYOL: four times those of docs/tune.md, because this loss has four times the gradient
BYOL_WEIGHTS = {"log_det": 3.2, "pairwise": 0.2}
#: weight of the entropy added to SimCLR and SimSiam
OTHER_WEIGHT = 0.2


def sphere_regularizer(entropy: str, dim: int, weight: float) -> EntropyRegularizer:
    """A term `-weight * H(z)` for l2-normalised embeddings of dimension `dim`."""
    # on the unit sphere the variances are near 1 / dim, and LogDet needs beta * variance near 1
    return EntropyRegularizer(entropy, weight, beta=float(dim)) if entropy == "log_det" else EntropyRegularizer(entropy, weight)


class VICReg(Pretraining):
    """VICReg with the authors' weights."""

    dim: ClassVar[int] = 8192
    end_value: ClassVar[float] = 0.01

    def build(self, width: int, dim: int) -> None:
        """A projector of two layers, and the criterion."""
        self.projection_head = heads.VICRegProjectionHead(width, dim, dim, num_layers=2)
        self.criterion = self.new_criterion()

    def learning_rate(self, batch: int) -> float:
        """The learning rate of the paper's appendix C.4, where smaller batches have a larger base rate."""
        return {128: 0.8, 256: 0.5, 512: 0.4}.get(batch, 0.3) * batch / 256

    def new_criterion(self) -> Any:
        """The criterion of two views."""
        return VICRegLoss(gather_distributed=True)

    def objective(self, views: list[Tensor], features: list[Tensor]) -> dict[str, Tensor]:
        """The terms of the criterion."""
        terms: dict[str, Tensor] = self.criterion.terms(*(self.projection_head(f) for f in features))._asdict()
        return terms


class VICRegLogDet(VICReg):
    """VICReg with log-det entropy instead of variance and covariance."""

    def new_criterion(self) -> Any:
        """`LogDetLoss`."""
        return LogDetLoss()


class VICRegPairDist(VICReg):
    """VICReg with pairwise entropy instead of variance and covariance."""

    def new_criterion(self) -> Any:
        """`PairwiseLoss`."""
        return PairwiseLoss()


class SimCLREntropy(Pretraining):
    """SimCLR with the entropy of its projections added. The weight, 0.2, was not tuned."""

    dim: ClassVar[int] = 128
    has_two_views: ClassVar[bool] = True
    entropy: ClassVar[str] = "log_det"

    def build(self, width: int, dim: int) -> None:
        """SimCLR's projector."""
        self.projection_head = heads.SimCLRProjectionHead(width, 2048, dim)
        self.criterion = NTXentLoss(temperature=0.1, gather_distributed=True)
        self.regularizer = sphere_regularizer(self.entropy, dim, OTHER_WEIGHT)

    def learning_rate(self, batch: int) -> float:
        """The learning rate of the paper's appendix B.1, in proportion to the square root of the batch."""
        return 0.075 * math.sqrt(batch)

    def objective(self, views: list[Tensor], features: list[Tensor]) -> dict[str, Tensor]:
        """`contrast - weight * H(z)`."""
        z_a, z_b = (self.projection_head(f) for f in features)
        contrast = self.criterion(z_a, z_b)
        spread = self.regularizer(normalize(z_a, dim=-1), normalize(z_b, dim=-1))
        return {"loss": contrast + spread, "contrast": contrast, "negative_entropy": spread}


class SimSiamEntropy(Pretraining):
    """SimSiam with the entropy of its projections added. The weight, 0.2, was not tuned."""

    dim: ClassVar[int] = 2048
    has_two_views: ClassVar[bool] = True
    entropy: ClassVar[str] = "log_det"

    def build(self, width: int, dim: int) -> None:
        """SimSiam's projector and predictor."""
        self.projection_head = heads.SimSiamProjectionHead(width, dim, dim)
        self.prediction_head = heads.SimSiamPredictionHead(dim, 512, dim)
        self.criterion = NegativeCosineSimilarity()
        self.regularizer = sphere_regularizer(self.entropy, dim, OTHER_WEIGHT)

    def heads(self) -> list[nn.Module]:
        """Projector and predictor."""
        return [self.projection_head, self.prediction_head]

    def objective(self, views: list[Tensor], features: list[Tensor]) -> dict[str, Tensor]:
        """`-cos(p, z') - weight * H(z)`."""
        z_a, z_b = (self.projection_head(f) for f in features)
        p_a, p_b = self.prediction_head(z_a), self.prediction_head(z_b)
        similarity = (self.criterion(p_a, z_b.detach()) + self.criterion(p_b, z_a.detach())) / 2
        spread = self.regularizer(normalize(z_a, dim=-1), normalize(z_b, dim=-1))
        return {"loss": similarity + spread, "negative_similarity": similarity, "negative_entropy": spread}


class BYOLLogDet(Pretraining):
    """BYOL with the log-det entropy of its online projections added, with the weight 3.2."""

    dim: ClassVar[int] = 256
    has_two_views: ClassVar[bool] = True
    entropy: ClassVar[str] = "log_det"

    def build(self, width: int, dim: int) -> None:
        """BYOL's projector and predictor, and the teacher, a moving average of backbone and projector."""
        self.projection_head = heads.BYOLProjectionHead(width, 4096, dim)
        self.prediction_head = heads.BYOLPredictionHead(dim, 4096, dim)
        self.teacher = copy.deepcopy(nn.ModuleList([self.backbone, self.projection_head])).requires_grad_(False)
        self.criterion = NegativeCosineSimilarity()
        self.regularizer = sphere_regularizer(self.entropy, dim, BYOL_WEIGHTS[self.entropy])

    def learning_rate(self, batch: int) -> float:
        """The learning rate that the authors use for 100 epochs."""
        return 0.45 * batch / 256

    def heads(self) -> list[nn.Module]:
        """Projector and predictor."""
        return [self.projection_head, self.prediction_head]

    @torch.no_grad()
    def targets_of(self, x: Tensor) -> Tensor:
        """The teacher's projections."""
        backbone, projection_head = self.teacher
        targets: Tensor = projection_head(backbone(x).flatten(start_dim=1))
        return targets

    def objective(self, views: list[Tensor], features: list[Tensor]) -> dict[str, Tensor]:
        """Update the teacher, and return `-2 cos(p, teacher) - weight * H(z)`."""
        steps = total_steps(self.trainer)
        momentum = cosine_schedule(step=self.trainer.global_step, max_steps=steps, start_value=0.99, end_value=1.0)
        for student, teacher in zip((self.backbone, self.projection_head), self.teacher, strict=True):
            update_momentum(student, teacher, m=momentum)
        targets_a, targets_b = (self.targets_of(view) for view in views)
        z_a, z_b = (self.projection_head(f) for f in features)
        p_a, p_b = self.prediction_head(z_a), self.prediction_head(z_b)
        # for unit vectors |p - t|^2 = 2 - 2 cos(p, t); the constant is left out
        similarity = 2 * (self.criterion(p_a, targets_b) + self.criterion(p_b, targets_a))
        spread = self.regularizer(normalize(z_a, dim=-1), normalize(z_b, dim=-1))
        return {"loss": similarity + spread, "negative_similarity": similarity, "negative_entropy": spread}


class BYOLPairDist(BYOLLogDet):
    """BYOL with the pairwise entropy of its online projections added, with the weight 0.2."""

    entropy: ClassVar[str] = "pairwise"
