"""Theorem 1: for noisy prototypes x_n, a network's output has the distribution mean_n N(f(x_n), J(x_n) S_n J(x_n)^T)."""

import math

import torch
from torch import Tensor

from it_losses.checks import check_count, check_matrix, check_not_negative, check_positive
from it_losses.diagnostics import EntropyBounds
from it_losses.theory.network import Network, jacobians


class OutputMixture:
    """A mixture of Gaussians with equal weights, `Z ~ 1/N sum_n N(mean_n, covariance_n)`. Entropies are in nats.

    Args:
        means: [components, dim].
        covariances: [components, dim, dim], symmetric and positive definite (see `ridge` of `output_mixture`).

    Source: Theorem 1 of arXiv 2303.00633; the entropy bounds are Kolchinsky & Tracey (arXiv 1706.02419), equation 10.
    """

    def __init__(self, means: Tensor, covariances: Tensor) -> None:
        components, dim = check_matrix("means", means).shape
        if covariances.shape != (components, dim, dim):
            expected = (components, dim, dim)
            raise ValueError(f"covariances must have shape {expected} for these means, got {tuple(covariances.shape)}.")
        factors: Tensor
        factors, failed = torch.linalg.cholesky_ex(covariances)
        if bool(failed.any()):
            raise ValueError(
                "covariances must be positive definite. If dim exceeds the rank of the Jacobian, pass a larger ridge."
            )
        self.means, self.covariances = means, covariances
        self._factors = factors
        self._log_dets: Tensor = 2 * factors.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)  # [components]

    @property
    def mean(self) -> Tensor:
        """The mean of the mixture: [dim]."""
        return self.means.mean(dim=0)

    @property
    def covariance(self) -> Tensor:
        """The covariance of the mixture, `mean_n covariance_n + Cov(mean_n)`: [dim, dim]."""
        centred = self.means - self.mean
        return self.covariances.mean(dim=0) + centred.mT @ centred / len(self.means)

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent samples of the mixture: [count, dim]."""
        means, count = self.means, check_count("count", count, at_least=0)
        which = torch.randint(len(means), (count,), device=means.device, generator=generator)
        noise = torch.randn(count, means.shape[1], 1, dtype=means.dtype, device=means.device, generator=generator)
        return means[which] + (self._factors[which] @ noise).squeeze(-1)

    def log_density(self, z: Tensor) -> Tensor:
        """The log-density `log p(z)`: [batch, dim] -> [batch]."""
        if z.ndim != 2 or z.shape[1] != self.means.shape[1]:
            raise ValueError(f"z must have shape (batch, {self.means.shape[1]}), got {tuple(z.shape)}.")
        log_each = [self._component_log_density(n, z) for n in range(len(self.means))]
        return torch.stack(log_each).logsumexp(dim=0) - math.log(len(self.means))

    def conditional_entropy(self) -> Tensor:
        """Mean entropy of the components, `H(Z | n) = mean_n 1/2 log det(2 pi e covariance_n) <= H(Z)`: []."""
        return 0.5 * (self._log_dets.mean() + self.means.shape[1] * math.log(2 * math.pi * math.e))

    def entropy_bounds(self) -> EntropyBounds:
        """A lower and an upper bound on H(Z): 2 x [].

            H(Z | n) - mean_i log mean_j exp(-D(p_i || p_j))

        p_i are the components. D is the Bhattacharyya distance in the lower bound, the KL divergence in the upper.
        """
        components = range(len(self.means))
        spread_kl = torch.stack([self._spread(self._kl_divergences(i)) for i in components]).mean()
        spread_bhattacharyya = torch.stack([self._spread(self._bhattacharyya_distances(i)) for i in components]).mean()
        conditional = self.conditional_entropy()
        return EntropyBounds(lower=conditional + spread_bhattacharyya, upper=conditional + spread_kl)

    def gaussian_entropy(self) -> Tensor:
        """Entropy of a Gaussian with the covariance of the mixture, `1/2 log det(2 pi e covariance) >= H(Z)`: []."""
        return 0.5 * (torch.logdet(self.covariance) + self.means.shape[1] * math.log(2 * math.pi * math.e))

    def entropy(self, count: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The entropy `-E log p(Z)` from `count` samples, and its standard error: 2 x []."""
        check_count("count", count, at_least=2)
        surprise = -self.log_density(self.sample(count, generator=generator))
        return surprise.mean(), surprise.std() / math.sqrt(count)

    def _component_log_density(self, n: int, z: Tensor) -> Tensor:
        whitened: Tensor = torch.linalg.solve_triangular(self._factors[n], (z - self.means[n]).mT, upper=False)
        constant = z.shape[1] * math.log(2 * math.pi) + self._log_dets[n]
        return -0.5 * (whitened.square().sum(dim=0) + constant)

    def _kl_divergences(self, i: int) -> Tensor:
        """`KL(p_i || p_j)` for all j: [components]."""
        # one solve gives tr(S_j^-1 S_i) = |L_j^-1 L_i|^2 and the Mahalanobis distance |L_j^-1 difference|^2, for S = L L^T
        sides = torch.cat([self._factors[i].expand_as(self._factors), (self.means[i] - self.means)[..., None]], dim=-1)
        whitened: Tensor = torch.linalg.solve_triangular(self._factors, sides, upper=False)
        return 0.5 * (whitened.square().sum(dim=(1, 2)) - self.means.shape[1] + self._log_dets - self._log_dets[i])

    def _bhattacharyya_distances(self, i: int) -> Tensor:
        """`BD(p_i, p_j)` for all j: [components]."""
        factors: Tensor = torch.linalg.cholesky((self.covariances[i] + self.covariances) / 2)
        log_dets = 2 * factors.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        whitened: Tensor = torch.linalg.solve_triangular(factors, (self.means[i] - self.means)[..., None], upper=False)
        return whitened.square().sum(dim=(1, 2)) / 8 + 0.5 * (log_dets - (self._log_dets + self._log_dets[i]) / 2)

    @staticmethod
    def _spread(divergences: Tensor) -> Tensor:
        """`-log mean_j exp(-D_j)`: [components] -> []."""
        return math.log(len(divergences)) - torch.logsumexp(-divergences, dim=0)


