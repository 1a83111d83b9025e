"""Checks of the input of an objective: views of one shape and device, finite weights, positive constants."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, SupportsFloat, TypeAlias, cast

import torch
from torch import Tensor, nn

#: `check(name, value)` returns the value to keep, or raises ValueError with that name
Check: TypeAlias = Callable[[str, Any], Any]
#: a number, or a tensor of one number that receives a gradient
Weight: TypeAlias = float | Tensor
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_DENSE = torch.strided
#: range of a length s, such as a bandwidth: float32 can hold s^2 and |z|^2 / s^2
SMALLEST, LARGEST = 1e-12, 1e12


class ViewError(ValueError, AssertionError):
    """Raised for invalid views. It is also an AssertionError, because lightly raises that for invalid input."""


def accepted(*views: Tensor | None) -> tuple[Tensor, ...]:
    """The views, promoted to one dtype; ViewError unless all are dense floating-point tensors.

    Each view receives its gradient in its own dtype.
    """
    tensors = _checked_kinds(views)
    for z in tensors:
        if z.ndim < 2:
            _check_shape(z, 1)
    first = tensors[0].dtype
    if all([z.dtype == first for z in tensors]):
        return tensors
    widest = reduce(torch.promote_types, [z.dtype for z in tensors])
    return tuple(z.to(widest) for z in tensors)


def check_views(views: Sequence[Tensor], *, at_least: int = 1, min_batch: int = 2) -> None:
    """Raise ViewError unless all views are floating-point tensors [batch, ..., dim] of one shape, dtype and device."""
    if len(views) < at_least:
        raise ViewError(f"the objective needs at least {at_least} views, got {len(views)}. Pass one tensor for each view.")
    _checked_kinds(views)
    first = views[0]
    _check_shape(first, min_batch)
    for other in views[1:]:
        _check_alike(first, other)


def _check_shape(z: Tensor, min_batch: int) -> None:
    if z.ndim < 2:
        raise ViewError(
            f"the objective needs a tensor of shape (batch, ..., dim), got {tuple(z.shape)}. Stack the samples as rows."
        )
    if z.shape[0] < min_batch:
        raise ViewError(
            f"the objective needs batch size > {min_batch - 1} for its statistics, got z of shape {tuple(z.shape)}. "
            "Raise the batch size, or drop the last batch."
        )
    if z.numel() == 0:
        raise ViewError(f"the objective needs embeddings that are not empty, got shape {tuple(z.shape)}.")


def _check_alike(first: Tensor, other: Tensor) -> None:
    for trait in ("shape", "dtype", "device"):
        ours, theirs = getattr(first, trait), getattr(other, trait)
        if ours != theirs:
            raise ViewError(f"views must have the same {trait}, got {ours} and {theirs}. Give all views one {trait}.")


def _checked_kinds(views: Sequence[object]) -> tuple[Tensor, ...]:
    """The views; ViewError unless each is a dense floating-point tensor."""
    for z in views:
        plain = isinstance(z, Tensor) and z.dtype in _DTYPES and z.layout is _DENSE and not z.is_nested
        if not plain or (type(z) is not Tensor and _subclass(z)):
            raise ViewError(_obstacle(z))
    return cast(tuple[Tensor, ...], views)


def _obstacle(z: object) -> str:
    """The error message for an invalid view, with advice."""
    if not isinstance(z, Tensor):
        return f"the objective needs a tensor for each view, got {type(z).__name__}. {_tensor_of(z)}"
    if z.is_nested:
        return "the objective needs a dense tensor, got a nested tensor. Join its parts: torch.cat(z.unbind())."
    if subclass := _subclass(z):
        return subclass
    if z.layout is not torch.strided:
        return f"the objective needs a dense tensor, got one of layout {z.layout}. Convert it with .to_dense()."
    if z.is_complex():
        remedy = "Convert it to real numbers: torch.view_as_real(z).flatten(-2), or z.abs()."
        return f"the objective needs floating-point numbers, got {z.dtype}. {remedy}"
    if z.is_quantized:
        return f"the objective needs floating-point numbers, got {z.dtype}. Convert it with .dequantize()."
    return f"the objective needs floating-point numbers of 16 bits or more, got {z.dtype}. Convert it with .float()."


def _subclass(z: object) -> str:
    """The error message for a DTensor or a masked tensor, which are recognised by their methods; otherwise empty."""
    if hasattr(z, "to_local") and hasattr(z, "full_tensor"):
        return (
            "the objective needs a plain tensor, got a DTensor. If each rank holds its own samples, pass z.to_local(): the "
            "criterion gathers them. Otherwise pass z.full_tensor() with gather_distributed=False."
        )
    if hasattr(z, "get_mask") and hasattr(z, "get_data"):
        return "the objective needs a plain tensor, got a masked tensor. Pass only the valid rows: z.get_data()[rows]."
    return ""


def _tensor_of(z: object) -> str:
    """The advice in the error message for a view that is not a tensor."""
    if z is None:
        return "Call criterion(z_a, z_b). If the views are stacked along dimension 0, call criterion(*views)."
    if isinstance(z, Mapping):
        return "Pass the tensors that it holds: criterion(*views.values())."
    if isinstance(z, Iterator) or (isinstance(z, Sequence) and any(isinstance(item, Tensor) for item in z)):
        return "Pass the tensors that it holds: criterion(*views)."
    if hasattr(z, "__array__"):
        return "Convert it with torch.as_tensor. (Only it_losses.diagnostics accepts NumPy arrays.)"
    return "Convert it with torch.as_tensor."


def check_weight(name: str, value: Weight) -> Weight:
    """The weight as a float, or unchanged if it receives a gradient; ValueError if it is negative or not a finite number."""
    # a tensor on the meta device, sharded, or traced by a compiler has no value that can be checked
    has_no_value = isinstance(value, Tensor) and (value.is_meta or hasattr(value, "to_local") or torch.compiler.is_compiling())
    if has_no_value and _wants_gradient(value):
        return value
    number = _number(value)
    if number is None or number < 0:
        hint = _if_text(value) or " The objective sets the sign of each term, so pass a weight >= 0."
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}.{hint}")
    return value if _wants_gradient(value) else number


def check_positive(name: str, value: SupportsFloat, *, or_zero: bool = False) -> float:
    """The constant as a float; ValueError unless it is a finite number > 0 (>= 0 with `or_zero`)."""
    if _wants_gradient(value):
        raise ValueError(f"{name} cannot be trained, got {value!r}. Pass a number: float(value).")
    number = _number(value)
    if number is None or number < 0 or (number == 0 and not or_zero):
        raise ValueError(f"{name} must be a finite number {'>=' if or_zero else '>'} 0, got {value!r}.{_if_text(value)}")
    return number


def check_not_negative(name: str, value: SupportsFloat) -> float:
    """The constant as a float; ValueError unless it is a finite number >= 0."""
    return check_positive(name, value, or_zero=True)


def check_length(name: str, value: SupportsFloat, *, smallest: float = SMALLEST) -> float:
    """The length as a float; ValueError unless it is between `smallest` and LARGEST."""
    number = check_positive(name, value)
    if not smallest <= number <= LARGEST:
        raise ValueError(f"{name} must be between {smallest:g} and {LARGEST:g}, got {value!r}. Rescale the embeddings.")
    return number


def check_epsilon(name: str, value: SupportsFloat) -> float:
    """A small length that is added to distances, as a float; ValueError unless float32 can hold its square."""
    return check_length(name, value, smallest=1e-18)


def check_count(name: str, value: object, *, at_least: int = 1) -> int:
    """The count as an int; ValueError unless it is a whole number >= `at_least`."""
    number = _number(value)
    if number is None or number != int(number) or number < at_least:
        raise ValueError(f"{name} must be a whole number >= {at_least}, got {value!r}.")
    return int(number)


def check_flag(name: str, value: object) -> bool:
    """The flag as a bool; ValueError unless it is True or False. Text is refused, because "false" would count as true."""
    flag = _item(value)
    if not isinstance(flag, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}.")
    return flag


def check_matrix(name: str, z: object, *, floating: bool = True) -> Tensor:
    """The tensor; ValueError unless it is [rows, columns] and floating-point. With `floating=False`, integers pass too."""
    if not isinstance(z, Tensor) or z.is_complex() or (floating and not z.is_floating_point()):
        kind = "floating-point" if floating else "real"
        raise ValueError(f"{name} must be a {kind} tensor, got {z.dtype if isinstance(z, Tensor) else type(z).__name__}.")
    if z.ndim != 2 or z.numel() == 0:
        raise ValueError(f"{name} must have shape (rows, columns) and not be empty, got {tuple(z.shape)}.")
    return z


def check_name(*names: str) -> Check:
    """Return a check that raises ValueError unless the value is one of the names."""

    def check(name: str, value: object) -> object:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"{name} must be one of {sorted(names)}, got {value!r}.")
        return value

    return check


def _if_text(value: object) -> str:
    return " Pass a number, not text: YAML reads 1e-4 as text, and 1.0e-4 as a number." if isinstance(value, str) else ""


def _wants_gradient(value: object) -> bool:
    return isinstance(value, Tensor) and (isinstance(value, nn.Parameter) or value.requires_grad)


def _number(value: object) -> float | None:
    """The value as a float, or None if it is not one finite number. A bool or a string is not a number here."""
    if (type(value) is float or type(value) is int) and -1e300 < value < 1e300:
        # compilers can trace this test for a symbolic number, so it comes first
        return float(value)
    value = _item(value)
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return number if math.isfinite(number) else None


def _item(value: object) -> object:
    """The number in a tensor or NumPy value of one element; None for other tensors; any other value as it is."""
    if isinstance(value, Tensor):
        return value.detach().item() if value.numel() == 1 and not value.is_meta else None
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
