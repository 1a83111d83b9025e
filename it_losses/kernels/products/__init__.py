"""The matrix operations of the fused implementations: the same functions for a CPU (`cpu`) and for a GPU (`cuda`).

S = views x groups, n and N = samples of this rank and of all ranks, Z and Z' = two views, Zc = Z, centred if `centre`.

    gram             this rank's rows of Zc Zc^T [S, n, N], squared norms of the columns of Zc [S, 1, dim], and Zc
    covariance       Zc^T Zc of all ranks [S, dim, dim], squared norms of the columns of Zc [S, 1, dim], and this rank's Zc
    gradient         this rank's squared distance [], difference_weight (Z - Z') + Zc slope + alpha (left Zc or Zc right)
    distance         the squared distance alone, and difference_weight (Z - Z') if memory for it is given
    centred          all rows of Zc in one tensor [S, N, dim]
    squared_norm     the sum of all squares []
    factorize_       lower Cholesky factor of (1 + jitter) I + G, 1 + jitter, and the largest diagonal element of G
    inverse, solve   the inverse of factor factor^T, and its product with a matrix

For pairs of samples, in `cpu_pairs` and `cuda_pairs`, with i on this rank:

    pair_sums        itself + sum_j exp(-rate |x_i - x_j|^2) over j of other images [K, groups, n], and the pairs
    own_rows         x_i x_j of all j [groups, n, N]
    add_pair_gradient_    sum_j W_ij (x_i - x_j), W_ij = sum_k exp(-rate_k |x_i - x_j|^2) (weight_ki + weight_kj)

For projections x of samples [S, slices, n], in `cpu_slices` and `cuda_slices`:

    largest_projection   the largest absolute value of x []
    unit_directions  random directions [count, dim], those of `it_losses.slices`
    waves            block by block, sum_i cos(t_k x_i) and sum_i sin(t_k x_i) of this rank [S, slices, 2, K], and the waves
    wave_slopes_     d/dx_i sum_k a_k cos(t_k x_i) + b_k sin(t_k x_i), in place of x
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType


@functools.cache
def products_named(name: str) -> ModuleType:
    """A module of products, imported at its first use: importing Triton is slow, and a CPU does not need it."""
    return importlib.import_module(f"it_losses.kernels.products.{name}")
