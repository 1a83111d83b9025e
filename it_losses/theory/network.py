"""A network near each input: its Jacobians, their products with vectors, and a test whether its output is Gaussian."""

import warnings
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import jacrev, jvp, vmap

from it_losses.checks import check_count, check_not_negative

#: maps a batch of inputs to embeddings, each row independently of the others: [batch, *input] -> [batch, dim]
Network: TypeAlias = Callable[[Tensor], Tensor]

#: number of Jacobians that are computed at a time
CHUNK = 32


@torch.no_grad()
def jacobians(network: Network, x: Tensor) -> Tensor:
    """`J(x_n) = df/dx` at each input: [batch, *input] -> [batch, dim, numel of input].

    Each row of the network's output must depend on its own input only, so batch normalisation has to be in `eval()`.
    """
    check_rows_independent(network)

    def embedding(flat: Tensor) -> Tensor:
        return network(flat.reshape(1, *x.shape[1:])).squeeze(0)

    each = vmap(jacrev(embedding), chunk_size=CHUNK, randomness="different")
    result: Tensor = each(x.flatten(1))
    return result.detach()


@torch.no_grad()
def jacobian_vector_products(network: Network, x: Tensor, direction: Tensor) -> Tensor:
    """The product `J(x_n) v_n` of Jacobian and direction, without forming J: 2 x [batch, *input] -> [batch, dim]."""
    check_rows_independent(network)
    with warnings.catch_warnings():
        # at the first forward-mode derivative torch warns about its own deprecated code
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
        tangent: Tensor = jvp(network, (x,), (direction,))[1]
    return tangent.detach()


def check_rows_independent(network: Network) -> None:
    """ValueError if batch normalisation or dropout is in training mode, where it mixes rows or adds noise."""
    for module in network.modules() if isinstance(network, nn.Module) else ():
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            raise ValueError(
                f"the network must treat each row independently, but its {type(module).__name__} is in training mode. "
                "Call network.eval()."
            )


def normality_p_values(samples: Tensor) -> Tensor:
    """p-value of the test that each column is Gaussian; NaN for a constant column: [samples >= 20, ...] -> [...], float64.

    The test is D'Agostino & Pearson's K^2 (`scipy.stats.normaltest`). For a Gaussian the p-values are uniform on [0, 1].
    """
    try:
        from scipy.stats import normaltest
    except ImportError as missing:
        raise ImportError("the normality test needs scipy. Run: pip install scipy") from missing
    if len(samples) < 20:
        raise ValueError(f"the normality test needs at least 20 samples, got {len(samples)}.")
    columns = samples.detach().double().reshape(len(samples), -1)
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
    """p-value of the normality test of each output coordinate over noisy copies of each input: [batch, *input] -> [batch, dim].

    If the noise stays within one linear region, Theorem 1 predicts a Gaussian output, with p-values uniform on [0, 1]. For
    larger noise they are smaller. Average with `nanmean`, because a unit that is never active gives NaN.

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
