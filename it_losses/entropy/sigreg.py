"""SIGReg: how far the embeddings are from N(0, I), by the characteristic functions of random projections.

A distribution is N(0, I) if and only if its projection on every direction is N(0, 1) (Cramer and Wold). N(0, I) has the largest
entropy of all distributions with its second moments. So minus the distance from it is a surrogate of entropy.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from it_losses.checks import Check, Weight, check_count, check_matrix, check_name
from it_losses.entropy.base import BoundWeights, EntropyEstimator, SaturationWarning
from it_losses.sigreg_conventions import CONVENTIONS, SIGRegConvention, quadrature
from it_losses.slices import unit_directions

#: above this projection x, the phase t x has fewer than three correct digits in float32
MOST_IN_FLOAT32 = 1e4
TOO_LARGE = (
    f"sigreg: a projection of the embeddings is above {MOST_IN_FLOAT32:g}, which is too large for its phase in float32. "
    "The gradient no longer makes it smaller. Scale the embeddings down, for example by a batch norm."
)


def epps_pulley(x: Tensor, *, points: int, largest: float) -> Tensor:
    """The statistic `sum_k w_k |mean_i exp(i t_k x_i) - phi(t_k)|^2` of each slice: [..., batch, slices] -> [..., slices]."""
    total = torch.zeros_like(x[..., 0, :])
    for t, phi, weight in zip(*quadrature(points, largest, like=x), strict=True):
        error = ((t * x).cos().mean(dim=-2) - phi).square() + (t * x).sin().mean(dim=-2).square()
        total = total + weight * error
    return total


def check_slices(name: str, value: int | Tensor | None) -> int | None:
    """The number of slices, or None for the convention's number; ValueError unless it is a whole number above 0."""
    return None if value is None else check_count(name, value)


def check_draws(name: str, value: object) -> Tensor:
    """The number of draws as an int64 tensor that `add_` can increase; ValueError unless it is a whole number."""
    counts = isinstance(value, Tensor) and value.dtype == torch.int64 and value.ndim == 0
    return cast(Tensor, value) if counts else torch.tensor(check_count(name, value, at_least=0), device="cpu")


