"""Checks of constructor arguments that several losses share."""

import math
import numbers


def check_number(name: str, value: float, interval: str) -> float:
    """Returns `value` as a float, or raise if it is not in `interval`.

    Args:
        name: string, the argument's name.
        value: what was received for it.
        interval: string, the interval as a reader would write it, a round
            bracket leaving the end out: `"[0, 1)"`, `"(0, inf)"`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a number in {interval}. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    low, high = (float(end) for end in interval[1:-1].split(","))
    inside = low <= value <= high and math.isfinite(value)
    if interval.startswith("("):
        inside = inside and value != low
    if interval.endswith(")"):
        inside = inside and value != high
    if not inside:
        raise ValueError(
            f"`{name}` must be in {interval}. Received: {name}={value}"
        )
    return float(value)


def check_positive_integer(name: str, value: int) -> int:
    """Returns `value` as an int, or raise if it is not an integer above 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"`{name}` must be an integer. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if value < 1:
        raise ValueError(
            f"`{name}` must be at least 1. Received: {name}={value}"
        )
    return int(value)
