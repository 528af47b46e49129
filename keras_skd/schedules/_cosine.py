import math

import keras
from keras import ops

from keras_skd.schedules._linear import Linear


@keras.saving.register_keras_serializable(package="keras_skd")
class Cosine(Linear):
    """From one number to another along half a cosine, and then no further.

    Args:
        initial: float. The number at step 0.
        final: float. The number from step `num_steps` on.
        num_steps: int. How many steps it takes.

    Example:

    >>> float(keras_skd.schedules.Cosine(0.5, 0.25, num_steps=100)(50))
    0.375
    """

    def progress(self, step):
        progress = super().progress(step)
        return 0.5 - 0.5 * ops.cos(math.pi * progress)
