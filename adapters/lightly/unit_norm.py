"""HypersphereLoss, KoLeoLoss and FroSSLLoss with lightly's constructors: entropies of rows or columns of unit norm."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from it_losses import EntropyRegularizer, KoLeo, MatrixRenyi, QuadraticRenyi, VICRegEntropy
from it_losses.adapters.drop_in import HostNames, as_ours, in_host_dtype
from it_losses.bound import Terms
from it_losses.checks import ViewError, Weight, accepted, check_positive


class HypersphereLoss(HostNames, VICRegEntropy):
    """lightly's `HypersphereLoss`, alignment plus uniformity of unit vectors: [batch, dim] x 2 -> [].

        mean_i |u_i - u_i'|^2 + lam * mean over the views of log mean_{i != j} exp(-t |u_i - u_j|^2)

    This is `2 (1 - cosine) - lam * H`, H the quadratic Renyi entropy. Each rank uses its own samples, as in lightly.

    Args:
        t: inverse scale of the distances; 1 in lightly, 2 in the paper.
        lam: weight of the uniformity.
        alpha: the power of the distance of the views; must be 2.

    Raises:
        ValueError: alpha other than 2. ViewError, a ValueError: views of different shapes, or a batch of one sample, for
            which lightly returns NaN.
    """

    host_names: ClassVar[Mapping[str, str]] = {"lam": "entropy_weight"}

    def __init__(self, t: float = 1.0, lam: Weight = 1.0, alpha: float = 2.0) -> None:
        uniformity = QuadraticRenyi.of_uniformity(t)
        super().__init__(uniformity, invariance_weight=2.0, entropy_weight=lam, gather_distributed=False)
        self._t = float(t)
        self.alpha = alpha

    @property
    def t(self) -> float:
        """Inverse scale of the distances."""
        return self._t

    @t.setter
    def t(self, value: float) -> None:
        self._t = check_positive("t", value)
        self.entropy = QuadraticRenyi.of_uniformity(value)

    @property
    def alpha(self) -> float:
        """The power of the distance of the views: 2."""
        return 2.0

    @alpha.setter
    def alpha(self, value: float) -> None:
        if value != 2:
            raise ValueError(f"alpha must be 2, got {value!r}. For another power use lightly's own class.")

    def forward(self, z_a: Tensor, z_b: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """The loss: 2 x [batch, dim] -> []."""
        return in_host_dtype(self.terms(z_a, z_b).loss, z_a, z_b)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        if "distributed" not in state:
            known = {**state["_parameters"], **state}
            state = as_ours(self, HypersphereLoss, state, t=known["t"], lam=known["lam"], alpha=known["alpha"])
        super().__setstate__(state)


class KoLeoLoss(EntropyRegularizer):
    """lightly's `KoLeoLoss`, `-mean_i log |u_i - u_nn(i)|` of unit vectors: [batch, dim] -> [].

    Each rank uses its own samples, as in lightly. (`EntropyRegularizer("koleo")` uses those of all ranks.) The value differs
    from lightly's in two cases. For samples that nearly coincide, lightly finds wrong neighbours. For distances near eps,
    lightly adds eps to each component and to the distance; here the logarithm levels off at 2 eps.

    Args:
        p: order of the norm of the distance; must be 2.
        eps: half the distance below which the logarithm levels off.

    Raises:
        ValueError: p other than 2, or eps of 0.
    """

    def __init__(self, p: float = 2, eps: float = 1e-8) -> None:
        super().__init__(KoLeo("rows", epsilon=2 * check_positive("eps", eps)), gather_distributed=False)
        self.p = p

    @property
    def p(self) -> float:
        """Order of the norm of the distance: 2."""
        return 2

    @p.setter
    def p(self, value: float) -> None:
        if value != 2:
            raise ValueError(f"p must be 2, got {value!r}. For another norm use lightly's own class.")

    @property
    def eps(self) -> float:
        """Half the distance below which the logarithm levels off."""
        return self._estimator().epsilon / 2

    @eps.setter
    def eps(self, value: float) -> None:
        self._estimator().epsilon = 2 * check_positive("eps", value)

    @property
    def pairwise_distance(self) -> nn.PairwiseDistance:
        """The distance module of lightly's class. This loss does not use it."""
        return nn.PairwiseDistance(p=2, eps=self.eps)

    def _estimator(self) -> KoLeo:
        assert isinstance(self.entropy, KoLeo)
        return self.entropy

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """The loss: [batch, dim] -> []."""
        (x,) = accepted(x)
        # repeat a single sample, because in lightly it is its own neighbour
        rows = x.expand(2, -1) if len(x) == 1 else x
        return in_host_dtype(super().forward(rows), x)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        if "distributed" not in state:
            state = as_ours(self, KoLeoLoss, state, p=state["p"], eps=state["eps"])
        super().__setstate__(state)


class FroSSLLoss(VICRegEntropy):
    """lightly's `FroSSLLoss`: a list of V views [batch, dim] -> [].

        invariance_weight * dim * sum_{a < b} |u_a - u_b|^2 / (batch * dim) - sum_a S_2(u_a)

    The columns of u have unit norm and are not centred. S_2 is MatrixRenyi of order 2. Each rank uses its own samples, as in
    lightly. The weight of the first term depends on the batch size, because u is scaled by `1 / sqrt(batch)`.
    `VICRegEntropy("renyi")` has a constant weight.

    Args:
        invariance_weight: weight of the invariance, or a Parameter to train it.

    Raises:
        ViewError, a ValueError: fewer than two views, or a batch of one sample.
    """

    def __init__(self, invariance_weight: Weight = 1.0) -> None:
        estimator = MatrixRenyi(2.0, normalize="uncentred_columns")
        super().__init__(estimator, invariance_weight=invariance_weight, entropy_weight=1.0, gather_distributed=False)

    def weights_for(self, views: Sequence[Tensor]) -> tuple[Weight, Weight]:
        """Weights with which our terms give lightly's loss. Our columns have norm `sqrt(batch)`; our entropy is a mean."""
        count, batch, dim = len(views), len(views[0]), views[0].shape[-1]
        pairs = count * (count - 1) / 2
        return self.invariance_weight * (pairs * dim / batch), count * self.entropy_weight

    def terms(self, z_views: Sequence[Tensor]) -> Terms:  # type: ignore[override]
        """The loss; for logging, also the views' distance and mean entropy, unweighted and detached."""
        if isinstance(z_views, Tensor):
            accepted(z_views)
        elif not isinstance(z_views, Sequence):
            raise ViewError(f"z_views must be a list of views, got {type(z_views).__name__}. Call criterion([z_a, z_b]).")
        if len(z_views) < 2:
            raise ViewError(f"z_views must hold at least two views, got {len(z_views)}. Call criterion([z_a, z_b]).")
        return super().terms(*z_views)

    def forward(self, z_views: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """The loss: a list of V x [batch, dim] -> []."""
        return in_host_dtype(self.terms(z_views).loss, *z_views)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        if "distributed" not in state:
            known = {**state["_parameters"], **state}
            state = as_ours(self, FroSSLLoss, state, invariance_weight=known["invariance_weight"])
        super().__setstate__(state)
