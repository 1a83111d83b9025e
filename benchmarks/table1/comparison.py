"""The difference of two rows: of their means over seeds, with its standard error and p-value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import NamedTuple

#: a difference is reported if it exceeds this many of its standard errors
STANDARD_ERRORS = 2.0
#: one row beats another if Welch's p-value is below this; with three seeds that takes about three standard errors
LEVEL = 0.05


class Difference(NamedTuple):
    """`mean(a) - mean(b)`, its standard error `sqrt(s_a^2 / n_a + s_b^2 / n_b)` and Welch's p-value.

    Seeds are not paired: they have the same initial weights, but with few seeds pairing costs more degrees of freedom than it
    gains. Error and p-value are None if a side has a single seed.
    """

    mean: float
    error: float | None
    p_value: float | None

    @property
    def counts(self) -> bool:
        """Whether it exceeds STANDARD_ERRORS of its standard errors."""
        return self.error is not None and abs(self.mean) > STANDARD_ERRORS * self.error

    @property
    def verdict(self) -> str:
        """In words: a beats b, or does not."""
        if self.p_value is None:
            return "has one seed, which cannot tell"
        if self.p_value >= LEVEL:
            return "is within the error"
        return "beats it" if self.mean > 0 else "does not beat it, but is worse"

    def text(self, scale: float = 100.0) -> str:
        """For print, in points."""
        error = "" if self.error is None else f" ± {scale * self.error:.1f}"
        return f"{scale * self.mean:+.1f}{error}"


def difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Of two rows' scores, one a seed (B. L. Welch, Biometrika 34, 1947)."""
    mean = fmean(a) - fmean(b)
    if min(len(a), len(b)) < 2:
        return Difference(mean, None, None)
    squares = [variance(side) / len(side) for side in (a, b)]
    error = math.sqrt(sum(squares))
    if error == 0:
        # seeds that do not differ at all: any difference is sure
        return Difference(mean, 0.0, float(mean == 0))
    from scipy.stats import t

    freedom = sum(squares) ** 2 / sum(square**2 / (len(side) - 1) for square, side in zip(squares, (a, b), strict=True))
    return Difference(mean, error, 2 * float(t.sf(abs(mean) / error, freedom)))
