"""The test of Figure 1, whether the output is Gaussian for Gaussian noise at the input: D'Agostino-Pearson p-values."""

from __future__ import annotations

import torch
from torch import Tensor

from it_losses.checks import check_count, check_not_negative
from it_losses.theory.jacobian import Network, check_rows_independent


def normality_p_values(samples: Tensor) -> Tensor:
    """p-value of the test that each column is Gaussian; NaN for a constant column: [samples >= 20, ...] -> [...], float64.

    D'Agostino & Pearson's K^2 of skewness and kurtosis, as `scipy.stats.normaltest`; uniform on [0, 1] for a Gaussian.
    """
    try:
        from scipy.stats import normaltest
    except ImportError as missing:
        raise ImportError("the normality test needs scipy: pip install 'it-losses[theory]'") from missing
    if len(samples) < 20:
        raise ValueError(f"the normality test needs at least 20 samples, got {len(samples)}: its distribution is asymptotic.")
    columns = samples.detach().double().flatten(1)
    varies = (columns - columns[0]).abs().amax(dim=0) > 0
    p_values = torch.full_like(columns[0], torch.nan)
    if bool(varies.any()):
        statistic = normaltest(columns[:, varies].cpu().numpy(), axis=0)
        p_values[varies] = torch.as_tensor(statistic.pvalue, dtype=p_values.dtype, device=p_values.device)
    return p_values.reshape(samples.shape[1:])


@torch.no_grad()
def output_normality(
    network: Network, x: Tensor, noise_std: float, *, copies: int = 512, generator: torch.Generator | None = None
) -> Tensor:
    """p-values of the output's coordinates over noisy copies of each input: [batch, *input] -> [batch, dim].

    For noise within one linear region, Theorem 1 predicts a Gaussian output, hence uniform p-values with mean 1/2. Beyond it
    they are smaller. Average with `nanmean`: a unit that is never active is constant.

    Source: Figure 1, left, of arXiv 2303.00633, with 512 copies of each test image at the penultimate layer.
    """
    check_not_negative("noise_std", noise_std)
    check_count("copies", copies, at_least=20)
    check_rows_independent(network)
    p_values = []
    for image in x:
        noise = torch.randn((copies, *image.shape), dtype=x.dtype, device=x.device, generator=generator)
        p_values.append(normality_p_values(network(image + noise_std * noise)))
    return torch.stack(p_values)
