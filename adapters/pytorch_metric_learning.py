"""pytorch-metric-learning: our criteria as losses called `loss(embeddings, ref_emb=other_view)`.

- loss = losses.VICRegLoss()
+ loss = VICRegLoss()                     # or SelfSupervised(VICRegEntropy("log_det"))
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from it_losses.adapters.conventions import vicreg
from it_losses.adapters.frameworks import framework

framework("pytorch_metric_learning", install="pip install pytorch-metric-learning")
from pytorch_metric_learning.losses import BaseMetricLossFunction  # noqa: E402


class SelfSupervised(BaseMetricLossFunction):  # type: ignore[misc]
    """A criterion of two views behind the library's interface: `loss(embeddings, ref_emb=...)`, 2 x [batch, dim] -> [].

    The criterion gathers the ranks by itself: no `DistributedLossWrapper` around it, whose gradient is 1 / ranks of the
    global batch's.

    Args:
        criterion: any module called as `criterion(z_a, z_b)`.
        options: of BaseMetricLossFunction, such as `collect_stats`.
    """

    def __init__(self, criterion: nn.Module, **options: Any) -> None:
        super().__init__(**options)
        self.criterion = criterion

    def compute_loss(
        self, embeddings: Tensor, labels: Any, indices_tuple: Any, ref_emb: Tensor | None, ref_labels: Any
    ) -> dict[str, Any]:
        """The criterion's value as the library's record of one finished loss."""
        if labels is not None or indices_tuple is not None or ref_labels is not None:
            raise ValueError("a self-supervised loss has no labels and no tuples: call loss(embeddings, ref_emb=other_view).")
        # without ref_emb the library hands on the embeddings themselves
        if ref_emb is None or ref_emb is embeddings:
            raise ValueError("needs the other view: call loss(embeddings, ref_emb=other_view).")
        value = self.criterion(embeddings, ref_emb)
        return {"loss": {"losses": value, "indices": None, "reduction_type": "already_reduced"}}


class VICRegLoss(SelfSupervised):
    """The library's `VICRegLoss`, number for number.

    Args:
        invariance_lambda: weight of the invariance.
        variance_mu: weight of the variance hinge.
        covariance_v: weight of the covariances.
        eps: added to the variances under the root.
        gather_distributed: whether the statistics are those of all ranks; the library's, without a wrapper, are not.
        options: of BaseMetricLossFunction.
    """

    def __init__(
        self,
        invariance_lambda: float = 25,
        variance_mu: float = 25,
        covariance_v: float = 1,
        eps: float = 1e-4,
        gather_distributed: bool = False,
        **options: Any,
    ) -> None:
        theirs = {"invariance_lambda": invariance_lambda, "variance_mu": variance_mu, "covariance_v": covariance_v, "eps": eps}
        super().__init__(vicreg("pytorch-metric-learning", gather_distributed=gather_distributed, **theirs), **options)
