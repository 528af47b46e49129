import keras

from keras_skd.acceptance._interpolated import Interpolated


@keras.saving.register_keras_serializable(package="keras_skd")
class Lossless(Interpolated):
    """Writes exact samples of the teacher: lossless speculative decoding.

    A token drafted with probability q that the teacher gives p stands with
    probability `min(1, p / q)`, and a rejected one is replaced by a sample of
    the residual `(p - q)+`. As a rollout, this is sequence-level distillation
    at the price of speculative decoding.

    Args:
        seed: int. Defaults to `None`, the Distiller's.

    Example:

    ```python
    rollout = keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.Lossless()
    )
    ```

    Reference:

    - [Leviathan et al., 2022](https://arxiv.org/abs/2211.17192), section 2.3.
    """

    def __init__(self, seed: int | None = None):
        super().__init__(gamma=1.0, seed=seed)

    def get_config(self):
        return {"seed": self.seed}
