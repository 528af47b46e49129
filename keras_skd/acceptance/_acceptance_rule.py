import keras


class AcceptanceRule:
    """Decides whether the teacher lets a drafted token stand.

    Subclasses implement `accept`. It sees the drafted token itself and the
    teacher's raw logits, before temperature, top-k or top-p of any sampler.

    Attributes:
        compares_distributions: bool. If True, the rule is given the
            log-probabilities that the samplers of teacher and student draw
            from in place of raw logits, and samples replacements itself, in
            `sample_replacement`.

    Example:

    ```python
    class Likely(keras_skd.acceptance.AcceptanceRule):
        def accept(self, token_ids, teacher_logits, *args, **kwargs):
            probabilities = keras.ops.softmax(teacher_logits)
            at_token = keras.ops.take_along_axis(
                probabilities, token_ids[..., None], axis=-1
            )
            return at_token[..., 0] > 0.1

    rollout = keras_skd.rollouts.Speculative(acceptance=Likely())
    ```
    """

    compares_distributions = False

    def accept(
        self,
        token_ids: keras.KerasTensor,
        teacher_logits: keras.KerasTensor,
        student_logits: keras.KerasTensor | None = None,
        training_step: keras.KerasTensor | int = 0,
    ) -> keras.KerasTensor:
        """Whether each drafted token stands.

        Args:
            token_ids: int32 tensor of shape `(...,)`, the drafted tokens.
            teacher_logits: float tensor of shape `(..., vocabulary_size)`, the
                teacher's raw logits where each of them was drafted.
            student_logits: the student's, for a rule that compares
                distributions, or `None`.
            training_step: int tensor, how many batches were trained on.

        Returns:
            bool tensor of shape `(...,)`.
        """
        raise NotImplementedError

    def sample_replacement(
        self,
        teacher_log_probs: keras.KerasTensor,
        student_log_probs: keras.KerasTensor,
        training_step: keras.KerasTensor | int = 0,
    ) -> keras.KerasTensor:
        """Draws a token in place of a rejected one.

        Only for rules that compare distributions: in place of all others, the
        teacher's sampler draws.

        Args:
            teacher_log_probs: float tensor of shape
                `(batch, vocabulary_size)`.
            student_log_probs: the same of the student; all of them very
                negative where no token was drafted.
            training_step: int tensor, how many batches were trained on.

        Returns:
            int32 tensor of shape `(batch,)`.
        """
        raise NotImplementedError

    @property
    def variables(self) -> list:
        """The state of its random seeds."""
        return []

    def set_seed(self, seed: int):
        """Seeds it, unless it was given a seed or does not draw."""

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
