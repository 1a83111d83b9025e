"""Tables of the site that follow from the code or from recorded rows."""

from __future__ import annotations

from it_losses.__main__ import estimator_table


def estimators() -> str:
    """The declared facts of every estimator."""
    return estimator_table()
