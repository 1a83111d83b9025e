"""Every loss trains in mixed precision: 200 steps on scikit-learn's digits under autocast, with a GradScaler in float16."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install '.[benchmarks]'")
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from it_losses import ESTIMATORS, EntropyRegularizer, VICReg, VICRegEntropy

pytestmark = pytest.mark.slow

STEPS, BATCH, WIDTH, DIM = 200, 64, 32, 32
#: initial loss scale: gradients of LogDet at its default weights reach 4, so torch's default of 2^16 would overflow float16
SCALE = 2.0**12
Loss = Callable[[Tensor, Tensor], Tensor]


def regularized_distance(name: str) -> Loss:
    """The squared distance of the views plus EntropyRegularizer, with the default weights of VICRegEntropy."""
    criterion = VICRegEntropy(name)

    def loss(z_a: Tensor, z_b: Tensor) -> Tensor:
        invariance, entropy = criterion.weights_for((z_a, z_b))
        distance = nn.functional.mse_loss(z_a.float(), z_b.float())
        return invariance * distance + EntropyRegularizer(criterion.entropy, entropy)(z_a, z_b)

    return loss


LOSSES: dict[str, Callable[[], Loss]] = {"VICReg": VICReg}
for _name in ESTIMATORS:
    LOSSES[f"criterion {_name}"] = functools.partial(VICRegEntropy, _name)
    LOSSES[f"regularizer {_name}"] = functools.partial(regularized_distance, _name)


class Training(NamedTuple):
    """The loss of each training step, the steps that the scaler skipped, and the accuracy of a linear probe in percent."""

    losses: Tensor
    skipped: list[int]
    probe: float


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32) / 8 - 1, torch.tensor(labels)


@functools.cache
def trained(name: str, dtype: torch.dtype) -> Training:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    backbone = nn.Sequential(nn.Linear(64, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU())
    projector = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, DIM))
    parameters = [*backbone.parameters(), *projector.parameters()]
    loss_of, optimizer = LOSSES[name](), torch.optim.Adam(parameters, lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, enabled=dtype == torch.float16)
    images, labels = digits()
    train, losses, skipped = images[:1200], [], []
    for step in range(STEPS):
        batch = train[torch.randint(len(train), (BATCH,), generator=generator)]
        views = [batch + 0.3 * torch.randn(batch.shape, generator=generator) for _ in range(2)]
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = loss_of(*(projector(backbone(x)) for x in views))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        skipped += [step] if scaler.get_scale() < scale else []
        losses.append(loss.detach())
    features = backbone.eval()(images).detach().numpy()
    probe = LogisticRegression(max_iter=1000).fit(features[:1200], labels[:1200])
    return Training(torch.stack(losses), skipped, 100 * probe.score(features[1200:], labels[1200:]))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_mixed_precision_trains_as_float32_does(name, dtype):
    mixed, full = trained(name, dtype), trained(name, torch.float32)
    print(
        f"{name}, {dtype}: probe {mixed.probe:.1f} %, in float32 {full.probe:.1f} %; GradScaler skipped steps {mixed.skipped}"
    )
    assert mixed.losses.isfinite().all() and mixed.losses.dtype == torch.float32
    assert all(step < 10 for step in mixed.skipped)
    assert abs(mixed.probe - full.probe) <= 2
    assert full.losses[-20:].mean() < full.losses[:20].mean()
