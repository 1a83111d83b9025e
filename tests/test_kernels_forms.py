"""Which form of VICReg runs at which size, and what the smallest promises: the authors' sums, to the last bit."""

from __future__ import annotations

import pytest
import torch
from test_kernels_vicreg import SHAPES, WEIGHTS, pair

from it_losses import kernels
from it_losses.kernels.closed_vicreg import form


def on_a_cpu(batch: int, dim: int) -> str:
    return form("cpu", torch.float32, 2, 1, batch, dim)


@pytest.mark.parametrize(("batch", "dim"), [(2, 32), (8, 8), (32, 33), (3, 1)])
def test_tiny_batches_equal_the_authors_order_of_operations_to_the_last_bit(batch, dim):
    z_a, z_b = (z.float() for z in pair(batch, dim))
    invariance = torch.nn.functional.mse_loss(z_a, z_b)
    stds, energies = [], []
    for z in (z_a, z_b):
        z = z - z.mean(dim=0)
        stds.append(torch.sqrt(z.var(dim=0) + 0.0001))
        covariance = (z.T @ z) / (batch - 1)
        energies.append(covariance[~torch.eye(dim, dtype=torch.bool)].pow(2).sum().div(dim))
    std = torch.mean(torch.relu(1 - stds[0])) / 2 + torch.mean(torch.relu(1 - stds[1])) / 2
    assert kernels.vicreg((z_a, z_b), weights=WEIGHTS)[0] == 25.0 * invariance + 25.0 * std + 1.0 * (energies[0] + energies[1])


def test_every_form_is_met_by_the_shapes_that_are_tested():
    assert {on_a_cpu(*shape) for shape in SHAPES} == {"authors' order", "one block", "gram", "covariance"}


@pytest.mark.parametrize(
    ("batch", "dim", "expected"),
    [
        (64, 32, "authors' order"),
        (65, 32, "one block"),
        (32, 128, "one block"),
        (1024, 128, "one block"),
        (1025, 128, "covariance"),
        (336, 384, "gram"),
        (337, 384, "one block"),
        (337, 385, "covariance"),
        (112, 129, "gram"),
    ],
)
def test_small_sides_are_taken_whole_but_the_larger_side_only_where_it_is_small(batch, dim, expected):
    assert on_a_cpu(batch, dim) == expected