class SIGReg(EntropyEstimator):
    """A surrogate of entropy that is largest for embeddings drawn from N(0, I): minus the statistic of Epps and Pulley.

        H(z) = -T,   T = mean_a int phi(t) |mean_i exp(i t a^T z_i) - phi(t)|^2 dt,   phi(t) = exp(-t^2 / 2)

    The mean is over random unit directions a, the slices. H is not in nats and bounds no entropy. T is 0 for the distribution
    N(0, I), and about 1.05 / batch for samples of it. T is .40 if all embeddings are 0, and 1.45 if they are far too wide. The
    gradient shrinks as the embeddings approach 0, and is zero there.

    Each call in training draws new slices from `seed` and the number of calls so far, so all ranks draw the same slices. Calls
    in evaluation mode or without gradients use the slices of the next training call. The number of calls is not in the
    `state_dict`. So a resumed run repeats the first slices, unless you pass another seed or set `draws`.

    Args:
        convention: the source whose T and default weights are used. "paper", "lejepa", "lightly" and "stable-pretraining"
            multiply T by the batch size; "stable-pretraining" also pools the views. "eb_jepa" does not multiply T, so one
            weight suits every batch size. "it_losses" is "eb_jepa" with at least two slices for each dimension.
        slices: number of slices; None for the convention's number. You may also pass the directions, a tensor [dim, slices],
            for which the reference implementation runs.
        seed: a run with the same seed draws the same slices.

    Source: Balestriero & LeCun (arXiv 2511.08544), Algorithm 1; Epps & Pulley (1983).
    """

    unit, direction, rotation_invariant = "surrogate", "no bound on an entropy; largest at N(0, I)", False
    translation_invariant, scaling = False, "target"
    is_random, cost = True, "N D slices + N slices knots"
    fused = "sigreg"
    checks: ClassVar[dict[str, Check]] = {
        "convention": check_name(*CONVENTIONS),
        "slices": check_slices,
        "seed": lambda name, value: check_count(name, value, at_least=0),
    }

    slices: int | None
    #: directions passed by the user, [dim, slices]; None if they are drawn
    directions: Tensor | None
    #: number of calls in training so far, []; set it to continue where another run ended
    draws: Tensor

    def __init__(self, convention: str = "it_losses", *, slices: int | Tensor | None = None, seed: int = 0) -> None:
        super().__init__()
        self.convention = convention
        directions = check_matrix("slices", slices).detach() if isinstance(slices, Tensor) and slices.ndim else None
        self.slices = cast(int | None, slices) if directions is None else directions.shape[1]
        self.seed = seed
        self.register_buffer("directions", directions, persistent=False)
        # a tensor, because compiled code must count; not a buffer, because the state dict must stay empty
        self.draws = torch.zeros((), dtype=torch.int64, device="cpu")
        self._saturation = SaturationWarning(TOO_LARGE)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, check_draws(name, value) if name == "draws" else value)

    @property
    def numbers(self) -> SIGRegConvention:
        """The constants of the convention; a subclass may replace some."""
        return CONVENTIONS[self.convention]

    @property
    def default_weights(self) -> BoundWeights:
        """The published weights for two views; by default 1 (invariance) and 10 (entropy).

        Let embeddings have variance v in every direction, and the views the squared distance `2 r v` (r = 1 for independent
        views). With the weights `invariance` and `entropy` the loss is stationary where `2 invariance r = -entropy T'(v)`, with
        `T'(v) = sqrt(2 pi) ((2 + v)^-1.5 - (1 + 2 v)^-1.5)`. By default v is .56 if r = 1, and .93 if r = .1. Training leaves
        collapse if `2 invariance r < 1.5 entropy`. If the convention multiplies T by the batch size N, replace `entropy` by
        `N entropy`.
        """
        return BoundWeights(*self.numbers.weights)

    def entropy(self, z: Tensor) -> Tensor:
        """The entropy: [..., batch, dim] -> [...]."""
        convention = self.numbers
        x = z @ self._directions(z)  # [..., batch, slices]
        if z.dtype != torch.float64:
            self._saturation.warn_if_saturated([x.detach().abs().amax()], above=MOST_IN_FLOAT32)
        statistic = epps_pulley(x, points=convention.points, largest=convention.largest).mean(dim=-1)
        return -statistic * (z.shape[-2] if convention.times_batch else 1)

    def _directions(self, z: Tensor) -> Tensor:
        """The user's directions, or the random directions of this call: -> [dim, slices]."""
        if self.directions is None:
            (least, per_dim), dim = self._counts(), z.shape[-1]
            return unit_directions(max(least, per_dim * dim), dim, seed=self.seed, draw=self._number(), like=z).mT
        if len(self.directions) != z.shape[-1]:
            raise ValueError(f"slices must have {z.shape[-1]} rows, one for each dimension, got {len(self.directions)} rows.")
        return torch.nn.functional.normalize(self.directions.to(z), dim=0)

    def _counts(self) -> tuple[int, int]:
        """The smallest number of slices, and slices per dimension."""
        return (self.numbers.slices, self.numbers.slices_per_dim) if self.slices is None else (self.slices, 0)

    def _number(self) -> int | Tensor:
        # compiled code must read the tensor at every call; FakeTensors and torch.func in older torch have no number to read
        if torch.compiler.is_compiling() or type(self.draws) is not Tensor or torch._C._are_functorch_transforms_active():
            return self.draws.clone()
        # tolist() calls no operator, unlike item()
        return cast(int, self.draws.tolist())

    def draw(self) -> int | Tensor:
        """The number of earlier calls in training. A call in training is then counted."""
        number = self._number()
        if self.training and torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active():
            if not torch.compiler.is_compiling() and self.draws.is_inference():
                # copy a tensor made in inference mode, because it cannot be changed outside that mode
                self.draws = self.draws.clone()
            self.draws.add_(1)
        return number

    def mean_entropy(self, views: Sequence[Tensor]) -> Tensor:
        """The mean entropy by the reference, with the same slices for all views: V x [batch, ..., dim] -> []."""
        entropy = super().mean_entropy([torch.cat(tuple(views))] if self.numbers.pooled else views)
        self.draw()
        return entropy

    def constants(self) -> list[Weight]:
        """The user's directions; otherwise the constants of the fused implementation without the draw number."""
        if self.directions is not None:
            return [self.directions]
        points, largest, _, times_batch, pooled, *_ = self.numbers
        return [float(number) for number in (*self._counts(), points, largest, times_batch, pooled, self.seed)]

    def warn_if_saturated(self, parts: Tensor) -> None:
        """Warn if the largest projection, `parts[0]`, is too large for its phase in float32."""
        if parts.dtype != torch.float64:
            self._saturation.warn_if_saturated([parts[0]], above=MOST_IN_FLOAT32)
