"""Fused forms of the objectives: value and gradient in closed form, on the cheaper of the sides N x N and D x D.

torch_ops    the one op, for eager mode and for compilers
dispatch     which implementation runs, and on which side
self_test    whether the products of this GPU are right, before their first use
batch        own samples, and the ranks that share the batch
vicreg, log_det, pairwise, quadratic, renyi, sigreg, koleo, spacings    the mathematics, a file each
products     what the mathematics is made of, on a CPU and on a GPU
"""

from it_losses.kernels import self_test
from it_losses.kernels.dispatch import is_fused, why_not_fused
from it_losses.kernels.torch_ops import NO_GROUP, loss

__all__ = ["NO_GROUP", "is_fused", "loss", "self_test", "why_not_fused"]
