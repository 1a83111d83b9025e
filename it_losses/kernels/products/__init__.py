"""The matrix operations ("products") of the fused implementations, with the same functions on a CPU and on a GPU.

    cpu, cuda                   Gram and covariance matrices, Cholesky factors, and gradients
    cpu_pairs, cuda_pairs       sums over pairs of samples
    cpu_slices, cuda_slices     random directions, and sums over the projections on them

S is views x groups. n and N are the samples of this rank and of all ranks. Z and Z' are two views. Zc is the centred Z.
"""

import functools
import importlib
from types import ModuleType


@functools.cache
def products_named(name: str) -> ModuleType:
    """The module of this name, imported at its first use. Importing Triton is slow, and a CPU does not need it."""
    return importlib.import_module(f"it_losses.kernels.products.{name}")
