import keras
from keras import ops

from keras_skd.schedules._schedule import Schedule


@keras.saving.register_keras_serializable(package="keras_skd")
class Linear(Schedule):
    """From one number to another along a line, and then no further.

    Args:
        initial: float. The number at step 0.
        final: float. The number from step `num_steps` on.
        num_steps: int. How many steps it takes.

    Example:

    The gate opens over the first 1,000 batches:

    ```python
    k = keras_skd.schedules.Linear(1, 50, num_steps=1000)
    rollout = keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.TopK(k)
    )
    ```
    """

    def __init__(self, initial: float, final: float, num_steps: int):
        if num_steps < 1:
            raise ValueError(
                f"`num_steps` must be at least 1. Received: {num_steps}"
            )
        self.initial = initial
        self.final = final
        self.num_steps = num_steps

    def progress(self, step):
        """How much of the way is done, from 0 to 1."""
        step = ops.cast(step, "float32")
        return ops.clip(step / self.num_steps, 0.0, 1.0)

    def __call__(self, step):
        return self.initial + (self.final - self.initial) * self.progress(step)

    def get_config(self):
        return {
            "initial": self.initial,
            "final": self.final,
            "num_steps": self.num_steps,
        }
