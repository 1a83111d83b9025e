"""Jacobians of a network at each input of a batch, and their products with noise."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import jacrev, jvp, vmap

#: maps a batch of inputs to embeddings, each row independently of the others: [batch, *input] -> [batch, dim]
Network: TypeAlias = Callable[[Tensor], Tensor]

#: Jacobians that are computed at a time
CHUNK = 32


@torch.no_grad()
def jacobians(network: Network, x: Tensor) -> Tensor:
    """`J(x_n) = df/dx` at each input: [batch, *input] -> [batch, dim, numel of input].

    Each row of the network's output must depend on its own input only, so batch normalisation has to be in `eval()`.
    """
    check_rows_independent(network)

    def embedding(flat: Tensor) -> Tensor:
        return network(flat.reshape(1, *x.shape[1:])).squeeze(0)

    each = vmap(jacrev(embedding), chunk_size=CHUNK, randomness="different")
    result: Tensor = each(x.flatten(1))
    return result.detach()


@torch.no_grad()
def jacobian_vector_products(network: Network, x: Tensor, direction: Tensor) -> Tensor:
    """`J(x_n) v_n` by a forward derivative, without forming J: 2 x [batch, *input] -> [batch, dim]."""
    check_rows_independent(network)
    with warnings.catch_warnings():
        # torch warns about its own deprecated code at the first forward derivative
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
        tangent: Tensor = jvp(network, (x,), (direction,))[1]
    return tangent.detach()


def check_rows_independent(network: Network) -> None:
    """ValueError if batch normalisation or dropout is in training mode, where it mixes rows or adds noise."""
    for module in network.modules() if isinstance(network, nn.Module) else ():
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            raise ValueError(
                f"the network must treat each row by itself, got {type(module).__name__} in training mode. Call .eval()."
            )
