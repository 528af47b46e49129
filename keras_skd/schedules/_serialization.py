import keras

from keras_skd._registry import resolve
from keras_skd.schedules._constant import Constant
from keras_skd.schedules._cosine import Cosine
from keras_skd.schedules._linear import Linear

ALL_CLASSES = {"constant": Constant, "linear": Linear, "cosine": Cosine}


def get(identifier):
    """Returns a schedule from a number, a config or itself.

    A config may name its class by the short name:
    `{"class_name": "linear", "config": {...}}`.

    Example:

    >>> float(keras_skd.schedules.get(25)(step=0))
    25.0
    """
    if isinstance(identifier, (int, float)) and not isinstance(
        identifier, bool
    ):
        return Constant(identifier)
    if isinstance(identifier, dict):
        name = identifier.get("class_name")
        if name in ALL_CLASSES:
            return ALL_CLASSES[name](**identifier["config"])
    base = keras.optimizers.schedules.LearningRateSchedule
    return resolve(identifier, base, ALL_CLASSES, "schedule")


def check(name, value, valid, requirement, integer=False):
    """Checks a number, or lets a schedule of them pass.

    Args:
        name: str. The argument that it came from.
        value: number, schedule or config of a schedule.
        valid: callable from a number to a bool.
        requirement: str. What `valid` asks for, for the error.
        integer: bool. Whether the number must be an int.

    Returns:
        The number or the schedule.
    """
    kinds = int if integer else (int, float)
    if isinstance(value, kinds) and not isinstance(value, bool):
        if not valid(value):
            raise ValueError(
                f"`{name}` must be {requirement}. Received: {value}"
            )
        return value
    if isinstance(value, dict):
        return get(value)
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        return value
    kind = "an int" if integer else "a number"
    raise TypeError(
        f"`{name}` must be {kind} or a schedule. Received: {value!r} of type "
        f"{type(value).__name__}"
    )


def serialize(value):
    """The config of a schedule, or the number itself."""
    if isinstance(value, (int, float)):
        return value
    return keras.saving.serialize_keras_object(value)


def value_at(value, step):
    """A number's or a schedule's value at a training step."""
    return value(step) if callable(value) else value
