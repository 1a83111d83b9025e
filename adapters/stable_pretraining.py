"""stable-pretraining: a criterion for `spt.Module(vicreg_loss=...)`, and a forward for two views or more.

    spt.Module(forward=it_losses.adapters.stable_pretraining.forward, backbone=..., projector=...,
               vicreg_loss=it_losses.VICRegEntropy("log_det"), optim=...)

Any criterion of ours can be a `_target_` in its YAML: `_target_: it_losses.VICRegEntropy`. Nothing of stable-pretraining is
imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from it_losses import VICReg
from it_losses.adapters.conventions import ARGUMENTS, translated
from it_losses.adapters.drop_in import HostNames, in_host_dtype


class VICRegLoss(HostNames, VICReg):
    """stable-pretraining's `VICRegLoss`, with the same value, of the batch of all ranks: V x [batch, dim] -> [].

    The constants can be read and set under stable-pretraining's names.

    Args:
        sim_coeff: weight of the invariance.
        std_coeff: weight of the variance hinge.
        cov_coeff: weight of the covariances.
        epsilon: added to the variances under the root.
    """

    host_names: ClassVar[Mapping[str, str]] = {
        name: ours for name, ours in ARGUMENTS["stable-pretraining"].items() if name != ours
    }

    def __init__(self, sim_coeff: float = 25.0, std_coeff: float = 25.0, cov_coeff: float = 1.0, epsilon: float = 1e-4) -> None:
        theirs = {"sim_coeff": sim_coeff, "std_coeff": std_coeff, "cov_coeff": cov_coeff, "epsilon": epsilon}
        super().__init__(**translated("stable-pretraining", **theirs))  # type: ignore[arg-type]

    def forward(self, z_i: Tensor, z_j: Tensor, *more_views: Tensor) -> Tensor:
        """V x [batch, dim] -> []."""
        return in_host_dtype(self.terms(z_i, z_j, *more_views).loss, z_i, z_j, *more_views)

    @property
    def vcreg_loss(self) -> VICRegLoss:
        """The object that has `std_coeff`, `cov_coeff` and `epsilon` in stable-pretraining; here the criterion itself."""
        return self


def forward(self: Any, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
    """A forward for `spt.Module`: the loss of all views of a batch, with every term logged as `<stage>/<term>`.

    `self` has `backbone`, `projector` and, as `vicreg_loss`, a criterion with `terms`. It returns "embedding" and, if there are
    labels, "label" for the callbacks, and "loss" in training.
    """
    views = _views(batch)
    embeddings = [self.backbone(view["image"]) for view in views]
    out = {"embedding": torch.cat(embeddings)}
    if "label" in views[0]:
        out["label"] = torch.cat([view["label"] for view in views])
    if self.training and len(views) > 1:
        terms = self.vicreg_loss.terms(*(self.projector(embedding) for embedding in embeddings))
        out["loss"] = terms.loss
        logged = {f"{stage}/{name}": value.detach() for name, value in terms._asdict().items()}
        self.log_dict(logged, on_step=True, on_epoch=True, sync_dist=True)
    return out


def _views(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """The views of a batch: a list, a dict by name, or the one view of a validation batch."""
    if "views" in batch:
        views = batch["views"]
        return list(views.values()) if isinstance(views, dict) else list(views)
    return [batch] if "image" in batch else list(batch.values())
