"""The calculator that converts the weights of VICReg between libraries, and the table of its factors."""

import json
import math
from typing import NamedTuple

from it_losses.adapters.conventions import ARGUMENTS, DEFAULTS
from it_losses.vicreg_conventions import CONVENTIONS, VICRegWeights, official_weights

#: possible powers (p, q) in the factor dim^p (dim - 1)^q of a weight
POWERS = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
#: conventions without an adapter: name on the page -> its convention and the names of its weights
OTHERS = {
    "the authors' code": ("official", ("sim_coeff", "std_coeff", "cov_coeff")),
    "VICRegL": ("vicregl", ("invariance", "variance", "covariance")),
    "the paper's formula": ("paper", ("lambda", "mu", "nu")),
}


class Factor(NamedTuple):
    """The factor `times * dim^dim_power * (dim - 1)^less_power` that converts a weight to the authors' code."""

    times: float
    dim_power: int
    less_power: int

    def __str__(self) -> str:
        parts = [f"{self.times:g}"] * (self.times != 1 or (self.dim_power, self.less_power) == (0, 0))
        upper = parts + ["dim"] * (self.dim_power == 1) + ["(dim - 1)"] * (self.less_power == 1)
        lower = ["dim"] * (self.dim_power == -1) + ["(dim - 1)"] * (self.less_power == -1)
        return " / ".join([" ".join(upper) or "1", *lower])


def factor(convention: str, term: str) -> Factor:
    """The factor of a term in a convention, derived from `official_weights`, which the criteria use."""

    def times(dim: int, powers: tuple[int, int]) -> float:
        value: float = getattr(official_weights(VICRegWeights(1.0, 1.0, 1.0), dim=dim, convention=convention), term)
        return value / (dim ** powers[0] * (dim - 1) ** powers[1])

    for powers in POWERS:
        if all(math.isclose(times(dim, powers), times(7, powers)) for dim in (3, 10, 2048)):
            return Factor(times(7, powers), *powers)
    raise ValueError(f"no power of dim explains the {term} weight of {convention!r}.")


def factors(convention: str) -> list[Factor]:
    """The factors of the three terms in a convention."""
    return [factor(convention, term) for term in VICRegWeights._fields]


def libraries() -> dict[str, dict[str, object]]:
    """{library: its convention, the names of its three weights (None for a weight fixed at 1), and their factors}."""
    named = {}
    for library, arguments in ARGUMENTS.items():
        theirs = {ours: name for name, ours in arguments.items()}
        names = tuple(theirs.get(f"{term}_weight") for term in VICRegWeights._fields)
        named[library] = str(DEFAULTS[library].get("convention", "official")), names
    return {
        library: {"convention": convention, "names": names, "factors": factors(convention)}
        for library, (convention, names) in (named | OTHERS).items()
    }


def calculator() -> str:
    """HTML of the calculator: the factors as JSON, and the script `assets/calculator.js`, which shows it."""
    table = json.dumps(libraries())
    return (
        '<div id="calculator">The calculator needs JavaScript. The table below has the same factors.</div>\n'
        f'<script type="application/json" id="calculator-factors">{table}</script>\n'
        '<script src="assets/calculator.js"></script>'
    )


def conventions() -> str:
    """The factors of every convention as a Markdown table."""
    lines = ["| convention | invariance | variance | covariance |", "|---|---|---|---|"]
    lines += [f'| `"{name}"` | {" | ".join(f"x {value}" for value in factors(name))} |' for name in CONVENTIONS]
    return "\n".join(lines)
