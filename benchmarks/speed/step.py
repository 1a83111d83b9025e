"""A whole training step, with a timm backbone, a projector and a criterion, to put the time of a loss in proportion."""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from benchmarks.speed.peers import Objective

BACKBONE, SIDE = "resnet10t", 32


def training_steps(
    criteria: dict[str, Objective], batch: int, dim: int, device: torch.device
) -> dict[str, Callable[[], Tensor]]:
    """Name -> a function that projects both views of one batch and returns the loss; backward reaches the backbone."""
    torch.manual_seed(0)
    backbone = timm.create_model(BACKBONE, pretrained=False, num_classes=0)
    width = backbone.num_features
    projector = nn.Sequential(nn.Linear(width, dim), nn.BatchNorm1d(dim), nn.ReLU(), nn.Linear(dim, dim))
    model = nn.Sequential(backbone, projector).to(device)
    images = torch.randn(2 * batch, 3, SIDE, SIDE, device=device)

    def step(criterion: Objective) -> Tensor:
        model.zero_grad(set_to_none=True)
        return criterion(*model(images).chunk(2))

    return {name: lambda criterion=criterion: step(criterion) for name, criterion in criteria.items()}
