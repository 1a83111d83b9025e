"""The matrix operations (products) of the fused implementations, with the same functions on CPU (`cpu`) and GPU (`cuda`).

S = views x groups, n and N = samples of this rank and of all ranks, Z and Z' = two views, Zc = Z, centred if `centre`.

    gram             this rank's rows of Zc Zc^T [S, n, N], squared norms of the columns of Zc [S, 1, dim], and Zc
    covariance       Zc^T Zc of all ranks [S, dim, dim], squared norms of the columns of Zc [S, 1, dim], and this rank's Zc
    gradient         this rank's squared distance [], difference_weight (Z - Z') + Zc slope + alpha (left Zc or Zc right)
    factorize_       lower Cholesky factor of (1 + jitter) I + G, 1 + jitter, and the largest diagonal element of G

`cpu` and `cuda` also have distance, centred, squared_norm, inverse and solve.

`cpu_pairs` and `cuda_pairs` have sums over pairs of samples: own_rows, pair_sums and add_pair_gradient_. `cpu_slices` and
`cuda_slices` have projections on random directions: unit_directions, largest_projection, waves and wave_slopes_.
"""

import functools
import importlib
from types import ModuleType


@functools.cache
def products_named(name: str) -> ModuleType:
    """A module of products, imported at its first use: importing Triton is slow, and a CPU does not need it."""
    return importlib.import_module(f"it_losses.kernels.products.{name}")
