"""stable-pretraining: a criterion for `spt.Module(vicreg_loss=...)`, SIGReg for its LeJEPA, and a forward for several views.

    spt.Module(forward=it_losses.adapters.stable_pretraining.forward, backbone=..., projector=...,
               vicreg_loss=it_losses.VICRegEntropy("log_det"), optim=...)

In YAML use `_target_: it_losses.VICRegEntropy`, or another criterion of ours. Its argument may be an estimator, such as
`entropy: {_target_: it_losses.KoLeo}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from it_losses import EntropyRegularizer, VICReg
from it_losses.adapters.conventions import ARGUMENTS, EppsPulley, translated
from it_losses.adapters.drop_in import HostNames, in_host_dtype


class VICRegLoss(HostNames, VICReg):
    """stable-pretraining's `VICRegLoss`, with the same value, for the batch of all ranks: V x [batch, dim] -> [].

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

    def forward(self, z_i: Tensor, z_j: Tensor | None = None, *more_views: Tensor) -> Tensor:
        """The loss: V x [batch, dim] -> []."""
        return in_host_dtype(self.terms(z_i, z_j, *more_views).loss, z_i, z_j, *more_views)

    @property
    def vcreg_loss(self) -> VICRegLoss:
        """The criterion itself. In stable-pretraining this object has `std_coeff`, `cov_coeff` and `epsilon`."""
        return self


class SlicedEppsPulley(EntropyRegularizer):
    """stable-pretraining's `SlicedEppsPulley` (SIGReg), how far embeddings are from N(0, I): [batch, dim] -> [].

        model = LeJEPA("vit_small_patch16_224")
        model.sigreg = SlicedEppsPulley()

    The statistic uses the samples of all ranks, and is multiplied by their number. In stable-pretraining each rank uses its own
    samples (see docs/which_sigreg.md). The slices differ too: ours depend on the number of calls in training.

    Args:
        num_slices: number of random directions.
        t_max: the largest frequency.
        n_points: points of the trapezoidal rule on [0, t_max].
    """

    def __init__(self, num_slices: int = 1024, t_max: float = 3.0, n_points: int = 17) -> None:
        super().__init__(EppsPulley(n_points, t_max, num_slices))

    @property
    def global_step(self) -> Tensor:
        """The number of calls in training. It is in the state dict, so a resumed run continues with the next slices."""
        return self._estimator().draws

    @property
    def num_slices(self) -> int | None:
        """Number of random directions."""
        return self._estimator().slices

    @num_slices.setter
    def num_slices(self, value: int) -> None:
        self._estimator().slices = value

    def _estimator(self) -> EppsPulley:
        assert isinstance(self.entropy, EppsPulley)
        return self.entropy

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "global_step"] = self.global_step.clone()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *options: Any) -> None:
        # stable-pretraining also saves tables, which ours does not need
        for table in ("t", "phi", "weights"):
            state_dict.pop(f"{prefix}ep.{table}", None)
        step = state_dict.pop(prefix + "global_step", None)
        if step is not None:
            self.global_step.copy_(step)
        super()._load_from_state_dict(state_dict, prefix, *options)


def forward(self: Any, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
    """A forward for `spt.Module`: the loss of all views of a batch, with every term logged as `<stage>/<term>`.

    `self` needs `backbone`, `projector` and `vicreg_loss`, a criterion of ours. The result has "embedding", "label" if the
    batch has labels, and "loss" in training.
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
    """The views of a batch: from a list, from a dict by name, or the one view of a validation batch."""
    views = batch.get("views", [batch] if "image" in batch else batch)
    # spt.Module adds the batch index to a dict of views
    return [view for view in views.values() if isinstance(view, dict)] if isinstance(views, dict) else list(views)
