"""The basic operations of the closed forms, once for a CPU (`cpu`) and once for a GPU (`cuda`), with the same functions.

S = views x groups, n = own samples, N = samples of all ranks, Zc = centred samples, or samples as they are without `centre`.

    gram             own rows of Zc Zc^T [S, n, N], squared norms of the columns of Zc [S, 1, dim], and Zc
    covariance       Zc^T Zc of all ranks [S, dim, dim], squared norms of the columns of Zc [S, 1, dim], and own Zc
    gradient         own squared distance of the views [], difference_weight (Z - Z') + Zc slope + alpha (left Zc or Zc right)
    distance         the squared distance alone, and difference_weight (Z - Z') if memory for it is given
    centred          all rows of Zc in one tensor [S, N, dim]
    squared_norm     the sum of all squares []
    factorize_       lower factor of (1 + jitter) I + G, 1 + jitter, and the largest diagonal element of G
    inverse, solve    of a factor

And for pairs, in `cpu_pairs` and `cuda_pairs`:

    pair_sums        itself + sum_j exp(-rate |x_i - x_j|^2) for own i and j of other images [K, groups, n], and the pairs
    own_rows         x_i x_j of own i and all j [groups, n, N]
    add_pair_gradient_    sum_j W_ij (x_i - x_j), W_ij = sum_k exp(-rate_k |x_i - x_j|^2) (weight_ki + weight_kj)

And for slices x of samples [S, slices, n], in `cpu_slices` and `cuda_slices`:

    largest_projection   the largest absolute value of x []
    unit_directions  random directions [count, dim], those of `it_losses.slices`
    waves            block by block, sum_i cos(t_k x_i) and sum_i sin(t_k x_i) over own samples [S, slices, 2, K], and the waves
    wave_slopes_     d/dx_i sum_k a_k cos(t_k x_i) + b_k sin(t_k x_i), in place of x
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType


@functools.cache
def products_named(name: str) -> ModuleType:
    """A module of products, imported at its first use, because the import of Triton is slow and a CPU does not need it."""
    return importlib.import_module(f"it_losses.kernels.products.{name}")
