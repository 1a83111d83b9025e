"""Theorem 1: the output for noisy prototypes is a mixture of Gaussians while the noise stays in a linear region."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from benchmarks.figures.statistics import Row, grouped, mean_and_error, verdict
from benchmarks.theorems.page import Setup
from it_losses import theory

DIM, WIDTH, BLOCKS, PROTOTYPES = 4, 16, 2, 8
NOISE = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0)
#: Lipschitz constant of a block's branch; below 1 the block is one-to-one
CONTRACTION = 0.9
#: standard errors of the Monte Carlo entropy that a bound may be missed by
ERRORS = 4
#: nats that float64 may lose in a density, and difference of two Jacobians that are one
ROUNDING = 1e-9

SUBJECT = "the output of a network for noisy prototypes"
STATEMENT = (
    "Proved: where the network is affine around each prototype x_n and the noise around one does not reach another, its output "
    "is the mixture of N(f(x_n), J_n S_n J_n^T), and pairwise Bhattacharyya distances and KL divergences of the components "
    "bound its entropy from below and above. Shown: bounds and density of that mixture beside those of real outputs "
    f"f(x_n + noise), for {PROTOTYPES} prototypes in {DIM} dimensions and networks of {BLOCKS} residual ReLU blocks of width "
    f"{WIDTH}. A block is one-to-one (its branch is a contraction), so the density of the real outputs is known at any noise, "
    "log p(f(x)) = log p(x) - log|det J(x)|, with nothing of the theorem in it. Entropies in nats, means over networks with "
    f"their Monte Carlo standard error; within: in how many networks the entropy misses no bound by over {ERRORS} of these; "
    "outside: samples at which the Jacobian is not that of their prototype; density gap: mean of log p(z) less that of the "
    "mixture, in nats, a KL divergence."
)


class Residual(nn.Module):
    """`x + V relu(W x + b) + c`, `|V||W| = CONTRACTION`: piecewise affine and one-to-one, [batch, dim] -> [batch, dim]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(DIM, WIDTH), nn.Linear(WIDTH, DIM)
        with torch.no_grad():
            for layer in (self.first, self.second):
                scale = math.sqrt(CONTRACTION) / torch.linalg.matrix_norm(layer.weight, 2)
                layer.weight *= scale
                layer.bias *= scale

    def forward(self, x: Tensor) -> Tensor:
        """[batch, dim] -> [batch, dim]."""
        return x + self.second(torch.relu(self.first(x)))


def rows(setup: Setup) -> list[Row]:
    """One row a network and noise level."""
    result = []
    for trial in range(setup.trials):
        torch.manual_seed(setup.seed + trial)
        network = nn.Sequential(*(Residual() for _ in range(BLOCKS))).double().requires_grad_(False)
        prototypes = torch.randn(PROTOTYPES, DIM, dtype=torch.float64)
        result += [{"network": trial, **measured(network, prototypes, std, setup.samples)} for std in NOISE]
    return result


def measured(network: nn.Module, prototypes: Tensor, std: float, samples: int) -> Row:
    """The mixture's bounds, and entropy and density of real outputs of a one-to-one network."""
    which = torch.randint(len(prototypes), (samples,))
    x = prototypes[which] + std * torch.randn(samples, prototypes.shape[1], dtype=prototypes.dtype)
    mixture = theory.output_mixture(network, prototypes, std**2)
    jacobians = vmap(jacrev(network))
    at_samples, at_prototypes = jacobians(x), jacobians(prototypes)
    log_density = _input_law(prototypes, std).log_density(x) - at_samples.slogdet().logabsdet
    surprise, surprise_error = mean_and_error((-log_density).tolist())
    gap, gap_error = mean_and_error((log_density - mixture.log_density(network(x))).tolist())
    lower, upper = mixture.entropy_bounds()
    outside = (at_samples - at_prototypes[which]).abs().amax(dim=(1, 2)) > ROUNDING
    return {
        "noise": std,
        "lower": lower.item(),
        "entropy": surprise,
        "entropy_error": surprise_error,
        "upper": upper.item(),
        "within": int(lower - ERRORS * surprise_error <= surprise <= upper + ERRORS * surprise_error),
        "outside": outside.double().mean().item(),
        "gap": gap,
        "gap_error": gap_error,
    }


def _input_law(prototypes: Tensor, std: float) -> theory.OutputMixture:
    """The prototypes with their noise: the output mixture of the identity."""
    identity = torch.eye(prototypes.shape[1], dtype=prototypes.dtype)
    return theory.OutputMixture(prototypes, std**2 * identity.expand(len(prototypes), -1, -1))


def table(rows: list[Row]) -> list[dict[str, str]]:
    """One row for each noise level, averaged over networks."""
    return [_line(noise, lines) for (noise,), lines in grouped(rows, "noise").items()]


def _line(noise: float, lines: list[Row]) -> dict[str, str]:
    mean = {column: mean_and_error([row[column] for row in lines])[0] for column in lines[0]}
    error = {name: math.hypot(*(row[f"{name}_error"] for row in lines)) / len(lines) for name in ("entropy", "gap")}
    return {
        "noise": f"{noise:g}",
        "lower bound": f"{mean['lower']:.3f}",
        "entropy": f"{mean['entropy']:.3f} ± {error['entropy']:.3f}",
        "upper bound": f"{mean['upper']:.3f}",
        "within": f"{sum(row['within'] for row in lines)} of {len(lines)}",
        "outside": f"{mean['outside']:.1%}",
        "density gap": f"{mean['gap']:.1e} ± {error['gap']:.0e}",
    }


def finding(rows: list[Row]) -> str:
    """Are density and bounds exact where no sample leaves its region, and what becomes of them beyond?"""
    claim = "Claim: where no sample leaves its linear region, the entropy lies within the bounds and the density is exact."
    affine, beyond = ([row for row in rows if (row["outside"] == 0) == inside] for inside in (True, False))
    if not affine:
        return f"{claim} {verdict(False)} Some sample leaves it at every noise level."
    gap = max(abs(row["gap"]) for row in affine)
    held = sum(row["within"] for row in affine)
    shows = held == len(affine) and all(abs(row["gap"]) <= ROUNDING for row in affine)
    said = (
        f"{claim} {verdict(shows)} There (noise up to {max(row['noise'] for row in affine):g}) the entropy lies within them in "
        f"{held} of {len(affine)} cases, and the densities differ by at most {gap:.1g} nats."
    )
    if beyond:
        worst = max(beyond, key=lambda row: row["gap"])
        held = sum(row["within"] for row in beyond)
        said += (
            f" Beyond, of which the theorem says nothing, it does in {held} of {len(beyond)}, and the density gap is at most "
            f"{worst['gap']:.2g} ± {worst['gap_error']:.1g} nats, at noise {worst['noise']:g}."
        )
    return said
