import keras
from keras import ops

from keras_skd.schedules._schedule import Schedule


@keras.saving.register_keras_serializable(package="keras_skd")
class Constant(Schedule):
    """The same number at every step.

    Args:
        value: float.

    Example:

    >>> float(keras_skd.schedules.Constant(25)(1000))
    25.0
    """

    def __init__(self, value: float):
        self.value = value

    def __call__(self, step):
        return ops.cast(self.value, "float32")

    def get_config(self):
        return {"value": self.value}
