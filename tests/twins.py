"""What the tests of the fused twins share: the plain definitions, hard inputs, and the comparison of three computations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: error allowed beyond the reference's in the same dtype, relative to the largest exact element
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}


def vicreg_terms(z_a: Tensor, z_b: Tensor, *, margin: float = 1.0, epsilon: float = 1e-4) -> tuple[Tensor, Tensor, Tensor]:
    """Invariance, variance and covariance as the paper's equations read, over a masked D x D covariance."""
    batch, dim = z_a.shape
    others = 1 - torch.eye(dim, dtype=z_a.dtype)
    variance, covariance = [], []
    for z in (z_a, z_b):
        zc = z - z.mean(dim=0)
        matrix = zc.T @ zc / (batch - 1)
        variance.append(torch.relu(margin - torch.sqrt((zc**2).sum(dim=0) / (batch - 1) + epsilon)).mean())
        covariance.append((matrix * others).square().sum() / dim)
    return ((z_a - z_b) ** 2).mean(), (variance[0] + variance[1]) / 2, covariance[0] + covariance[1]


def log_det(z: Tensor, *, beta: float) -> Tensor:
    """`1/2 log det(I + beta Zc^T Zc / N)` by the eigenvalues' definition of the determinant, D x D."""
    zc = z - z.mean(dim=0)
    return torch.logdet(torch.eye(z.shape[1], dtype=z.dtype) + beta / len(z) * zc.T @ zc) / 2


def pairwise(z: Tensor, *, scale: float) -> Tensor:
    """`-mean_i log mean_j exp(-|z_i - z_j|^2 / scale)` by direct differences."""
    distance = (z[:, None] - z[None]).square().sum(dim=-1)
    return math.log(len(z)) - torch.logsumexp(-distance / scale, dim=1).mean()


def assert_no_worse(fused: Tensor, reference: Tensor, exact: Tensor, *, tolerance: float) -> None:
    """|fused - exact| <= |reference - exact| + tolerance, relative to the largest exact element; prints the worst one."""
    fused, reference, exact = (x.detach().double() for x in (fused, reference, exact))
    scale = exact.abs().max().clamp_min(1e-300)
    error, allowed = (fused - exact).abs() / scale, (reference - exact).abs().max() / scale + tolerance
    worst = int(error.argmax())
    assert error.flatten()[worst] <= allowed, (
        f"element {worst}: fused {fused.flatten()[worst]:.9g}, reference {reference.flatten()[worst]:.9g}, "
        f"exact {exact.flatten()[worst]:.9g}; error {error.flatten()[worst]:.2e}, allowed {allowed:.2e}"
    )


def leaf(z: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers in another dtype and in memory of their own, with a gradient to come."""
    return z.detach().to(dtype).clone().requires_grad_()


#: name -> layout of a [batch, dim] tensor in memory
LAYOUTS = {
    "contiguous": lambda z: z,
    "columns first": lambda z: z.T.contiguous().T,
    "every other row": lambda z: torch.stack((z, z), dim=1).flatten(0, 1)[::2],
    "inside a wider one": lambda z: torch.cat((z, z), dim=1)[:, : z.shape[1]],
    "expanded": lambda z: z[:1].expand(len(z), -1),
}
