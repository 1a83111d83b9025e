"""Theorem 2: the covariance that maximises the entropy under bounded eigenvalues, in closed form and by gradient ascent."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks import data
from benchmarks.statistics import verdict
from it_losses import theory

IMAGES, DIM, LARGEST = 16, 8, 1.0
#: standard deviations of the noise on images whose grey levels run from 0 to 1
NOISE = (0.01, 0.1, 1.0)
#: tolerance for the relative distance of ascent and closed form, and for the excess of the ascent's objective in nats
AGREES = 1e-6
#: the optimum counts as diagonal if its distance from diagonal is below this fraction of its norm
DIAGONAL = 0.05


def rows(trials: int, samples: int, seed: int) -> list[dict[str, Any]]:
    """One row per kind of conditional covariances and random start."""
    torch.manual_seed(seed)
    seeds = range(seed, seed + trials)
    return [measured(name, *pair, start) for name, pair in conditionals().items() for start in seeds]


def conditionals() -> dict[str, Tensor]:
    """Conditional covariances `S(x_i)` and `S(x'_i)` of several kinds by name: [2, images, dim, dim] each."""
    identity = torch.eye(DIM, dtype=torch.float64).expand(2, IMAGES, DIM, DIM)
    roots = torch.randn(2, IMAGES, DIM, DIM, dtype=torch.float64)
    # all images vary in the same direction, because a mean over different directions would be nearer to diagonal
    shared = torch.ones(DIM, DIM, dtype=torch.float64)
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, DIM)).double().requires_grad_(False)
    through = {f"a ReLU network, digits with noise {std:g}": _through(network, std) for std in NOISE}
    return {
        "vanishing, 1e-6 I": 1e-6 * identity,
        "isotropic, I / 2": identity / 2,
        "diagonal, random": torch.diag_embed(0.1 + torch.rand(2, IMAGES, DIM, dtype=torch.float64)),
        "full, random": roots @ roots.mT / DIM + 1e-3 * identity,
        "one direction, shared": shared + 1e-3 * identity,
        **through,
    }


def _through(network: nn.Module, std: float) -> Tensor:
    """`std^2 J J^T / variance of the features`, for Jacobians J at two noisy copies of the digits: [2, images, dim, dim]."""
    images = data.load("digits", None, 8).test.flatten(1).double() / 255
    copies = (images[:IMAGES] + std * torch.randn_like(images[:IMAGES]) for _ in range(2))
    unit = network(images).var(dim=0).mean()
    return torch.stack([theory.output_mixture(network, x, std**2).covariances / unit for x in copies])


def measured(name: str, conditional: Tensor, other: Tensor, seed: int) -> dict[str, Any]:
    """Compare the objective at the start and the end of one ascent with the closed form."""
    noise = torch.cat([conditional, other]).mean(dim=0)
    closed = LARGEST * torch.eye(DIM, dtype=noise.dtype) + noise

    def ascent(**steps: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return theory.maximise_log_det_ratio(conditional, other, largest=LARGEST, generator=generator, **steps)

    values = {"start": ascent(steps=0), "ascent": ascent(), "closed_form": closed}
    ratios = {key: theory.log_det_ratio(value, conditional, other).item() for key, value in values.items()}
    off_diagonal = {"off_diagonal": closed, "conditional_off_diagonal": noise}
    row = {"conditional": name, "seed": seed} | {key: ratio / len(conditional) for key, ratio in ratios.items()}
    row |= {"distance": (torch.linalg.matrix_norm(values["ascent"] - closed) / torch.linalg.matrix_norm(closed)).item()}
    return row | {key: theory.distance_from_diagonal(matrix).item() for key, matrix in off_diagonal.items()}


def finding(frame: pd.DataFrame) -> dict[str, Any]:
    excess, ascents = frame.ascent - frame.closed_form, frame.groupby("conditional", sort=False)
    kinds = ascents.mean().assign(distance=ascents.distance.max())
    full = kinds.index[kinds.off_diagonal >= DIAGONAL]
    return {
        "verdict": verdict(bool(((frame.distance <= AGREES) & (excess <= AGREES)).all())),
        "ascents": len(frame),
        "furthest": frame.distance.max(),
        "excess": max(excess.max(), 0),
        "diagonal": f"{len(kinds) - len(full)} of {len(kinds)}",
        "lines": kinds.reset_index().to_dict("records"),
        "full": "; ".join(full) or "none",
    }
