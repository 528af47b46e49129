"""Arguments that are a number or a schedule of one."""

import keras

from keras_skd._checks import check_integer
from keras_skd._checks import check_number
from keras_skd._checks import is_number
from keras_skd.schedules._schedules import deserialize
from keras_skd.schedules._schedules import serialize

_Schedule = keras.optimizers.schedules.LearningRateSchedule


def check_value(name: str, value, interval: str = "(-inf, inf)"):
    """Returns a number in an interval, or a schedule.

    Args:
        name: str. The argument that the value came from.
        value: number, schedule or config of a schedule.
        interval: str, as in `check_number`. The values of a schedule are not
            checked: they are known only during training.
    """
    schedule = _schedule(name, value, "a number")
    if schedule is not None:
        return schedule
    check_number(name, value, interval)
    return value


def check_integer_value(name: str, value, minimum: int):
    """Returns an int of at least `minimum`, or a schedule."""
    schedule = _schedule(name, value, "an int")
    return check_integer(name, value, minimum) if schedule is None else schedule


def _schedule(name, value, kind):
    if isinstance(value, dict):
        value = deserialize(value)
    if isinstance(value, _Schedule):
        return value
    if not is_number(value):
        raise TypeError(
            f"`{name}` must be {kind} or a schedule. Received: {value!r} of "
            f"type {type(value).__name__}"
        )
    return None


def serialize_value(value):
    """Returns a number as it is, and the config of a schedule."""
    return serialize(value) if isinstance(value, _Schedule) else value


def value_at(value, step):
    """The value of a number or a schedule at a training step."""
    return value(step) if isinstance(value, _Schedule) else value
