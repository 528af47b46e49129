import keras
from keras import ops

from keras_skd.rollouts._mixture import Mixture


@keras.saving.register_keras_serializable(package="keras_skd")
class Switch(Mixture):
    """One rollout first, then another: two-stage distillation.

    Args:
        first: a rollout or its name.
        then: a rollout or its name.
        at_step: int. The first batch, counted from 0, that is `then`'s.

    Example:

    ```python
    rollout = keras_skd.rollouts.Switch("supervised", "on_policy", at_step=500)
    distiller = keras_skd.Distiller(teacher, student, rollout=rollout)
    distiller.fit({"prompts": prompts, "responses": responses})
    ```

    Reference:

    - [Xu et al., 2024](https://arxiv.org/abs/2410.11325), section 5.5.
    """

    def __init__(self, first, then, at_step: int):
        super().__init__([(first, 1.0), (then, 1.0)])
        if isinstance(at_step, bool) or not isinstance(at_step, int):
            raise TypeError(
                f"`at_step` must be an int. Received: {at_step!r} of type "
                f"{type(at_step).__name__}"
            )
        if at_step < 0:
            raise ValueError(
                f"`at_step` must be at least 0. Received: {at_step}"
            )
        self.at_step = at_step

    def choose(self, batch_size, training_step):
        then = ops.cast(training_step >= self.at_step, "int32")
        return ops.broadcast_to(then, (batch_size,))

    def get_config(self):
        first, then = (
            keras.saving.serialize_keras_object(r) for r in self.rollouts
        )
        return {"first": first, "then": then, "at_step": self.at_step}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
