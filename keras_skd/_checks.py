"""Checks of arguments that are numbers."""

import math
import numbers


def is_number(value) -> bool:
    """Whether `value` is a real number; `True` and `False` are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_integer(value) -> bool:
    """Whether `value` is an integer; `True` and `False` are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_integer(name: str, value, minimum: int | None = None) -> int:
    """Returns `value` as an int.

    Args:
        name: str. The argument that the value came from.
        value: the received value.
        minimum: int. The smallest value allowed. Defaults to `None`, any.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is below `minimum`.
    """
    if not is_integer(value):
        raise TypeError(
            f"`{name}` must be an int. Received: {value!r} of type "
            f"{type(value).__name__}"
        )
    if minimum is not None and value < minimum:
        raise ValueError(
            f"`{name}` must be at least {minimum}. Received: {value}"
        )
    return int(value)


def check_number(name: str, value, interval: str = "(-inf, inf)") -> float:
    """Returns `value` as a float.

    Args:
        name: str. The argument that the value came from.
        value: the received value.
        interval: str. The numbers allowed, such as `"[0, 1)"` or `"(0, inf)"`.
            A round bracket excludes its end.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is not finite, or not in the interval.
    """
    if not is_number(value):
        raise TypeError(
            f"`{name}` must be a number in {interval}. Received: {value!r} of "
            f"type {type(value).__name__}"
        )
    low, high = (float(end) for end in interval[1:-1].split(","))
    inside = low <= value <= high and math.isfinite(value)
    if interval.startswith("("):
        inside = inside and value != low
    if interval.endswith(")"):
        inside = inside and value != high
    if not inside:
        raise ValueError(f"`{name}` must be in {interval}. Received: {value}")
    return float(value)
