"""Theorem 1: a network maps noisy prototypes to a mixture of Gaussians if the noise stays in its linear regions."""

import math
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from benchmarks.statistics import verdict
from it_losses import theory

DIM, WIDTH, BLOCKS, PROTOTYPES = 4, 16, 2, 8
NOISE = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0)
#: product of the spectral norms of the two layers in a residual branch; below 1, it makes the block one-to-one
CONTRACTION = 0.9
#: the Monte Carlo entropy may violate a bound by this many of its standard errors
ERRORS = 4
#: largest rounding error in float64: of a log density in nats, and between elements of equal Jacobians
ROUNDING = 1e-9


class Residual(nn.Module):
    """The piecewise affine block `x + V relu(W x + b) + c`, which is one-to-one because `|V||W| = CONTRACTION < 1`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(DIM, WIDTH), nn.Linear(WIDTH, DIM)
        with torch.no_grad():
            for layer in (self.first, self.second):
                scale = math.sqrt(CONTRACTION) / torch.linalg.matrix_norm(layer.weight, 2)
                layer.weight *= scale
                layer.bias *= scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


def rows(trials: int, samples: int, seed: int) -> list[dict[str, Any]]:
    """One row per network and noise level."""
    result = []
    for trial in range(trials):
        torch.manual_seed(seed + trial)
        network = nn.Sequential(*(Residual() for _ in range(BLOCKS))).double().requires_grad_(False)
        prototypes = torch.randn(PROTOTYPES, DIM, dtype=torch.float64)
        result += [{"network": trial} | measured(network, prototypes, std, samples) for std in NOISE]
    return result


def measured(network: nn.Module, prototypes: Tensor, std: float, samples: int) -> dict[str, Any]:
    """Compare entropy and density of the outputs of a one-to-one network with those of the Gaussian mixture."""
    which = torch.randint(len(prototypes), (samples,))
    x = prototypes[which] + std * torch.randn(samples, prototypes.shape[1], dtype=prototypes.dtype)
    mixture = theory.output_mixture(network, prototypes, std**2)
    # the density of the inputs: a Gaussian around each prototype
    identity = torch.eye(prototypes.shape[1], dtype=prototypes.dtype)
    inputs = theory.OutputMixture(prototypes, std**2 * identity.expand(len(prototypes), -1, -1))
    jacobians = vmap(jacrev(network))
    at_samples, at_prototypes = jacobians(x), jacobians(prototypes)
    log_density = inputs.log_density(x) - at_samples.slogdet().logabsdet
    surprise, gaps = -log_density, log_density - mixture.log_density(network(x))
    entropy, error = surprise.mean().item(), surprise.std().item() / math.sqrt(samples)
    lower, upper = (bound.item() for bound in mixture.entropy_bounds())
    outside = (at_samples - at_prototypes[which]).abs().amax(dim=(1, 2)) > ROUNDING
    within = int(lower - ERRORS * error <= entropy <= upper + ERRORS * error)
    row = {"noise": std, "lower": lower, "entropy": entropy, "entropy_error": error, "upper": upper, "within": within}
    row |= {"outside": outside.double().mean().item(), "gap": gaps.mean().item()}
    return row | {"gap_error": gaps.std().item() / math.sqrt(samples)}


def finding(frame: pd.DataFrame) -> dict[str, Any]:
    affine, beyond = frame[frame.outside == 0], frame[frame.outside > 0]
    held, gap = affine.within.sum(), affine.gap.abs().max(skipna=False)
    networks = frame.groupby("noise")
    errors = networks[["entropy_error", "gap_error"]].agg(lambda own: math.hypot(*own) / len(own))
    lines = networks.mean().assign(held=networks.within.sum(), networks=networks.size(), **errors).reset_index()
    return {
        "verdict": verdict(len(affine) > 0 and held == len(affine) and gap <= ROUNDING),
        "affine": f"{held} of {len(affine)}",
        "noise": affine.noise.max(),
        "gap": gap,
        "beyond": f"{beyond.within.sum()} of {len(beyond)}",
        "lines": lines.to_dict("records"),
        "worst": beyond.sort_values("gap").iloc[-1] if len(beyond) else dict.fromkeys(beyond, math.nan),
    }
