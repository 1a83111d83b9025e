"""Jacobians of a network at each of a batch of inputs, and the noise that passes through them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import jacrev, jvp, vmap

#: maps a batch of inputs to a batch of embeddings, each row by itself: [batch, *input] -> [batch, dim]
Network: TypeAlias = Callable[[Tensor], Tensor]

#: Jacobians that are held at a time
CHUNK = 32


@torch.no_grad()
def jacobians(network: Network, x: Tensor) -> Tensor:
    """`J(x_n) = df/dx` at each input: [batch, *input] -> [batch, dim, numel of input].

    Each row of the network's output must depend on its own input alone: batch normalisation has to be in `eval()`.
    """
    check_rows_apart(network)

    def embedding(flat: Tensor) -> Tensor:
        return network(flat.reshape(1, *x.shape[1:])).squeeze(0)

    each = vmap(jacrev(embedding), chunk_size=CHUNK, randomness="different")
    result: Tensor = each(x.flatten(1))
    return result.detach()


@torch.no_grad()
def pushed_forward(network: Network, x: Tensor, direction: Tensor) -> Tensor:
    """`J(x_n) v_n`, without J: 2 x [batch, *input] -> [batch, dim]."""
    check_rows_apart(network)
    with warnings.catch_warnings():
        # torch's own first use of forward derivatives trips over torch's own deprecation
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
        tangent: Tensor = jvp(network, (x,), (direction,))[1]
    return tangent.detach()


def check_rows_apart(network: Network) -> None:
    """ValueError where batch normalisation or dropout in training mode would mix the rows or add noise of its own."""
    for module in network.modules() if isinstance(network, nn.Module) else ():
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            raise ValueError(
                f"the network must treat each row by itself, got {type(module).__name__} in training mode. Call .eval()."
            )
