"""pytorch-metric-learning: our criteria as losses with its call, `loss(embeddings, ref_emb=other_view)`.

- loss = losses.VICRegLoss()
+ loss = VICRegLoss()                     # or SelfSupervised(VICRegEntropy("log_det"))
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from it_losses.adapters import framework
from it_losses.adapters.conventions import ARGUMENTS, vicreg
from it_losses.adapters.drop_in import HostNames

framework("pytorch_metric_learning", install="pip install pytorch-metric-learning")
from pytorch_metric_learning.losses import BaseMetricLossFunction  # noqa: E402
from pytorch_metric_learning.reducers import MeanReducer  # noqa: E402


class SelfSupervised(BaseMetricLossFunction):  # type: ignore[misc]
    """A criterion of two views with the library's interface: `loss(embeddings, ref_emb=...)`, 2 x [batch, dim] -> [].

    The criterion gathers over ranks. Do not wrap it in `DistributedLossWrapper`, which divides the gradient by the number of
    ranks.

    Args:
        criterion: any module called as `criterion(z_a, z_b)`.
        options: arguments of BaseMetricLossFunction, such as `collect_stats`.
    """

    def __init__(self, criterion: nn.Module, **options: Any) -> None:
        super().__init__(**options)
        self.criterion = criterion

    def compute_loss(
        self, embeddings: Tensor, labels: Any, indices_tuple: Any, ref_emb: Tensor | None, ref_labels: Any
    ) -> dict[str, Any]:
        """The value of the criterion, in the library's dict for a reduced loss."""
        _check_unlabelled(labels, indices_tuple, ref_labels)
        # if the user passes no ref_emb, the library passes the embeddings again
        if ref_emb is None or ref_emb is embeddings:
            raise ValueError("the loss needs the other view. Call loss(embeddings, ref_emb=other_view).")
        return _finished(self.criterion(embeddings, ref_emb))


class VICRegLoss(HostNames, SelfSupervised):
    """The library's `VICRegLoss`, with the same value and dtype. Without `ref_emb` both views are `embeddings`.

    The constants can be read and set under the library's names.

    Args:
        invariance_lambda: weight of the invariance.
        variance_mu: weight of the variance hinge.
        covariance_v: weight of the covariances.
        eps: added to the variances under the root.
        gather_distributed: whether the statistics use the samples of all ranks.
        options: arguments of BaseMetricLossFunction.

    Raises:
        ValueError: a distance or a regularizer, as in the library; a reducer other than MeanReducer.
    """

    host_names: ClassVar[Mapping[str, str]] = ARGUMENTS["pytorch-metric-learning"]

    def __init__(
        self,
        invariance_lambda: float = 25,
        variance_mu: float = 25,
        covariance_v: float = 1,
        eps: float = 1e-4,
        gather_distributed: bool = False,
        **options: Any,
    ) -> None:
        for name in ("distance", "embedding_regularizer"):
            if name in options:
                raise ValueError(f"VICRegLoss accepts no {name}, as in the library. Leave it out.")
        if not isinstance(options.get("reducer"), (MeanReducer, type(None))):
            raise ValueError(
                f"VICRegLoss supports only MeanReducer, got reducer={options['reducer']!r}. "
                "Leave it out, or use the library's own VICRegLoss."
            )
        theirs = {"invariance_lambda": invariance_lambda, "variance_mu": variance_mu, "covariance_v": covariance_v, "eps": eps}
        super().__init__(vicreg("pytorch-metric-learning", gather_distributed=gather_distributed, **theirs), **options)

    def _constants(self) -> Any:
        return self.criterion

    def compute_loss(
        self, embeddings: Tensor, labels: Any, indices_tuple: Any, ref_emb: Tensor, ref_labels: Any
    ) -> dict[str, Any]:
        """The value, in the library's dict for a reduced loss."""
        _check_unlabelled(labels, indices_tuple, ref_labels)
        # the library's value has this dtype, under autocast too
        return _finished(self.criterion(embeddings, ref_emb).to(embeddings.dtype))

    def __copy__(self) -> VICRegLoss:
        """A shallow copy with constants of its own, like a copy of the library's class."""
        other = self.__class__.__new__(self.__class__)
        other.__dict__.update(self.__dict__)
        other._modules = {**self._modules, "criterion": copy.copy(self.criterion)}
        return other


def _check_unlabelled(labels: Any, indices_tuple: Any, ref_labels: Any) -> None:
    if labels is not None or indices_tuple is not None or ref_labels is not None:
        raise ValueError("this loss accepts no labels, ref_labels or indices_tuple. Call loss(embeddings, ref_emb=other_view).")


def _finished(value: Tensor) -> dict[str, Any]:
    return {"loss": {"losses": value, "indices": None, "reduction_type": "already_reduced"}}
