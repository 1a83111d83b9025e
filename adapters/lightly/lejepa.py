"""LeJEPALoss, SIGReg and lejepa_invariance_loss, with lightly's constructors and calls."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from it_losses import EntropyRegularizer
from it_losses.adapters.conventions import EppsPulley
from it_losses.adapters.drop_in import HostNames, as_ours, check_can_gather, in_host_dtype
from it_losses.bound import accepted_views
from it_losses.checks import Check, accepted, check_not_negative
from it_losses.constants import Checked
from it_losses.distributed import tell_ranks_of_refusal
from it_losses.precision import accumulation_dtype, full_precision


def tables(knots: int, t_max: float, *, device: str | None = None) -> dict[str, Tensor]:
    """The buffers t, phi and weights of lightly's SIGReg, each [knots]."""
    t = torch.linspace(0, t_max, knots, device=device)
    phi = torch.exp(-t.square() / 2)
    rule = torch.full_like(t, 2 * t_max / (knots - 1))
    rule[[0, -1]] /= 2
    return {"t": t, "phi": phi, "weights": rule * phi}


class SIGReg(HostNames, EntropyRegularizer):
    """lightly's `SIGReg`: how far projections are from N(0, I), times the batch size: [..., batch, dim] -> [].

    For the same slices (random directions) the value is lightly's. Our slices depend only on `criterion.entropy.seed` and the
    number of calls in training, so all ranks have the same slices (see `it_losses.SIGReg`). They do not use torch's random
    numbers or `torch.manual_seed`.

    Args:
        knots: points of the trapezoidal rule on [0, t_max].
        t_max: the largest frequency.
        num_vectors: number of slices.
        gather_distributed: whether the statistic uses the samples of all ranks.

    Raises:
        ValueError: a number that is too small, a changed buffer (t, phi, weights), or gathering without torch.distributed.
            ViewError, a ValueError: a batch of one sample.
    """

    t: Tensor
    phi: Tensor
    weights: Tensor

    def __init__(
        self, *, knots: int = 17, t_max: float = 3.0, num_vectors: int = 1024, gather_distributed: bool = False
    ) -> None:
        check_can_gather(gather_distributed)
        super().__init__(EppsPulley(knots, t_max, num_vectors), gather_distributed=gather_distributed)
        # lightly's buffers, for other code and state dicts; this loss only checks them
        for name, table in tables(knots, t_max).items():
            self.register_buffer(name, table)
        self._seen = self._written()

    @property
    def num_vectors(self) -> int:
        """Number of slices."""
        assert isinstance(self.entropy, EppsPulley) and self.entropy.slices is not None
        return self.entropy.slices

    @num_vectors.setter
    def num_vectors(self, value: int) -> None:
        assert isinstance(self.entropy, EppsPulley)
        self.entropy.slices = value

    def forward(self, proj: Tensor) -> Tensor:  # type: ignore[override]
        """The loss: [..., batch, dim] -> [], float32 (float64 for float64)."""
        has_numbers = not (torch.compiler.is_compiling() or self.t.is_meta or hasattr(self.t, "fake_mode"))
        if has_numbers and self._written() != self._seen:
            self._check_tables()
        (proj,) = accepted_views((proj,), self.distributed)
        return super().forward(*proj.reshape(-1, *proj.shape[-2:]))

    def _written(self) -> list[tuple[int, int]]:
        """Numbers that change if a buffer is replaced or written to."""
        return [(id(table), table.is_inference() or table._version) for table in (self.t, self.phi, self.weights)]

    def _check_tables(self) -> None:
        """Raise ValueError if a buffer differs from `tables` by more than rounding to half precision."""
        assert isinstance(self.entropy, EppsPulley)
        for name, table in tables(self.entropy.knots, self.entropy.t_max, device="cpu").items():
            found = getattr(self, name).detach().to(table)
            if found.shape != table.shape or not torch.allclose(found, table, rtol=2**-7, atol=1e-4):
                tell_ranks_of_refusal(self.distributed)
                raise ValueError(
                    f"the buffer {name} was changed, but SIGReg ignores changed buffers. Create SIGReg(knots=..., t_max=...)."
                )
        self._seen = self._written()

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        if "distributed" not in state:
            t = state["_buffers"]["t"]
            theirs = {"knots": len(t), "t_max": t[-1].item()}
            state = as_ours(
                self,
                SIGReg,
                state,
                **theirs,
                num_vectors=state["num_vectors"],
                gather_distributed=state["gather_distributed"],
            )
        super().__setstate__(state)


def lejepa_invariance_loss(*, all_proj: Tensor, global_proj: Tensor) -> Tensor:
    """LeJEPA's invariance, the mean squared distance of all views to the mean global view: [V, batch, dim] x 2 -> []."""
    views, centres = accepted(all_proj, global_proj)
    dtype = accumulation_dtype(views.dtype)
    with full_precision(views):
        distance = (centres.to(dtype).mean(dim=0) - views.to(dtype)).square().mean()
    return in_host_dtype(distance, all_proj, global_proj)


def check_fraction(name: str, value: Any) -> float:
    """The fraction as a float; ValueError unless it is within [0, 1]."""
    number = check_not_negative(name, value)
    if number > 1:
        raise ValueError(f"{name} must be within [0, 1], got {value!r}.")
    return number


class LeJEPALoss(Checked):
    """lightly's `LeJEPALoss`: stacked local and global views [V, batch, dim] -> [].

        lambda_param * SIGReg(all views) + (1 - lambda_param) * lejepa_invariance_loss

    The random slices differ from lightly's (see SIGReg). With `gather_distributed` SIGReg uses the samples of all ranks, but
    the invariance uses those of this rank, as in lightly.

    Args:
        lambda_param: weight of SIGReg, within [0, 1].
        gather_distributed, sigreg_knots, sigreg_t_max, sigreg_num_vectors: arguments of SIGReg.

    Raises:
        ValueError: lambda_param is outside [0, 1], or the views are not stacked or differ in batch or dim.
    """

    checks: ClassVar[dict[str, Check]] = {"lambda_param": check_fraction}

    def __init__(
        self,
        lambda_param: float = 0.05,
        gather_distributed: bool = False,
        sigreg_knots: int = 17,
        sigreg_t_max: float = 3.0,
        sigreg_num_vectors: int = 1024,
    ) -> None:
        super().__init__()
        self.lambda_param = lambda_param
        self.sigreg = SIGReg(
            knots=sigreg_knots,
            t_max=sigreg_t_max,
            num_vectors=sigreg_num_vectors,
            gather_distributed=gather_distributed,
        )

    def forward(self, *, local_proj: Tensor, global_proj: Tensor) -> Tensor:
        """The loss: [V_local, batch, dim] and [V_global, batch, dim] -> []."""
        local_proj, global_proj = accepted_views((local_proj, global_proj), self.sigreg.distributed)
        shapes = tuple(local_proj.shape), tuple(global_proj.shape)
        if any(len(shape) != 3 or shape[0] == 0 or shape[1:] != shapes[1][1:] for shape in shapes):
            tell_ranks_of_refusal(self.sigreg.distributed)
            raise ValueError(
                "local_proj and global_proj must have shape [views, batch, dim] with the same batch and dim, got "
                f"{shapes[0]} and {shapes[1]}. Stack them with torch.stack(views)."
            )
        all_proj = torch.cat([global_proj, local_proj])
        invariance = lejepa_invariance_loss(all_proj=all_proj, global_proj=global_proj)
        loss: Tensor = self.lambda_param * self.sigreg(all_proj) + (1 - self.lambda_param) * invariance
        return loss
