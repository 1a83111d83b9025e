"""Marginal entropies from spacings, minus the covariance penalty of `vicreg`, with the gradient in closed form.

    value     H = mean over dimensions of mean_i 1/2 log(s_i^2 + epsilon^2),   s_i = N / (2 m) (x_(i+m) - x_(i-m))
    gradient  add N / (2 m) dH/ds_i at i + m, and subtract it at i - m; indices are clamped to the first and last sample

x_(i) is the i-th smallest sample of a dimension, and m is the window. Each rank sorts the samples of all ranks in some of the
columns. So the ranks gather the samples and all-reduce the gradients.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from it_losses.kernels import vicreg
from it_losses.kernels.batch import Batch, Evaluation, Plan, Request
from it_losses.precision import accumulation_dtype

#: suffix of the files in `products` to use
PRODUCTS = vicreg.PRODUCTS
#: number of `parts` in the Evaluation
PARTS = 0
#: False, because rounding standardised samples to half precision would change distances of neighbours
ROUNDS_SAMPLES = False


def prefers_gram(samples: int, dim: int, world: int) -> bool:
    """Whether the covariance penalty is cheaper with the N x N matrix."""
    return vicreg.prefers_gram(samples, dim, world)


def evaluate(batch: Batch, plan: Plan, constants: Sequence[float], request: Request) -> Evaluation:
    """Entropy and gradient; the constants are covariance_weight, the window (0 for sqrt(N)), and epsilon."""
    covariance_weight, window, epsilon = constants
    # no variance term, and half the weight of the penalty, because `vicreg` doubles it
    penalty = vicreg.evaluate(batch, plan, (0.0, covariance_weight / 2, 1.0, 1.0), request)
    m = min(int(window) or math.floor(math.sqrt(batch.samples) + 0.5), batch.samples - 1)
    own = batch.ranks.own
    cols = slice(own.start * batch.dim // batch.samples, own.stop * batch.dim // batch.samples)
    z = torch.cat([batch.all_samples(view)[:, :, cols] for view in range(len(batch.own))])
    x, order = z.mT.to(accumulation_dtype(z.dtype)).contiguous().sort(stable=True)  # [S, cols, N]
    entropies, slope = _spacings(x, m, epsilon)
    count = batch.stacks * batch.dim
    marginal = batch.ranks.summed(entropies.sum()) / count
    if request.needs_gradient or not batch.is_whole:
        # other ranks may need the gradient of these columns, even if this rank needs none
        columns = torch.empty_like(slope).scatter_(2, order, slope.mul_(-request.entropy_weight / count)).mT
        rows = _own_rows(columns, cols, batch)
        if penalty.gradient is not None:
            penalty.gradient.add_(rows)
    return penalty._replace(entropy=penalty.entropy + marginal, parts=())


def _spacings(x: Tensor, m: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """The entropy of each column [S, cols], and its gradient [S, cols, N]; the samples x [S, cols, N] are sorted."""
    samples = x.shape[2]
    first, last = (end.expand(-1, -1, m) for end in (x[:, :, :1], x[:, :, -1:]))
    s = torch.cat((x[:, :, m:], last), dim=2).sub_(torch.cat((first, x[:, :, :-m]), dim=2)).mul_(samples / (2 * m))
    squared = s.square().add_(epsilon**2)
    g = s.div_(squared).mul_(1 / (2 * m))
    slope = torch.empty_like(x)
    slope[:, :, :m] = 0
    slope[:, :, m:] = g[:, :, :-m]
    slope[:, :, :-m] -= g[:, :, m:]
    slope[:, :, -1] += g[:, :, -m:].sum(dim=2)
    slope[:, :, 0] -= g[:, :, :m].sum(dim=2)
    return squared.log_().mean(dim=2) / 2, slope


def _own_rows(columns: Tensor, cols: slice, batch: Batch) -> Tensor:
    """The rows of this rank, from the columns that each rank holds: [S, N, cols] -> [S, n, dim]."""
    if batch.is_whole:
        return columns
    everything = columns.new_zeros(len(columns), batch.samples, batch.dim)
    everything[:, :, cols] = columns
    return batch.ranks.summed(everything)[:, batch.ranks.own]
