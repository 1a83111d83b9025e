"""Fused implementations of the objectives: the forward pass also computes the gradient, in closed form.

For N samples of D dimensions, covariance-based objectives form the cheaper matrix: N x N (Gram) or D x D.

torch_ops    the loss as one PyTorch operator
dispatch     the choice of implementation and matrix
self_test    a test of the GPU operations before their first use
batch        the samples of this rank, and the ranks that share the batch
vicreg, log_det, pairwise, quadratic, renyi, sigreg, koleo, spacings    one objective each
products     the matrix operations of the objectives, on a CPU and on a GPU
"""

from it_losses.kernels import self_test
from it_losses.kernels.dispatch import is_fused, why_not_fused
from it_losses.kernels.torch_ops import NO_GROUP, loss

__all__ = ["NO_GROUP", "is_fused", "loss", "self_test", "why_not_fused"]
