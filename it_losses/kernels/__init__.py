"""Fused implementations of the objectives: value and gradient in closed form, by the cheaper of the matrices N x N and D x D.

torch_ops    the one op, for eager mode and for compilers
dispatch     which implementation runs, and which of the two matrices is formed
self_test    a test of a GPU's operations before their first use
batch        own samples, and the ranks that share the batch
vicreg, log_det, pairwise, quadratic, renyi, sigreg, koleo, spacings    the closed forms, a file each
products     the operations that they are made of, on a CPU and on a GPU
"""

from it_losses.kernels import self_test
from it_losses.kernels.dispatch import is_fused, why_not_fused
from it_losses.kernels.torch_ops import NO_GROUP, loss

__all__ = ["NO_GROUP", "is_fused", "loss", "self_test", "why_not_fused"]
