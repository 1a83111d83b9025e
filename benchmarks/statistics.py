"""Means over seeds or trials with standard errors, differences with p-values, and sentences that report them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd

#: a difference with a smaller p-value is significant; in a paired test it exceeds 4.3 standard errors for 3 seeds, 2.8 for 5
LEVEL = 0.05


class Statistic(NamedTuple):
    """Mean over seeds and its standard error. The error is NaN for one seed; both are NaN if a run diverged."""

    mean: float
    error: float

    def text(self, scale: float = 1.0, digits: int = 1, sign: str = "") -> str:
        error = "" if math.isnan(self.error) else f" ± {scale * self.error:.{digits}f}"
        return f"{scale * self.mean:{sign}.{digits}f}{error}"


class Difference(NamedTuple):
    """`mean(a) - mean(b)` with its standard error and p-value. Both are NaN if a or b has a single seed."""

    mean: float
    error: float
    p_value: float

    def text(self) -> str:
        return Statistic(self.mean, self.error).text(100, sign="+")

    def cells(self) -> dict[str, str]:
        return {"difference": self.text(), "p": "" if math.isnan(self.p_value) else f"{self.p_value:.2g}"}


def statistic(values: Iterable[float]) -> Statistic:
    """Mean and standard error `s / sqrt(n)`; NaN if a run diverged."""
    values = list(values)
    return Statistic(fmean(values), pd.Series(values, dtype=float).sem(skipna=False))


def difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """The unpaired difference of two means, with the error `sqrt(s_a^2 / n_a + s_b^2 / n_b)` (Welch, Biometrika 34, 1947)."""
    from scipy.stats import ttest_ind

    of_a, of_b = statistic(a), statistic(b)
    gap = Statistic(of_a.mean - of_b.mean, math.hypot(of_a.error, of_b.error))
    return _tested(gap, lambda: ttest_ind(a, b, equal_var=False).pvalue)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """The difference of two methods with the same seeds: mean and standard error over seeds, p-value of a paired t-test."""
    from scipy.stats import ttest_rel

    return _tested(statistic(x - y for x, y in zip(a, b, strict=True)), lambda: ttest_rel(a, b).pvalue)


def _tested(gap: Statistic, p_value: Callable[[], float]) -> Difference:
    """Add the p-value. If the standard error is 0, the p-value is 1 for equal means and 0 for others."""
    certain = float(gap.mean == 0) if gap.error == 0 else math.nan
    return Difference(*gap, float(p_value()) if gap.error > 0 else certain)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values with Holm's correction for several tests (Scandinavian Journal of Statistics 6, 1979), in their order."""
    ascending = pd.Series(p_values, dtype=float).sort_values()
    scaled = ascending * list(range(len(ascending), 0, -1))
    # with a single seed, every p-value is NaN
    return list(p_values) if ascending.isna().any() else list(scaled.clip(upper=1.0).cummax().sort_index())


def finding(gaps: Mapping[str, Difference]) -> str:
    """A sentence that says which of the named differences are significant."""
    if not gaps or any(math.isnan(gap.p_value) for gap in gaps.values()):
        return "One seed is too few for a comparison." if gaps else "There is nothing to compare yet."
    beyond = [f"{name} {gap.text()}" for name, gap in gaps.items() if gap.p_value < LEVEL]
    return f"{len(beyond)} of {len(gaps)} differences are significant (p < {LEVEL:g}){': ' * bool(beyond)}{'; '.join(beyond)}."


def over_trials(frame: pd.DataFrame, column: str, *keys: str) -> pd.DataFrame:
    """For each value of the keys: the `mean` of the column over trials and its standard `error`, which is 0 for one trial."""
    return frame.groupby(list(keys), sort=False)[column].agg(mean="mean", error="sem").fillna({"error": 0.0})


def draw(axes: Any, means: pd.DataFrame, **style: Any) -> None:
    """Plot the result of `over_trials` against its first key: a line for each value of the other keys, with standard errors."""
    lines = means.unstack(list(means.index.names[1:]), sort=False)
    lines["mean"].plot(ax=axes, yerr=lines["error"], **style)


def verdict(shows: bool) -> str:
    return "The claim shows in our data." if shows else "The claim does NOT show in our data."
