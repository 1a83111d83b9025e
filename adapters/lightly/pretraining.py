"""Pretraining: the base of our LightningModules, with a timm backbone, an objective and an online classifier."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from it_losses.adapters import framework
from it_losses.adapters.backbones import timm_backbone
from it_losses.adapters.lightly.patch import PIP
from it_losses.checks import check_count, check_not_negative, check_positive

framework("lightly", install=PIP)
from lightly.models.utils import get_weight_decay_parameters  # noqa: E402
from lightly.utils.benchmarking import OnlineLinearClassifier  # noqa: E402
from lightly.utils.lars import LARS  # noqa: E402
from lightly.utils.scheduler import CosineWarmupScheduler  # noqa: E402
from pytorch_lightning import LightningModule  # noqa: E402


class Pretraining(LightningModule):
    """Trains a backbone with the objective of a subclass, and an online linear classifier.

    Args:
        batch_size_per_device: the learning rate depends on its total over all devices.
        num_classes: the number of classes of the online classifier.
        backbone: a timm model.
        backbone_options: arguments of `timm_backbone`, such as `{"small_images": True}`.
        projector_dim: output width of the projector; None for the width in lightly's script of the method.
        base_lr: learning rate for a batch of 256, scaled linearly; None for the rate of lightly's script of the method.
        weight_decay: weight decay of all parameters except biases and norms.
        warmup_epochs: warmup of the cosine schedule, at most a tenth of the run.
    """

    #: width of the projector if `projector_dim` is None
    dim: ClassVar[int]
    #: learning rate at the end of the schedule, as a fraction of the largest
    end_value: ClassVar[float] = 0.0
    #: whether the objective takes exactly two views
    has_two_views: ClassVar[bool] = False

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        backbone: str = "resnet50",
        backbone_options: dict[str, Any] | None = None,
        projector_dim: int | None = None,
        base_lr: float | None = None,
        weight_decay: float = 1e-6,
        warmup_epochs: float = 10.0,
    ) -> None:
        super().__init__()
        check_count("batch_size_per_device", batch_size_per_device)
        check_count("num_classes", num_classes)
        check_not_negative("weight_decay", weight_decay)
        check_not_negative("warmup_epochs", warmup_epochs)
        if projector_dim is not None:
            check_count("projector_dim", projector_dim)
        if base_lr is not None:
            check_positive("base_lr", base_lr)
        self.save_hyperparameters()
        self.backbone = timm_backbone(backbone, **(backbone_options or {}))
        # lightly reports top-5 accuracy by default, which needs five classes
        best = tuple(sorted({1, min(5, num_classes)}))
        self.online_classifier = OnlineLinearClassifier(self.backbone.num_features, num_classes, topk=best)
        self.build(self.backbone.num_features, self.dim if projector_dim is None else projector_dim)

    def build(self, width: int, dim: int) -> None:
        """Create heads and criterion, for features [batch, width] and embeddings [batch, dim]."""
        raise NotImplementedError

    def learning_rate(self, batch: int) -> float:
        """Learning rate for `batch` samples in one step on all ranks together."""
        return 0.3 * batch / 256

    def objective(self, views: list[Tensor], features: list[Tensor]) -> dict[str, Tensor]:
        """The loss of a batch as "loss", and terms to log by name, from its views and their features."""
        raise NotImplementedError

    def heads(self) -> list[nn.Module]:
        """The modules that the objective trains besides the backbone."""
        return [self.projection_head]

    def forward(self, x: Tensor) -> Tensor:
        """Images -> features [batch, width]."""
        features: Tensor = self.backbone(x)
        return features.flatten(start_dim=1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the objective plus the online classifier's loss, and log every term as `train_<term>`."""
        views, targets = batch[0], batch[1]
        if self.has_two_views and len(views) != 2:
            raise ValueError(f"{type(self).__name__} needs two views, got {len(views)}. Use a transform with two views.")
        features = self.forward(torch.cat(views)).chunk(len(views))
        terms = self.objective(views, list(features))
        logged = {f"train_{name}": value.detach() for name, value in terms.items()}
        self.log_dict(logged, prog_bar=True, sync_dist=True, batch_size=len(targets))
        seen = torch.cat(features).detach()
        class_loss, accuracy = self.online_classifier.training_step((seen, targets.repeat(len(views))), batch_idx)
        self.log_dict(accuracy, sync_dist=True, batch_size=len(targets))
        return terms["loss"] + class_loss

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of the online classifier, and log its accuracy."""
        images, targets = batch[0], batch[1]
        class_loss, accuracy = self.online_classifier.validation_step((self.forward(images).detach(), targets), batch_idx)
        self.log_dict(accuracy, prog_bar=True, sync_dist=True, batch_size=len(targets))
        return class_loss

    def configure_optimizers(self) -> Any:
        """LARS with a cosine schedule, without weight decay for biases, norms and the classifier."""
        decayed, others = get_weight_decay_parameters([self.backbone, *self.heads()])
        options = self.hparams
        batch = options.batch_size_per_device * self.trainer.world_size
        optimizer = LARS(
            [
                {"name": "weights", "params": decayed},
                {"name": "biases_and_norms", "params": others, "weight_decay": 0.0},
                {"name": "classifier", "params": self.online_classifier.parameters(), "weight_decay": 0.0},
            ],
            lr=self.learning_rate(batch) if options.base_lr is None else options.base_lr * batch / 256,
            momentum=0.9,
            weight_decay=options.weight_decay,
        )
        steps, warmup = total_steps(self.trainer), warmup_steps(self.trainer, options.warmup_epochs)
        scheduler = CosineWarmupScheduler(optimizer, warmup_epochs=warmup, max_epochs=steps, end_value=self.end_value)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def total_steps(trainer: Any) -> int:
    """Optimizer steps of the whole run; ValueError if the trainer does not know their number."""
    # with limit_train_batches=0 there are no steps, but Lightning reports an unknown number
    steps = 0 if trainer.limit_train_batches == 0 else trainer.estimated_stepping_batches
    # Lightning returns inf if neither steps nor epochs are limited, and -1 if a loader has no length
    if not 0 <= steps < math.inf:
        raise ValueError(
            f"the learning-rate schedule needs the number of steps. Lightning reports {steps}, because max_epochs is unlimited "
            "or the loader has no length. Pass Trainer(max_steps=...)."
        )
    return int(steps)


def warmup_steps(trainer: Any, epochs: float) -> int:
    """Optimizer steps in `epochs` epochs, at most a tenth of the run."""
    most = total_steps(trainer) / 10
    if epochs <= 0:
        return 0
    return int(min(epochs * _steps_per_epoch(trainer), most))


def _steps_per_epoch(trainer: Any) -> float:
    """Optimizer steps in one epoch; inf if the loader has no length."""
    if trainer.train_dataloader is None:
        # let Lightning count: total steps / max_epochs is wrong if max_epochs is -1
        trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    return batches if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
