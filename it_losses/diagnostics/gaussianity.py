"""How far embeddings are from a standard normal distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from it_losses.diagnostics.inputs import Batches
from it_losses.diagnostics.moments import all_rows
from it_losses.entropy.sigreg import SIGReg


@torch.no_grad()
def sigreg_statistic(z: Batches, *, slices: int = 1024, seed: int = 0) -> Tensor:
    """The statistic of Epps and Pulley, mean over random slices; minus the value of SIGReg: [batch, dim] -> [].

    It is about 1.05 / batch for samples of N(0, I), 0.40 if all samples are at the origin, and 1.45 if they are far apart. The
    same seed draws the same slices at every call. Source: Balestriero & LeCun (arXiv 2511.08544), Algorithm 1.
    """
    entropy: Tensor = SIGReg(slices=slices, seed=seed)(all_rows(z))
    return -entropy
