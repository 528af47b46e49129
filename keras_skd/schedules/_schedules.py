"""The schedules, their base class and their registry."""

import math

import keras
from keras import ops

from keras_skd._checks import check_integer
from keras_skd._checks import check_number
from keras_skd._checks import is_number
from keras_skd._registry import Configurable
from keras_skd._registry import Registry

_SCHEDULES = Registry(
    keras.optimizers.schedules.LearningRateSchedule,
    argument="schedule",
    module="keras_skd.schedules",
)


@_SCHEDULES.register()
class Schedule(Configurable, keras.optimizers.schedules.LearningRateSchedule):
    """Base class of schedules: numbers that change over training.

    Nothing is recompiled when they change. Wherever a schedule is accepted, so
    is a `keras.optimizers.schedules.LearningRateSchedule` of Keras.

    Call arguments:
        step: int tensor. The number of batches trained on.

    Returns:
        float32 scalar.
    """


@_SCHEDULES.register("constant")
class Constant(Schedule):
    """The same number at every step.

    Args:
        value: float.

    Example:

    >>> float(keras_skd.schedules.Constant(25)(1000))
    25.0
    """

    def __init__(self, value: float):
        check_number("value", value)
        self.value = value

    def __call__(self, step):
        return ops.cast(self.value, "float32")

    def get_config(self) -> dict:
        return {"value": self.value}


@_SCHEDULES.register("linear")
class Linear(Schedule):
    """A linear change from one number to another, and constant afterwards.

    Args:
        initial: float. The number at step 0.
        final: float. The number from step `num_steps` on.
        num_steps: int. The number of steps between them.

    Example:

    Accept more and more drafts over the first 1,000 batches:

    ```python
    k = keras_skd.schedules.Linear(1, 50, num_steps=1000)
    rollout = keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.TopK(k)
    )
    ```
    """

    def __init__(self, initial: float, final: float, num_steps: int):
        check_number("initial", initial)
        check_number("final", final)
        self.initial = initial
        self.final = final
        self.num_steps = check_integer("num_steps", num_steps, minimum=1)

    def progress(self, step):
        """The progress of the schedule at a step, from 0 to 1."""
        step = ops.cast(step, "float32")
        return ops.clip(step / self.num_steps, 0.0, 1.0)

    def __call__(self, step):
        return self.initial + (self.final - self.initial) * self.progress(step)

    def get_config(self) -> dict:
        return {
            "initial": self.initial,
            "final": self.final,
            "num_steps": self.num_steps,
        }


@_SCHEDULES.register("cosine")
class Cosine(Linear):
    """A half cosine from one number to another, and constant afterwards.

    Args:
        initial: float. The number at step 0.
        final: float. The number from step `num_steps` on.
        num_steps: int. The number of steps between them.

    Example:

    >>> float(keras_skd.schedules.Cosine(0.5, 0.25, num_steps=100)(50))
    0.375
    """

    def progress(self, step):
        progress = super().progress(step)
        return 0.5 - 0.5 * ops.cos(math.pi * progress)


def get(identifier) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns a schedule from a number, a config or a schedule.

    Args:
        identifier: number, config of a schedule, `keras_skd.schedules.Schedule`
            or `keras.optimizers.schedules.LearningRateSchedule`.

    Example:

    >>> float(keras_skd.schedules.get(25)(step=0))
    25.0
    """
    if is_number(identifier):
        return Constant(identifier)
    return _SCHEDULES.get(identifier)


def serialize(schedule) -> dict:
    """Returns the config of a schedule, which JSON can hold."""
    return _SCHEDULES.serialize(schedule)


def deserialize(config: dict, custom_objects: dict | None = None):
    """Returns the schedule that a config describes.

    Args:
        config: dict, as `serialize()` returns it.
        custom_objects: dict from names to classes that are not registered with
            Keras. Defaults to `None`.
    """
    return _SCHEDULES.deserialize(config, custom_objects)