@torch.no_grad()
def output_mixture(network: Network, prototypes: Tensor, covariance: float | Tensor, *, ridge: float = 0.0) -> OutputMixture:
    """The output distribution of Theorem 1: a mixture of `N(f(x_n), J(x_n) S_n J(x_n)^T + ridge I)` over the prototypes x_n.

    It is exact if the network is affine over the range of the noise, as a piecewise affine network is for small noise.
    Otherwise it is a first-order approximation (see `linearization_error`). The network must treat each row by itself.

    Args:
        network: [batch, *input] -> [batch, dim].
        prototypes: the x_n, [components, *input].
        covariance: S_n of the noise on the flattened input: a variance, or [numel, numel], or [components, numel, numel].
        ridge: variance added in every output direction; needed if dim exceeds the rank of the Jacobian.

    Source: Theorem 1 of arXiv 2303.00633.
    """
    check_not_negative("ridge", ridge)
    means, jacobian = network(prototypes).detach(), jacobians(network, prototypes)
    if isinstance(covariance, Tensor) and covariance.ndim:
        if covariance.ndim == 1:
            raise ValueError("covariance must be a number or one or more matrices, got a vector. Pass torch.diag(variances).")
        covariances = jacobian @ covariance.to(jacobian) @ jacobian.mT
    else:
        covariances = check_positive("covariance", covariance) * jacobian @ jacobian.mT
    identity = torch.eye(means.shape[1], dtype=means.dtype, device=means.device)
    return OutputMixture(means, (covariances + covariances.mT) / 2 + ridge * identity)


@torch.no_grad()
def linearization_error(
    network: Network, x: Tensor, noise_std: float, *, draws: int = 16, generator: torch.Generator | None = None
) -> Tensor:
    """Relative error of the linear approximation of the network at each x: [batch, *input] -> [batch].

        E |f(x + e) - f(x) - J e|^2 / E |J e|^2,   e ~ N(0, noise_std^2 I),   J the Jacobian

    It is 0 if all draws lie in the linear region of x, where Theorem 1 is exact.
    """
    check_positive("noise_std", noise_std)
    check_count("draws", draws)
    centre, jacobian = network(x), jacobians(network, x)
    error, size = torch.zeros_like(centre[:, 0]), torch.zeros_like(centre[:, 0])
    for _ in range(draws):
        noise = noise_std * torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        linear = (jacobian @ noise.flatten(1)[..., None]).squeeze(-1)
        error += (network(x + noise) - centre - linear).square().sum(dim=1)
        size += linear.square().sum(dim=1)
    return error / size
