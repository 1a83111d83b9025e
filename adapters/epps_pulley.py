"""SIGReg's statistic with the knots, range and number of slices that a library's own class takes."""

from __future__ import annotations

from typing import ClassVar

from it_losses import SIGReg
from it_losses.checks import Check, check_count, check_positive
from it_losses.sigreg_conventions import CONVENTIONS, SIGRegConvention


class EppsPulley(SIGReg):
    """Minus `batch * T`, T the statistic of Epps and Pulley: `[batch, ..., dim] -> []`. See SIGReg.

    Args:
        knots: points of the trapezoidal rule on [0, t_max], which is doubled by symmetry.
        t_max: the largest frequency.
        slices: the number of random directions.
    """

    checks: ClassVar[dict[str, Check]] = {
        "knots": lambda name, value: check_count(name, value, at_least=2),
        "t_max": check_positive,
    }

    def __init__(self, knots: int, t_max: float, slices: int) -> None:
        super().__init__("lightly", slices=check_count("slices", slices))
        self.knots = knots
        self.t_max = t_max

    @property
    def numbers(self) -> SIGRegConvention:
        """The convention of lightly with these knots; that of stable-pretraining is the same once the views are pooled."""
        return CONVENTIONS["lightly"]._replace(points=2 * self.knots - 1, largest=self.t_max)
