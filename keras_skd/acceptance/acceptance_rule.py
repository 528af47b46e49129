import keras


class AcceptanceRule:
    """Decides whether the teacher lets a drafted token stand.

    Subclasses implement `accept`. It sees the drafted token itself and the
    teacher's raw logits, before temperature, top-k or top-p of any sampler.

    Example:

    ```python
    class Likely(keras_skd.acceptance.AcceptanceRule):
        def accept(self, token_ids, teacher_logits):
            probabilities = keras.ops.softmax(teacher_logits)
            at_token = keras.ops.take_along_axis(
                probabilities, token_ids[..., None], axis=-1
            )
            return at_token[..., 0] > 0.1

    rollout = keras_skd.rollouts.Speculative(acceptance=Likely())
    ```
    """

    def accept(
        self, token_ids: keras.KerasTensor, teacher_logits: keras.KerasTensor
    ) -> keras.KerasTensor:
        """Whether each drafted token stands.

        Args:
            token_ids: int32 tensor of shape `(...,)`, the drafted tokens.
            teacher_logits: float tensor of shape `(..., vocabulary_size)`, the
                teacher's raw logits where each of them was drafted.

        Returns:
            bool tensor of shape `(...,)`.
        """
        raise NotImplementedError

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
