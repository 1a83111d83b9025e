"""Training with a fused implementation ends as training with the reference does. Half precision trains as float32 does."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from it_losses import ESTIMATORS, VICReg, VICRegEntropy
from it_losses.kernels.dispatch import VARIABLE
from it_losses.vicreg_conventions import CONVENTIONS

STEPS, BATCH = 100, 48
#: dimensions below and above the batch size. Some entropies use the D x D covariance below and the N x N Gram matrix above it
DIM, WIDE = 24, 96

CRITERIA: dict[str, Callable[[], nn.Module]] = {"VICReg": VICReg}
for _name, _kind in ESTIMATORS.items():
    _weight = _kind().default_weights.entropy
    CRITERIA[_name] = lambda name=_name, weight=_weight: VICRegEntropy(name, entropy_weight=1.0 if weight is None else weight)
DEFAULTS = tuple(CRITERIA)
CRITERIA |= {
    "log_det, anchored": lambda: VICRegEntropy("log_det", anchor=True),
    "pairwise, bandwidth 1": lambda: VICRegEntropy("pairwise", bandwidth=1.0, entropy_weight=1.0),
    "pairwise, pooled": lambda: VICRegEntropy("pairwise", pool_views=True),
    "pairwise, pooled without positives": lambda: VICRegEntropy(
        "pairwise", bandwidth=0.7, normalize="rows", exclude_self=True, pool_views=True, exclude_positives=True
    ),
    "renyi, order 1": lambda: VICRegEntropy("renyi", order=1.0),
    "renyi, order 0.5": lambda: VICRegEntropy("renyi", order=0.5),
    **{f"VICReg, {name}": lambda name=name: VICReg(convention=name) for name in CONVENTIONS if name != "official"},
}
every_training = pytest.mark.parametrize(
    ("name", "dim"),
    [(name, DIM) for name in DEFAULTS]
    + [pytest.param(name, DIM, marks=pytest.mark.slow) for name in CRITERIA if name not in DEFAULTS]
    + [pytest.param(name, WIDE, marks=pytest.mark.slow) for name in CRITERIA],
)


def train(
    criterion: nn.Module, dim: int, embed: Callable[[nn.Module, Tensor], Tensor], scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the losses of all steps and the final embeddings. The loss is scaled as GradScaler does, and the seed is fixed."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4 * BATCH, 16, generator=generator) * torch.linspace(0.1, 2, 16)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, dim))
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-3, momentum=0.9)
    losses = []
    for step in range(STEPS):
        batch = images.roll(step * BATCH, dims=0)[:BATCH]
        views = [batch + 0.1 * torch.randn(batch.shape, generator=generator) for _ in range(2)]
        loss = criterion(*(embed(model, x) for x in views))
        optimizer.zero_grad()
        (scale * loss).backward()
        for parameter in model.parameters():
            assert parameter.grad.isfinite().all(), f"step {step}"
            parameter.grad.div_(scale)
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), model(images).detach()


def plainly(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def in_autocast(model: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model(x)


def stored_in_float16(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).half()


@functools.cache
def in_float32(name: str, dim: int) -> tuple[Tensor, Tensor]:
    return train(CRITERIA[name](), dim, plainly)


@pytest.mark.slow
@every_training
def test_a_training_ends_where_that_with_the_definition_ends(name, dim, monkeypatch):
    losses, embeddings = in_float32(name, dim)
    monkeypatch.setenv(VARIABLE, "reference")
    expected, theirs = train(CRITERIA[name](), dim, plainly)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(embeddings, theirs, rtol=1e-3, atol=1e-3)
    assert losses[-10:].mean() < losses[:10].mean()


@every_training
@pytest.mark.parametrize(("embed", "scale"), [(in_autocast, 1.0), (stored_in_float16, 2.0**10)], ids=["bf16", "fp16"])
def test_half_precision_trains_as_float32_does(name, dim, embed, scale):
    losses, embeddings = train(CRITERIA[name](), dim, embed, scale)
    expected, theirs = in_float32(name, dim)
    assert losses.isfinite().all() and losses.dtype == torch.float32
    gain, wanted = losses[:10].mean() - losses[-10:].mean(), expected[:10].mean() - expected[-10:].mean()
    assert abs(gain - wanted) < 0.1 * wanted
    # the embeddings have neither collapsed nor blown up
    assert 0.8 < embeddings.std() / theirs.std() < 1.25
